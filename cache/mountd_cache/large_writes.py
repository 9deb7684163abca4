"""Large writes to a data file, past the page cache where that is sooner done.

Linux 6.14 and later forgets the pages of a write as soon as the disk has them (RWF_DONTCACHE) and
does not wait for that; before it there is O_DIRECT, which does. Whoever writes waits for either
way, so both are timed; the slower one is tried again now and then, and ever more seldom. Which it
is depends on the machine, and on the hour: 1 GiB in pieces of 1 MiB took 2.3 to 3.0 s through the
page cache (all of it processor time: in that virtual machine a page that nobody had lately is a
fault of the host's), 0.65 to 0.69 s with RWF_DONTCACHE (0.24 to 0.32), 0.7 to 0.9 s with O_DIRECT
(0.1); through pages that were just freed 0.2 s; and a disk that spins is slower than any. What went
past the page cache is read from the disk when it is sent.
"""

import fcntl
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mountd_cache.durable_io import FileIO
from mountd_cache.past_page_cache import NOT_HERE

FROM_BYTES: Final = 256 << 10
_MOST_BYTES: Final = 1 << 20  # what the kernel sends at once
_ALIGN: Final = 4096
_FIRST: Final = 8  # pieces that are written before the disk is tried
_MOST_BETWEEN: Final = 2048
# It may take that much longer: it leaves the processor to others, and fsync nothing to do.
_WORTH: Final = 1.25
_CLOSED: Final = -1


class Pace:
    """Which of two ways takes less time per byte: False, the usual one, or True."""

    def __init__(self) -> None:
        self._cost_s = [0.0, 0.0]
        self._is_better = False
        self._between = _FIRST
        self._left = _FIRST

    def next(self) -> bool:
        """The way to go now."""
        return self._is_better if self._left else not self._is_better

    def took(self, way: bool, cost_s: float) -> None:
        """What `next` said took so long, per byte."""
        known = self._cost_s[way]
        self._cost_s[way] = (3 * known + cost_s) / 4 if known and self._left else cost_s
        usual_s, other_s = self._cost_s
        is_better = 0 < other_s <= _WORTH * usual_s
        if self._left:
            self._left -= 1
        else:
            self._between = _FIRST if is_better == way else min(2 * self._between, _MOST_BETWEEN)
            self._left = self._between
        self._is_better = is_better

    def never(self) -> None:
        """There is no other way, also where it was the better one so far."""
        self._is_better, self._left = False, -1
        self._cost_s[True] = 0.0


class LargeWrites:
    """Of one thread, to one file at a time; `cool` before the next."""

    def __init__(
        self,
        disk: FileIO,
        *,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._disk = disk
        self._pace = pace or Pace()
        self._clock = clock
        self._forgets = True
        self._fd = _CLOSED
        self._aligned: memoryview | None = None

    def write(self, fd: int, path: Path, data: bytes | memoryview, offset: int) -> int:
        """As `pwrite`. `fd`: the file, and `path`: where it lies, if it was not unlinked."""
        is_past = self._pace.next()
        started_s = self._clock()
        done = self._past(fd, path, data, offset) if is_past else -1
        if done < 0:
            is_past = False
            done = self._disk.pwrite(fd, data, offset)
        self._pace.took(is_past, (self._clock() - started_s) / len(data))
        return done

    def cool(self) -> None:
        """The file is not written to any more."""
        if self._fd != _CLOSED:
            self._disk.close(self._fd)
            self._fd = _CLOSED

    def _past(self, fd: int, path: Path, data: bytes | memoryview, offset: int) -> int:
        """-1 where it did not go that way, now or at all."""
        if self._forgets:
            try:
                return self._disk.pwrite_once(fd, data, offset)
            except OSError as error:
                if error.errno not in NOT_HERE:
                    return -1
                self._forgets = False
        size = len(data)
        if size % _ALIGN or offset % _ALIGN or size > _MOST_BYTES or not self._is_open(path):
            return -1
        return self._direct(data, size, offset)

    def _is_open(self, path: Path) -> bool:
        if self._fd != _CLOSED:
            return True
        try:
            fd = self._disk.open_file(path)
        except OSError:
            return False
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
        except OSError:
            self._disk.close(fd)
            self._pace.never()
            return False
        self._fd = fd
        return True

    def _direct(self, data: bytes | memoryview, size: int, offset: int) -> int:
        """As `_past`. The page cache tells how far it comes: past it a disk that is full, or fails,
        says so after it took a part, and not how much."""
        if self._aligned is None:
            self._aligned = memoryview(mmap.mmap(-1, _MOST_BYTES))
        piece = self._aligned[:size]
        piece[:] = data
        try:
            return self._disk.pwrite(self._fd, piece, offset)
        except OSError as error:
            if error.errno in NOT_HERE:
                self._pace.never()
            return -1
