"""When uploads leave the processor to programs that make one file after the other; pure.

An upload of a small file costs 1.1 ms of CPU, twice what the program's own create, write and close
do, and both hold Python's lock: beside uploads an untar takes twice as long. So while files are
opened for writing that densely, the queue waits, and then sends all of it at once.
"""

import math
from collections.abc import Callable
from typing import Final

POLL_S: Final = 0.1
_WINDOW_S: Final = 0.25
_DENSE_PER_S: Final = 100.0  # below it uploads take a tenth of a core
_DELAYS: Final = 10.0  # who wants no delay gets none
_AT_MOST_S: Final = 10.0


class GivingWay:
    """For ten times `write_back_s` and 10 s at most; then not again before the queue has kept up,
    so that whoever writes for hours is sent all the time.

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
        self._is_dense = False
        self._began_s: float | None = None

    def gives_way(self, now_s: float) -> bool:
        """Whether nothing is to be begun now; asked again after `POLL_S`."""
        passed_s = now_s - self._seen_s
        if passed_s >= _WINDOW_S:
            opens = self._opens()
            self._is_dense = opens - self._seen >= _DENSE_PER_S * passed_s
            self._seen, self._seen_s = opens, now_s
        if not self._is_dense:
            return False
        if self._began_s is None:
            self._began_s = now_s
        return now_s - self._began_s < self._at_most_s and self._is_little()

    def hurry(self) -> None:
        """Somebody wants to see what is sent: no more of it until the queue has kept up."""
        self._began_s = -math.inf

    def kept_up(self) -> None:
        """Nothing waits for anything but its time."""
        self._began_s = None
