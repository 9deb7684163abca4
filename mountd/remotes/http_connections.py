"""Kept-alive connections to one origin.

Not httpcore's own pool: for each request it looks at every connection, each under a lock and with a
system call. With 48 at once that was 38% of what a delete or a copy cost (1.4 and 5.5 ms of CPU).
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import httpcore

from mountd.remotes.deadline import ClosedHere

KEEPALIVE_S: Final = 30.0


def has_leftovers(connection: httpcore.ConnectionInterface) -> bool:
    """Whether more has come behind the last answer of an idle connection than that had announced:
    the next answer would begin with it. httpcore tells nobody, so this looks inside; where it finds
    nothing to look at, yes, and no connection is kept, which a test sees."""
    inner: Any = connection
    while inner is not None and not hasattr(inner, "_h11_state"):
        inner = getattr(inner, "_connection", None)  # within a proxy's
    return inner is None or bool(inner._h11_state.trailing_data[0])


class HttpConnections:
    """At most `most` at a time, the one used last first. Thread-safe."""

    def __init__(
        self, make: Callable[[], httpcore.ConnectionInterface], most: Callable[[], int]
    ) -> None:
        """`most` may change at any time."""
        self._make = make
        self._most = most
        self._taken = 0
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)
        self._idle: deque[tuple[httpcore.ConnectionInterface, float]] = deque()  # since when
        self._active: set[httpcore.ConnectionInterface] = set()
        self._is_closed = False

    def take(self, until_s: float) -> httpcore.ConnectionInterface:
        """One that nobody else has, until `give_back`. Raises httpcore.PoolTimeout, and
        ClosedHere where `close` was called."""
        self._acquire(until_s)
        try:
            found = self._kept() or self._make()
            with self._lock:
                is_late = self._is_closed
                if not is_late:
                    self._active.add(found)
            if is_late:
                found.close()  # nobody else would
                raise ClosedHere("the connections were closed")
        except BaseException:
            with self._lock:
                self._release()
            raise
        return found

    def give_back(self, connection: httpcore.ConnectionInterface) -> None:
        """It is closed where its exchange has not come to a good end."""
        now_s = time.monotonic()
        with self._lock:
            is_ours = connection in self._active
            self._active.discard(connection)
            keeps = is_ours and connection.is_idle() and not connection.is_closed()
            if keeps:
                self._idle.append((connection, now_s))
            old: list[httpcore.ConnectionInterface] = [] if keeps else [connection]
            while self._idle and now_s - self._idle[0][1] > KEEPALIVE_S:
                old.append(self._idle.popleft()[0])
            self._release()
        for each in old:
            each.close()

    def close(self) -> None:
        """Closes all, for good; exchanges under way fail."""
        with self._lock:
            self._is_closed = True
            found = [*(connection for connection, _ in self._idle), *self._active]
            self._idle.clear()
            self._active.clear()
        for connection in found:
            connection.close()

    def _acquire(self, until_s: float) -> None:
        with self._freed:
            while self._taken >= self._most():
                if not self._freed.wait(max(0.0, until_s - time.monotonic())):
                    raise httpcore.PoolTimeout("no connection became free in time")
            self._taken += 1

    def _release(self) -> None:
        """The lock is held. More than one may go on where `most` has grown."""
        self._taken -= 1
        self._freed.notify(max(1, self._most() - self._taken))

    def _kept(self) -> httpcore.ConnectionInterface | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection, _ = self._idle.pop()
            if not connection.has_expired():  # also: the server has closed it
                return connection
            connection.close()
