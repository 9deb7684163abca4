"""In which order files were opened: packed, in memory and on disk.

One order:

    head          see `_HEAD` (the machine's byte order), with the CRC32C of everything after it
    inodes        8 bytes per file, in the order of their opening
    directories   4 bytes per file: which of the directories below
    rows          4 bytes per file: where it was in its directory's listing
    ends          8 bytes per directory: where its key ends
    keys          one after the other, UTF-8

Those of several sets in one file:

    head          see `_SETS_HEAD`, with the CRC32C of everything after it
    per set       see `_SET`, its root's key (UTF-8), its order as above

What is read from the disk is believed as far as it makes sense, and no further: an inode that is
not in that directory's listing is nobody.
"""

import os
import struct
from array import array
from collections.abc import Sequence
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
MAX_SETS: Final = 64
_SETS_MAGIC: Final = b"mtdsets\n"
_SETS_HEAD: Final = struct.Struct("=8sIII")  # magic, version, CRC, sets
_SETS_AFTER_CRC: Final = struct.calcsize("=8sII")
_SET: Final = struct.Struct("=IIQ")  # whether it has all below, bytes of the key, of the order


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

    def has(self, directory: str) -> bool:
        """Whether a file of that directory is in it."""
        return directory in self._index

    def extend(self, other: "OpeningOrder") -> None:
        """All of another one behind these, as far as MAX_FILES allows."""
        room = MAX_FILES - len(self)
        now: dict[int, int] = {}  # only of those that have a file here
        for i in dict.fromkeys(other._directories[:room]):
            key = other._keys[i]
            now[i] = self._index.setdefault(key, len(self._keys))
            if now[i] == len(self._keys):
                self._keys.append(key)
        self.numbers.extend(other.numbers[:room])
        self._directories.extend([now[i] for i in other._directories[:room]])
        self._rows.extend(other._rows[:room])
        self.size_bytes += other.size_bytes

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
        if directories > files:  # each would take 100 bytes for its 8
            raise ValueError("an order has directories without files")
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
        if files and max(order._directories) >= directories:
            raise ValueError("an order names directories that it has not")
        spans = list(pairwise([0, *ends]))
        if any(start > end for start, end in spans) or (ends[-1] if ends else 0) != keys:
            raise ValueError("an order's keys can't be read")
        order._keys = [blob[at + s : at + e].decode("utf-8", "surrogatepass") for s, e in spans]
        order._index = {key: i for i, key in enumerate(order._keys)}
        order.size_bytes = size_bytes & _MAX_INT64
        return order


class SetOrder(NamedTuple):
    """The order of one set of directories. `is_whole`: it has all that is below its root."""

    root: str
    is_whole: bool
    order: OpeningOrder


def pack_orders(sets: Sequence[SetOrder]) -> bytes:
    """For `unpack_orders`, in this or a later run on this machine."""
    parts: list[bytes] = []
    for root, is_whole, order in sets:
        key, packed = root.encode("utf-8", "surrogatepass"), order.to_bytes()
        parts += _SET.pack(is_whole, len(key), len(packed)), key, packed
    body = b"".join(parts)
    count = struct.pack("=I", len(sets))
    return _SETS_HEAD.pack(_SETS_MAGIC, _VERSION, crc32c(body, crc32c(count)), len(sets)) + body


def unpack_orders(blob: bytes) -> list[SetOrder]:
    """What `pack_orders` packed. Raises ValueError for anything else, also for the single order
    that earlier versions kept."""
    if len(blob) < _SETS_HEAD.size:
        raise ValueError("orders are longer")
    magic, version, crc, count = _SETS_HEAD.unpack_from(blob)
    if magic != _SETS_MAGIC or version != _VERSION or count > MAX_SETS:
        raise ValueError("not orders of this format")
    if crc32c(memoryview(blob)[_SETS_AFTER_CRC:]) != crc:
        raise ValueError("the CRC of orders is wrong")
    found: list[SetOrder] = []
    at = _SETS_HEAD.size
    for _ in range(count):
        if len(blob) - at < _SET.size:
            raise ValueError("orders end too soon")
        is_whole, key_bytes, order_bytes = _SET.unpack_from(blob, at)
        at += _SET.size
        end = at + key_bytes
        root = blob[at:end].decode("utf-8", "surrogatepass")
        found.append(
            SetOrder(root, bool(is_whole), OpeningOrder.from_bytes(blob[end : end + order_bytes]))
        )
        at = end + order_bytes
    if at != len(blob):
        raise ValueError("orders have another length")
    return found


def read_orders(path: Path) -> list[SetOrder]:
    """What was kept there; none where nothing was. Raises OSError, and ValueError where it makes
    no sense."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                raise ValueError("an order is smaller")
            return unpack_orders(file.read())
    except FileNotFoundError:
        return []


def write_orders(path: Path, orders: bytes) -> None:
    """Keeps what `pack_orders` packed. Raises OSError."""
    DISK.write_file(path, orders)
