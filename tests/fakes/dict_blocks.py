"""A block cache over blocks in a dictionary, and a remote that counts what is fetched of it."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from typing_extensions import Buffer

from mountd_cache.block_cache import BlockCache
from mountd_cache.past_page_cache import Past

BLOCK, PAGE = 1 << 16, 1 << 12
BODY = bytes(range(256)) * (4 * BLOCK // 256) + b"tail"


class DictBlocks:
    """Pages in memory; `full` makes it refuse as a full disk does."""

    page_size = PAGE

    def __init__(self) -> None:
        self.pages: dict[tuple[bytes, int, int], bytes] = {}
        self.full = False
        self.gate = threading.Event()
        self.gate.set()
        self.past: dict[tuple[bytes, int], Past] = {}  # as writers were told last

    def present(self, file_id: bytes, index: int, start: int, end: int) -> bool:
        wanted = range(start // PAGE, -(-end // PAGE))
        return all((file_id, index, page) in self.pages for page in wanted)

    def read(self, file_id: bytes, index: int, start: int, end: int) -> bytes | None:
        if not self.present(file_id, index, start, end):
            return None
        first = start // PAGE
        pages = range(first, -(-end // PAGE))
        joined = b"".join(self.pages[file_id, index, page] for page in pages)
        return joined[start - first * PAGE : end - first * PAGE]

    def write(
        self,
        file_id: bytes,
        index: int,
        start: int,
        data: Buffer,
        block_len: int,
        past: Past = Past.NO,
    ) -> bool:
        self.gate.wait(5)
        self.past[file_id, index] = past
        view = bytes(memoryview(data))
        assert start % PAGE == 0
        assert (start + len(view)) % PAGE == 0 or start + len(view) == block_len
        if self.full:
            return False
        for offset in range(0, len(view), PAGE):
            self.pages[file_id, index, (start + offset) // PAGE] = view[offset : offset + PAGE]
        return True

    def advise(self, file_id: bytes, index: int) -> None: ...

    def maintain(self, need: int = 0) -> None: ...

    def room_left(self) -> int:
        return 1 << 40

    def expect_cycle(self, size_bytes: int) -> None: ...


class Remote:
    """Counts fetches; may be held back, or fail."""

    def __init__(self) -> None:
        self.fetched: list[tuple[int, int, bool]] = []
        self.error: Callable[[bool], Exception | None] = lambda urgent: None
        self.gate = threading.Event()
        self.gate.set()

    def fetch(self, start: int, end: int, urgent: bool) -> Buffer:
        self.fetched.append((start, end, urgent))
        self.gate.wait(5)
        error = self.error(urgent)
        if error is not None:
            raise error
        return BODY[start:end]


@asynccontextmanager
async def cache_over(
    blocks: DictBlocks,
    *,
    memory: int = 8 * BLOCK,
    backlog: int = 8 * BLOCK,
    wait_s: float = 5,
    parallel: int = 8,
) -> AsyncIterator[BlockCache]:
    cache = BlockCache(
        blocks,
        block_size=BLOCK,
        memory_bytes=memory,
        backlog_bytes=backlog,
        wait_s=wait_s,
        parallel=parallel,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        yield cache
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - threads change it, no event is at hand
            await trio.sleep(0.001)
