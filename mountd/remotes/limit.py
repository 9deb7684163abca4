"""Bounds what a remote is asked at once: requests in flight, bandwidth, and pauses it asks for.

A slot is held for one request only, never for a retry's sleep (`RetryingStore` is outside) nor
while a caller works on a page of a listing. Slots are handed over by the one who frees them:
demand requests before those marked `call.prefetching`, each in order of arrival. Prefetch also
leaves an eighth of the slots free, so that a demand read doesn't wait for a whole window. But who
is passed over by PASSED_OVER others goes next, as long as no more of them are in flight than that:
somebody may wait by now for what was begun ahead, and small uploads can take every slot for as long
as there are some.
"""

import threading
import time
from collections.abc import Callable

from mountd.errors import Throttled, Unreachable
from mountd.remotes import call

# A longer Retry-After is asked again after this: a wrong one must not end the mount.
MAX_PAUSE_S = 120.0
# Throttled answers to requests that were in flight together are one sign, not many.
CUT_INTERVAL_S = 1.0
# One request of so many is a prefetch that waits.
PASSED_OVER = 4
# How long a request waits for a slot at most, also when its caller set no deadline.
DEFAULT_WAIT_S = 60.0

Wait = Callable[[threading.Event, float], object]


class _Waiter:
    """A request in the queue; its fields change under the limiter's lock.

    `event` tells it to look again, and `wakes_s` is when it does so by itself.
    """

    __slots__ = ("event", "expelled", "granted", "prefetch", "size_bytes", "wakes_s")

    def __init__(self, size_bytes: int, prefetch: bool) -> None:
        self.size_bytes = size_bytes
        self.prefetch = prefetch
        self.event = threading.Event()
        self.granted = False
        self.expelled = False
        self.wakes_s = float("-inf")


class Limiter:
    """At most `max_parallel` requests between `acquire` and `release`; thread-safe.

    `bandwidth_down` (bytes/s) is a token bucket of one second that may go into debt: a read
    starts when the bucket isn't empty and takes its whole size. After a `Throttled` nobody
    starts until its Retry-After has passed and the parallelism is halved; each full round of
    requests without one gives back one slot. While `interrupt` is set nobody waits, and nobody
    waits longer than `longest_wait_s`, also without a deadline. `parallel_now` may allow fewer than
    `max_parallel`; who waits hears of more when the next one ends, or by `look_again`.
    """

    def __init__(
        self,
        max_parallel: int,
        *,
        bandwidth_down: int | None = None,
        interrupt: threading.Event | None = None,
        longest_wait_s: float = DEFAULT_WAIT_S,
        parallel_now: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Wait = threading.Event.wait,
    ) -> None:
        self._lock = threading.Lock()
        self._max_parallel = self._parallel = max(1, max_parallel)
        self._parallel_now = parallel_now
        self._in_flight = self._prefetches = 0  # the latter among the former
        self._round = 0  # requests that ended since the parallelism last changed
        # Insertion order is the order of arrival; a dict because waiters leave from the middle.
        self._demand: dict[_Waiter, None] = {}
        self._prefetch: dict[_Waiter, None] = {}
        self._passed_over = 0  # demand requests that went while a prefetch waited
        self._not_before_s = self._no_cut_before_s = float("-inf")
        self._bytes_per_s = bandwidth_down
        self._tokens = float(bandwidth_down or 0)
        self._filled_s = clock()
        self._interrupt = interrupt or threading.Event()
        self._longest_wait_s = longest_wait_s
        self._clock = clock
        self._wait = wait

    @property
    def parallel(self) -> int:
        """How many requests may be in flight now: `max_parallel`, or fewer after throttling."""
        if self._parallel_now is None:
            return self._parallel
        return max(1, min(self._parallel, self._parallel_now()))

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def acquire(self, size_bytes: int = 0) -> None:
        """Returns when a request (of a body of `size_bytes`, where known) may start.

        Raises Throttled when that isn't before the caller's deadline, at once if a pause is
        known to last longer, and Unreachable when it is interrupted.
        """
        prefetch = call.prefetching.get()
        with self._lock:
            if not self._demand and not self._prefetch:
                now_s = self._clock()
                if self._may_start(size_bytes, prefetch, now_s):
                    self._start(size_bytes, prefetch)
                    return
            if self._interrupt.is_set():
                raise Unreachable("the remote is down or was closed")
            waiter = _Waiter(size_bytes, prefetch)
            (self._prefetch if prefetch else self._demand)[waiter] = None
        self._wait_for_turn(waiter)

    def release(self, prefetch: bool = False) -> None:
        """Ends what `acquire` began, and starts who is next. `prefetch`: what that was then."""
        with self._lock:
            self._in_flight -= 1
            self._prefetches -= prefetch
            if self._parallel < self._max_parallel:
                self._round += 1
                if self._round >= self._parallel:
                    self._round = 0
                    self._parallel += 1
            if self._demand or self._prefetch:
                self._admit(self._clock())

    def throttled(self, retry_after_s: float | None) -> None:
        """The remote asked to slow down: everybody pauses, and fewer go on."""
        with self._lock:
            now_s = self._clock()
            pause_s = min(max(retry_after_s or 0.0, 0.0), MAX_PAUSE_S)
            self._not_before_s = max(self._not_before_s, now_s + pause_s)
            self._round = 0
            if now_s >= self._no_cut_before_s:
                self._no_cut_before_s = now_s + max(pause_s, CUT_INTERVAL_S)
                self._parallel = max(1, self._parallel // 2)

    def look_again(self) -> None:
        """Starts who may go, after `parallel_now` has grown."""
        with self._lock:
            self._admit(self._clock())

    def expel(self) -> None:
        """Ends every wait with Unreachable if `interrupt` is set; call it whenever that may be."""
        if not self._interrupt.is_set():
            return
        with self._lock:
            for waiter in [*self._demand, *self._prefetch]:
                waiter.expelled = True
                waiter.event.set()

    def _may_start(self, size_bytes: int, prefetch: bool, now_s: float) -> bool:
        slots = self._slots_ahead if prefetch else self.parallel
        if self._in_flight >= slots or now_s < self._not_before_s:
            return False
        return not (size_bytes and self._bytes_per_s) or self._refilled(now_s) > 0

    @property
    def _slots_ahead(self) -> int:
        slots = self.parallel
        return max(1, slots - (slots + 7) // 8)

    def _refilled(self, now_s: float) -> float:
        if self._bytes_per_s:
            gained = (now_s - self._filled_s) * self._bytes_per_s
            self._tokens = min(self._tokens + gained, float(self._bytes_per_s))
            self._filled_s = now_s
        return self._tokens

    def _start(self, size_bytes: int, prefetch: bool) -> None:
        self._in_flight += 1
        self._prefetches += prefetch
        if self._bytes_per_s:
            self._tokens -= size_bytes

    def _admit(self, now_s: float) -> None:
        """Grants what can be granted now. The lock is held.

        Who has waited for a slot sleeps till its deadline; if by now only time is missing, the
        first of the queue is told to look when that has passed, for itself and for the others.
        """
        is_next = self._passed_over >= PASSED_OVER and self._prefetches < self._slots_ahead
        if self._prefetch and is_next:
            waiter = next(iter(self._prefetch))
            if self._may_start(waiter.size_bytes, False, now_s):
                self._grant(waiter, self._prefetch)
        for queue in (self._demand, self._prefetch):
            for waiter in list(queue):
                if self._may_start(waiter.size_bytes, waiter.prefetch, now_s):
                    self._grant(waiter, queue)
                elif self._in_flight >= self.parallel:
                    return
            first = next(iter(queue), None)
            if first and now_s < self._opens_s(first.size_bytes, now_s) < first.wakes_s - 1e-3:
                first.event.set()

    def _grant(self, waiter: _Waiter, queue: dict[_Waiter, None]) -> None:
        self._start(waiter.size_bytes, waiter.prefetch)
        del queue[waiter]
        waiter.granted = True
        waiter.event.set()
        is_passed_over = bool(self._prefetch) and not waiter.prefetch
        self._passed_over = self._passed_over + 1 if is_passed_over else 0

    def _opens_s(self, size_bytes: int, now_s: float) -> float:
        """When time alone (not a free slot) lets a request start; at latest now if it does."""
        opens_s = self._not_before_s
        if size_bytes and self._bytes_per_s:
            # A microsecond more than the debt needs, lest rounding wakes us before its end.
            debt = 1 - self._refilled(now_s)
            opens_s = max(opens_s, now_s + debt / self._bytes_per_s + 1e-6)
        return opens_s

    def _wait_for_turn(self, waiter: _Waiter) -> None:
        queue = self._prefetch if waiter.prefetch else self._demand
        deadline_s = min(call.deadline_s.get(), self._clock() + self._longest_wait_s)
        while True:
            with self._lock:
                now_s = self._clock()
                if not waiter.granted and not waiter.expelled:
                    self._admit(now_s)
                if waiter.granted:
                    return
                if waiter.expelled:
                    del queue[waiter]
                    raise Unreachable("the remote is down or was closed")
                if now_s >= deadline_s or self._not_before_s > deadline_s:
                    del queue[waiter]
                    left_s = max(self._not_before_s - now_s, 0.0)
                    raise Throttled("no request could start in time", left_s or None)
                opens_s = self._opens_s(waiter.size_bytes, now_s)
                waiter.wakes_s = min(deadline_s, opens_s) if opens_s > now_s else deadline_s
                waiter.event.clear()
            self._wait(waiter.event, waiter.wakes_s - now_s)
