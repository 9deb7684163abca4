"""How many requests a server is asked at once, learned from its own answers.

A small PHP server has a few workers: of more requests at once each waits longer, and nothing is
gained. A large one answers the twelfth as soon as the first. So it begins with `least`, and asks
for more while answers take no longer than they did with `least`; where they do, it goes back.

At first, while nothing has ever been too much, twice as many are asked after each round of answers
that took no longer: sixteen after 14 of them. From there, or from the first doubt, it goes in small
steps, each of which is heard three times.

It widens only while all are busy. Compared is like with like (`Asked.kind`), and the time
from a request's last byte to its answer's head: what a body takes is the line's business.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

_STEPS: Final = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # times `least`
ROUND: Final = 3  # answers for each request that may be under way
# At first. Of the usual times two: the first of each connection is another kind than the others,
# and a server's very first answers take longer.
_QUICK_LEARN: Final = 2
_QUICK_LEVEL: Final = 4  # of `_STEPS`
_QUICK_ROUND: Final = 0.75  # nobody uses all: see `stack`, and prefetch in `limit`
# With no worker free for half of them, 6 at once take 1.5 times what 4 do.
FLAT: Final = 1.3
CROWDED: Final = 2.0
_DOUBTFUL: Final = 1.6
_CLIPPED: Final = 5.0
HOLD_S: Final = 2.0
STRAINED_S: Final = 10.0
LONGEST_HOLD_S: Final = 600.0
# What is known about a server is wrong when others come or go, or it was busy just then.
LEARN_AGAIN_S: Final = 5.0
SELDOM_S: Final = 60.0
_FASTER: Final = 0.85  # more at once are answered sooner: what is known is no longer so
_STRAINED: Final = frozenset((423, 429, 500, 502, 503, 504))


class Asked:
    """One request under way."""

    __slots__ = ("begun_s", "beside", "era", "kind")

    def __init__(self, kind: str, era: int, beside: int, begun_s: float) -> None:
        self.kind = kind
        self.era = era
        self.beside = beside  # under way with it, itself included: the most that is known
        self.begun_s = begun_s


class Width:
    """From `least` to `most`, the same where they are equal. Thread-safe."""

    def __init__(self, least: int, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        most = max(least, most)
        self._levels = sorted({min(most, int(least * step)) for step in _STEPS})
        self._clock = clock
        self._tell: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._level = 0
        self._top = len(self._levels) - 1  # until `_not_before_s` no higher than this
        self._not_before_s = float("-inf")
        self._hold_s = HOLD_S
        self._in_flight = 0
        self._era = 0  # what was asked before the level changed says nothing about this one
        self._usual_s: dict[str, float] = {}
        self._good_s: dict[str, float] = {}  # what a quarter took at most
        self._learned_s = float("-inf")
        self._learn_again_s = LEARN_AGAIN_S
        self._return_to = 1
        self._is_quick = True  # nothing has been too much so far
        self._heard: dict[str, list[float]] = {}
        self._count = self._full = 0

    @property
    def now(self) -> int:
        return self._levels[self._level]

    @property
    def soon(self) -> int:
        """What it may become in some round trips; after the first doubt that is what it is now."""
        return self._levels[-1] if self._is_quick else self.now

    @property
    def most(self) -> int:
        return self._levels[-1]

    def tell_wider(self, tell: Callable[[], None]) -> None:
        """`tell` is called, in any thread, whenever more are asked than before."""
        self._tell.append(tell)

    def begin(self, kind: str) -> Asked:
        """A request goes out. `end` must follow."""
        with self._lock:
            self._in_flight += 1
            return Asked(kind, self._era, self._in_flight, self._clock())

    def end(self) -> None:
        """Its answer was read, or nobody will."""
        with self._lock:
            self._in_flight -= 1

    def answered(
        self,
        asked: Asked,
        status: int,
        sent_s: float = 0.0,
        ours_s: float = 0.0,
        wire_s: float | None = None,
    ) -> None:
        """The head of its answer is here. `sent_s`: when its last byte went, where it had many.
        `ours_s`: how long we were late ourselves meanwhile. `wire_s`: see `on_wire`."""
        if len(self._levels) == 1:
            return
        with self._lock:
            now_s, before = self._clock(), self._level
            if status in _STRAINED:
                self._strained(now_s)
            elif asked.era == self._era:
                # The first of some that go together had few beside it when it went.
                asked.beside = max(asked.beside, self._in_flight)
                took_s = max(now_s - max(asked.begun_s, sent_s) - ours_s, 0.0)
                # Of a long answer the wire tells when its last part came.
                self._add(asked, took_s if wire_s is None else min(took_s, wire_s), now_s)
            is_wider = self._level > before
        if is_wider:
            for tell in self._tell:
                tell()

    def failed(self) -> None:
        """No answer came."""
        with self._lock:
            self._strained(self._clock())

    def _strained(self, now_s: float) -> None:
        self._is_quick = False
        if self._level:
            self._hold(0, now_s)
            self._go(0)
        self._top = 0
        self._not_before_s = max(self._not_before_s, now_s + STRAINED_S)

    def _add(self, asked: Asked, took_s: float, now_s: float) -> None:
        is_full = asked.beside * 4 >= self.now * 3
        if not is_full and asked.beside <= self._levels[0]:
            return
        self._heard.setdefault(asked.kind, []).append(took_s)
        self._count += 1
        self._full += is_full
        if self._level == 0:
            if self._count >= (_QUICK_LEARN if self._is_quick else ROUND) * self.now:
                self._learn(now_s)
        elif self._count >= ROUND * self.now:
            self._compare(now_s)
        elif self._is_quick and self._count == int(_QUICK_ROUND * self.now):
            self._glance(now_s)

    def _learn(self, now_s: float) -> None:
        self._usual_s = {kind: _typical(times) for kind, times in self._heard.items()}
        self._good_s = {kind: sorted(times)[len(times) // 4] for kind, times in self._heard.items()}
        self._learned_s = now_s
        if now_s >= self._not_before_s:
            self._top = len(self._levels) - 1
            upper = max(2, self._return_to) if self._is_quick else self._return_to
            self._go(min(upper, self._top))
        else:
            self._go(0)

    def _glance(self, now_s: float) -> None:
        """After one round: enough to go on by, or to begin anew with care; else three are heard.

        Few answers tell little of a server whose times vary: four busy workers were asked 32 things
        at once where it was slow by chance when it was learned. So it is the good times that count.
        """
        ratio = self._ratio(self._good_s)
        if ratio is None or self._full * 2 < self._count:
            return
        if ratio > _DOUBTFUL:
            self._is_quick = False
            self._go(0)
        elif ratio <= FLAT and self._level < min(_QUICK_LEVEL, self._top):
            self._go(min(self._level + 2, self._top))

    def _ratio(self, of_s: dict[str, float]) -> float | None:
        """How many times as long as with `least`; None where that isn't known."""
        times = [
            min(took_s / max(usual_s, 1e-6), _CLIPPED)
            for kind, usual_s in of_s.items()
            for took_s in self._heard.get(kind, ())
        ]
        return _typical(times) if times and len(times) * 2 >= self._count else None

    def _compare(self, now_s: float) -> None:
        ratio = self._ratio(self._usual_s)
        if ratio is None:
            self._forget()  # of what is asked now nothing is known
        elif ratio < _FASTER:
            self._forget()
        elif ratio > FLAT:
            lower = 0 if ratio > CROWDED else self._level - 1
            self._hold(lower, now_s)
            self._go(lower)
        elif now_s - self._learned_s > self._learn_again_s:
            self._learn_again_s = min(2 * self._learn_again_s, SELDOM_S)
            self._forget()
        elif self._full * 2 < self._count:
            self._go(self._level)  # nobody needs more
        else:
            if now_s >= self._not_before_s:
                self._top = len(self._levels) - 1
            if self._level == len(self._levels) - 1:
                self._hold_s = HOLD_S
            self._go(min(self._level + 1, self._top))

    def _forget(self) -> None:
        self._return_to = self._level
        self._go(0)

    def _hold(self, level: int, now_s: float) -> None:
        """No higher than this for a while, each time for longer."""
        self._is_quick = False
        self._top = level
        self._learn_again_s = LEARN_AGAIN_S
        self._return_to = max(1, level)
        self._not_before_s = now_s + self._hold_s
        self._hold_s = min(self._hold_s * 2, LONGEST_HOLD_S)

    def _go(self, level: int) -> None:
        if level != self._level:
            logger.debug("%d requests at once, after %d", self._levels[level], self.now)
            self._era += 1
        self._level = level
        self._heard = {}
        self._count = self._full = 0


def _typical(times: list[float]) -> float:
    """The median: a pause of ours is none of the server's."""
    return sorted(times)[len(times) // 2]
