"""The notes for a successor, in memory that outlives this process.

A memfd, so that it lives exactly as long as somebody holds it beside the connection's descriptor,
and no full disk can be in its way: a head with FUSE_INIT and its answer, then records, each with a
CRC. A note is a store into mapped memory (1 us); SIGKILL can tear the last one only, which was not
answered for yet. What is full is written anew in another memfd, which is handed over first.

Between head and records are slots, each for the record of one handle that was opened for reading:
one store when a file is opened and one when it is closed, and no record grows by that.
"""

import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from crc32c import crc32c

from mountd.fusefs.takeover import Greeting
from mountd.kept.starts import ATTEMPTS_BYTES, Attempts
from mountd.vfs.notes import NotedDirectory, NotedFile, NotedListing

_MAGIC: Final = b"mtdkept\n"
_FORMAT: Final = 3
# magic, format, generation, edition, lengths of request, answer and terms
_HEAD: Final = struct.Struct("<8sIIIIII")
_CRC: Final = struct.Struct("<I")  # of the head and of those three, which follow the attempts
_ATTEMPTS_AT: Final = _HEAD.size + _CRC.size
_PARTS_AT: Final = _ATTEMPTS_AT + ATTEMPTS_BYTES
_RECORD: Final = struct.Struct("<IHBQ")  # CRC of what follows it, length of the body, kind, id
_AFTER_CRC: Final = struct.Struct("<HBQ")
_FILE: Final = struct.Struct("<QQBQqH")  # number, parent, flags, size, mtime, length of the key
_LISTING: Final = struct.Struct("<QQI")
_NUMBER: Final = struct.Struct("<Q")
_WRITES, _NAMELESS = 1, 2
# Kinds; an empty body takes the note back.
FILE, LISTING, DIRECTORY, CONTENT, GONE, TIMES, EDITED = range(1, 8)
_KINDS: Final = (FILE, LISTING, DIRECTORY, CONTENT, GONE, TIMES, EDITED)
_IS_SO: Final = b"\1"
_SLOT_BYTES: Final = 256  # a record of FILE that fits; all else is among the other records
_SLOTS: Final = 512
_SLOTS_BYTES: Final = _SLOTS * _SLOT_BYTES
_EMPTY: Final = bytes(_RECORD.size)
_LEAST_BYTES: Final = 1 << 20
_MOST_BYTES: Final = 1 << 30
_LONGEST: Final = 0xFFFF
_GENERATION_BITS: Final = 32


class Unsound(Exception):
    """It is no record, or of another format: it can't be gone on with."""


@dataclass(frozen=True, slots=True)
class Head:
    """`generation`: how many processes had this mount before the one that writes here; `edition`:
    how often that one wrote its record anew. Of several records of a mount the highest holds."""

    generation: int
    edition: int
    greeting: Greeting
    terms: bytes
    ends_at: int  # the slots begin there

    @property
    def number(self) -> tuple[int, int]:
        return self.generation, self.edition

    @classmethod
    def read(cls, fd: int) -> Self:
        """Raises Unsound, OSError."""
        return cls.of(_content(fd))

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Raises Unsound."""
        magic, number, generation, edition, *lengths = _HEAD.unpack_from(data)
        ends_at = _PARTS_AT + sum(lengths)
        if magic != _MAGIC or number != _FORMAT or ends_at + _SLOTS_BYTES > len(data):
            raise Unsound("the record is of another format")
        parts, at = [], _PARTS_AT
        for length in lengths:
            parts.append(data[at : at + length])
            at += length
        greeting = Greeting(parts[0], parts[1])
        crc = crc32c(data[: _HEAD.size] + data[_PARTS_AT:ends_at])
        if _CRC.unpack_from(data, _HEAD.size) != (crc,) or not greeting.is_sound():
            raise Unsound("the record's head is damaged")
        return cls(generation, edition, greeting, parts[2], ends_at)


def _content(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    if not _PARTS_AT <= size <= _MOST_BYTES:
        raise Unsound("the record has another length")
    return os.pread(fd, size, 0)


def note_start(fd: int, now_s: float) -> bool:
    """In the record of `fd`: a process is about to go on with it. False where too many tried
    before, or in vain for too long; then it is not noted. Raises OSError."""
    attempts = Attempts.unpack(os.pread(fd, ATTEMPTS_BYTES, _ATTEMPTS_AT)).begun(now_s)
    if attempts is None:
        return False
    os.pwrite(fd, attempts.pack(), _ATTEMPTS_AT)
    return True


def supersede(fd: int) -> None:
    """There is a later one, whether or not whoever keeps this one was told so: it is none any more,
    because what it says of the mount grows old."""
    os.pwrite(fd, bytes(len(_MAGIC)), 0)


class Record:
    """`Notes` that a successor reads. `terms` is what the kernel was told for good; a successor
    with others can't go on. `moved` is called with a new descriptor before it is used."""

    def __init__(self, greeting: Greeting, terms: bytes, generation: int = 0) -> None:
        self.greeting = greeting
        self.terms = terms
        self.generation = generation
        self._edition = 0
        self._attempts = Attempts()
        self.moved: Callable[[int], None] = lambda fd: None
        self._notes: dict[int, dict[int, bytes]] = {kind: {} for kind in _KINDS}
        self.fd = -1
        self._map: mmap.mmap | None = None
        self._slots: dict[int, int] = {}  # by handle: where it is in the map
        self._free: list[int] = []
        self._at = self._size = 0
        self._begin()

    @property
    def first_handle(self) -> int:
        """Handles of this process begin here: none is like one of a former process."""
        return (self.generation << _GENERATION_BITS) + 1

    @classmethod
    def read(cls, fd: int) -> Self:
        """What a former process has noted, to be gone on with in a record of our own; `fd` stays
        the caller's. Raises Unsound, OSError."""
        data = _content(fd)
        head = Head.of(data)
        record = cls(head.greeting, head.terms, head.generation + 1)
        record._attempts = Attempts.unpack(data[_ATTEMPTS_AT:_PARTS_AT])
        for at in range(head.ends_at, end := head.ends_at + _SLOTS_BYTES, _SLOT_BYTES):
            # One only: behind it is what is left of a longer name, which anybody may have given.
            record._replay(data[at : at + _SLOT_BYTES], 0)
        while end:
            end = record._replay(data, end)
        record._begin()
        return record

    # -- Notes

    def opened(self, handle: int, file: NotedFile) -> None:
        made = _record(FILE, handle, _body(file))
        if not self._free or self._map is None or len(made) > _SLOT_BYTES:
            self.described(handle, file)
            return
        at = self._slots[handle] = self._free.pop()
        self._map[at : at + len(made)] = made

    def described(self, handle: int, file: NotedFile) -> None:
        # Not in its slot: of two states a kill must leave one whole.
        self._note(FILE, handle, _body(file))
        self._vacate(handle)

    def released(self, handle: int) -> None:
        self._vacate(handle)
        if handle in self._notes[FILE]:
            self._note(FILE, handle, b"")

    def _vacate(self, handle: int) -> None:
        at = self._slots.pop(handle, 0)
        if at and self._map is not None:
            self._map[at : at + _RECORD.size] = _EMPTY
            self._free.append(at)

    def holds(self, number: int, directory: NotedDirectory) -> None:
        self._notes[DIRECTORY].pop(number, None)  # the last one with a key is the one that has it
        self._note(DIRECTORY, number, _NUMBER.pack(directory.parent) + _bytes(directory.key))

    def nameless(self, number: int) -> None:
        self._note(GONE, number, _IS_SO)

    def owes_times(self, number: int) -> None:
        self._note(TIMES, number, _IS_SO)

    def brought_times(self, number: int) -> None:
        if number in self._notes[TIMES]:
            self._note(TIMES, number, b"")

    def is_late(self, number: int) -> bool:
        return number in self._notes[TIMES] or number in self._notes[GONE]

    def edited(self, number: int) -> None:
        self._note(EDITED, number, _IS_SO)

    def not_edited(self, number: int) -> None:
        if number in self._notes[EDITED]:
            self._note(EDITED, number, b"")

    def forgot(self, number: int) -> None:
        for kind in (DIRECTORY, GONE, TIMES):
            if number in self._notes[kind]:
                self._note(kind, number, b"")

    def unlinked(self, number: int, content: int) -> None:
        self._note(CONTENT, number, _NUMBER.pack(content) if content else b"")

    def opened_listing(self, handle: int, listing: NotedListing) -> None:
        body = _LISTING.pack(listing.number, listing.names, listing.crc)
        self._note(LISTING, handle, body)

    def released_listing(self, handle: int) -> None:
        self._note(LISTING, handle, b"")

    # -- what a successor asks

    def files(self) -> dict[int, NotedFile]:
        """Open files by handle."""
        return {id_: _file(body) for id_, body in self._notes[FILE].items()}

    def listings(self) -> dict[int, NotedListing]:
        """Open directories by handle."""
        return {id_: NotedListing(*_LISTING.unpack(b)) for id_, b in self._notes[LISTING].items()}

    def directories(self) -> dict[int, NotedDirectory]:
        """Directories by inode, as they were noted last."""
        return {
            id_: NotedDirectory(_NUMBER.unpack_from(body)[0], _text(body[_NUMBER.size :]))
            for id_, body in self._notes[DIRECTORY].items()
        }

    def contents(self) -> dict[int, int]:
        """Contents without a name, by inode."""
        return {id_: _NUMBER.unpack(body)[0] for id_, body in self._notes[CONTENT].items()}

    def gone_numbers(self) -> frozenset[int]:
        """Files that the kernel holds and whose last name went, or was about to."""
        return frozenset(self._notes[GONE])

    def edited_numbers(self) -> frozenset[int]:
        """Numbers made of an identity that stand for something else."""
        return frozenset(self._notes[EDITED])

    def serves(self) -> None:
        """Whoever goes on with it next has not tried in vain yet."""
        self._attempts = self._attempts.served()
        if self._map is not None:
            self._map[_ATTEMPTS_AT:_PARTS_AT] = self._attempts.pack()

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None
            os.close(self.fd)

    # -- inside

    def _note(self, kind: int, id_: int, body: bytes) -> None:
        notes = self._notes[kind]
        if body:
            notes[id_] = body
        elif notes.pop(id_, None) is None:
            return
        end = self._at + _RECORD.size + len(body)
        if end > self._size:
            self._begin()  # with this note in it
        else:
            self._append(kind, id_, body, end)

    def _append(self, kind: int, id_: int, body: bytes, end: int) -> None:
        if self._map is None:
            return
        if len(body) > _LONGEST:
            raise ValueError("a note is too long")
        self._map[self._at : end] = _record(kind, id_, body)
        self._at = end

    def _begin(self) -> None:
        """A new memfd with all that holds; the old one is good until it is handed over."""
        old_map, old_fd = self._map, self.fd
        self._edition += 1
        parts = (self.greeting.request, self.greeting.answer, self.terms)
        head = _HEAD.pack(
            *(_MAGIC, _FORMAT, self.generation, self._edition), *(len(part) for part in parts)
        )
        text = b"".join(parts)
        crc = _CRC.pack(crc32c(head + text))
        notes = [(k, i, b) for k, kept in self._notes.items() for i, b in kept.items()]
        begin = _PARTS_AT + len(text)
        live = begin + _SLOTS_BYTES + sum(_RECORD.size + len(b) for _, _, b in notes)
        self._size = max(_LEAST_BYTES, 4 * live)
        self.fd = os.memfd_create("mountd-kept", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, self._size)
        self._map = mmap.mmap(self.fd, self._size)
        self._map[:begin] = head + crc + self._attempts.pack() + text
        self._at = begin + _SLOTS_BYTES
        if old_map is None:  # the lowest are used first: few pages
            self._free = list(range(self._at - _SLOT_BYTES, begin - 1, -_SLOT_BYTES))
        else:
            for slot in self._slots.values():
                self._map[slot : slot + _SLOT_BYTES] = old_map[slot : slot + _SLOT_BYTES]
        for kind, id_, body in notes:
            self._append(kind, id_, body, self._at + _RECORD.size + len(body))
        if old_map is not None:
            self.moved(self.fd)
            old_map.close()
            supersede(old_fd)
            os.close(old_fd)

    def _replay(self, data: bytes, at: int) -> int:
        """Where the record ends that begins at `at`; 0 where none does."""
        if at + _RECORD.size > len(data):
            return 0
        crc, length, kind, id_ = _RECORD.unpack_from(data, at)
        end: int = at + _RECORD.size + length
        if end > len(data) or kind not in _KINDS or crc != crc32c(data[at + _CRC.size : end]):
            return 0
        body = data[at + _RECORD.size : end]
        self._notes[kind].pop(id_, None)
        if body and _fits(kind, body):
            self._notes[kind][id_] = body
        return end


def _fits(kind: int, body: bytes) -> bool:
    if kind == FILE:
        return len(body) >= _FILE.size and _FILE.size + _FILE.unpack_from(body)[-1] <= len(body)
    if kind in (GONE, TIMES, EDITED):
        return body == _IS_SO
    if kind == LISTING:
        return len(body) == _LISTING.size
    return len(body) == _NUMBER.size if kind == CONTENT else len(body) >= _NUMBER.size


def _record(kind: int, id_: int, body: bytes) -> bytes:
    made = _AFTER_CRC.pack(len(body), kind, id_) + body
    return _CRC.pack(crc32c(made)) + made


def _body(file: NotedFile) -> bytes:
    number, parent, writes, is_nameless, size, mtime_ns, key, version = file
    coded = _bytes(key)
    flags = _WRITES * writes | _NAMELESS * is_nameless
    return _FILE.pack(number, parent, flags, size, mtime_ns, len(coded)) + coded + _bytes(version)


def _file(body: bytes) -> NotedFile:
    number, parent, flags, size, mtime_ns, length = _FILE.unpack_from(body)
    key, version = body[_FILE.size : _FILE.size + length], body[_FILE.size + length :]
    told = bool(flags & _WRITES), bool(flags & _NAMELESS)
    return NotedFile(number, parent, *told, size, mtime_ns, _text(key), _text(version))


def _bytes(text: str) -> bytes:
    # With the name of an error handler it takes four times as long.
    return text.encode() if text.isascii() else text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
