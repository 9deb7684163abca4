"""What waits for the writers of the block cache: whoever is free takes the next, but never two the
same place at once.

A queue for each writer was not enough: one of two waited for a disk that others had filled with
writes, and half of a stream of 1 GiB had no room any more in what may wait.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

J = TypeVar("J")


class BlockJobs(Generic[J]):
    """Jobs, each at a place. Those at one place are done one after the other, in order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Places with a job that is ready or being done, and the jobs that come after it.
        self._after: dict[Hashable, deque[J]] = {}
        self._ready: queue.SimpleQueue[tuple[Hashable, J] | None] = queue.SimpleQueue()

    def put(self, place: Hashable, job: J) -> None:
        """Any thread."""
        with self._lock:
            after = self._after.get(place)
            if after is not None:
                after.append(job)
                return
            self._after[place] = deque()
        self._ready.put((place, job))

    def take(self, timeout_s: float) -> tuple[Hashable, J] | None:
        """The next one and its place, for `done`; None: there are no more, ever. Raises
        queue.Empty when none came in that time."""
        return self._ready.get(timeout=timeout_s)

    def done(self, place: Hashable) -> None:
        """Of what `take` gave, whatever came of it."""
        with self._lock:
            after = self._after[place]
            if not after:
                del self._after[place]
                return
            job = after.popleft()
        self._ready.put((place, job))

    def drop(self, unwanted: Callable[[J], bool]) -> None:
        """Of what nobody has taken yet."""
        with self._lock:
            for place, after in self._after.items():
                self._after[place] = deque(job for job in after if not unwanted(job))
            for place, job in self._untaken():
                if not unwanted(job):
                    self._ready.put((place, job))
                elif after := self._after[place]:
                    self._ready.put((place, after.popleft()))
                else:
                    del self._after[place]

    def _untaken(self) -> list[tuple[Hashable, J]]:
        found: list[tuple[Hashable, J]] = []
        with suppress(queue.Empty):
            while (ready := self._ready.get_nowait()) is not None:
                found.append(ready)
        return found

    def end(self, takers: int) -> None:
        """Drops what waits; each of so many takers gets None next."""
        with self._lock:
            for after in self._after.values():
                after.clear()
            self._untaken()
        for _ in range(takers):
            self._ready.put(None)
