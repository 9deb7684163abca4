"""Into a local directory: small files in one read each, large ones in ranges side by side."""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Final, Self, TypeVar

import crc32c
from typing_extensions import Buffer

from mountd.errors import Corrupt, RemoteError, Unreachable
from mountd.remotes import call
from mountd.remotes.object_metadata import mtime_ns_of
from mountd.transfer.checksums import added_up, difference, md5_in, one_of, sums_of, told_sums
from mountd.transfer.crew import LIGHT_BYTES, RANGE_BYTES, Job, Tally, has_changed
from mountd.transfer.direct_writes import FROM_BYTES, AlignedBuffers
from mountd.transfer.items import Item
from mountd.transfer.links import read_target
from mountd.transfer.local_target import Finished, LocalTarget
from mountd.transfer.plan import Copy
from mountd.transfer.record import Parts, Record, Span
from mountd.transfer.side import Side, mode_of, time_of

_BATCH_FILES: Final = 512
_BATCH_BYTES: Final = 256 << 20
_BATCH_S: Final = 3.0
T = TypeVar("T")
_NO_PARTS: Final[Parts] = {}


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a file beside its bytes, better than the listing knew it: its time, else 0;
    its permissions, else None."""

    mtime_ns: int = 0
    mode: int | None = None


_NOTHING: Final = Told()


class Fetch:
    """Copies to `target`. Its jobs raise nothing foreseen: failures go to the tally."""

    def __init__(
        self, source: Side, target: LocalTarget, record: Record, tally: Tally, *, verify: bool
    ) -> None:
        self._source = source
        self.target = target
        self._record = record
        self._tally = tally
        self._verify = verify
        self._lock = threading.Lock()
        self._batch: list[tuple[Copy, Finished]] = []
        self._batch_bytes = 0
        self._batch_began_s = 0.0
        self._buffers = AlignedBuffers(RANGE_BYTES)

    def light(self, copies: Sequence[Copy]) -> Iterator[Job]:
        """Jobs for files that are read at once."""
        return (partial(self._small, copy) for copy in copies if copy.item.size <= LIGHT_BYTES)

    def heavy(self, copies: Sequence[Copy]) -> Iterator[Job]:
        """Jobs for the ranges of all others, file by file."""
        for copy in copies:
            if copy.item.size > LIGHT_BYTES:
                arriving = _Arriving(self, copy)
                yield from (partial(arriving.fetch, span) for span in spans_of(copy.item.size))

    def flush(self) -> None:
        """Everything that has arrived gets its final name."""
        self._place_all(self._taken())

    def _small(self, copy: Copy) -> None:
        item = copy.item
        try:
            if item.is_link:
                target = read_target(self._source, item)
                version = self.target.make_link(item, target, copy.expect)
                self._record.copied(item.path, item.version, version)
                self._tally.done(item.size)
                return
            with Partial(self.target, item) as partial_file:
                told = self.bring(partial_file, item, (0, item.size))
                self.finish(partial_file.fd, copy, told)
        except (RemoteError, OSError) as error:
            self.failed(copy, error)

    def bring(self, file: "Partial", item: Item, span: Span) -> Told:
        """These bytes into the partial file, unless they are there."""
        start, end = span
        known = self._record.parts.get((item.path, item.version), _NO_PARTS).get(span)
        is_here = known is not None and _crc_in(file.fd, span) == known
        if is_here or start == end:
            self._tally.was_here(end - start)
            return self._told(item) if start == 0 else _NOTHING
        held = self._source.held_bytes(item, start, end)
        if held is not None:
            self._arrived(file, item, span, held)
            return self._told(item) if start == 0 else _NOTHING
        heard: list[Mapping[str, str]] = []
        with ExitStack() as stack:
            if start == 0:
                stack.enter_context(set_to(call.hears_metadata, heard.append))
            into = None
            if end - start > LIGHT_BYTES:
                into = stack.enter_context(self._buffers.taken(end - start))
            self._arrived(file, item, span, self._read(item, start, end, into))
        return Told(mtime_ns_of(heard[0]) or 0, mode_of(heard[0])) if heard else _NOTHING

    def _arrived(self, file: "Partial", item: Item, span: Span, data: Buffer) -> None:
        start, end = span
        self._tally.moved(end - start)
        file.write(data, start)
        self._record.arrived(item.path, item.version, span, crc32c.crc32c(data))

    def _read(self, item: Item, start: int, end: int, into: memoryview | None) -> Buffer:
        """`into`: where the bytes may be, until others are."""
        store = self._source.store
        try:
            with set_to(call.reads_into, into):
                return store.read(item.key, start, end, item.version)
        except Unreachable:
            if end - start <= LIGHT_BYTES:
                raise
        # The line may be too slow for so much in one request's time.
        pieces = range(start, end, LIGHT_BYTES)
        reads = (
            store.read(item.key, at, min(at + LIGHT_BYTES, end), item.version) for at in pieces
        )
        return b"".join(reads)

    def finish(self, fd: int, copy: Copy, told: Told) -> None:
        """All bytes are in the partial file: it gets its name, small ones together with others.
        Raises Corrupt where they are not the right ones."""
        item = copy.item
        if self._verify:
            self._check(fd, item)
        mtime_ns = told.mtime_ns or item.mtime_ns
        mode = item.mode if told.mode is None else told.mode
        finished = self.target.finished(fd, item, mtime_ns, copy.expect, mode)
        self._record.copied(item.path, item.version, finished.version)
        if item.size > LIGHT_BYTES:  # not worth waiting for others, nor for the whole disk
            self.target.sync_file(fd)
            self._place(copy, finished)
            return
        with self._lock:
            if not self._batch:
                self._batch_began_s = time.monotonic()
            self._batch.append((copy, finished))
            self._batch_bytes += item.size
            is_full = len(self._batch) >= _BATCH_FILES or self._batch_bytes >= _BATCH_BYTES
            is_full = is_full or time.monotonic() - self._batch_began_s >= _BATCH_S
        if is_full:
            self._place_all(self._taken())

    def failed(self, copy: Copy, error: Exception) -> None:
        """Notes it, and removes a partial file that nobody can go on with."""
        no_room = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if has_changed(error) or isinstance(error, Corrupt) or no_room:
            with contextlib.suppress(OSError):
                self.target.drop_partial(copy.item)
        if has_changed(error) or isinstance(error, Corrupt):
            self._tally.changed(copy, error)
        else:
            self._tally.failed(copy.item.path, error)

    def _told(self, item: Item) -> Told:
        """Of a file whose beginning needs no read, which would tell."""
        if self._source.is_local or self._source.store.capabilities.keeps_mtime:
            return _NOTHING
        with contextlib.suppress(RemoteError):
            entry = self._source.store.stat(item.key)
            return Told(time_of(entry), mode_of(entry.attributes or {}))
        return _NOTHING

    def _check(self, fd: int, item: Item) -> None:
        tag = md5_in(item.version)
        if tag and added_up(fd, item.size, ["md5"])["md5"] == tag:
            return  # (a version that only looks like an MD5 proves nothing)
        if self._source.is_local:
            expected = sums_of(self._source, item)
        else:
            expected = dict(told_sums(self._source, item))
        name = one_of(expected)
        if not name:
            self._tally.count_unchecked()
        elif differs := difference(added_up(fd, item.size, [name]), expected):
            raise Corrupt(f"{differs} at SOURCE")

    def _taken(self) -> list[tuple[Copy, Finished]]:
        with self._lock:
            batch, self._batch, self._batch_bytes = self._batch, [], 0
        return batch

    def _place_all(self, batch: list[tuple[Copy, Finished]]) -> None:
        if not batch:
            return
        try:
            self.target.sync()
        except OSError as error:
            for copy, _ in batch:
                self._tally.failed(copy.item.path, error)
            return
        for copy, finished in batch:
            self._place(copy, finished)

    def _place(self, copy: Copy, finished: Finished) -> None:
        try:
            self.target.place(finished)
        except (RemoteError, OSError) as error:
            # Whatever is at the target now: the next run finds out with a fresh listing.
            self._tally.failed(copy.item.path, error)
        else:
            self._tally.done(finished.size)


@contextlib.contextmanager
def set_to(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Of this thread, as long as it lasts."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


class Partial:
    """A partial file, made when it is first needed: what can't be read leaves none. Any thread."""

    def __init__(self, target: LocalTarget, item: Item) -> None:
        self._target = target
        self._item = item
        self._lock = threading.Lock()
        self._writes = threading.Lock()
        self._fd = -1
        self._direct = target.direct_writes(item) if item.size >= FROM_BYTES else None

    @property
    def fd(self) -> int:
        """Raises as `LocalTarget.open_partial`."""
        with self._lock:
            if self._fd < 0:
                self._fd = self._target.open_partial(self._item)
            return self._fd

    def write(self, data: Buffer, offset: int) -> None:
        """All of `data`. What goes through the page cache goes one after the other: the kernel
        writes it in no other way, and lets those who wait for that spin."""
        fd = self.fd
        done = self._direct.write(fd, data, offset) if self._direct is not None else 0
        rest = memoryview(data).cast("B")[done:]
        if rest:
            with self._writes:
                # (Beginning write-back here, by sync_file_range, cost more than it saved.)
                self._target.write(fd, rest, offset + done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._direct is not None:
            self._direct.close()
        if self._fd >= 0:
            os.close(self._fd)


class _Arriving:
    """One large file, while its ranges come in."""

    def __init__(self, fetch: Fetch, copy: Copy) -> None:
        self._fetch, self._copy = fetch, copy
        self._lock = threading.Lock()
        self._file = Partial(fetch.target, copy.item)
        self._left = -(-copy.item.size // RANGE_BYTES)
        self._told = _NOTHING
        self._error: Exception | None = None

    def fetch(self, span: Span) -> None:
        """The job of one range; that which ends last ends the file, however each of them ended."""
        try:
            if self._error is None:
                told = self._fetch.bring(self._file, self._copy.item, span)
                if span[0] == 0:
                    self._told = told
        except (RemoteError, OSError) as error:
            self._error = self._error or error
        except BaseException as error:  # (a panic of obstore is no Exception)
            self._error = self._error or RuntimeError(f"a defect: {error!r}")
            raise
        finally:
            with self._lock:
                self._left -= 1
                is_last = not self._left
            if is_last:
                self._end()

    def _end(self) -> None:
        try:
            with self._file:
                if self._error is None:
                    self._fetch.finish(self._file.fd, self._copy, self._told)
        except (RemoteError, OSError) as error:
            self._error = error
        if self._error is not None:
            self._fetch.failed(self._copy, self._error)


def spans_of(size: int) -> Iterator[Span]:
    """The ranges that a large file comes in."""
    return ((start, min(start + RANGE_BYTES, size)) for start in range(0, size, RANGE_BYTES))


def _crc_in(fd: int, span: Span) -> int | None:
    start, end = span
    data = os.pread(fd, end - start, start)
    return crc32c.crc32c(data) if len(data) == end - start else None
