"""One version of one file: its fetches, and reading through them; see block_cache.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import trio
from typing_extensions import Buffer

if TYPE_CHECKING:
    from mountd_cache.block_cache import BlockCache

FetchFn = Callable[[int, int, bool], Buffer]
"""(start, end, urgent) -> exactly those bytes; blocking, called from worker threads."""

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Fetch:
    """One request for [start, end) of a file, on its way, or its bytes."""

    file: CachedFile
    start: int
    end: int
    urgent: bool
    done: trio.Event
    data: memoryview | None = None
    error: Exception | None = None
    waiters: int = 0
    served: int = 0
    writing: int = 0  # parts that wait for a writer
    kept: bool = False  # the block files have it, or will
    started: bool = False  # set by the worker thread
    given_up: bool = False  # nobody finds it any more; what it brings is dropped
    is_background: bool = False  # for no reader at all
    is_streamed: bool = False  # its reader comes for all of it soon, and takes it from memory
    by: FetchFn | None = None  # what the worker thread called
    written: trio.Event | None = None  # set when no part of it waits for a writer any more
    idle_since_s: float = 0.0

    @property
    def length(self) -> int:
        return self.end - self.start


class CachedFile:
    """One version of one file: what is fetched, what is on its way, what the disk has.

    Offsets are bytes; every range satisfies 0 <= start < end <= size.
    """

    __slots__ = (
        "_by_block",
        "_cache",
        "_fetches",
        "fetch",
        "file_id",
        "handles",
        "running_bytes",
        "size",
    )

    def __init__(self, cache: BlockCache, file_id: bytes, size: int, fetch: FetchFn) -> None:
        self._cache = cache
        self._by_block: dict[int, list[Fetch]] = {}
        self._fetches = 0
        self.running_bytes = 0  # on their way
        self.file_id = file_id
        self.size = size
        self.fetch = fetch
        self.handles = 0

    def close(self) -> None:
        """One handle less. Data and fetches under way stay until memory is wanted."""
        self.handles -= 1
        if not self.handles and not self._fetches:
            self._cache.unused(self)

    def read_now(self, start: int, end: int) -> Buffer | None:
        """The bytes if they are in memory or on disk, else None; never waits for a fetch."""
        block_size = self._cache.block_size
        index = start // block_size
        base = index * block_size
        if end <= base + block_size and index not in self._by_block:  # the warm read
            return self._cache.blocks.read(self.file_id, index, start - base, end - base)
        return self._gather(start, end)

    async def read(self, start: int, end: int, demand: tuple[int, int]) -> Buffer:
        """The bytes, fetching what is missing of `demand` (which spans start and end) urgently.

        Raises what `fetch` raised, or TimeoutError after the cache's `wait_s`. Cancellation
        leaves the fetches running for whoever asks next.
        """
        return await self._bring(start, end, demand, lambda: self.read_now(start, end))

    async def ensure(self, start: int, end: int) -> None:
        """Waits until the bytes are in memory or on disk; errors and cancellation as `read`."""
        await self._bring(start, end, (start, end), lambda: self.here(start, end) or None)

    async def _bring(
        self, start: int, end: int, demand: tuple[int, int], take: Callable[[], T | None]
    ) -> T:
        """Fetches until `take` succeeds: a fetch ahead that failed is tried once more for the
        reader's own sake, and a block that the disk does not give is fetched after all."""
        held: list[Fetch] = []
        last_error: Exception | None = None
        on_disk = True
        try:
            with trio.move_on_after(self._cache.wait_s):
                for _ in range(3):
                    self._overtake(start, end)
                    self._hold_overlapping(start, end, held)
                    self.begin(*demand, urgent=True, on_disk=on_disk)
                    self._hold_overlapping(start, end, held)
                    last_error = await _ended(held)
                    taken = take()
                    if taken is not None:
                        return taken
                    on_disk = False
                raise last_error or TimeoutError("fetched data could not be kept to be read")
            for fetch in held:
                if not fetch.done.is_set():
                    self._give_up(fetch)  # who asks next asks anew
            raise TimeoutError(f"no answer within {self._cache.wait_s:g} s")
        finally:
            for fetch in held:
                self._cache.let_go(fetch)

    def _hold_overlapping(self, start: int, end: int, held: list[Fetch]) -> None:
        for fetch in self._overlapping(start, end):
            if fetch not in held:
                self._cache.hold(fetch)
                held.append(fetch)

    def _overtake(self, start: int, end: int) -> None:
        """What was begun ahead and still queues is begun anew as what somebody waits for."""
        if not self._cache.queues_ahead:
            return
        for fetch in self._overlapping(start, end):
            if not fetch.urgent and not fetch.started and not fetch.done.is_set():
                self._give_up(fetch)
                self._begin_one(fetch.start, fetch.end, True, streamed=fetch.is_streamed)

    def here(self, start: int, end: int) -> bool:
        """Whether the bytes could be read now."""
        for index, pos, stop, fetch in self._sources(start, end):
            base = index * self._cache.block_size
            if fetch is not None:
                if fetch.data is None:
                    return False
            elif not self._cache.blocks.present(self.file_id, index, pos - base, stop - base):
                return False
        return True

    def lacks(self, start: int, end: int) -> bool:
        """Whether a part of it is neither here nor on its way."""
        return bool(self._gaps(start, end, True))

    def begin(
        self,
        start: int,
        end: int,
        *,
        urgent: bool,
        most: int = 1 << 22,
        on_disk: bool = True,
        background: bool = False,
        streamed: bool = False,
    ) -> int:
        """Starts fetching what is missing of [start, end), rounded to pages, in ranges of at most
        `most` bytes; returns the offset up to which everything is there or on its way: less than
        `end` where memory is short, which only stops fetches that are not urgent. Without
        `on_disk` the block files are not believed. `background`: it is for no reader.
        `streamed`: a reader in order will have it before it is dropped."""
        page = self._cache.blocks.page_size
        start = start // page * page
        end = min(self.size, -(-end // page) * page)
        for gap_start, gap_end in self._gaps(start, end, on_disk):
            for part in range(gap_start, gap_end, most):
                part_end = min(gap_end, part + most)
                if not urgent and not self._cache.room(part_end - part):
                    return part
                self._begin_one(part, part_end, urgent, background, streamed)
        return end

    def keep(self, start: int, end: int) -> None:
        """Brings [start, end) onto the disk, as far as there is memory for it on the way; it does
        not stay in memory for a reader."""
        self.begin(start, end, urgent=False)
        for fetch in self._overlapping(start, end):
            if not fetch.waiters:
                fetch.served = fetch.length

    async def bring(self, start: int, end: int) -> bool:
        """Has [start, end) on the disk when it returns, for no reader's sake: False where there was
        no memory on the way now, or the disk did not keep it. Raises what `fetch` raised;
        cancelled, what was begun comes to its end."""
        reached = self.begin(start, end, urgent=False, most=end - start, background=True)
        held = self._overlapping(start, end)
        for fetch in held:
            self._cache.hold(fetch)
        try:
            error = await _ended(held)
            if error is not None:
                raise error
            for fetch in held:
                self._cache.keep_again(fetch)
                if fetch.writing:
                    self._cache.write_now()
                    if fetch.written is None:  # an Event is no bool
                        fetch.written = trio.Event()
                    await fetch.written.wait()
        finally:
            for fetch in held:
                if fetch.is_background and fetch.waiters == 1:
                    fetch.served = fetch.length  # it is for the disk, and not to stay in memory
                self._cache.let_go(fetch)
        return reached >= end and all(fetch.kept for fetch in held)

    def keep_data(self, data: Buffer) -> None:
        """As `keep`, of the whole file, whose bytes are here already: no thread has to bring them
        (0.1 ms). Not where a part of it is there or on its way."""
        if self._gaps(0, self.size, True) != [(0, self.size)] or not self._cache.room(self.size):
            return
        fetch = Fetch(self, 0, self.size, False, trio.Event(), memoryview(data).cast("B"))
        fetch.served = fetch.length
        self._attach(fetch)
        self._cache.take(fetch)

    def advise(self, start: int, end: int) -> None:
        """Asks the disk to read ahead what is in the block files."""
        block_size = self._cache.block_size
        for index in range(start // block_size, -(-end // block_size)):
            if index not in self._by_block:
                self._cache.blocks.advise(self.file_id, index)

    def forget(self, fetch: Fetch) -> None:
        """Lets a fetch's memory go."""
        if not fetch.given_up:
            self._detach(fetch)
        fetch.data = None
        self._fetches -= 1
        self._cache.released(fetch)
        if not self.handles and not self._fetches:
            self._cache.unused(self)

    def _give_up(self, fetch: Fetch) -> None:
        if not fetch.given_up:
            self._detach(fetch)
            fetch.given_up = True

    def _attach(self, fetch: Fetch) -> None:
        block_size = self._cache.block_size
        for index in range(fetch.start // block_size, -(-fetch.end // block_size)):
            self._by_block.setdefault(index, []).append(fetch)
        self._fetches += 1

    def _detach(self, fetch: Fetch) -> None:
        block_size = self._cache.block_size
        for index in range(fetch.start // block_size, -(-fetch.end // block_size)):
            fetches = self._by_block[index]
            fetches.remove(fetch)
            if not fetches:
                del self._by_block[index]

    def _begin_one(
        self,
        start: int,
        end: int,
        urgent: bool,
        background: bool = False,
        streamed: bool = False,
    ) -> None:
        fetch = Fetch(self, start, end, urgent, trio.Event())
        fetch.is_background, fetch.is_streamed = background, streamed
        self._attach(fetch)
        self.running_bytes += fetch.length
        self._cache.begin(fetch)

    def _overlapping(self, start: int, end: int) -> list[Fetch]:
        block_size = self._cache.block_size
        found: dict[Fetch, None] = {}
        for index in range(start // block_size, -(-end // block_size)):
            for fetch in self._by_block.get(index, ()):
                if fetch.start < end and start < fetch.end:
                    found[fetch] = None
        return list(found)

    def _sources(self, start: int, end: int) -> Iterator[tuple[int, int, int, Fetch | None]]:
        """Cuts [start, end) into (block, start, end, fetch that covers it or None)."""
        for index, pos, piece_end in pieces(start, end, self._cache.block_size):
            fetches = self._by_block.get(index, ())
            while pos < piece_end:
                covering = [f for f in fetches if f.start <= pos < f.end]
                if covering:
                    best = max(covering, key=lambda f: (f.data is not None, f.end))
                    stop = min(piece_end, best.end)
                    yield index, pos, stop, best
                else:
                    stop = min([f.start for f in fetches if f.start > pos] + [piece_end])
                    yield index, pos, stop, None
                pos = stop

    def _gather(self, start: int, end: int) -> Buffer | None:
        parts: list[Buffer] = []
        served: list[tuple[Fetch, int]] = []
        for index, pos, stop, fetch in self._sources(start, end):
            if fetch is None:
                base = index * self._cache.block_size
                part = self._cache.blocks.read(self.file_id, index, pos - base, stop - base)
                if part is None:
                    return None
                parts.append(part)
            elif fetch.data is None:
                return None
            elif served and served[-1][0] is fetch:  # one range over several blocks: no copy
                before = served[-1][1]
                served[-1] = (fetch, before + stop - pos)
                offset = pos - before - fetch.start
                parts[-1] = fetch.data[offset : stop - fetch.start]
            else:
                parts.append(fetch.data[pos - fetch.start : stop - fetch.start])
                served.append((fetch, stop - pos))
        for fetch, length in served:
            fetch.served += length
            self._cache.settle(fetch)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _gaps(self, start: int, end: int, on_disk: bool) -> list[tuple[int, int]]:
        gaps: list[tuple[int, int]] = []
        for index, pos, stop, fetch in self._sources(start, end):
            base = index * self._cache.block_size
            if fetch is not None or (
                on_disk and self._cache.blocks.present(self.file_id, index, pos - base, stop - base)
            ):
                continue
            if gaps and gaps[-1][1] == pos:
                gaps[-1] = (gaps[-1][0], stop)
            else:
                gaps.append((pos, stop))
        return gaps


async def _ended(fetches: list[Fetch]) -> Exception | None:
    """Waits for all; raises an urgent fetch's error. Returns that of one that was not, or that
    came by a way that is no longer the file's: it has another name by now."""
    last_error: Exception | None = None
    for fetch in fetches:
        await fetch.done.wait()
        if fetch.error is not None:
            last_error = fetch.error
            if fetch.urgent and fetch.by in (None, fetch.file.fetch):
                raise fetch.error
    return last_error


def pieces(start: int, end: int, block_size: int) -> Iterator[tuple[int, int, int]]:
    """Cuts [start, end) at block borders: (index, start, end) in file offsets."""
    while start < end:
        index = start // block_size
        stop = min(end, (index + 1) * block_size)
        yield index, start, stop
        start = stop
