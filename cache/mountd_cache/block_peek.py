"""Blocks of a cache that another process holds: read, and never touched.

That process may write the block just now, evict it, or have it half there. What can't be proved by
the block's own CRCs is a miss, so nothing has to be agreed on with it.
"""

import os
from pathlib import Path

from mountd_cache.block_format import Layout, block_key

PAGE_SIZE = 16384  # that of BlockFiles


class BlockPeek:
    """`folder`: that of `BlockFiles`, of this block size. Any thread. Never raises for the disk."""

    def __init__(self, folder: Path, block_size: int) -> None:
        self._folder = str(folder)
        self._layout = Layout(block_size, PAGE_SIZE)

    def read(self, file_id: bytes, size: int, start: int, end: int) -> bytes | None:
        """The bytes [start, end) of a file of `size` bytes; None unless all are there."""
        block_size = self._layout.block_size
        parts: list[bytes] = []
        for index in range(start // block_size, -(-end // block_size)):
            at = index * block_size
            length = min(block_size, size - at)
            low, high = max(start - at, 0), min(end - at, length)
            part = self._block(file_id, index, length, low, high)
            if part is None:
                return None
            parts.append(part)
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def _block(self, file_id: bytes, index: int, length: int, low: int, high: int) -> bytes | None:
        key = block_key(file_id, index)
        name = key.hex()
        path = f"{self._folder}/{name[:2]}/{name[:32]}-{name[32:]}"
        header_size = self._layout.header_size
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            parsed = self._layout.parse(key, os.pread(fd, header_size, 0))
            if parsed is None or parsed[0] != length:
                return None
            first, last = low // PAGE_SIZE, -(-high // PAGE_SIZE)
            mask = ((1 << (last - first)) - 1) << first
            begin, end = first * PAGE_SIZE, min(last * PAGE_SIZE, length)
            data = os.pread(fd, end - begin, header_size + begin)
        except OSError:
            return None
        finally:
            os.close(fd)
        pages = parsed[1]
        if pages.present & mask != mask or len(data) != end - begin:
            return None
        if not self._layout.proves(pages, first, last, data):
            return None
        return data if (begin, end) == (low, high) else data[low - begin : high - begin]
