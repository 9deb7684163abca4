"""Packed listings."""

import random
import struct
import time

import pytest
from crc32c import crc32c
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mountd_cache.listing import Listing, Row

BIGGEST = (1 << 63) - 1
NAMES = st.binary(max_size=300) | st.sampled_from(
    [b"", b".", b"a", b"a\0", b"prefix-12345678", b"p"]
)
VERSIONS = st.text(max_size=40) | st.just("\udcff lone surrogate")
PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)
ROWS = st.builds(
    Row,
    NAMES,
    st.booleans(),
    st.integers(0, BIGGEST),
    st.integers(-(1 << 63), BIGGEST),
    VERSIONS,
    st.integers(0, BIGGEST),
    st.just("") | st.sampled_from(["{}", '{"mode":"33261"}']) | st.text(PRINTABLE, max_size=9),
    st.booleans(),
).map(lambda row: row._replace(is_link=row.is_link and not row.is_dir))
ONE = Row(b"name", False, 1, 2, "version", 3)


def etag_rows(count: int) -> list[Row]:
    numbers = random.Random(1)
    return [
        Row(
            b"image_%09d.jpeg" % i,
            i % 100 == 0,
            i * 1000,
            1_700_000_000_000_000_000 + i,
            f'"{numbers.getrandbits(128):032x}"',
            (1 << 58) + i,
        )
        for i in range(count)
    ]


@given(st.lists(ROWS, max_size=30))
def test_rows_come_back_sorted_by_name_and_found_by_name_and_number(rows: list[Row]) -> None:
    listing = Listing.build(iter(rows))
    expected = sorted(rows, key=lambda row: (row.name, row.is_dir))
    assert len(listing) == len(rows)
    assert list(listing) == [listing.row(i) for i in range(len(rows))]
    assert sorted(listing) == sorted(rows)
    assert [row.name for row in listing] == [row.name for row in expected]
    for i, row in enumerate(listing):
        assert listing.find(row.name) == next(
            j for j, other in enumerate(expected) if other.name == row.name
        )
        assert listing.row(listing.find_ino(row.ino)).ino == row.ino
        assert (listing.name(i), listing.is_dir(i), listing.size(i)) == row[:3]
        assert (listing.version(i), listing.ino(i), listing.attributes(i)) == row[4:7]
        assert listing.is_link(i) == row.is_link
    assert list(listing.rows(3)) == list(listing)[3:]


@given(st.lists(ROWS, max_size=20), NAMES, st.integers(0, BIGGEST))
def test_what_is_not_there_is_not_found(rows: list[Row], name: bytes, ino: int) -> None:
    listing = Listing.build(rows)
    assert (listing.find(name) >= 0) == (name in {row.name for row in rows})
    assert (listing.find_ino(ino) >= 0) == (ino in {row.ino for row in rows})
    for row in rows:
        for other in (row.name + b"\0", row.name[:-1], b"\xff" + row.name):
            assert (listing.find(other) >= 0) == (other in {row.name for row in rows})


def test_names_that_differ_only_after_many_equal_bytes_are_found() -> None:
    rows = [Row(b"a" + b"-" * 200 + b"%05d" % i, False, i, 0, "", i + 2) for i in range(2000)]
    rows.append(Row(b"b", False, 0, 0, "", 1))
    listing = Listing.build(rows)
    assert [listing.find(row.name) for row in rows] == list(range(2001))


@given(st.lists(ROWS, max_size=10))
def test_bytes_give_the_same_listing_back(rows: list[Row]) -> None:
    listing = Listing.build(rows)
    assert list(Listing.from_bytes(listing.to_bytes())) == list(listing)


@settings(max_examples=300)
@given(st.lists(ROWS, max_size=4), st.data())
def test_any_change_of_any_bit_or_of_the_length_is_a_value_error(
    rows: list[Row], data: st.DataObject
) -> None:
    blob = bytearray(Listing.build(rows).to_bytes())
    bit = data.draw(st.integers(0, len(blob) * 8 - 1))
    blob[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match="listing"):
        Listing.from_bytes(bytes(blob))
    blob[bit // 8] ^= 1 << bit % 8
    size = data.draw(st.integers(0, len(blob) - 1))
    with pytest.raises(ValueError, match="listing"):
        Listing.from_bytes(bytes(blob[:size]))
    with pytest.raises(ValueError, match="listing"):
        Listing.from_bytes(bytes(blob) + b"\0")


@settings(max_examples=300)
@given(
    st.lists(ROWS, min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=9)), max_size=6),
)
@example([ONE], [(16, struct.pack("=Q", 1 << 60))])
@example([ONE], [(24, struct.pack("=Q", 1 << 60))])
def test_a_lie_under_a_right_crc_is_a_value_error_or_wrong_rows_but_nothing_worse(
    rows: list[Row], changes: list[tuple[int, bytes]]
) -> None:
    blob = bytearray(Listing.build(rows).to_bytes())
    for at, change in changes:
        at = 16 + at % (len(blob) - 16)
        blob[at : at + len(change)] = change[: len(blob) - at]
    blob[12:16] = struct.pack("=I", crc32c(bytes(blob[16:])))
    try:
        listing = Listing.from_bytes(bytes(blob))
    except ValueError:
        return
    for i, row in enumerate(listing):
        assert 0 <= row.size <= BIGGEST
        assert 0 <= row.ino <= BIGGEST
        listing.find(row.name)
        listing.find_ino(row.ino)
        listing.version(i)
        assert listing.attributes(i).isascii()


def test_attributes_that_many_rows_share_are_kept_once_and_others_cost_nothing() -> None:
    rows = etag_rows(1000)
    plain = Listing.build(rows)
    one = Listing.build([rows[0]._replace(attributes='{"mode":"33261"}'), *rows[1:]])
    same = Listing.build([row._replace(attributes='{"mode":"33261"}') for row in rows])
    assert one.nbytes - plain.nbytes == 8 + 8 + 4 + 16
    assert same.nbytes - plain.nbytes == 8 + 8 * 1000 + 4 + 16


def test_a_listing_without_attributes_is_in_the_format_from_before_there_were_any() -> None:
    assert Listing.build([ONE]).to_bytes()[8:12] == struct.pack("=I", 1)
    assert Listing.build([ONE._replace(attributes="{}")]).to_bytes()[8:12] == struct.pack("=I", 2)


def test_another_inode_number_leaves_the_attributes_as_they_are() -> None:
    rows = [ONE, ONE._replace(name=b"other", attributes="{}")]
    listing = Listing.from_bytes(Listing.build(rows).renumbered(1, 77).to_bytes())
    assert list(listing) == [ONE, rows[1]._replace(ino=77)]


def test_attributes_that_are_not_ascii_are_a_value_error() -> None:
    with pytest.raises(ValueError, match="ascii"):
        Listing.build([ONE._replace(attributes="\x80")])


@given(st.binary(max_size=200))
def test_bytes_of_something_else_are_a_value_error(blob: bytes) -> None:
    with pytest.raises(ValueError, match="listing"):
        Listing.from_bytes(blob)


@pytest.mark.parametrize(
    "row",
    [
        ONE._replace(size=-1),
        ONE._replace(size=1 << 63),
        ONE._replace(ino=-1),
        ONE._replace(ino=1 << 63),
        ONE._replace(mtime_ns=1 << 63),
    ],
)
def test_what_does_not_fit_is_a_value_error(row: Row) -> None:
    with pytest.raises(ValueError, match=r"row does not fit|63 bits"):
        Listing.build([row])


def test_a_row_past_the_end_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        Listing.build([ONE]).row(1)


def test_a_row_with_an_etag_takes_at_most_110_bytes() -> None:
    assert Listing.build(etag_rows(10_000)).nbytes <= 110 * 10_000


def test_finding_a_name_in_a_big_directory_reads_few_rows() -> None:
    rows = etag_rows(50_000)
    listing = Listing.build(rows)
    started = time.thread_time()
    for row in rows[::50]:
        assert listing.find(row.name) >= 0
    per_find_us = (time.thread_time() - started) * 1e3
    assert per_find_us < 100  # 1.5 us measured; a linear search would take milliseconds
