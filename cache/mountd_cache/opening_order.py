"""In which order files were opened: packed, in memory and on disk.

    head          see `_HEAD` (the machine's byte order), with the CRC32C of everything after it
    inodes        8 bytes per file, in the order of their opening
    directories   4 bytes per file: which of the directories below
    rows          4 bytes per file: where it was in its directory's listing
    ends          8 bytes per directory: where its key ends
    keys          one after the other, UTF-8

What is read from the disk is believed as far as it makes sense, and no further: an inode that is
not in that directory's listing is nobody.
"""

import os
import struct
from array import array
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final, NamedTuple, Self

from crc32c import crc32c

from mountd_cache.durable_io import DISK

MAX_FILES: Final = 1 << 19  # beyond it they are counted and not kept: 16 bytes each
MAX_FILE_BYTES: Final = 64 << 20
_MAGIC: Final = b"mtdorder"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("=8sII4Q")  # ... files, directories, bytes of keys, bytes of files
_AFTER_CRC: Final = struct.calcsize("=8sII")
_MAX_INT64: Final = (1 << 63) - 1


class Opened(NamedTuple):
    """One file, by its inode, its directory's key and the row that it had there."""

    number: int
    directory: str
    row: int


class OpeningOrder:
    """Files in the order in which they were opened first. `size_bytes` is that of all of them."""

    def __init__(self) -> None:
        self.numbers = array("Q")
        self.size_bytes = 0
        self._directories = array("I")
        self._rows = array("I")
        self._index: dict[str, int] = {}
        self._keys: list[str] = []

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> Opened:
        key = self._keys[self._directories[position]]
        return Opened(self.numbers[position], key, self._rows[position])

    def add(self, number: int, directory: str, row: int, size: int) -> None:
        """One more. Call it for less than MAX_FILES."""
        index = self._index.get(directory)
        if index is None:
            index = self._index[directory] = len(self._keys)
            self._keys.append(directory)
        self.numbers.append(number)
        self._directories.append(index)
        self._rows.append(max(0, min(row, 0xFFFF_FFFF)))
        self.size_bytes += size

    def to_bytes(self) -> bytes:
        """For `from_bytes`, in this or a later run on this machine."""
        keys = [key.encode("utf-8", "surrogatepass") for key in self._keys]
        ends = array("Q", accumulate(map(len, keys)))
        parts = (self.numbers, self._directories, self._rows, ends)
        body = b"".join((*(part.tobytes() for part in parts), *keys))
        size_bytes = min(self.size_bytes, _MAX_INT64)
        sizes = (len(self), len(keys), sum(map(len, keys)), size_bytes)
        tail = _HEAD.pack(_MAGIC, _VERSION, 0, *sizes)[_AFTER_CRC:]
        return _HEAD.pack(_MAGIC, _VERSION, crc32c(body, crc32c(tail)), *sizes) + body

    @classmethod
    def from_bytes(cls, blob: bytes) -> Self:
        """The order whose `to_bytes` this is. Raises ValueError for anything else."""
        if len(blob) < _HEAD.size:
            raise ValueError("an order is longer")
        magic, version, crc, files, directories, keys, size_bytes = _HEAD.unpack_from(blob)
        if magic != _MAGIC or version != _VERSION:
            raise ValueError("not an order of this format")
        if files > MAX_FILES or len(blob) != _HEAD.size + 16 * files + 8 * directories + keys:
            raise ValueError("an order has another length")
        if crc32c(memoryview(blob)[_AFTER_CRC:]) != crc:
            raise ValueError("an order's CRC is wrong")
        order = cls()
        at = _HEAD.size
        ends = array("Q")
        for part, width in (
            (order.numbers, 8 * files),
            (order._directories, 4 * files),
            (order._rows, 4 * files),
            (ends, 8 * directories),
        ):
            part.frombytes(blob[at : at + width])
            at += width
        if max(order._directories, default=0) >= max(directories, 1) or (files and not directories):
            raise ValueError("an order names directories that it has not")
        spans = list(pairwise([0, *ends]))
        if any(start > end for start, end in spans) or (ends[-1] if ends else 0) != keys:
            raise ValueError("an order's keys can't be read")
        order._keys = [blob[at + s : at + e].decode("utf-8", "surrogatepass") for s, e in spans]
        order._index = {key: i for i, key in enumerate(order._keys)}
        order.size_bytes = size_bytes & _MAX_INT64
        return order


def read_order(path: Path) -> OpeningOrder | None:
    """What was kept there; None where nothing was. Raises OSError, and ValueError where it makes
    no sense."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                raise ValueError("an order is smaller")
            return OpeningOrder.from_bytes(file.read())
    except FileNotFoundError:
        return None


def write_order(path: Path, order: bytes) -> None:
    """Keeps `OpeningOrder.to_bytes()`. Raises OSError."""
    DISK.write_file(path, order)
