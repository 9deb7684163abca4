"""Large writes to a data file, past the page cache where that is sooner done.

Linux 6.14 and later forgets the pages of a write as soon as the disk has them (RWF_DONTCACHE) and
does not wait for that; O_DIRECT waits, and needs no page of the page cache at all. Whoever writes
waits for any way, so all are timed; those that are slower are tried again now and then, and ever
more seldom. Which it is depends on the machine, and on the hour: 1 GiB in pieces of 1 MiB took 2.3
to 3.0 s through the page cache (all of it processor time: in that virtual machine a page that
nobody had lately is a fault of the host's), 0.65 to 0.69 s with RWF_DONTCACHE (0.24 to 0.32, and 1
to 1.5 s where what the disk did not take yet was all in such pages), 0.7 to 0.9 s with O_DIRECT
(0.1); through pages that were just freed 0.2 s; and a disk that spins is slower than any. What went
past the page cache is read from the disk when it is sent.
"""

import fcntl
import mmap
import os
import time
from collections.abc import Callable, Collection, Iterable
from math import inf
from pathlib import Path
from typing import Final

from mountd_cache.durable_io import FileIO
from mountd_cache.past_page_cache import NOT_HERE

FROM_BYTES: Final = 256 << 10
_MOST_BYTES: Final = 1 << 20  # what the kernel sends at once
_ALIGN: Final = 4096
_FIRST: Final = 8  # pieces that are written before the disk is tried
_MOST_BETWEEN: Final = 2048
_CLOSED: Final = -1

USUAL: Final = 0  # through the page cache
FORGETS: Final = 1
DIRECT: Final = 2
# That much longer it may take: it leaves the processor to others, and fsync nothing to do.
_WORTH: Final = (1.0, 1.25, 1.25)


class Pace:
    """Which of the ways takes the least time per byte."""

    def __init__(self) -> None:
        self._cost_s: list[float | None] = [None] * len(_WORTH)
        self._between = [_FIRST] * len(_WORTH)
        self._left = [_FIRST] * len(_WORTH)
        self._best = self._asked = USUAL
        self._is_try = False
        self._gone: set[int] = set()

    def next(self, ways: Collection[int] = (USUAL, FORGETS, DIRECT)) -> int:
        """The way to go now, of these."""
        best = self._best_of(ways)
        others = (way for way in ways if way != best and way not in self._gone)
        self._asked = next((way for way in others if self._left[way] <= 0), best)
        self._is_try = self._asked != best
        return self._asked

    def took(self, way: int, cost_s: float) -> None:
        """What was asked of `next` last took so long, per byte; `way`: in the end."""
        known_s = self._cost_s[way]
        if known_s is None or self._is_try:
            known_s = cost_s
        self._cost_s[way] = (3 * known_s + cost_s) / 4
        if self._is_try:
            self._between[self._asked] = min(2 * self._between[self._asked], _MOST_BETWEEN)
            self._left[self._asked] = self._between[self._asked]
        else:
            self._left = [left - 1 for left in self._left]
        self._choose()

    def never(self, way: int) -> None:
        """There is no such way, also where it was the best one so far."""
        self._gone.add(way)
        self._choose()

    def _choose(self) -> None:
        before, self._best = self._best, self._best_of(range(len(_WORTH)))
        if before != self._best:
            self._between[before] = self._left[before] = _FIRST

    def _best_of(self, ways: Iterable[int]) -> int:
        found, least_s = USUAL, inf
        for way in ways:
            cost_s = self._cost_s[way]
            if cost_s is not None and way not in self._gone and cost_s / _WORTH[way] < least_s:
                found, least_s = way, cost_s / _WORTH[way]
        return found


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
        size = len(data)
        is_whole = not (size % _ALIGN or offset % _ALIGN or size > _MOST_BYTES)
        way = self._pace.next((USUAL, FORGETS, DIRECT) if is_whole else (USUAL, FORGETS))
        started_s = self._clock()
        done = -1
        if way == FORGETS:
            done = self._forgetting(fd, data, offset)
            if done < 0 and is_whole and not self._forgets:
                way = DIRECT
        if way == DIRECT and self._is_open(path):
            done = self._direct(data, size, offset)
        if done < 0:
            way = USUAL
            done = self._disk.pwrite(fd, data, offset)
        self._pace.took(way, (self._clock() - started_s) / size)
        return done

    def cool(self) -> None:
        """The file is not written to any more."""
        if self._fd != _CLOSED:
            self._disk.close(self._fd)
            self._fd = _CLOSED

    def _forgetting(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """-1 where it did not go that way, now or at all."""
        try:
            return self._disk.pwrite_once(fd, data, offset)
        except OSError as error:
            if error.errno in NOT_HERE:
                self._forgets = False
                self._pace.never(FORGETS)
            return -1

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
            self._pace.never(DIRECT)
            return False
        self._fd = fd
        return True

    def _direct(self, data: bytes | memoryview, size: int, offset: int) -> int:
        """As `_forgetting`. The page cache tells how far it comes: past it a disk that is full, or
        fails, says so after it took a part, and not how much."""
        if self._aligned is None:
            self._aligned = memoryview(mmap.mmap(-1, _MOST_BYTES))
        piece = self._aligned[:size]
        piece[:] = data
        try:
            return self._disk.pwrite(self._fd, piece, offset)
        except OSError as error:
            if error.errno in NOT_HERE:
                self._pace.never(DIRECT)
            return -1
