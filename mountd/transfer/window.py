"""How many requests are under way at once: few at first, more while they are quick.

A request has `request_timeout_s` for its whole body. On a slow line, dozens of ranges that share it
would all run out of time, and be for nothing.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

FIRST: Final = 8
_QUICK_S: Final = 5.0
_SLOW_S: Final = 15.0


class Window:
    """At most `most` inside at once. One that took long halves how many may be, each quick one lets
    one more in. Thread-safe."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.allowed = min(FIRST, most)
        self._most = most
        self._inside = 0
        self._clock = clock
        self._not_before_s = float("-inf")
        self._changed = threading.Condition()

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Waits until one more may be inside."""
        with self._changed:
            self._changed.wait_for(lambda: self._inside < self.allowed)
            self._inside += 1
        began_s = self._clock()
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._learn(began_s, self._clock())
                self._changed.notify_all()

    def _learn(self, began_s: float, now_s: float) -> None:
        took_s = now_s - began_s
        if took_s < _QUICK_S:
            self.allowed = min(self._most, self.allowed + 1)
        elif took_s > _SLOW_S and began_s >= self._not_before_s:
            # Those that were under way together are one sign.
            self._not_before_s = now_s
            self.allowed = max(1, self.allowed // 2)
