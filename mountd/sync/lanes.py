"""How much may be under way at once, and which of what is ready goes next.

Small files and what carries no bytes wait for the remote and not for the line: at 30 ms of latency
16 at once are 530 files a second at best. So there may be more of them than of others.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from mountd.remotes.base import LIGHT_BYTES
from mountd_cache.changes import Change
from mountd_cache.ledger import Ledger

BIG_BYTES: Final = 8 << 20


class Weight(IntEnum):
    LIGHT = 0
    PLAIN = 1
    BIG = 2


@dataclass(frozen=True, slots=True)
class Flight:
    change: Change
    weight: Weight


class Lanes:
    """`in_flight`: by key. At most `at_once` of all weights, of which at most `max_transfers` are
    not LIGHT; a quarter of these is kept free of BIG ones, so that others aren't starved. `now`
    may allow fewer for a while."""

    def __init__(
        self,
        ledger: Ledger,
        max_transfers: int,
        at_once: int,
        now: Callable[[], int] | None = None,
    ) -> None:
        self.in_flight: dict[str, Flight] = {}
        self._ledger = ledger
        self._at_once = max(1, max_transfers, at_once)
        self._now = now
        self._max_transfers = max(1, max_transfers)
        self._max_big = max(1, self._max_transfers * 3 // 4)
        self._under_way = [0 for _ in Weight]
        self._waiting: list[list[Change]] = [[] for _ in Weight]  # the oldest is the last
        self._lanes = tuple(zip(Weight, self._waiting, strict=True))

    @property
    def at_once(self) -> int:
        return self._at_once

    @property
    def is_waiting(self) -> bool:
        """Whether anything that is ready has no room yet."""
        return any(self._waiting)

    @property
    def is_well_filled(self) -> bool:
        """Whether so much small waits that the next one has to wait for others in any case."""
        return len(self._waiting[Weight.LIGHT]) > 2 * self._at_once

    def fill(self, ready: Iterable[Change]) -> None:
        """What is ready now, oldest first."""
        for waiting in self._waiting:
            waiting.clear()
        for change in ready:
            self._waiting[self._weight(change)].append(change)
        for waiting in self._waiting:
            waiting.reverse()

    def next(self) -> Change | None:
        """The oldest for which there is room; it waits no more."""
        if not self._has_slot():  # first: what it asks costs more than the rest
            return None
        open_ = [lane for weight, lane in self._lanes if lane and self._is_open(weight)]
        oldest = open_[0] if len(open_) == 1 else min(open_, key=_since, default=None)
        return oldest.pop() if oldest is not None else None

    def has_room(self, change: Change) -> bool:
        return self._has_slot() and self._is_open(self._weight(change))

    def begin(self, change: Change) -> None:
        weight = self._weight(change)
        self.in_flight[change.key] = Flight(change, weight)
        self._under_way[weight] += 1

    def end(self, change: Change) -> None:
        flight = self.in_flight.pop(change.key)
        self._under_way[flight.weight] -= 1

    def _has_slot(self) -> bool:
        """For anything at all."""
        at_once = self._at_once
        if self._now is not None:
            at_once = min(at_once, max(1, self._max_transfers, self._now()))
        return len(self.in_flight) < at_once

    def _is_open(self, weight: Weight) -> bool:
        """Where there is a slot."""
        heavy = self._under_way[Weight.PLAIN] + self._under_way[Weight.BIG]
        if weight is Weight.BIG and self._under_way[Weight.BIG] >= self._max_big:
            return False
        return weight is Weight.LIGHT or heavy < self._max_transfers

    def _weight(self, change: Change) -> Weight:
        if change.is_gone or change.is_directory:
            return Weight.LIGHT
        size = self._ledger.size_of(change)
        if size <= LIGHT_BYTES:
            return Weight.LIGHT
        return Weight.BIG if size >= BIG_BYTES else Weight.PLAIN


def _since(lane: list[Change]) -> int:
    return lane[-1].since_ns
