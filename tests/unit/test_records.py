"""Records of the operation log come back as they were, whatever is in them."""

import json
import os
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd_cache.changes import Base, Change, ChangeKind, ChangeState, Content, Layer, Rows
from mountd_cache.extent_map import ExtentMap
from mountd_cache.log_format import (
    HEADER_SIZE,
    VERSION,
    BadHeader,
    Header,
    SegmentTooNew,
    frame,
    frames,
    frames_anywhere,
    pack_header,
    unpack_header,
)
from mountd_cache.records import (
    BadRecord,
    Cover,
    Dated,
    Freeze,
    Record,
    Release,
    Synced,
    Torn,
    Write,
    name_to_text,
    pack,
    text_to_name,
    unpack,
)
from mountd_cache.sidecar import PAGE, BadSidecar, pack_sidecar, unpack_sidecar

_U32, _U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
_I64 = st.integers(-(2**63), 2**63 - 1)
# Any str that Python can have, lone surrogates as well.
_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
_BASES = st.builds(Base, _TEXT, _TEXT, _U64)
CHANGES = st.builds(
    Change,
    key=_TEXT,
    directory=_TEXT,
    name=st.binary(max_size=20),
    number=_U64,
    kind=st.sampled_from(ChangeKind),
    expect=_TEXT,
    base=st.none() | _BASES,
    content=st.integers(0, 2**63 - 1),
    size=_U64,
    mtime_ns=st.integers(-(2**70), 2**70),
    sequence=st.integers(0, 2**63 - 1),
    since_ns=_U64,
    changed_ns=_U64,
    state=st.sampled_from(ChangeState),
    reason=_TEXT,
    conflict=_TEXT,
    attributes=st.dictionaries(_TEXT, _TEXT, max_size=3),
)
_EXTENTS = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=5).map(ExtentMap)
_LAYERS = st.builds(Layer, _U32, _U64, _U64, _EXTENTS)
CONTENTS = st.builds(
    Content,
    id=st.integers(1, 2**63 - 1),
    base=st.none() | _BASES,
    layers=st.lists(_LAYERS, min_size=1, max_size=3),
    mtime_ns=st.integers(-(2**70), 2**70),
    changed_ns=_U64,
)
_ROWS = st.builds(
    Rows,
    changes=st.lists(CHANGES, max_size=3).map(tuple),
    forget=st.lists(_TEXT, max_size=3).map(tuple),
    contents=st.lists(CONTENTS, max_size=3).map(tuple),
    drop=st.lists(_U64, max_size=3).map(tuple),
)
_COVERS = st.builds(lambda start, size, crc: Cover(start, start + size, crc), _U32, _U32, _U32)
_RELEASES = st.builds(
    Release, _U64, _U32, _BASES, st.booleans(), st.lists(CHANGES, max_size=2).map(tuple)
)
_RECORDS = st.one_of(
    _ROWS,
    st.builds(Write, _U64, _U32, _U64, _U32, _I64, _U32, st.lists(_COVERS, max_size=3).map(tuple)),
    st.builds(Synced, _U64, _U64, st.lists(st.tuples(_U64, _U32, _U64), max_size=3).map(tuple)),
    st.builds(Freeze, _U64, _U32),
    _RELEASES,
    st.builds(Dated, _U64, _I64),
    st.builds(Torn, _U64, _U32, st.lists(st.tuples(_U64, _U64), max_size=3).map(tuple)),
)


def plain(content: Content) -> object:
    layers = [(la.number, la.size, la.floor_end, list(la.extents)) for la in content.layers]
    return content.id, content.base, layers, content.mtime_ns, content.changed_ns


def same(one: Record, other: Record) -> bool:
    if not isinstance(one, Rows) or not isinstance(other, Rows):
        return one == other
    contents = [plain(content) for content in one.contents]
    if contents != [plain(content) for content in other.contents]:
        return False
    return replace(one, contents=()) == replace(other, contents=())


@given(_RECORDS)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert same(unpack(pack(record)), record)


@given(_ROWS | _RELEASES)
def test_what_is_json_is_as_python_writes_it(record: Record) -> None:
    text = pack(record)[1:].decode("utf-8", "surrogatepass")
    assert json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")) == text


@given(CONTENTS, _TEXT)
def test_a_new_files_sidecar_is_as_any_other(content: Content, key: str) -> None:
    new = Layer(content.top.number, content.size, content.top.floor_end)
    found = unpack_sidecar(pack_sidecar(replace(content, base=None), new, key, "boot"))
    based = unpack_sidecar(pack_sidecar(replace(content, base=Base("", "", 0)), new, key, "boot"))
    assert list(found) == list(based)
    assert found == based | {"base": None}


@given(st.binary(max_size=30))
def test_any_name_comes_back_as_the_bytes_that_it_was(name: bytes) -> None:
    assert text_to_name(name_to_text(name)) == name


@given(_RECORDS, st.data())
def test_a_record_that_is_none_is_refused_and_nothing_else_happens(
    record: Record, data: st.DataObject
) -> None:
    """A CRC stands before; this is for what a bug wrote."""
    packed = bytearray(pack(record))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(BadRecord):
        unpack(bytes(packed[: data.draw(st.integers(1, len(packed)))]))


@pytest.mark.parametrize(
    "payload",
    [
        b"\x63",
        b"\x02short",
        b"\x04",
        b"\x01{",
        b"\x01[]",
        b"\x01" + json.dumps({"changes": [[1, 2]]}).encode(),
        b"\x01" + json.dumps({"contents": [[1, None, [], 0, 0]]}).encode(),
        b"\x01" + json.dumps({"contents": [[1, None, [[0, 9, 9, [5, 1]]], 0, 0]]}).encode(),
        b"\x05" + json.dumps({"content": 1, "depth": 1, "base": None}).encode(),
    ],
)
def test_what_makes_no_sense_is_a_bad_record(payload: bytes) -> None:
    with pytest.raises(BadRecord):
        unpack(payload)


def test_a_time_that_no_record_can_hold_becomes_the_nearest() -> None:
    found = unpack(pack(Write(1, 0, 0, 1, 10**30, 0)))
    assert isinstance(found, Write)
    assert found.mtime_ns == 2**63 - 1


def segment(payloads: list[bytes]) -> bytes:
    head = pack_header(Header(7, 6, 3, "boot"))
    return head + b"".join(frame(lsn, payload) for lsn, payload in enumerate(payloads, 7))


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5), st.data())
def test_frames_are_read_up_to_the_first_that_is_torn_or_damaged(
    payloads: list[bytes], data: st.DataObject
) -> None:
    whole = segment(payloads)
    assert [found[:2] for found in frames(whole, 7)] == list(enumerate(payloads, 7))
    assert [found[2] for found in frames(whole, 7)][-1:] == [len(whole)] * bool(payloads)
    cut = data.draw(st.integers(HEADER_SIZE, len(whole)))
    found = list(frames(whole[:cut], 7))
    assert [each[1] for each in found] == payloads[: len(found)]
    assert len(found) == len(payloads) or cut < len(whole)
    if payloads:
        at = data.draw(st.integers(HEADER_SIZE, len(whole) - 1))
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        good = [each for each in frames(whole, 7) if each[2] <= at]
        assert list(frames(bytes(damaged), 7)) == good


def test_frames_behind_a_damaged_one_are_found() -> None:
    payloads = [b"one", b"two" * 20, b"three"]
    damaged = bytearray(segment(payloads))
    damaged[HEADER_SIZE + 16 + 3 + 16] ^= 1
    assert [each[1] for each in frames(bytes(damaged), 7)] == [b"one"]
    assert list(frames_anywhere(bytes(damaged), HEADER_SIZE, 7)) == [(9, b"three")]


def test_a_header_comes_back_or_is_refused() -> None:
    header = Header(5, 4, 3, "0b90a779-1ea2-4bf2-82ad-b65867654d8e")
    packed = pack_header(header)
    assert len(packed) == HEADER_SIZE
    assert unpack_header(packed + b"frames") == header
    for at in range(8, 80):
        damaged = bytearray(packed)
        damaged[at] ^= 1
        with pytest.raises((BadHeader, SegmentTooNew)):
            unpack_header(bytes(damaged))
    with pytest.raises(BadHeader):
        unpack_header(packed[:50])
    with pytest.raises(BadHeader):
        unpack_header(bytes(HEADER_SIZE))
    assert VERSION == 2, "how are older segments read now?"


def test_a_sidecar_says_what_the_file_is_as_far_as_it_fits() -> None:
    layer = Layer(2, 50, 40, ExtentMap([(1, 2), (5, 9)]))
    content = Content(7, Base("k", "v", 99), [layer], 5, 6)
    page = pack_sidecar(content, layer, "key", "boot")
    assert len(page) == PAGE
    found = unpack_sidecar(page)
    assert found["extents"] == [1, 2, 5, 9]
    assert (found["content"], found["layer"], found["key"]) == (7, 2, "key")
    many = Layer(2, 50, 40, ExtentMap((at, at + 1) for at in range(10**14, 10**14 + 380, 2)))
    assert "extents" not in unpack_sidecar(pack_sidecar(content, many, "key", "boot"))
    long = unpack_sidecar(pack_sidecar(content, layer, "k" * 5000, "boot"))
    assert "key" not in long
    assert long["size"] == 50
    with pytest.raises(BadSidecar):
        unpack_sidecar(os.urandom(PAGE))
    with pytest.raises(BadSidecar):
        unpack_sidecar(page[:100])
