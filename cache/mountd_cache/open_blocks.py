"""Block files that are open, least recently used out first."""

import os
import threading
from collections import OrderedDict
from typing import Final, Self

from mountd_cache.block_format import Layout, Pages

_NOTHING: Final = Pages(0, 0, ())


class OpenBlock:
    """An open descriptor and the parsed header.

    The descriptor is closed when the last reference goes, which CPython does at once: so a reader
    needs no lock against eviction, and never reads from a descriptor that was closed and reused.
    """

    __slots__ = ("counts_from_s", "fd", "length", "pages", "used", "visited")

    def __init__(self, fd: int, length: int, pages: Pages, counts_from_s: float) -> None:
        self.fd = fd
        self.length = length  # bytes of data in the whole block, present or not
        self.pages = pages
        self.used = True  # since `OpenBlocks` last looked
        self.visited = False  # a visit is noted, and the writer hasn't seen it yet
        self.counts_from_s = counts_from_s  # earlier uses are no visit

    @classmethod
    def opened(cls, fd: int, key: bytes, layout: Layout) -> Self | None:
        """Takes `fd` over; None unless it holds that block. Raises OSError."""
        block = cls(fd, 0, _NOTHING, float("-inf"))
        parsed = layout.parse(key, os.pread(fd, layout.header_size, 0))
        if parsed is None:
            return None
        block.length, block.pages = parsed
        return block

    def __del__(self) -> None:
        os.close(self.fd)


class OpenBlocks:
    """A table of at most `limit` open blocks. `get` takes no lock."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._blocks: OrderedDict[bytes, OpenBlock] = OrderedDict()
        self.get = self._blocks.get  # the hit path: one call less

    def __len__(self) -> int:
        return len(self._blocks)

    def add(self, key: bytes, block: OpenBlock) -> OpenBlock:
        """The block that is in the table for `key` now: another's, if there was one."""
        gone: OpenBlock | None = None  # closed after the lock is free
        with self._lock:
            winner = self._blocks.setdefault(key, block)
            if len(self._blocks) > self._limit:
                gone = self._pop_unused()
        del gone
        return winner

    def pop(self, key: bytes) -> OpenBlock | None:
        """Takes a block out of the table; those who use it go on."""
        with self._lock:
            return self._blocks.pop(key, None)

    def halve(self) -> None:
        """Fewer at once from now on: the process has run out of descriptors."""
        gone: list[OpenBlock] = []
        with self._lock:
            self._limit = max(8, len(self._blocks) // 2)
            while len(self._blocks) > self._limit:
                gone.append(self._pop_unused())
        del gone

    def clear(self) -> None:
        """Empties the table."""
        with self._lock:
            gone = list(self._blocks.values())
            self._blocks.clear()
        del gone

    def _pop_unused(self) -> OpenBlock:
        """Second chances, at most one per block: readers set `used` all the time."""
        for _ in range(len(self._blocks)):
            key, block = self._blocks.popitem(last=False)
            if not block.used:
                return block
            block.used = False
            self._blocks[key] = block
        return self._blocks.popitem(last=False)[1]
