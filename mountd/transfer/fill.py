"""Brings whole files into the block cache, many at once and ranges of one, behind all readers.

Three bounds keep a reader from waiting for this. Requests say that they are prefetch, which the
remote's limiter lets go behind all demand reads; while anybody reads, a quarter of the requests go
that go else; and what is on its way has a third of the memory that all fetches share. What is
written here has room first: nothing is begun that would not fit beside it.
"""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import trio

from mountd.errors import NotFound, RemoteError, Stale, Unreachable, VersionChanged
from mountd.vfs.files import OpenFiles, RemoteFile
from mountd.vfs.prefetch import MAX_RANGE, max_range_of
from mountd_cache.block_cache import BlockCache

log = logging.getLogger(__name__)

AT_ONCE: Final = 32
_CALM_S: Final = 2.0  # after a reader's last fetch
_BESIDE_READERS: Final = 4  # one of so many goes on then
_MEMORY_SHARE: Final = 3
_LOOK_EVERY_S: Final = 0.2  # memory, disk and calm have no event
_TRIES: Final = 5
_OUT_OF_REACH: Final = 8  # files that fail like that, one after the other
MAX_FAILURES: Final = 1000  # that are named


class NotKept(Exception):
    """The cache did not take it."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A file and the ranges of it that are to be fetched."""

    file: RemoteFile
    ranges: list[tuple[int, int]]


@dataclass(slots=True)
class Progress:
    """What a fill has done so far. `failures`: why, by key; `failed` counts all of them.
    `changed`: keys of files that are other versions by now. `gave_up`: why it ended early.
    `in_a_row`: how many failed one after the other in a way that others will, too."""

    files: int = 0
    bytes: int = 0
    failed: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    gave_up: str = ""
    in_a_row: int = 0

    def fail(self, key: str, error: Exception) -> None:
        """Notes it; after many in a row that the remote did not answer, or the cache's disk did not
        take, going on is no use."""
        self.failed += 1
        if len(self.failures) < MAX_FAILURES:
            self.failures[key] = str(error) or type(error).__name__
        if isinstance(error, VersionChanged | NotFound):
            self.changed.append(key)
        is_general = isinstance(error, Unreachable | NotKept)
        self.in_a_row = self.in_a_row + 1 if is_general else 0
        if self.in_a_row >= _OUT_OF_REACH:
            is_remote = isinstance(error, Unreachable)
            self.gave_up = f"the remote does not answer: {error}" if is_remote else str(error)


@dataclass(eq=False, slots=True)
class _File:
    file: RemoteFile
    left: int
    failed: bool = False


@dataclass(frozen=True, slots=True)
class _Piece:
    of: _File
    start: int
    end: int


class Filler:
    """One for all fills of a mount. `room_bytes` tells what the disk may take beside what was
    written here; `reason` why it takes nothing, if it doesn't."""

    def __init__(
        self,
        files: OpenFiles,
        blocks: BlockCache,
        *,
        max_parallel: int,
        room_bytes: Callable[[], int],
        reason: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._files = files
        self._blocks = blocks
        self._room_bytes = room_bytes
        self._reason = reason
        self._most = max(1, min(AT_ONCE, max_parallel * 3 // 4))
        self._memory = blocks.memory_bytes // _MEMORY_SHARE
        block_size = blocks.block_size
        largest = min(max_range_of(max_parallel), max(MAX_RANGE, block_size), self._memory // 4)
        self._range = max(block_size, largest // block_size * block_size)
        self._running = 0
        self._running_bytes = 0
        self._ended = trio.lowlevel.ParkingLot()

    async def fill(self, missing: AsyncGenerator[Missing], progress: Progress) -> None:
        """Returns when all is on the disk, or in `progress` as failed. Cancelled, nothing is begun
        any more; what is under way comes to its end."""
        send, receive = trio.open_memory_channel[_Piece](0)
        async with trio.open_nursery() as nursery:
            for _ in range(self._most):
                nursery.start_soon(self._work, receive.clone(), progress)
            receive.close()
            async with send, aclosing(missing) as files:
                async for one in files:
                    for piece in self._pieces(one):
                        await send.send(piece)
                        if progress.gave_up:
                            return

    def _pieces(self, missing: Missing) -> list[_Piece]:
        of = _File(missing.file, 0)
        pieces = [
            _Piece(of, at, min(end, at + self._range))
            for start, end in missing.ranges
            for at in range(start, end, self._range)
        ]
        of.left = len(pieces)
        return pieces

    async def _work(self, receive: trio.MemoryReceiveChannel[_Piece], progress: Progress) -> None:
        async with receive:
            async for piece in receive:
                of = piece.of
                if not of.failed and not progress.gave_up:
                    try:
                        await self._bring(piece)
                        progress.bytes += piece.end - piece.start
                    except (RemoteError, Stale, OSError, TimeoutError, NotKept) as error:
                        of.failed = True
                        progress.fail(of.file.key, error)
                    except Exception as error:
                        log.exception("fetching %r failed in an unforeseen way", of.file.key)
                        of.failed = True
                        progress.fail(of.file.key, error)
                of.left -= 1
                if not of.left and not of.failed and not progress.gave_up:
                    progress.files += 1
                    progress.in_a_row = 0

    async def _bring(self, piece: _Piece) -> None:
        length = piece.end - piece.start
        for _ in range(_TRIES):
            await self._turn(length)
            self._running += 1
            self._running_bytes += length
            cached = self._files.cached(piece.of.file)
            try:
                if await cached.bring(piece.start, piece.end):
                    return
            finally:
                cached.close()
                self._running -= 1
                self._running_bytes -= length
                self._ended.unpark()
            await trio.sleep(_LOOK_EVERY_S)
        raise NotKept(self._reason() or "the cache did not keep it")

    async def _turn(self, length: int) -> None:
        """Waits until one more may go."""
        while not self._may_begin(length):
            with trio.move_on_after(_LOOK_EVERY_S):
                await self._ended.park()

    def _may_begin(self, length: int) -> bool:
        blocks, most, memory = self._blocks, self._most, self._memory
        if trio.current_time() - blocks.last_wanted_s < _CALM_S:
            most, memory = max(1, most // _BESIDE_READERS), memory // _BESIDE_READERS
        if not self._running:
            memory = max(memory, length)  # one at least goes on
        return (
            self._running < most
            and self._running_bytes + length <= memory
            and self._running_bytes + length <= blocks.backlog_room
            and self._running_bytes + length <= self._room_bytes()
        )
