"""Blocks of remote files on local disk, one file per block, each proving itself when read.

Any number of threads may read; one thread at a time writes (`write`, `maintain`). Nothing here
raises for a disk that is full, read-only or broken: a block is then not kept, or not found, and
`health` says why. Nothing is fsynced: what a crash tore fails its CRC and is a miss.

One process per folder: the caller holds the lock file that makes it so.
"""

import errno
import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from typing_extensions import Buffer

from mountd_cache.block_folder import BlockFolder, Health
from mountd_cache.block_format import Layout, block_key
from mountd_cache.block_index import BlockIndex
from mountd_cache.block_map import block_count, page_mask, runs
from mountd_cache.block_writer import DISK_UNIT, BlockWriter
from mountd_cache.open_blocks import OpenBlock
from mountd_cache.past_page_cache import Past

__all__ = ["BlockFiles", "Health"]


class BlockFiles:
    """The blocks in one folder, bounded by `limit_bytes` of allocated disk.

    `limit_bytes` 0 keeps nothing. `min_free_fraction` of the disk is left free for others.
    `taken_bytes` tells how much of `limit_bytes` others have now: blocks give way to it.
    `max_open` bounds descriptors (a quarter of what the process may have is never exceeded).
    Raises DirectoryNotPrivate or OSError when the folder can't be made or isn't ours alone.
    Until `scan` has ended, reads find what is there and writes are refused.
    """

    def __init__(
        self,
        folder: Path,
        *,
        block_size: int,
        limit_bytes: int,
        page_size: int = 16384,
        min_free_fraction: float = 0.05,
        max_open: int = 512,
        clock: Callable[[], float] = time.monotonic,
        taken_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        self._layout = Layout(block_size, page_size)
        self._page_size = page_size
        self._header_size = self._layout.header_size
        self._folder = BlockFolder(folder, clock)
        self._index = BlockIndex(
            limit_bytes=limit_bytes,
            # Extent blocks count as allocated too, hence twice the size as the largest possible.
            largest_bytes=2 * (self._header_size + block_size),
            max_open=_bounded_by_process(max_open),
            clock=clock,
        )
        self._writer = BlockWriter(
            self._folder,
            self._index,
            self._layout,
            limit_bytes=limit_bytes,
            min_free_fraction=min_free_fraction,
            clock=clock,
            taken_bytes=taken_bytes,
        )
        self._get_open = self._index.get_open
        self._scanned = False
        self._closed = False

    # Reading: any thread.

    def read(self, file_id: bytes, index: int, start: int, end: int) -> bytes | None:
        """The bytes [start, end) of a block, 0 <= start < end, or None.

        None unless every page of the range is there and was proved by its CRC now. A block that
        fails the proof is dropped.
        """
        key = block_key(file_id, index)
        block = self._get_open(key)
        if block is None:
            block = self._open(key)
            if block is None:
                return None
        size = self._page_size
        first = start // size
        last = -(-end // size)
        pages = block.pages
        mask = ((1 << (last - first)) - 1) << first
        if pages.present & mask != mask or end > block.length or start >= end:
            return None
        low = first * size
        high = min(last * size, block.length)
        try:
            data = os.pread(block.fd, high - low, self._header_size + low)
        except OSError as error:
            self._folder.failed(error)
            self._index.drop(key)  # a bad sector stays bad: the block is fetched anew
            return None
        if len(data) != high - low or not self._layout.proves(pages, first, last, data):
            self._index.drop(key)
            return None
        block.used = True
        if not block.visited:
            self._index.visited(key, block)
        if low == start and high == end:
            return data
        return data[start - low : end - low]

    def present(self, file_id: bytes, index: int, start: int, end: int) -> bool:
        """Whether `read` of that range would probably hit: no CRC, one open at most."""
        block = self._find(block_key(file_id, index))
        if block is None or end > block.length:
            return False
        mask = page_mask(start, end, self._page_size)
        return block.pages.present & mask == mask

    def missing(
        self, file_id: bytes, index: int, start: int, end: int, block_len: int
    ) -> list[tuple[int, int]]:
        """The page-aligned ranges that [start, end) of a block of `block_len` bytes lacks.

        Each can be fetched and handed to `write` as it is.
        """
        size = self._page_size
        wanted = page_mask(start, min(end, block_len), size)
        block = self._find(block_key(file_id, index))
        if block is not None and block.length == block_len:
            wanted &= ~block.pages.present
        return [(first * size, min(last * size, block_len)) for first, last in runs(wanted)]

    def advise(self, file_id: bytes, index: int) -> None:
        """Asks the kernel to read the block, if it is there, into its page cache.

        Waits for nothing but the opening. Measured with a page cache that was dropped, on a disk
        with a read-ahead of 8 MiB and both cores busy: no gain with 2 to 64 blocks ahead.
        """
        key = block_key(file_id, index)
        block = self._get_open(key)
        size = self._header_size + self._layout.block_size
        if block is not None:
            os.posix_fadvise(block.fd, 0, size, os.POSIX_FADV_WILLNEED)
        elif self._index.possible(key) and not self._closed:
            # Not through `_open`: parsing the header would wait for the disk here.
            with suppress(OSError):
                fd = self._folder.open(key)
                try:
                    os.posix_fadvise(fd, 0, size, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(fd)

    def drop(self, file_id: bytes, index: int) -> None:
        """Forgets a block: gone for every later call, its space at the writer's next turn."""
        self._index.drop(block_key(file_id, index))

    def pin(self, file_id: bytes, blocks: int) -> bool:
        """No block of the file, which has so many, is evicted from now on; they count against the
        limit as before. Whether it was not pinned before: each call wants one of `unpin`. By one
        thread at a time, also before `scan`."""
        return self._index.pin(file_id, blocks)

    def unpin(self, file_id: bytes, blocks: int) -> bool:
        """Ends one `pin`; whether it was the last. What is there stays until its turn comes, as
        what was just used. By the thread that pins."""
        return self._index.unpin(file_id, blocks)

    def disk_bytes(self, size: int) -> int:
        """What a file of that many bytes takes in all, headers included."""
        blocks = block_count(size, self._layout.block_size)
        return blocks * self._header_size + -(-size // DISK_UNIT) * DISK_UNIT

    @property
    def pinned_bytes(self) -> int:
        """Those of `bytes_used` that are pinned."""
        return self._index.pinned_bytes

    @property
    def page_size(self) -> int:
        """What `write` is aligned to, in bytes."""
        return self._page_size

    @property
    def bytes_used(self) -> int:
        """Allocated bytes of all blocks, headers included; 0 until `scan` has ended."""
        return self._index.bytes_used

    def room_left(self) -> int:
        """Bytes that may be written before something has to go for them; 0 until `scan` ended."""
        return self._writer.room_left() if self._scanned else 0

    def expect_cycle(self, size_bytes: int) -> None:
        """What is read comes again and again, that much of it before anything comes twice. Where
        it is more than fits, a part of it stays and the rest passes by. 0: nothing is known."""
        self._index.expect_cycle(size_bytes)

    @property
    def block_count(self) -> int:
        """Blocks on disk, whole or in part; 0 until `scan` has ended."""
        return len(self._index)

    @property
    def scanned(self) -> bool:
        """Whether `scan` has ended, and blocks are kept."""
        return self._scanned

    @property
    def health(self) -> Health:
        """Errors of the disk since the start, and whether writing rests because of one."""
        return self._folder.health

    def close(self) -> None:
        """Closes descriptors and ends a running `scan`; reads still running end well."""
        self._closed = True
        self._index.close()

    # Writing: any threads, but one at a time for each block.

    def write(
        self,
        file_id: bytes,
        index: int,
        start: int,
        data: Buffer,
        block_len: int,
        past: Past = Past.NO,
    ) -> bool:
        """Keeps `data` as the bytes from `start` on of a block that has `block_len` bytes in all.

        `start` is a multiple of the page size; the end is one too, or the end of the block
        (ValueError otherwise). Pages that are there stay as they are. False when not kept: no
        limit, no room, a disk error, or `scan` still runs. Never raises for the disk.

        `past`: whether it need not stay in the page cache, because whoever wants it has it from
        memory.
        """
        view = memoryview(data).cast("B")
        end = start + len(view)
        if start % self._page_size or (end % self._page_size and end != block_len):
            raise ValueError(f"[{start}, {end}) of a block of {block_len} bytes is not aligned")
        if not 0 <= start < end <= block_len <= self._layout.block_size:
            raise ValueError(f"[{start}, {end}) is not inside a block of {block_len} bytes")
        if not self._scanned or self._closed or self._folder.resting:
            return False
        try:
            self._writer.settle()
            return self._writer.store(block_key(file_id, index), start, view, block_len, past)
        except OSError as error:
            self._folder.failed(error, rest=True)
            return False

    def maintain(self, need: int = 0) -> None:
        """What `write` does in passing: unlinks dropped blocks, records visits for a restart. And
        gives the disk back its free part, which others may have taken while nothing was written,
        and `need` bytes more.

        A writer thread calls it when it has been idle for a while, and before it ends; any thread
        may.
        """
        if not self._scanned:
            return
        try:
            self._writer.settle()
            if need or not self._folder.resting:
                self._writer.keep_free(need)
        except OSError as error:
            self._folder.failed(error)

    def scan(self) -> None:
        """Takes over what an earlier run left, oldest use first, and keeps to the limit.

        Once, from any thread, before the first `write` counts. Files whose names are not ours are
        left alone and not counted; what doesn't parse is found, and goes, when it is read.
        """
        if not self._writer.restore(lambda: self._closed):
            return
        try:
            self._writer.settle()
            self._writer.make_room()
        except OSError as error:
            self._folder.failed(error)
        self._scanned = True

    def _find(self, key: bytes) -> OpenBlock | None:
        return self._get_open(key) or self._open(key)

    def _open(self, key: bytes) -> OpenBlock | None:
        """Opens a block that is not open; None when there is none. 15 us."""
        index = self._index
        if self._closed or not index.possible(key):
            return None
        stamp = index.stamp
        try:
            block = OpenBlock.opened(self._folder.open(key), key, self._layout)
        except FileNotFoundError:
            if key in index:
                index.drop(key)  # somebody else removed it: it must not be counted on
            return None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                index.halve_open()
            self._folder.failed(error)
            return None
        if block is not None:
            return index.keep_open(key, block, stamp)
        if index.steady(stamp):  # else the header may have been read half old, half new
            index.drop(key)
        return None


def _bounded_by_process(max_open: int) -> int:
    soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft_limit == resource.RLIM_INFINITY:
        return max_open
    return max(8, min(max_open, soft_limit // 4))
