"""Look-up, single-flight fetch and the bounded memory between a remote and the block files.

The walk of a read: `CachedFile.read_now` looks into fetched memory, then into the block files, and
answers without awaiting; what is missing is fetched once for everybody by `CachedFile.read`. A
fetched range stays in memory until its reader has had it or until memory is wanted elsewhere;
writer threads copy it into the block files meanwhile, with a bounded backlog: a range that does
not fit there is served and not kept.

All state is changed on the trio loop only; worker threads run `fetch`, writer threads run
`BlockFiles.write`, never two of them for one block.
"""

import logging
import queue
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Protocol

import trio
from typing_extensions import Buffer

from mountd_cache.after_burst import AfterBurst
from mountd_cache.block_jobs import BlockJobs
from mountd_cache.cached_file import CachedFile, Fetch, FetchFn, pieces
from mountd_cache.past_page_cache import Past

log = logging.getLogger(__name__)

# How long data that only memory has waits for a reader who does not come.
IDLE_AT_MOST_S = 10.0
# Making a file waits for the disk's journal (1-4 ms while it commits), and past the page cache for
# the disk. With both cores and the disk busy two kept half of a stream, four all of it; six brought
# more of it past the page cache: 2.5 s of CPU per GiB, with four 2.9 (medians of four).
WRITERS = 6
WRITER_STRIDE = 1 << 22
PATIENCE_S = 0.05  # of a writer whom the others' waiting for the disk keeps from waiting for it
STOP_WITHIN_S = 1.0  # for the block files of what was sent; what was read is dropped
MAINTAIN_EVERY_S = 10.0  # of idleness; then the block files do what waits for their writer

Part = tuple[Fetch, int, int]
"""Which bytes [start, end) of a fetch are to be written."""


class Blocks(Protocol):
    """What is asked of `block_files.BlockFiles`; offsets are within the block."""

    @property
    def page_size(self) -> int: ...
    def read(self, file_id: bytes, index: int, start: int, end: int) -> Buffer | None: ...
    def present(self, file_id: bytes, index: int, start: int, end: int) -> bool: ...
    def write(
        self,
        file_id: bytes,
        index: int,
        start: int,
        data: Buffer,
        block_len: int,
        past: Past = Past.NO,
    ) -> bool: ...
    def advise(self, file_id: bytes, index: int) -> None: ...
    def maintain(self, need: int = 0) -> None: ...
    def room_left(self) -> int: ...
    def expect_cycle(self, size_bytes: int) -> None: ...


@dataclass(slots=True)
class CacheCounters:
    """Reads answered without a request, and reads that had to wait for one."""

    hits: int = 0
    misses: int = 0
    dropped_bytes: int = 0  # fetched, but not kept: the writer's backlog was full
    wasted_bytes: int = 0  # fetched ahead, and never read


class _Line:
    """Fetches that wait for a thread, each with a task that brings one; `begun` in their order."""

    def __init__(self, parallel: int) -> None:
        self.begun: deque[Fetch] = deque()
        self.threads = trio.CapacityLimiter(parallel)

    @property
    def is_full(self) -> bool:
        return self.threads.available_tokens < 1


class BlockCache:
    """All files' fetched ranges, one memory budget, a few writers.

    `memory_bytes` bounds what fetches ahead of readers and fetched data may hold; a read that
    somebody waits for is always begun. `backlog_bytes` bounds what waits for the writers.
    `wait_s` bounds how long a reader waits for one fetch.
    """

    def __init__(
        self,
        blocks: Blocks,
        *,
        block_size: int,
        memory_bytes: int,
        backlog_bytes: int,
        wait_s: float,
        parallel: int,
    ) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self.memory_bytes = memory_bytes
        self.backlog_limit = backlog_bytes
        self.wait_s = wait_s
        self.counters = CacheCounters()
        self.used_bytes = 0
        self._files: dict[bytes, CachedFile] = {}
        self._idle: OrderedDict[Fetch, None] = OrderedDict()
        self._backlog_bytes = 0
        self._stride = block_size * max(1, WRITER_STRIDE // block_size)
        self._jobs: BlockJobs[Part] = BlockJobs()
        # One writer never waits for the disk.
        self._waiting = threading.Semaphore(WRITERS - 1)
        self._after_burst = AfterBurst[Part](self._write_soon)
        self._sent: set[Fetch] = set()  # what was sent, and is not in the block files yet
        self._sent_written = trio.Event()
        # Readers that wait never queue behind fetches ahead of somebody else.
        self._urgent, self._ahead, self._background = (_Line(parallel) for _ in range(3))
        self.last_wanted_s = float("-inf")  # on trio's clock: when a reader's fetch was last begun
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until cancelled. Fetches under way are abandoned then; the backlog is dropped
        (it is clean data), but for what was sent, which has `STOP_WITHIN_S`."""
        self._token = trio.lowlevel.current_trio_token()
        for _ in range(WRITERS):
            threading.Thread(target=self._write_forever, name="block-writer", daemon=True).start()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await self._after_burst.run()
        finally:
            self._nursery = None
            await self._stop()

    async def _stop(self) -> None:
        self._jobs.drop(lambda part: part[0] not in self._sent)
        self.write_now()
        with trio.move_on_after(STOP_WITHIN_S, shield=True):
            while self._sent:
                self._sent_written = trio.Event()
                await self._sent_written.wait()
        self._jobs.end(WRITERS)

    def file(self, file_id: bytes, size: int, fetch: FetchFn) -> "CachedFile":
        """The shared state of one version of one file. Pair with `CachedFile.close`."""
        found = self._files.get(file_id)
        if found is None:
            found = self._files[file_id] = CachedFile(self, file_id, size, fetch)
        found.handles += 1
        return found

    def room(self, length: int) -> bool:
        """Whether `length` bytes may be fetched ahead; makes room by dropping idle data.

        What the disk does not have goes only when its reader went or stopped: dropped for
        somebody else's window it would be fetched twice.
        """
        if self.used_bytes + length > self.memory_bytes:
            old_s = trio.current_time() - IDLE_AT_MOST_S
            for fetch in list(self._idle):
                if fetch.kept or not fetch.file.handles or fetch.idle_since_s < old_s:
                    del self._idle[fetch]
                    self.counters.wasted_bytes += max(0, fetch.length - fetch.served)
                    fetch.file.forget(fetch)
                    if self.used_bytes + length <= self.memory_bytes:
                        break
        return self.used_bytes + length <= self.memory_bytes

    async def give_way(self, size: int) -> None:
        """Blocks go until the disk has its free part and `size` bytes more, or there are none."""
        await trio.to_thread.run_sync(self.blocks.maintain, size)

    @property
    def backlog_room(self) -> int:
        """Bytes that may be fetched now and will surely be kept."""
        return self.backlog_limit - self._backlog_bytes

    @property
    def queues_ahead(self) -> bool:
        """Whether fetches ahead wait for a thread."""
        return self._ahead.is_full or self._background.is_full

    # -- what CachedFile asks for

    def begin(self, fetch: Fetch) -> None:
        assert self._nursery is not None
        self.used_bytes += fetch.length
        if fetch.urgent:
            self._make_room_for_urgent()
        if not fetch.is_background:
            self.last_wanted_s = trio.current_time()
        line = self._urgent if fetch.urgent else self._ahead
        if fetch.is_background:
            line = self._background
        line.begun.append(fetch)
        self._nursery.start_soon(self._fetch_next, line)

    def take(self, fetch: Fetch) -> None:
        """One whose data is there, because it was sent."""
        self.used_bytes += fetch.length
        self._sent.add(fetch)
        self._keep(fetch)
        fetch.done.set()
        self.settle(fetch)

    def write_now(self) -> None:
        """Somebody waits for what goes to the disk when others have gone."""
        self._after_burst.release()

    def keep_again(self, fetch: Fetch) -> None:
        """Of one that is held and done: its bytes go to the disk, if they did not yet."""
        if fetch.data is not None and not fetch.kept and not fetch.given_up and not fetch.writing:
            self._keep(fetch)

    def hold(self, fetch: Fetch) -> None:
        """Somebody waits for it, or is about to take it: it stays."""
        fetch.waiters += 1
        self._idle.pop(fetch, None)

    def let_go(self, fetch: Fetch) -> None:
        fetch.waiters -= 1
        self.settle(fetch)

    def settle(self, fetch: Fetch) -> None:
        """Decides what becomes of fetched data that nobody waits for at this moment."""
        if fetch.data is None or fetch.waiters or fetch.writing:
            return
        if fetch.served >= fetch.length or fetch.given_up:
            self._idle.pop(fetch, None)
            fetch.file.forget(fetch)
        elif fetch not in self._idle:
            fetch.idle_since_s = trio.current_time()
            self._idle[fetch] = None

    def released(self, fetch: Fetch) -> None:
        self.used_bytes -= fetch.length

    def unused(self, file: "CachedFile") -> None:
        self._files.pop(file.file_id, None)

    def _make_room_for_urgent(self) -> None:
        while self._idle and self.used_bytes > self.memory_bytes:
            fetch, _ = self._idle.popitem(last=False)
            fetch.file.forget(fetch)

    async def _fetch_next(self, line: _Line) -> None:
        data: memoryview | None = None
        try:
            fetch, data, error = await trio.to_thread.run_sync(
                _fetched, line.begun, limiter=line.threads, abandon_on_cancel=True
            )
        except RuntimeError as exc:  # no thread: nobody has taken the next one
            fetch, error = line.begun.popleft(), exc
        fetch.file.running_bytes -= fetch.length
        if error is not None:
            fetch.error = error
            fetch.file.forget(fetch)
        else:
            fetch.data = data
            if not fetch.given_up:
                self._keep(fetch)
        fetch.done.set()
        self.settle(fetch)

    def _keep(self, fetch: Fetch) -> None:
        if self._backlog_bytes + fetch.length > self.backlog_limit:
            self.counters.dropped_bytes += fetch.length
            self._sent.discard(fetch)
            return
        self._backlog_bytes += fetch.length
        fetch.kept = True
        for _, start, end in pieces(fetch.start, fetch.end, self._stride):
            fetch.writing += 1
            if fetch in self._sent:
                self._after_burst.add((fetch, start, end), end - start)
            else:
                self._write_soon((fetch, start, end))

    def _write_soon(self, part: Part) -> None:
        fetch, start, _ = part
        self._jobs.put((fetch.file.file_id, start // self._stride), part)

    # -- the writer threads

    def _write_forever(self) -> None:
        while True:
            try:
                taken = self._jobs.take(MAINTAIN_EVERY_S)
            except queue.Empty:
                self.blocks.maintain()
                continue
            if taken is None:
                self.blocks.maintain()
                return
            place, job = taken
            try:
                self._write(*job)
            except Exception:  # a dead writer would hold its part of the backlog for ever
                log.exception("a block was not kept")
            self._jobs.done(place)
            try:
                assert self._token is not None
                self._token.run_sync_soon(self._written, *job)
            except trio.RunFinishedError:
                return

    def _write(self, fetch: Fetch, first: int, last: int) -> None:
        file, data = fetch.file, fetch.data
        assert data is not None
        for index, start, end in pieces(first, last, self.block_size):
            base = index * self.block_size
            block_len = min(self.block_size, file.size - base)
            piece = data[start - fetch.start : end - fetch.start]
            if not self._write_piece(fetch, index, start - base, piece, block_len):
                fetch.kept = False
                return

    def _write_piece(
        self, fetch: Fetch, index: int, start: int, piece: memoryview, block_len: int
    ) -> bool:
        """Past the page cache where its reader has it; where the disk is slower than the stream,
        without waiting for it. One writer never waits long, but a while for its turn: it is
        faster with new memory than the others with the disk, and else did a third of the work, at
        0.7 s of CPU per GiB."""
        past = Past.NO
        if fetch.is_streamed:
            past = Past.SLOWLY if self._may_wait() else Past.AT_ONCE
        try:
            return self.blocks.write(fetch.file.file_id, index, start, piece, block_len, past)
        finally:
            if past is Past.SLOWLY:
                self._waiting.release()

    def _may_wait(self) -> bool:
        """Whether this writer may now wait for the disk; `_waiting` is to be released then. What
        is left of the backlog is for a window that comes at once: with the half of it, up to a
        fifth of a stream was not kept."""
        backlog, limit = self._backlog_bytes, self.backlog_limit
        if 8 * backlog > 5 * limit:
            return False
        return self._waiting.acquire(timeout=PATIENCE_S if 3 * backlog <= limit else 0)

    def _written(self, fetch: Fetch, start: int, end: int) -> None:
        self._backlog_bytes -= end - start
        fetch.writing -= 1
        if not fetch.writing:
            if fetch.written is not None:
                fetch.written.set()
            self._sent.discard(fetch)
            if not self._sent:
                self._sent_written.set()
        self.settle(fetch)


def _fetched(begun: deque[Fetch]) -> tuple[Fetch, memoryview | None, Exception | None]:
    """In a worker thread: what was begun first of all that no other has taken.

    Trio may run new tasks from the last to the first, and of threads that wake together any comes
    first. Where requests queue for the remote the reader would then wait for a window's first bytes
    longest. The readers who wait for it get whatever goes wrong: a panic in Rust is no Exception.
    """
    fetch = begun.popleft()
    fetch.started = True
    if fetch.given_up:
        return fetch, None, TimeoutError("given up before it was begun")
    try:
        fetch.by = fetch.file.fetch
        data = memoryview(fetch.by(fetch.start, fetch.end, fetch.urgent))
    except Exception as exc:
        return fetch, None, exc
    except BaseException as exc:
        error = RuntimeError(f"fetching ended in {type(exc).__name__}: {exc}")
        error.__cause__ = exc
        return fetch, None, error
    if data.nbytes != fetch.length:
        many = f"{fetch.length} bytes were asked for and {data.nbytes} came"
        return fetch, None, ValueError(many)
    return fetch, data, None
