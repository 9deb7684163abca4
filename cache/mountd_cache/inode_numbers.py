"""Inode numbers that were never used before, also after SIGKILL or a power cut."""

import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from crc32c import crc32c

from mountd_cache.durable_io import DISK, DurableIO

_MAGIC: Final = b"mtdinos\n"
_FILE: Final = struct.Struct("<8sQI")  # magic, the first number not reserved, CRC32C of both
_RANGE: Final = 1 << 20  # numbers per write: a start wastes one range, of 2^43
# Without a file numbers begin at the nanoseconds since the epoch: ahead of whatever an earlier file
# had given out, unless that was a billion numbers per second since it began.
_PER_SECOND: Final = 10**9
_MAX_END: Final = 1 << 62


class InodeNumbers:
    """Hands out ranges of numbers >= 2 and < 2^63. Any thread."""

    def __init__(
        self, path: Path, *, disk: DurableIO = DISK, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._disk = disk
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._next = self._end = self._read() or self._from_clock()
        self.last_error: OSError | None = None

    def reserve(self, count: int) -> int:
        """The first of `count` numbers in a row that were never given out.

        One durable write per million numbers. A disk that refuses it is no reason to fail:
        `last_error` tells, and numbers then begin where the clock is.
        """
        with self._lock:
            if self._next + count > self._end:
                self._extend(count)
            first = self._next
            self._next += count
            return first

    def _extend(self, count: int) -> None:
        end = self._next + max(count, _RANGE)
        try:
            self._disk.write_file(self._path, _pack(end))
            self.last_error = None
        except OSError as error:
            self.last_error = error
            self._next = max(self._next, self._from_clock())
            end = self._next + max(count, _RANGE)
        self._end = end

    def _read(self) -> int | None:
        try:
            content = self._path.read_bytes()
        except OSError:
            return None
        if len(content) != _FILE.size:
            return None
        end: int = _FILE.unpack(content)[1]
        return end if content == _pack(end) and 2 <= end < 2 * _MAX_END else None

    def _from_clock(self) -> int:
        return min(max(int(self._wall_clock() * _PER_SECOND), 2), _MAX_END)  # until the year 2116


def _pack(end: int) -> bytes:
    return _FILE.pack(_MAGIC, end, crc32c(_FILE.pack(_MAGIC, end, 0)))
