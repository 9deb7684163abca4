"""When uploads leave the processor to programs that make one file after the other; pure.

An upload of a small file costs 1.1 ms of CPU, twice what the program's own create, write and close
do, and both hold Python's lock: beside uploads an untar takes twice as long. So while files are
opened for writing that densely, the queue waits, and then sends all of it at once. Where they go on
for longer (a slow machine, a tree of 100,000 files), it sends a few at a time, and more and more.
"""

import math
from collections.abc import Callable
from typing import Final

POLL_S: Final = 0.02
_WINDOW_S: Final = 0.25
_DENSE_PER_S: Final = 50.0  # below it uploads take a twentieth of a core
# Programs that made files so densely and make none now have ended, and what waits goes; or they
# only had no processor, which is usual on a busy machine: so a few go first.
_QUIET_S: Final = 0.05
_BEGINNING: Final = 8
_DELAYS: Final = 10.0  # who wants no delay gets none
_AT_MOST_S: Final = 10.0
_STEPS: Final = (
    4  # in each of these halves of that time twice as many are sent; then as many as can
)
_FEW: Final = 4  # in the first


class GivingWay:
    """Nothing goes for ten times `write_back_s`, 10 s at most; after three times that all goes as
    ever, until the queue has kept up: so whoever writes for hours is sent all the time.

    `opens`: how many times a file was opened for writing so far. `is_little`: whether so little is
    staged that it may become more.
    """

    def __init__(
        self, opens: Callable[[], int], is_little: Callable[[], bool], *, write_back_s: float
    ) -> None:
        self._opens = opens
        self._is_little = is_little
        self._at_most_s = min(_DELAYS * write_back_s, _AT_MOST_S)
        self._seen = 0
        self._seen_s = 0.0
        self._last = 0
        self._asked_s = 0.0
        self._quiet_s = math.inf  # for how long there were no more opens than before
        self._is_dense = False
        self._began_s: float | None = None

    def at_once(self, now_s: float) -> int | None:
        """How many may be under way now, None for as many as there is room for; asked again after
        `POLL_S`."""
        opens = self._opens()
        self._count_quiet(opens, now_s)
        passed_s = now_s - self._seen_s
        if passed_s >= _WINDOW_S:
            self._is_dense = opens - self._seen >= _DENSE_PER_S * passed_s
            self._seen, self._seen_s = opens, now_s
        if not self._is_dense or self._quiet_s >= _WINDOW_S:
            return None
        if self._began_s is None:
            self._began_s = now_s
        more_s = now_s - self._began_s - self._at_most_s
        if more_s >= _STEPS * self._at_most_s / 2 or not self._is_little():
            return None
        few = 0 if more_s < 0 else _FEW << int(2 * more_s / self._at_most_s)
        return max(few, _BEGINNING) if self.is_quiet else few

    @property
    def is_quiet(self) -> bool:
        """Whether those who made files so densely seem to have ended."""
        return self._is_dense and self._quiet_s >= _QUIET_S

    def _count_quiet(self, opens: int, now_s: float) -> None:
        # Where we ask late, we had no processor ourselves, or did not need to know.
        more_s = min(now_s - self._asked_s, 1.5 * POLL_S)
        self._asked_s = now_s
        self._quiet_s = 0.0 if opens != self._last else self._quiet_s + more_s
        self._last = opens

    def hurry(self) -> None:
        """Somebody wants to see what is sent: no more of it until the queue has kept up."""
        self._began_s = -math.inf

    def kept_up(self) -> None:
        """Nothing waits for anything but its time."""
        self._began_s = None
