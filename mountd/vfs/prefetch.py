"""When to fetch what within one open file; pure decisions, no I/O.

A handle has several cursors, so that a reader of several streams in one file (tar beside its
index, a threaded loader) is sequential in each. A cursor that continues gets a window of parallel
ranges which grows eightfold whenever its reader stalls; a read that continues nothing gets exactly
its pages, in one round trip; a block in which exact reads keep missing is fetched whole. Wide
requests all over a file are what the kernel makes of page faults in a mapping (it reads around
each): when they have asked for a 256th of the file, the whole file is brought here behind them.
"""

from collections.abc import Callable
from dataclasses import dataclass

MIB = 1 << 20
CURSORS = 8
# The kernel sends a window of read-ahead as several requests of up to 1 MiB, nearly in order.
BACKWARD_SLACK = MIB
FORWARD_SLACK = 256 << 10
FIRST_WINDOW = MIB
GROWTH = 8  # of a window whenever its reader stalls
# 24 ranges of 4 MiB in flight. At 30 ms and 100 MB/s each, 64 MiB gave 450 MB/s, 96 gave 580.
MAX_WINDOW = 96 * MIB
MAX_RANGE = 4 * MIB
_PIECES = 8  # of a window, at least
FEW_RANGES = 8  # in flight where the remote bears few requests at once
LONGEST_RANGE = 16 * MIB
STREAM_FROM = 16 * MIB  # such a window has stalled its reader three times: he comes for all of it
MISSES_KEPT = 1 << 14  # blocks of which exact misses are counted, per handle
PROMOTE_AFTER = 4  # exact misses in one block of 64 pages; then the block is fetched whole

WIDE = 128 << 10  # no program's scattered reads of records, but the kernel's read-around
SWEEP_AFTER = 256  # a file is swept when wide misses asked for this part of it
FIRST_SWEEP = 8 * MIB
MAX_SWEEP = 4 << 30


@dataclass(slots=True)
class Sweep:
    """The whole file, from its start: `position` is begun, `window` may be on its way."""

    position: int = 0
    window: int = FIRST_SWEEP


@dataclass(slots=True)
class Cursor:
    """One sequential stream: where it goes on, and up to where fetching was begun."""

    position: int
    ahead: int
    window: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What one read asks for: fetch `demand` now, then [ahead_start, ahead_end) behind it in
    ranges of `range_bytes`, equal bounds meaning nothing; and go on with `sweep`. `is_stream`: a
    reader in order will have it all."""

    demand: tuple[int, int]
    cursor: Cursor | None
    ahead_start: int = 0
    ahead_end: int = 0
    range_bytes: int = MAX_RANGE
    sweep: Sweep | None = None
    is_stream: bool = False


class Prefetcher:
    """The cursors of one open file of `size` bytes. `parallel`: how many requests the remote bears
    at once by now, and how many it may in a moment."""

    __slots__ = (
        "_block_size",
        "_cursors",
        "_misses",
        "_parallel",
        "_size",
        "_sweep",
        "_wide_bytes",
    )

    def __init__(self, size: int, block_size: int, parallel: Callable[[], tuple[int, int]]) -> None:
        self._size = size
        self._parallel = parallel
        self._block_size = block_size
        self._cursors: list[Cursor] = []
        self._misses: dict[int, int] = {}
        self._wide_bytes = 0
        self._sweep: Sweep | None = None

    @property
    def windows_bytes(self) -> int:
        return sum(cursor.window for cursor in self._cursors)

    def hit(self, start: int, end: int, most: int) -> Plan | None:
        """A read that was answered at once. Returns a plan only when there is more to fetch."""
        cursor = self._find(start)
        if cursor is None:
            self._add(end)
            if self._sweep is not None and self._sweep.position < self._size:
                return Plan((end, end), None, sweep=self._sweep)
            return None
        if end > cursor.position:
            cursor.position = end
        if not cursor.window:
            cursor.window = FIRST_WINDOW  # on disk so far; find out in time where that ends
        # Topped up soon: half a window, of a look after each range as well, was 130 ms on its way
        # from a Nextcloud, and the other half was read in 100.
        if cursor.ahead - cursor.position >= cursor.window * 7 // 8:
            return None
        return self._ahead((end, end), cursor, most)

    def miss(self, start: int, end: int, share: Callable[[], int]) -> Plan:
        """A read that has to wait. `share` tells this handle's part of memory in bytes."""
        if self._size <= self._block_size:
            return Plan((0, self._size), None)
        cursor = self._find(start)
        if cursor is None:
            cursor = self._add(end)
            if start:
                self._scattered(end - start)
                return Plan(self._promoted(start, end), cursor, sweep=self._sweep)
            cursor.window = FIRST_WINDOW  # most files are read from their start
        else:
            cursor.position = max(end, cursor.position)
            cursor.window = min(MAX_WINDOW, max(FIRST_WINDOW, cursor.window * GROWTH))
        return self._ahead((start, end), cursor, share())

    def _scattered(self, length: int) -> None:
        if length < WIDE or self._size > MAX_SWEEP:
            return
        self._wide_bytes += length
        if self._sweep is not None:
            self._sweep.window = min(MAX_WINDOW, self._sweep.window * 2)
        elif self._wide_bytes * SWEEP_AFTER >= self._size:
            self._sweep = Sweep()

    def _find(self, start: int) -> Cursor | None:
        for i, cursor in enumerate(self._cursors):
            if -BACKWARD_SLACK <= start - cursor.position <= FORWARD_SLACK:
                if i:
                    self._cursors.insert(0, self._cursors.pop(i))
                return cursor
        return None

    def _add(self, end: int) -> Cursor:
        cursor = Cursor(end, end)
        self._cursors.insert(0, cursor)
        del self._cursors[CURSORS:]
        return cursor

    def _ahead(self, demand: tuple[int, int], cursor: Cursor, most: int) -> Plan:
        window = min(cursor.window, most)
        start = max(cursor.ahead, demand[1])
        range_bytes = self._range_bytes(window)
        end = min(self._size, cursor.position + window)
        if end < self._size:  # whole ranges, so that requests do not shrink to crumbs
            end = end // range_bytes * range_bytes
        if end <= start:
            return Plan(demand, cursor)
        is_stream = cursor.window >= STREAM_FROM
        return Plan(demand, cursor, start, end, range_bytes, is_stream=is_stream)

    def _range_bytes(self, window: int) -> int:
        """Small windows in as many ranges as go at once (an eighth of the slots is not for what is
        fetched ahead): with more of them the last would wait for a second round trip. None so long
        that what the remote bears were learned late."""
        now, soon = self._parallel()
        pieces = max(1, min(_PIECES, now - (now + 7) // 8))
        whole_blocks = -(-window // (pieces * self._block_size)) * self._block_size
        return min(max_range_of(soon), whole_blocks)

    def _promoted(self, start: int, end: int) -> tuple[int, int]:
        block = start // self._block_size
        if len(self._misses) >= MISSES_KEPT:
            self._misses.clear()
        misses = self._misses[block] = self._misses.get(block, 0) + 1
        if misses < PROMOTE_AFTER:
            return start, end
        base = block * self._block_size
        return base, max(end, min(self._size, base + self._block_size))


def max_range_of(max_parallel: int) -> int:
    """The longest range, in bytes, for a remote that bears so many requests at once. Few of them
    must be long to fill a connection: with 4 at 30 ms and 100 MB/s, 4 MiB lose 43% in waiting."""
    if max_parallel > FEW_RANGES:
        return MAX_RANGE
    return min(LONGEST_RANGE, MAX_WINDOW // (2 * max_parallel) // MIB * MIB)
