"""What is known about the blocks, shared by readers and the writer.

`lock` is held for dictionary work only, never across I/O; a hit on an open block takes no lock at
all. A block is evicted by taking it out of every table under the lock and unlinking its file
afterwards; a reader that still holds it open reads on.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from mountd_cache.block_format import Pages, block_key
from mountd_cache.eviction import EvictionOrder
from mountd_cache.open_blocks import OpenBlock, OpenBlocks

# A second use counts for eviction only so long after the block was made: blocks are written ahead
# of their reader, so its first pass looks like eight visits of 128 KiB each.
REUSE_AFTER_S: Final = 30.0
_MAX_VISITS_WAITING: Final = 1 << 16
_BLOCKS_AT_ONCE: Final = 4096  # pinned under one lock: 1 ms


class BlockIndex:
    """Which blocks there are, which are open, and which were dropped or visited since.

    Until `restore` only the disk knows which blocks there are.
    """

    def __init__(
        self, *, limit_bytes: int, largest_bytes: int, max_open: int, clock: Callable[[], float]
    ) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._open = OpenBlocks(max_open)
        self._order = EvictionOrder(limit_bytes=limit_bytes, largest_bytes=largest_bytes)
        self._doomed: set[bytes] = set()  # dropped, not yet unlinked by the writer
        self._visits: deque[bytes] = deque(maxlen=_MAX_VISITS_WAITING)
        self._complete = False
        self._headers = 0  # counts headers on disk that were replaced
        self._replacing = 0  # how many are being replaced at this moment
        self.get_open = self._open.get  # the hit path
        self.halve_open = self._open.halve
        self.close = self._open.clear

    @property
    def bytes_used(self) -> int:
        """Allocated bytes of all blocks."""
        return self._order.bytes_used

    @property
    def pinned_bytes(self) -> int:
        """Those of them that are never evicted."""
        return self._order.pinned_bytes

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, key: bytes) -> bool:
        return key in self._order

    # Any thread.

    def possible(self, key: bytes) -> bool:
        """Whether the file may be there."""
        return key not in self._doomed and (not self._complete or key in self._order)

    @property
    def stamp(self) -> int:
        """Changes with every header that is replaced in place; negative meanwhile."""
        return -1 if self._replacing else self._headers

    def steady(self, stamp: int) -> bool:
        """Whether no header was being replaced since `stamp` was taken."""
        return stamp >= 0 and not self._replacing and stamp == self._headers

    def keep_open(self, key: bytes, block: OpenBlock, stamp: int) -> OpenBlock:
        """The block to use: another reader's if it was faster. Kept open unless it went or
        changed since `stamp`: then it is good for this one use."""
        with self._lock:
            if self.steady(stamp) and self.possible(key):
                return self._open.add(key, block)
        return block

    def drop(self, key: bytes) -> None:
        """Gone for every reader at once; the writer unlinks it."""
        with self._lock:
            self._doomed.add(key)
            self._open.pop(key)

    def visited(self, key: bytes, block: OpenBlock) -> None:
        """The block was read, and no visit is noted yet."""
        if self._clock() >= block.counts_from_s:
            block.visited = True
            self._visits.append(key)

    def expect_cycle(self, size_bytes: int) -> None:
        """See `EvictionOrder.cycle_bytes`."""
        self._order.cycle_bytes = size_bytes

    def pin(self, file_id: bytes, blocks: int) -> bool:
        """See `BlockFiles.pin`."""
        with self._lock:
            is_new = self._order.pin(file_id)
        if is_new:
            self._for_blocks(file_id, blocks, self._order.pin_block)
        return is_new

    def unpin(self, file_id: bytes, blocks: int) -> bool:
        """See `BlockFiles.unpin`."""
        with self._lock:
            is_last = self._order.unpin(file_id)
        if is_last:
            self._for_blocks(file_id, blocks, self._order.unpin_block)
        return is_last

    def _for_blocks(self, file_id: bytes, blocks: int, tell: Callable[[bytes], None]) -> None:
        for first in range(0, blocks, _BLOCKS_AT_ONCE):
            with self._lock:
                for index in range(first, min(blocks, first + _BLOCKS_AT_ONCE)):
                    tell(block_key(file_id, index))

    # The writers' threads.

    def restore(self, blocks: Iterable[tuple[bytes, int]]) -> None:
        """All blocks on disk, (key, allocated bytes), the one to go first at the front."""
        with self._lock:
            self._order.restore(blocks)
            self._complete = True

    def add(self, key: bytes, size: int, block: OpenBlock | None = None) -> None:
        """A block, or another size of it; `block` is kept open."""
        with self._lock:
            self._order.add(key, size)
            if block is not None:
                self._open.add(key, block)

    def replace_pages(self, key: bytes, size: int, pages: Pages) -> None:
        """A block that has more pages now, on disk already."""
        with self._lock:
            self._order.add(key, size)
            block = self._open.get(key)
            if block is not None:
                block.pages = pages

    def remove(self, key: bytes) -> int:
        """Forgets a block, dropped or not; the bytes that it had."""
        with self._lock:
            self._open.pop(key)
            return self._order.remove(key)

    def victim(self) -> bytes | None:
        """Who should go next; None when nobody is left."""
        with self._lock:
            return self._order.victim()

    @contextmanager
    def replacing_header(self) -> Iterator[None]:
        """Readers that open a block meanwhile don't take half a header for damage."""
        with self._lock:
            self._replacing += 1
            self._headers += 1
        try:
            yield
        finally:
            with self._lock:
                self._replacing -= 1

    def doomed(self) -> tuple[bytes, ...]:
        """What readers dropped; `undoom` each once its file is gone."""
        with self._lock:
            return tuple(self._doomed)

    def undoom(self, key: bytes) -> None:
        """The file is gone."""
        with self._lock:
            self._doomed.discard(key)

    def settle_visits(self) -> Iterator[bytes]:
        """The keys visited since, each known to the eviction order when it is yielded."""
        while self._visits:
            try:
                key = self._visits.popleft()
            except IndexError:  # the other writer took the last
                return
            with self._lock:
                self._order.visit(key)
                block = self._open.get(key)
            if block is not None:
                block.counts_from_s = self._clock() + REUSE_AFTER_S
                block.visited = False
            yield key
