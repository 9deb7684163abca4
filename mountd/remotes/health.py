"""Whether the remote is there, by how calls end; health_store.py asks here before each call.

    ok           it answers
    degraded     it answers, but within DEGRADED_FOR_S three attempts failed (no answer, or
                 throttled) or small requests took longer than SLOW_S; or the bucket is missing;
                 until DEGRADED_FOR_S have passed without any of that
    unreachable  an Unreachable came out of retry, and nothing had been answered to anybody since
                 that call first failed; or out of a write, nothing had been answered since that
                 began, and a look at the root ended in Unreachable too
    denied       the root itself is Denied, and nothing else had been answered since a key was

While it is unreachable or denied, calls fail at once and without a request, and only the prober
brings it back. A Denied on one key makes the thread that got it look at the root (at most once in
DENIED_CHECK_S). Probes of a remote that denies come rarely, because servers lock accounts and
addresses out for repeated failures. A Denied write says nothing, unless it is the sign-in that was
refused: a key may be for reading only.

Calls in flight when the remote goes down end by their own timeouts; those asleep between retries
or in the limiter's queue end at once (`RemoteHealth.interrupt`, and the subscribers).
"""

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from mountd.errors import (
    ContainerMissing,
    Denied,
    NotFound,
    RemoteError,
    SignInRefused,
    Throttled,
    Unreachable,
)

SLOW_S = 5.0  # for a stat, or one page of a listing
DEGRADED_FOR_S = 10.0
DEGRADED_AFTER = 3
DENIED_CHECK_S = 10.0
SIGN_IN_CHECK_S = 1.0
UNREACHABLE_PROBE_S = (1.0, 30.0)  # first delay, doubling up to the last
DENIED_PROBE_S = (30.0, 300.0)


class HealthState(StrEnum):
    """The remote's states; the values are those of `status --json`."""

    OK = "ok"
    DEGRADED = "degraded"
    UNREACHABLE = "unreachable"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class HealthSnapshot:
    """`remote` of `status --json`. `since` is ISO 8601 in UTC: when this state began."""

    state: HealthState
    since: str
    last_error: str | None


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _one_line(error: RemoteError) -> str:
    text = " ".join(str(error).split())[:300]
    kind = Denied if isinstance(error, Denied) else type(error)
    return f"{kind.__name__}: {text}" if text else kind.__name__


class RemoteHealth:
    """The state machine. Thread-safe; `state`, `snapshot` and `check` take no lock.

    `probe` makes one cheap request of the root (a stat, or the first page of a listing) straight
    at the native store: neither the retries nor the limiter may stand between, because requests
    that hang may hold every slot. Any answer of the remote's means that it is there.
    """

    def __init__(
        self,
        probe: Callable[[], object],
        *,
        clock: Callable[[], float] = time.monotonic,
        utc_now: Callable[[], datetime] = _utc_now,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.interrupt = threading.Event()  # set while calls can't get through, and when closed
        self._probe = probe
        self._clock = clock
        self._utc_now = utc_now
        self._jitter = jitter
        self._lock = threading.RLock()
        self._probing = threading.Lock()
        self._subscribers: list[Callable[[HealthSnapshot], None]] = []
        self._snapshot = self._snapshot_of(HealthState.OK, None)
        self._closed = False
        self._troubles_s: deque[float] = deque([-math.inf] * DEGRADED_AFTER, DEGRADED_AFTER)
        self._last_answer_s = -math.inf
        self._next_denied_check_s = -math.inf
        self._probes = 0  # since this state began

    @property
    def state(self) -> HealthState:
        return self._snapshot.state

    def snapshot(self) -> HealthSnapshot:
        return self._snapshot

    def subscribe(self, callback: Callable[[HealthSnapshot], None]) -> None:
        """Calls back at every change of state and at `close`, in order, in whatever thread.

        A lock is held meanwhile: the callback returns at once and makes no request.
        """
        with self._lock:
            self._subscribers.append(callback)

    def check(self) -> None:
        """Raises at once what a call would end in while the remote is unreachable or denied."""
        snapshot = self._snapshot
        if snapshot.state is HealthState.OK or snapshot.state is HealthState.DEGRADED:
            if self._closed:
                raise Unreachable("the remote is closed")
            return
        text = f"the remote is {snapshot.state} since {snapshot.since} ({snapshot.last_error})"
        raise Denied(text) if snapshot.state is HealthState.DENIED else Unreachable(text)

    def answered(self) -> None:
        """A call was answered, be it with NotFound."""
        now_s = self._clock()
        self._last_answer_s = now_s
        if self._snapshot.state is HealthState.DEGRADED:
            self._end_degraded(now_s)

    def call_failed(self, error: RemoteError) -> None:
        """A call ended in `error`. May make one request of its own (see the module)."""
        if isinstance(error, Denied):
            self._check_denied()
        elif isinstance(error, ContainerMissing):
            self._trouble(error, at_once=True)
        elif not isinstance(error, (Unreachable, Throttled)):
            self.answered()

    def now_s(self) -> float:
        """When a write begins, for `write_failed`."""
        return self._clock()

    def write_failed(self, error: RemoteError, began_s: float) -> None:
        """A write ended in `error`. May make requests of its own.

        It had one attempt, which may have met no more than an idle connection that the server had
        dropped. So the remote is looked at before it counts as down.
        """
        if isinstance(error, Denied):
            if isinstance(error, SignInRefused):
                self._check_denied()
            return
        if not isinstance(error, (Unreachable, Throttled)):
            self.call_failed(error)
            return
        self._trouble(error)
        answered = self._last_answer_s > began_s or getattr(error, "answered", True)
        if not answered and not self.interrupt.is_set():
            self._look_after_write()

    def attempt_failed(self, error: RemoteError) -> None:
        """For `RetryingStore`: one attempt failed."""
        if isinstance(error, (Unreachable, Throttled)):
            self._trouble(error)

    def gave_up(self, error: RemoteError, first_failed_s: float) -> None:
        """For `RetryingStore`: its retries are used up; the first attempt failed at that time."""
        if not isinstance(error, Unreachable):
            return
        with self._lock:
            dead = self._last_answer_s <= first_failed_s  # else only this key is in trouble
            if dead and self.state in (HealthState.OK, HealthState.DEGRADED):
                self._change(HealthState.UNREACHABLE, error)

    def small_took(self, elapsed_s: float) -> None:
        """For `LimitedStore`: how long the remote took for a stat or a page."""
        if elapsed_s > SLOW_S:
            self._trouble(Unreachable(f"a small request took {elapsed_s:.1f} s"))

    def probe_once(self) -> float:
        """Makes one probe unless the remote is ok; the seconds until the next (inf while ok).

        Blocks as long as the native store's own timeout. Call it again at every change of state,
        too; a second call at the same time returns without a request.
        """
        if self.state is not HealthState.OK and self._probing.acquire(blocking=False):
            try:
                self._probe_and_learn(self._clock())
            finally:
                self._probing.release()
        return self._next_probe_s()

    def close(self) -> None:
        """From now on calls and waits end with Unreachable."""
        with self._lock:
            self._closed = True
            self.interrupt.set()
            self._tell()

    def _check_denied(self) -> None:
        asked_s = self._clock()
        with self._lock:
            if asked_s < self._next_denied_check_s or self.interrupt.is_set():
                return
            self._next_denied_check_s = asked_s + DENIED_CHECK_S
        if self._probing.acquire(blocking=False):
            try:
                self._probe_and_learn(asked_s)
            finally:
                self._probing.release()

    def _look_after_write(self) -> None:
        if not self._probing.acquire(blocking=False):
            return
        try:
            asked_s = self._clock()
            failure = self._failure()
            if isinstance(failure, Unreachable):  # the second is on a connection of its own
                failure = self._failure()
            if isinstance(failure, Unreachable):
                self.gave_up(failure, asked_s)
            elif failure is None:
                self.answered()
        finally:
            self._probing.release()

    def _probe_and_learn(self, asked_s: float) -> None:
        failure = self._failure()
        with self._lock:
            self._probes += 1
            self._learn(failure, asked_s)

    def _failure(self) -> RemoteError | None:
        """Makes one probe; how it failed, or None."""
        try:
            self._probe()
        except NotFound:  # the root is an empty prefix
            return None
        except RemoteError as error:
            return error
        return None

    def _learn(self, failure: RemoteError | None, asked_s: float) -> None:
        state = self.state
        down = state is HealthState.UNREACHABLE or state is HealthState.DENIED
        if isinstance(failure, Denied):
            if state is not HealthState.DENIED and self._last_answer_s < asked_s:
                self._change(HealthState.DENIED, failure)
            elif isinstance(failure, SignInRefused):  # what was answered had been sent before
                self._next_denied_check_s = self._clock() + SIGN_IN_CHECK_S
        elif isinstance(failure, Unreachable):
            if state is HealthState.DENIED:
                self._change(HealthState.UNREACHABLE, failure)
            elif not down:
                self._trouble(failure)
        elif failure is not None:
            self._trouble(failure, at_once=True)
            if down:
                self._change(HealthState.DEGRADED, failure)
        elif down:
            self._change(HealthState.OK, None)
        else:
            self.answered()

    def _next_probe_s(self) -> float:
        state = self.state
        if state is HealthState.OK:
            return math.inf
        if state is HealthState.DEGRADED:
            return DEGRADED_FOR_S
        bounds = DENIED_PROBE_S if state is HealthState.DENIED else UNREACHABLE_PROBE_S
        doubled_s = bounds[0] * 2.0 ** min(max(self._probes - 1, 0), 16)
        # Half of it is jitter: many mounts lose one remote at the same time.
        return min(bounds[1], doubled_s) * (0.5 + 0.5 * self._jitter())

    def _trouble(self, error: RemoteError, at_once: bool = False) -> None:
        now_s = self._clock()
        with self._lock:
            self._troubles_s.append(now_s)
            many = now_s - self._troubles_s[0] <= DEGRADED_FOR_S
            if self.state is HealthState.OK and (at_once or many):
                self._change(HealthState.DEGRADED, error)

    def _end_degraded(self, now_s: float) -> None:
        with self._lock:
            quiet = now_s - self._troubles_s[-1] >= DEGRADED_FOR_S
            if quiet and self.state is HealthState.DEGRADED:
                self._change(HealthState.OK, None)

    def _change(self, state: HealthState, error: RemoteError | None) -> None:
        self._probes = 0
        self._snapshot = self._snapshot_of(state, error)
        if state is HealthState.OK:
            self._troubles_s.extend([-math.inf] * DEGRADED_AFTER)
        if state in (HealthState.UNREACHABLE, HealthState.DENIED):
            self.interrupt.set()
        elif not self._closed:
            self.interrupt.clear()
        self._tell()

    def _tell(self) -> None:
        for subscriber in self._subscribers:
            subscriber(self._snapshot)

    def _snapshot_of(self, state: HealthState, error: RemoteError | None) -> HealthSnapshot:
        since = self._utc_now().strftime("%Y-%m-%dT%H:%M:%SZ")
        return HealthSnapshot(state, since, _one_line(error) if error else None)
