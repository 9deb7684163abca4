"""Limiter and LimitedStore: how much a remote is asked at once, and who goes first."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import Buffer

from mountd.errors import NotFound, Throttled, Unreachable
from mountd.remotes import call
from mountd.remotes.limit import CUT_INTERVAL_S, MAX_PAUSE_S, PASSED_OVER, Limiter
from mountd.remotes.limited_store import LimitedStore
from mountd.types import Entry
from tests.fakes.fake_clock import FakeClock
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore

SOON_S = 10.0


def fake_limiter(max_parallel: int, bandwidth_down: int | None = None) -> tuple[Limiter, FakeClock]:
    clock = FakeClock()
    limiter = Limiter(max_parallel, bandwidth_down=bandwidth_down, clock=clock, wait=clock.wait)
    return limiter, clock


@contextmanager
def deadline(at_s: float) -> Iterator[None]:
    token = call.deadline_s.set(at_s)
    try:
        yield
    finally:
        call.deadline_s.reset(token)


class Crowd:
    """Threads that wait in a limiter; a step is over when the limiter's queue has seen it."""

    def __init__(self, limiter_of: Callable[["Crowd"], Limiter]) -> None:
        self.asleep = threading.Semaphore(0)
        self.limiter = limiter_of(self)
        self.order: list[str] = []
        self._pool = ThreadPoolExecutor(16)

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self.asleep.release()
        return event.wait(timeout_s)

    def join(self, name: str, prefetch: bool = False) -> "Future[None]":
        """Queues one more; returns once it sleeps in the limiter."""

        def work() -> None:
            token = call.prefetching.set(prefetch)
            try:
                self.limiter.acquire()
            finally:
                call.prefetching.reset(token)
            self.order.append(name)
            self.limiter.release()

        future = self._pool.submit(work)
        assert self.asleep.acquire(timeout=SOON_S)
        return future


def crowd(max_parallel: int) -> Crowd:
    return Crowd(lambda crowd: Limiter(max_parallel, wait=crowd.wait))


def test_no_more_than_the_limit_are_in_flight() -> None:
    limiter, clock = fake_limiter(3)
    for _ in range(3):
        limiter.acquire()
    with deadline(clock() + 5), pytest.raises(Throttled):
        limiter.acquire()
    assert clock.waits == [5.0]
    limiter.release()
    limiter.acquire()
    assert limiter.in_flight == 3


def test_who_waits_longest_goes_first() -> None:
    queue = crowd(1)
    queue.limiter.acquire()
    futures = [queue.join(f"{i}") for i in range(5)]
    queue.limiter.release()
    for future in futures:
        future.result(SOON_S)
    assert queue.order == ["0", "1", "2", "3", "4"]


def test_demand_goes_before_prefetch_that_came_earlier() -> None:
    queue = crowd(1)
    queue.limiter.acquire()
    futures = [
        queue.join("prefetch 1", prefetch=True),
        queue.join("prefetch 2", prefetch=True),
        queue.join("demand 1"),
        queue.join("demand 2"),
    ]
    queue.limiter.release()
    for future in futures:
        future.result(SOON_S)
    assert queue.order == ["demand 1", "demand 2", "prefetch 1", "prefetch 2"]


def test_prefetch_leaves_slots_for_demand() -> None:
    limiter, clock = fake_limiter(16)
    token = call.prefetching.set(True)
    for _ in range(14):
        limiter.acquire()
    with deadline(clock() + 1), pytest.raises(Throttled):
        limiter.acquire()
    call.prefetching.reset(token)
    limiter.acquire()
    limiter.acquire()
    assert limiter.in_flight == 16


def test_small_uploads_in_every_slot_do_not_keep_what_was_begun_ahead_from_going() -> None:
    queue = crowd(4)
    for _ in range(4):  # three of them don't end: only the last one's slot is passed on
        queue.limiter.acquire()
    listing = queue.join("listing", prefetch=True)
    for number in range(8):
        queue.join(f"upload {number}")
    queue.limiter.release()
    listing.result(SOON_S)
    assert queue.order.index("listing") == PASSED_OVER


def test_long_prefetches_never_take_the_slots_that_are_left_for_demand() -> None:
    queue = crowd(8)
    token = call.prefetching.set(True)
    for _ in range(7):  # of large blocks on a slow line
        queue.limiter.acquire()
    call.prefetching.reset(token)
    queue.limiter.acquire()
    ahead = queue.join("ahead", prefetch=True)
    small = [queue.join(f"small {number}") for number in range(2 * PASSED_OVER)]
    queue.limiter.release()
    for each in small:
        each.result(SOON_S)
    assert not ahead.done()
    queue.limiter.release(prefetch=True)
    ahead.result(SOON_S)


def test_prefetch_works_on_a_remote_that_takes_one_request() -> None:
    limiter, _ = fake_limiter(1)
    token = call.prefetching.set(True)
    limiter.acquire()
    call.prefetching.reset(token)
    assert limiter.in_flight == 1


def test_everybody_pauses_until_the_retry_after_has_passed() -> None:
    limiter, clock = fake_limiter(8)
    limiter.throttled(3.0)
    limiter.acquire()
    assert clock() == pytest.approx(1003.0)
    limiter.acquire()
    assert clock() == pytest.approx(1003.0)


def test_a_pause_beyond_the_deadline_is_an_error_at_once() -> None:
    limiter, clock = fake_limiter(8)
    limiter.throttled(30.0)
    with deadline(clock() + 10), pytest.raises(Throttled) as error:
        limiter.acquire()
    assert clock.waits == []
    assert error.value.retry_after_s == pytest.approx(30.0)


def test_an_absurd_retry_after_is_bounded() -> None:
    limiter, clock = fake_limiter(8)
    limiter.throttled(86_400.0)
    clock.advance(MAX_PAUSE_S)
    limiter.acquire()
    assert clock.waits == []


def test_throttling_halves_the_parallelism_once_for_answers_that_come_together() -> None:
    limiter, clock = fake_limiter(64)
    for _ in range(20):
        limiter.throttled(None)
    assert limiter.parallel == 32
    clock.advance(CUT_INTERVAL_S)
    limiter.throttled(None)
    assert limiter.parallel == 16


def test_a_round_of_answers_gives_one_slot_back() -> None:
    limiter, _ = fake_limiter(8)
    limiter.throttled(None)
    assert limiter.parallel == 4
    for expected in (5, 6, 7, 8, 8):
        for _ in range(limiter.parallel):
            limiter.acquire()
            limiter.release()
        assert limiter.parallel == expected


def test_the_parallelism_never_goes_below_one() -> None:
    limiter, clock = fake_limiter(4)
    for _ in range(10):
        limiter.throttled(None)
        clock.advance(CUT_INTERVAL_S)
    assert limiter.parallel == 1


@given(st.lists(st.integers(1, 5_000_000), min_size=1, max_size=40))
def test_bandwidth_is_kept_on_the_average(sizes: list[int]) -> None:
    rate = 1_000_000
    limiter, clock = fake_limiter(4, bandwidth_down=rate)
    for size_bytes in sizes:
        with deadline(float("inf")):
            limiter.acquire(size_bytes)
        limiter.release()
    elapsed_s = clock() - 1000.0
    # One second's burst, and the last read is paid for by those after it.
    assert sum(sizes[:-1]) <= rate * (elapsed_s + 1.0) + 1
    assert elapsed_s <= sum(sizes) / rate + 1e-3 * len(sizes)


def test_what_has_no_size_does_not_wait_for_bandwidth() -> None:
    limiter, clock = fake_limiter(4, bandwidth_down=1000)
    limiter.acquire(50_000)
    limiter.acquire()
    assert clock.waits == []


def test_who_waits_for_a_slot_learns_of_a_pause() -> None:
    clock = FakeClock()
    queue = Crowd(lambda crowd: Limiter(1, clock=clock, wait=crowd.wait))
    queue.limiter.acquire()
    waiting = queue.join("late")
    queue.limiter.throttled(0.05)  # fake seconds: they pass when we say so
    queue.limiter.release()
    assert queue.asleep.acquire(timeout=SOON_S)  # it has set its alarm for the pause's end
    clock.advance(0.05)
    waiting.result(SOON_S)


def test_a_newcomer_does_not_overtake_who_waited_for_the_end_of_a_pause() -> None:
    clock = FakeClock()
    queue = Crowd(lambda crowd: Limiter(1, clock=clock, wait=crowd.wait))
    queue.limiter.throttled(60.0)
    first = queue.join("first")
    clock.advance(60.0)
    second = queue.join("second")
    first.result(SOON_S)
    second.result(SOON_S)
    assert queue.order == ["first", "second"]


def test_waits_end_when_the_remote_goes_down_and_none_begin() -> None:
    interrupt = threading.Event()
    queue = Crowd(lambda crowd: Limiter(1, interrupt=interrupt, wait=crowd.wait))
    queue.limiter.acquire()
    futures = [queue.join("a"), queue.join("b", prefetch=True)]
    interrupt.set()
    queue.limiter.expel()
    for future in futures:
        with pytest.raises(Unreachable):
            future.result(SOON_S)
    with pytest.raises(Unreachable):
        queue.limiter.acquire()
    queue.limiter.release()
    assert queue.limiter.in_flight == 0


def test_news_of_another_kind_ends_no_wait() -> None:
    queue = crowd(1)
    queue.limiter.acquire()
    waiting = queue.join("a")
    queue.limiter.expel()  # nothing has set `interrupt`
    queue.limiter.release()
    waiting.result(SOON_S)


def test_a_slot_is_given_back_whatever_happens() -> None:
    faults = FaultStore(MemoryStore({"f": b"0"}))
    limiter = Limiter(2)
    store = LimitedStore(faults, limiter)
    faults.add(error=ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        store.stat("f")
    with pytest.raises(ValueError, match="a bug"):
        store.read("f", 0, 1, "")
    with pytest.raises(ValueError, match="a bug"):
        list(store.list(""))
    assert limiter.in_flight == 0


class Looking(MemoryStore):
    """Says that the body is here, twice, before it is done."""

    def __init__(self, limiter: Limiter) -> None:
        super().__init__({"f": b"0"})
        self._limiter = limiter
        self.in_flight: list[int] = []

    def read(self, key: str, start: int, end: int, version: str) -> bytes:
        for _ in range(2):
            self.in_flight.append(self._limiter.in_flight)
            call.body_is_here.get()()
        self.in_flight.append(self._limiter.in_flight)
        return super().read(key, start, end, version)


def test_a_read_whose_body_is_here_holds_no_slot_while_its_version_is_looked_at() -> None:
    limiter = Limiter(2)
    inner = Looking(limiter)
    store = LimitedStore(inner, limiter)
    limiter.acquire()  # somebody else's
    store.read("f", 0, 1, "")
    assert inner.in_flight == [2, 1, 1]
    assert limiter.in_flight == 1


@pytest.mark.parametrize("operation", ["stat", "read", "list"])
def test_a_throttled_answer_slows_everybody_down(operation: str) -> None:
    faults = FaultStore(MemoryStore({"f": b"0"}))
    limiter, clock = fake_limiter(8)
    store = LimitedStore(faults, limiter, clock=clock)
    requests: dict[str, Callable[[], object]] = {
        "stat": lambda: store.stat("f"),
        "read": lambda: store.read("f", 0, 1, ""),
        "list": lambda: list(store.list("")),
    }
    faults.add(error=Throttled("429", 4.0), calls=[1])
    with pytest.raises(Throttled):
        requests[operation]()
    assert limiter.parallel == 4
    store.stat("f")
    assert clock() == pytest.approx(1004.0)


def test_no_slot_is_held_while_the_caller_works_on_a_page() -> None:
    limiter = Limiter(1)
    store = LimitedStore(MemoryStore({f"f{i}": b"0" for i in range(4)}, page_size=1), limiter)
    names = []
    for page in store.list(""):
        assert limiter.in_flight == 0
        names += [store.stat(entry.name).name for entry in page]
    assert sorted(names) == ["f0", "f1", "f2", "f3"]


class HeldListing(MemoryStore):
    """Its listings hold something between their pages, as a connection is held."""

    def __init__(self) -> None:
        super().__init__({f"f{i}": b"0" for i in range(4)}, page_size=1)
        self.held = 0

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        self.held += 1
        try:
            yield from super().list(directory)
        finally:
            self.held -= 1


def test_a_listing_that_gets_no_slot_for_its_next_page_lets_go_of_what_it_holds() -> None:
    interrupt = threading.Event()
    limiter = Limiter(1, interrupt=interrupt)
    inner = HeldListing()
    pages = LimitedStore(inner, limiter).list("")
    next(pages)
    assert inner.held == 1
    limiter.acquire()
    interrupt.set()
    with pytest.raises(Unreachable) as raised:
        next(pages)
    assert inner.held == 0, raised  # although the error, and with it the frames, is still here


def test_how_long_small_requests_took_is_told_without_the_wait() -> None:
    limiter, clock = fake_limiter(8)
    faults = FaultStore(MemoryStore({"f": b"0"}), sleep=clock.advance)
    faults.add("stat", delay_s=0.25)
    took: list[float] = []
    store = LimitedStore(faults, limiter, took.append, clock)
    limiter.throttled(3.0)
    store.stat("f")
    store.read("f", 0, 1, "")
    assert took == pytest.approx([0.25])


class BusyStore(MemoryStore):
    """Fails at random, and knows how many reads were ever in it at once."""

    def __init__(self) -> None:
        super().__init__({"f": b"0123456789"})
        self.most = self.now = 0
        self._count_lock = threading.Lock()
        self._random = random.Random(7)

    def read(self, key: str, start: int, end: int, version: str) -> bytes:
        with self._count_lock:
            self.now += 1
            self.most = max(self.most, self.now)
            luck = self._random.random()
        try:
            if luck < 0.02:
                raise Throttled("429", 0.001)
            if luck < 0.1:
                raise NotFound(key)
            time.sleep(0)  # lets other threads in
            return super().read(key, start, end, version)
        finally:
            with self._count_lock:
                self.now -= 1


def test_many_threads_neither_exceed_the_limit_nor_get_stuck() -> None:
    native = BusyStore()
    limiter = Limiter(4, bandwidth_down=50_000_000)
    store = LimitedStore(native, limiter)

    def work(worker: int) -> int:
        call.prefetching.set(worker % 2 == 0)
        done = 0
        for _ in range(150):
            try:
                data: Buffer = store.read("f", 0, 10, "")
                assert bytes(data) == b"0123456789"
                done += 1
            except (NotFound, Throttled):
                pass
        return done

    with ThreadPoolExecutor(24) as pool:
        done = sum(pool.map(work, range(24), timeout=60))
    assert done > 2500
    assert native.most <= 4
    assert limiter.in_flight == 0


def test_a_remote_that_bears_fewer_by_now_is_asked_for_no_more_than_that() -> None:
    clock, bears = FakeClock(), [2]
    limiter = Limiter(8, parallel_now=lambda: bears[0], clock=clock, wait=clock.wait)
    limiter.acquire()
    limiter.acquire()
    with deadline(clock() + 5), pytest.raises(Throttled):
        limiter.acquire()
    bears[0] = 3
    limiter.acquire()
    assert (limiter.parallel, limiter.in_flight) == (3, 3)


@pytest.mark.parametrize(
    ("bears_then", "happens"),
    [(4, Limiter.look_again), (3, Limiter.release)],
    ids=["it-is-told", "one-ends"],
)
def test_those_who_wait_go_on_at_once_when_the_remote_bears_more(
    bears_then: int, happens: Callable[[Limiter], None]
) -> None:
    bears = [1]
    waiting = Crowd(lambda crowd: Limiter(8, parallel_now=lambda: bears[0], wait=crowd.wait))
    waiting.limiter.acquire()
    held = [waiting.join(name) for name in "abc"]
    bears[0] = bears_then
    happens(waiting.limiter)
    for each in held:
        each.result(SOON_S)
    assert sorted(waiting.order) == ["a", "b", "c"]
