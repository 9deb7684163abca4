"""What a successor reads of what its predecessor noted."""

import os
import struct

import pytest
from crc32c import crc32c
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


READ = FILE._replace(writes=False)


def test_a_handle_that_was_opened_just_now_is_known_with_what_it_reads() -> None:
    record = Record(GREETING, b"")
    for handle in (1, 2, 3):
        record.opened(handle, READ._replace(number=70 + handle))
    record.released(2)
    assert Record.read(record.fd).files() == {
        1: READ._replace(number=71),
        3: READ._replace(number=73),
    }
    record.described(1, FILE)
    assert Record.read(record.fd).files() == {1: FILE, 3: READ._replace(number=73)}
    for handle in (1, 3):
        record.released(handle)
    assert Record.read(record.fd).files() == {}


def test_opening_and_closing_does_not_make_a_record_grow() -> None:
    record = Record(GREETING, b"")
    moved = list[int]()
    record.moved = moved.append
    for handle in range(100_000):
        record.opened(handle, READ)
        if handle >= 10:
            record.released(handle - 10)
    assert not moved
    assert set(Record.read(record.fd).files()) == set(range(99_990, 100_000))


def test_a_key_too_long_for_a_slot_is_noted_all_the_same() -> None:
    record = Record(GREETING, b"")
    files = {length: READ._replace(key="k" * length) for length in range(150, 300)}
    for handle, file in files.items():
        record.opened(handle, file)
    assert Record.read(record.fd).files() == files
    for handle in files:
        record.released(handle)
    assert Record.read(record.fd).files() == {}


def test_handles_that_find_no_slot_are_among_the_records_and_both_outlive_a_new_memfd() -> None:
    record = Record(GREETING, b"")
    files = {handle: READ._replace(number=handle) for handle in range(1, 3000)}
    for handle, file in files.items():
        record.opened(handle, file)
    assert Record.read(record.fd).files() == files
    for handle in (7, 2500):
        record.released(handle)
        del files[handle]
    record.opened(3000, READ)
    moved = list[int]()
    record.moved = moved.append
    for number in range(40_000):  # until it is written anew
        record.holds(number, NotedDirectory(1, f"d{number}/"))
    assert moved
    assert Record.read(record.fd).files() == files | {3000: READ}


def test_a_torn_note_of_a_handle_is_none() -> None:
    record = Record(GREETING, b"")
    record.opened(1, READ)
    at = os.pread(record.fd, 1 << 20, 0).index(READ.version.encode())
    os.pwrite(record.fd, b"E", at)
    assert Record.read(record.fd).files() == {}


def test_a_name_that_was_in_a_slot_before_notes_nothing() -> None:
    record = Record(GREETING, b"")
    # As a directory's note: without a zero byte or a slash, and it ends with its slot.
    made = struct.pack("<HBQ", 0x0101, 3, 0x010101010101011E) + b"k" * 189
    hidden = struct.pack("<I", crc32c(made)) + made
    assert not set(b"\0/") & set(hidden)
    record.opened(1, READ._replace(key="p" * 2 + hidden.decode(), version=""))
    record.released(1)
    record.opened(2, READ._replace(key="s", version="v"))
    found = Record.read(record.fd)
    assert set(found.files()) == {2}
    assert found.directories() == {}
