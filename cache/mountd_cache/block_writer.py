"""Keeping blocks: room, new files, pages added to old ones.

Several threads may do that at once, but never two with one block.
"""

import os
import threading
from array import array
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from mountd_cache.block_folder import FULL_ERRNOS, BlockFolder, write_all
from mountd_cache.block_format import Layout
from mountd_cache.block_index import REUSE_AFTER_S, BlockIndex
from mountd_cache.block_map import page_mask, runs
from mountd_cache.eviction import UNIT_BYTES
from mountd_cache.open_blocks import OpenBlock
from mountd_cache.past_page_cache import Past, PastPageCache

PASSING_SHARE = 8
DISK_UNIT = 4096  # what file systems allocate in
ASKED_EVERY_S = 0.1  # how much of the disk is free, where it is plenty
PLENTY_BYTES = 1 << 30  # nobody writes that much meanwhile


class BlockWriter:
    """Changes files; nobody else does. Methods raise OSError."""

    def __init__(
        self,
        folder: BlockFolder,
        index: BlockIndex,
        layout: Layout,
        *,
        limit_bytes: int,
        min_free_fraction: float,
        clock: Callable[[], float],
        taken_bytes: Callable[[], int],
    ) -> None:
        self._folder = folder
        self._index = index
        self._layout = layout
        self._limit_bytes = limit_bytes
        self._min_free_fraction = min_free_fraction
        self._clock = clock
        self._taken_bytes = taken_bytes
        self._past = PastPageCache(layout.header_size + layout.block_size)
        # Who finds room lacking evicts that much, and the next one looks again: held while the disk
        # unlinks. What was promised to writes is not in the index yet.
        self._making_room = threading.Lock()
        self._claimed_bytes = 0
        self._free_at_least = 0
        self._asked_s = float("-inf")

    def restore(self, stop: Callable[[], bool]) -> bool:
        """Takes over what an earlier run left, least recently used first; False when stopped."""
        times = array("q")
        blocks: list[tuple[bytes, int]] = []
        for key, found in self._folder.blocks():
            if stop():
                return False
            times.append(found.st_mtime_ns)
            blocks.append((key, found.st_blocks * 512))
        oldest_first = sorted(range(len(blocks)), key=times.__getitem__)
        self._index.restore(blocks[i] for i in oldest_first)
        return True

    def settle(self) -> None:
        """Carries out what readers left to the writer."""
        for key in self._index.settle_visits():
            with suppress(OSError):  # the order after a restart is only roughly the same
                os.utime(self._folder.path(key))
        for key in self._index.doomed():
            self.remove(key)
            self._index.undoom(key)
        # Somebody else may have taken a part of it.
        with self._making_room:
            self._evict(self._index.bytes_used - self._room())

    def _room(self) -> int:
        return max(0, self._limit_bytes - self._taken_bytes())

    def room_left(self) -> int:
        """Bytes that fit below the limit and on the disk as it is, less what passes by when the
        cache is full (eviction.py's small queue); 0 where it can't be asked."""
        try:
            free = self._free_bytes()
        except OSError:
            return 0
        room = self._room()
        return max(0, min(room - room // PASSING_SHARE - self._index.bytes_used, free))

    def store(
        self, key: bytes, start: int, view: memoryview, block_len: int, past: Past = Past.NO
    ) -> bool:
        """False when there is no room."""
        need = self._layout.header_size + len(view) + UNIT_BYTES
        if not self._claim(need):
            return False
        try:
            self._put(key, start, view, block_len, past)
        except OSError as error:
            if error.errno not in FULL_ERRNOS or not self._evict(2 * need):
                raise
            self._put(key, start, view, block_len, past)
        finally:
            with self._making_room:
                self._claimed_bytes -= need
        return True

    def make_room(self) -> None:
        """Evicts what is over the limit, and what the disk lacks of its free part."""
        self._claim(0)

    def _claim(self, need: int) -> bool:
        """Evicts until `need` more bytes fit below the limit, beside what other threads are about
        to write, and the disk keeps its free part; counts them as taken."""
        if need > self._room():
            return False
        with self._making_room:
            if not self._evict(self._index.bytes_used + self._claimed_bytes + need - self._room()):
                return False
            if not self._is_free(need) and not self._evict(need - self._free_bytes()):
                kept_free = f"{self._min_free_fraction:.0%}"
                self._folder.refused(f"the cache's disk is full ({kept_free} of it are left free)")
                return False
            self._claimed_bytes += need
            self._free_at_least -= need
        return True

    def _is_free(self, need: int) -> bool:
        """Whether the disk had far more over a moment ago, less what was claimed since: asking it
        for each block makes all writers wait for the interpreter, one behind the other."""
        is_new = self._clock() < self._asked_s + ASKED_EVERY_S
        return is_new and need + PLENTY_BYTES <= self._free_at_least

    def keep_free(self, need: int = 0) -> None:
        """Evicts until the disk has its free part and `need` bytes more, whoever took it: what is
        not sent yet, or others on that disk. As far as there are blocks."""
        with self._making_room:
            self._evict(need - self._free_bytes())

    def _free_bytes(self) -> int:
        free = self._folder.free_bytes(self._min_free_fraction)
        self._free_at_least, self._asked_s = free, self._clock()
        return free

    def remove(self, key: bytes) -> int:
        """Forgets and unlinks a block; its size. An OSError leaves it counted."""
        size = self._index.remove(key)
        try:
            self._folder.unlink(key)
        except OSError:
            if size:
                self._index.add(key, size)
            raise
        return size

    def _evict(self, size: int) -> bool:
        """Evicts blocks of at least `size` bytes in all; False when there were not that many."""
        while size > 0:
            key = self._index.victim()
            if key is None:
                return False
            size -= self.remove(key)
        return True

    def _put(self, key: bytes, start: int, view: memoryview, block_len: int, past: Past) -> None:
        try:
            if key not in self._index or not self._add_pages(key, start, view, block_len):
                self._create(key, start, view, block_len, past)
        except OSError:
            self.remove(key)
            raise

    def _create(self, key: bytes, start: int, view: memoryview, block_len: int, past: Past) -> None:
        """A new file. Readers don't open it before the index knows it.

        Measured for 1 MiB: 290 us in one call to the final name, 340 us with the header last,
        310 us with a rename (2.5 ms when the journal is busy).
        """
        layout = self._layout
        nothing = layout.empty()
        new = page_mask(start, start + len(view), layout.page_size)
        pages = layout.add(nothing, new, view, start)
        header = layout.pack(key, block_len, pages)
        counts_from_s = self._clock() + REUSE_AFTER_S
        parts = (memoryview(header), view)
        if start == 0:
            fd = self._past.create(partial(self._folder.create, key), parts, past)
            if fd is not None:
                block = OpenBlock(fd, block_len, pages, counts_from_s)
                size = -(-(layout.header_size + len(view)) // DISK_UNIT) * DISK_UNIT
                self._index.add(key, size, block)
                return
        block = OpenBlock(self._folder.create(key), block_len, pages, counts_from_s)
        if start == 0:
            write_all(block.fd, parts, 0)
        else:
            write_all(block.fd, (view,), layout.header_size + start)
            write_all(block.fd, (header,), 0)
        self._index.add(key, _allocated(block.fd), block)

    def _add_pages(self, key: bytes, start: int, view: memoryview, block_len: int) -> bool:
        """Adds pages to a file: data first, the header afterwards. False when it was no good."""
        layout = self._layout
        try:
            block = OpenBlock.opened(self._folder.open(key, writable=True), key, layout)
        except FileNotFoundError:
            block = None
        if block is None or block.length != block_len:
            self.remove(key)
            return False
        size = layout.page_size
        new = page_mask(start, start + len(view), size) & ~block.pages.present
        for first, last in runs(new):
            part = view[first * size - start : last * size - start]
            write_all(block.fd, (part,), layout.header_size + first * size)
        pages = layout.add(block.pages, new, view, start)
        with self._index.replacing_header():
            write_all(block.fd, (layout.pack(key, block_len, pages),), 0)
        self._index.replace_pages(key, _allocated(block.fd), pages)
        return True


def _allocated(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512
