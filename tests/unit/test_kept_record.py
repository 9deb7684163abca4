"""What a successor reads of what its predecessor noted."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.fusefs.takeover import IN_HEADER, INIT, OUT_HEADER, Greeting
from mountd.kept.record import Record, Unsound
from mountd.vfs.notes import NotedDirectory, NotedFile, NotedListing

REQUEST = IN_HEADER.pack(IN_HEADER.size + 64, INIT, 2, 0, 0, 0, 1, 0, 0) + bytes(64)
ANSWER = OUT_HEADER.pack(OUT_HEADER.size + 64, 0, 2) + bytes(64)
GREETING = Greeting(REQUEST, ANSWER)
FILE = NotedFile(70, 5, True, False, 10, -1, "d/é\udcff", "etag")


def test_a_successor_finds_what_is_open_held_and_without_a_name() -> None:
    record = Record(GREETING, b"terms")
    record.described(1, FILE)
    record.described(2, FILE._replace(key="other"))
    record.released(2)
    record.holds(5, NotedDirectory(1, "d/"))
    record.holds(6, NotedDirectory(1, "e/"))
    record.forgot(6)
    record.unlinked(70, 9)
    record.unlinked(71, 8)
    record.unlinked(71, 0)
    record.opened_listing(3, NotedListing(5, 100, 0xFFFFFFFF))
    found = Record.read(record.fd)
    assert (found.greeting, found.terms) == (GREETING, b"terms")
    assert found.files() == {1: FILE}
    assert found.directories() == {5: NotedDirectory(1, "d/")}
    assert found.contents() == {70: 9}
    assert found.listings() == {3: NotedListing(5, 100, 0xFFFFFFFF)}
    assert found.generation == record.generation + 1
    assert found.first_handle > record.first_handle + 1_000_000


def test_a_full_record_is_handed_over_anew_before_it_is_used() -> None:
    record = Record(GREETING, b"")
    first, handed = os.dup(record.fd), list[dict[int, NotedFile]]()
    record.moved = lambda fd: handed.append(Record.read(fd).files())
    for handle in range(20_000):
        record.described(handle, FILE)
        if handle >= 10:
            record.released(handle - 10)
    assert handed
    assert all(len(files) <= 11 for files in handed)
    assert set(Record.read(record.fd).files()) == set(range(19_990, 20_000))
    with pytest.raises(Unsound):  # whoever still keeps the first one: it is old by now
        Record.read(first)


def test_edited_files_that_come_and_go_do_not_make_a_record_grow() -> None:
    record = Record(GREETING, b"")
    first = os.fstat(record.fd).st_size
    moved = list[int]()
    record.moved = moved.append
    for number in range(200_000):
        record.edited(number)
        if number >= 10:
            record.not_edited(number - 10)
    assert moved
    assert os.fstat(record.fd).st_size == first
    assert Record.read(record.fd).edited_numbers() == frozenset(range(199_990, 200_000))


@given(st.binary(max_size=300), st.integers(0, 400))
def test_whatever_is_in_a_record_it_is_read_or_refused(noise: bytes, at: int) -> None:
    record = Record(GREETING, b"terms")
    record.described(1, FILE)
    record.holds(5, NotedDirectory(1, "d/"))
    os.pwrite(record.fd, noise, at)
    try:
        found = Record.read(record.fd)
    except Unsound:
        return
    assert set(found.files()) <= {1}
    assert set(found.directories()) <= {5}
    found.close()
    record.close()


def test_a_note_torn_by_a_kill_is_not_there() -> None:
    record = Record(GREETING, b"")
    record.described(1, FILE)
    record.described(2, FILE)
    noted = os.pread(record.fd, 1 << 20, 0).rstrip(b"\0")
    os.pwrite(record.fd, b"\xff", len(noted) - 1)
    assert set(Record.read(record.fd).files()) == {1}


def test_an_init_that_is_none_is_refused() -> None:
    for request, answer in (
        (b"", ANSWER),
        (REQUEST, b""),
        (REQUEST[:-1], ANSWER),
        (ANSWER, ANSWER),
    ):
        record = Record(Greeting(request, answer), b"")
        with pytest.raises(Unsound):
            Record.read(record.fd)


def test_a_handle_that_was_opened_just_now_is_known_by_its_inode_until_it_is_described() -> None:
    record = Record(GREETING, b"")
    for handle in (1, 2, 3):
        assert record.opened(handle, 70 + handle)
    record.released(2)
    assert record.undescribed == (1, 3)
    assert Record.read(record.fd).inodes() == {1: 71, 3: 73}
    record.described(1, FILE)
    found = Record.read(record.fd)
    assert (found.inodes(), found.files()) == ({3: 73}, {1: FILE})
    for handle in (1, 3):
        record.released(handle)
    assert (Record.read(record.fd).inodes(), Record.read(record.fd).files()) == ({}, {})


def test_handles_that_find_no_room_are_to_be_described_and_the_room_is_used_again() -> None:
    record = Record(GREETING, b"")
    count = next(handle for handle in range(1, 1 << 20) if not record.opened(handle, 5)) - 1
    assert count > 1000
    assert not record.opened(count + 1, 5)
    record.released(7)
    assert record.opened(count + 1, 6)
    for number in range(40_000):  # until it is written anew
        record.holds(number, NotedDirectory(1, f"d{number}/"))
    expected = dict.fromkeys(range(1, count + 1), 5) | {count + 1: 6}
    del expected[7]
    assert Record.read(record.fd).inodes() == expected


def test_a_torn_note_of_a_handle_is_none() -> None:
    record = Record(GREETING, b"")
    record.opened(1, 70)
    data = os.pread(record.fd, 1 << 20, 0)
    at = data.index((1).to_bytes(8, "little") + (70).to_bytes(8, "little"))
    os.pwrite(record.fd, (71).to_bytes(8, "little"), at + 8)
    assert Record.read(record.fd).inodes() == {}
