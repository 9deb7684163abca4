"""RetryingStore: what is tried again, when, and how often."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.errors import (
    ContainerMissing,
    Corrupt,
    Denied,
    Locked,
    NameNotAllowed,
    NotFound,
    QuotaExceeded,
    RemoteError,
    Throttled,
    Unreachable,
    Unsupported,
    VersionChanged,
)
from mountd.remotes import call
from mountd.remotes.base import Capabilities
from mountd.remotes.retry import MAX_ATTEMPTS, RetryingStore
from mountd.types import Entry, Kind
from tests.fakes.fake_clock import FakeClock
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.no_writes import NoWrites

NEVER_RETRIED = [
    NotFound("x"),
    ContainerMissing("x"),
    VersionChanged("x"),
    Denied("x"),
    QuotaExceeded("x"),
    Corrupt("x"),
    Unsupported("x"),
    NameNotAllowed("x"),
]


class Observer:
    """Records what `RetryingStore` reports."""

    def __init__(self) -> None:
        self.failed: list[RemoteError] = []
        self.given_up: list[tuple[RemoteError, float]] = []

    def attempt_failed(self, error: RemoteError) -> None:
        self.failed.append(error)

    def gave_up(self, error: RemoteError, first_failed_s: float) -> None:
        self.given_up.append((error, first_failed_s))


class Bench:
    """A retrying store over faults over memory, with a clock of its own."""

    def __init__(self, timeout_s: float = 60.0, jitter: float = 1.0, page_size: int = 2) -> None:
        files = {f"f{i}": b"0123456789" for i in range(6)}
        self.clock = FakeClock()
        self.faults = FaultStore(MemoryStore(files, page_size=page_size), sleep=self.clock.advance)
        self.observer = Observer()
        self.interrupt = threading.Event()
        self.store = RetryingStore(
            self.faults,
            timeout_s,
            observer=self.observer,
            interrupt=self.interrupt,
            clock=self.clock,
            wait=self.clock.wait,
            jitter=lambda: jitter,
        )

    def attempts(self) -> int:
        return len(self.faults.requests)


@pytest.mark.parametrize("error", NEVER_RETRIED, ids=lambda e: type(e).__name__)
def test_what_the_remote_has_said_for_good_is_not_asked_again(error: RemoteError) -> None:
    bench = Bench()
    bench.faults.add(error=error)
    with pytest.raises(type(error)):
        bench.store.stat("f1")
    with pytest.raises(type(error)):
        bench.store.read("f1", 0, 1, "")
    with pytest.raises(type(error)):
        list(bench.store.list(""))
    assert bench.attempts() == 3
    assert bench.clock.waits == []


@pytest.mark.parametrize("error", [Unreachable("x"), Throttled("x"), Locked("x")])
def test_what_may_pass_is_asked_again(error: RemoteError) -> None:
    bench = Bench()
    bench.faults.add("read", error, calls=[1, 2])
    assert bytes(bench.store.read("f1", 2, 4, "")) == b"23"
    assert bench.attempts() == 3
    assert bench.observer.failed == [error, error]
    assert bench.observer.given_up == []


def test_a_dropped_connection_is_tried_again_at_once() -> None:
    bench = Bench()
    bench.faults.add("stat", Unreachable("reset"), calls=[1])
    bench.store.stat("f1")
    assert bench.clock.waits == []


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_a_dead_remote_is_given_up_after_three_attempts_within_a_second_and_a_half(
    jitter: float,
) -> None:
    bench = Bench(jitter=jitter)
    began_s = bench.clock()
    error = Unreachable("refused")
    bench.faults.add(error=error)
    with pytest.raises(Unreachable):
        bench.store.stat("f1")
    assert bench.attempts() == 3
    assert bench.clock() - began_s <= 1.5
    assert bench.observer.given_up == [(error, began_s)]


def test_a_remote_that_did_answer_gets_more_attempts() -> None:
    bench = Bench()
    bench.faults.add("read", Unreachable("500", answered=True), calls=range(1, 6))
    assert bytes(bench.store.read("f1", 0, 1, "")) == b"0"
    assert bench.attempts() == 6


def test_throttling_backs_off_exponentially_up_to_a_bound() -> None:
    bench = Bench()
    bench.faults.add("stat", Throttled("429"), calls=range(1, 8))
    bench.store.stat("f1")
    assert bench.clock.waits == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_a_retry_after_is_waited_for_and_jitter_comes_on_top() -> None:
    bench = Bench(jitter=1.0)
    bench.faults.add("stat", Throttled("429", 5.0), calls=[1])
    bench.store.stat("f1")
    assert bench.clock.waits == [5.5]


def test_a_retry_after_beyond_the_deadline_is_not_waited_for() -> None:
    bench = Bench(timeout_s=60)
    bench.faults.add("stat", Throttled("429", 61.0))
    with pytest.raises(Throttled):
        bench.store.stat("f1")
    assert bench.clock.waits == []


def test_a_retry_that_would_end_too_late_is_not_begun() -> None:
    bench = Bench(timeout_s=60)
    bench.faults.add("stat", Unreachable("timed out"), delay_s=35.0)
    with pytest.raises(Unreachable):
        bench.store.stat("f1")
    assert bench.attempts() == 1


def test_sleeping_does_not_count_as_the_length_of_an_attempt() -> None:
    bench = Bench(timeout_s=60)
    bench.faults.add("stat", Throttled("429", 20.0), calls=[1, 2])
    bench.store.stat("f1")
    assert bench.attempts() == 3


def test_no_call_makes_attempts_without_end() -> None:
    bench = Bench(jitter=0.0)
    bench.faults.add("stat", Locked("423"))
    with pytest.raises(Locked):
        bench.store.stat("f1")
    assert bench.attempts() == MAX_ATTEMPTS


def test_a_deadline_of_the_caller_is_kept_and_passed_on() -> None:
    bench = Bench(timeout_s=60)
    seen: list[float] = []

    def fail() -> Exception:
        seen.append(call.deadline_s.get())
        return Throttled("429", 2.0)

    bench.faults.add("stat", fail)
    token = call.deadline_s.set(bench.clock() + 3.0)
    with pytest.raises(Throttled):
        bench.store.stat("f1")
    call.deadline_s.reset(token)
    assert seen == [1003.0, 1003.0]


def test_each_call_sets_its_own_deadline_and_takes_it_back() -> None:
    bench = Bench(timeout_s=7)
    seen: list[float] = []

    def note() -> Exception:
        seen.append(call.deadline_s.get())
        return NotFound("x")

    bench.faults.add("stat", note)
    with pytest.raises(NotFound):
        bench.store.stat("f1")
    assert seen == [1007.0]
    assert call.deadline_s.get() == float("inf")


def test_a_listing_that_breaks_off_is_completed_without_doubles() -> None:
    bench = Bench(page_size=2)
    bench.faults.add("list", Unreachable("cut"), calls=[1, 2], after_pages=2)
    names = [e.name for page in bench.store.list("") for e in page]
    assert sorted(names) == [f"f{i}" for i in range(6)]
    assert bench.attempts() == 3


def test_a_listing_that_goes_on_breaking_off_raises() -> None:
    bench = Bench(page_size=2)
    bench.faults.add("list", Unreachable("cut"), after_pages=1)
    pages = bench.store.list("")
    assert len(next(pages)) == 2
    with pytest.raises(Unreachable):
        next(pages)
    assert bench.attempts() == 3


def test_each_page_that_arrives_gives_the_listing_new_attempts_and_time() -> None:
    bench = Bench(page_size=1, timeout_s=10)
    for n in range(1, 6):
        bench.faults.add("list", Throttled("429", 8.0), calls=[n], after_pages=n)
    names = [e.name for page in bench.store.list("") for e in page]
    assert sorted(names) == [f"f{i}" for i in range(6)]
    assert bench.clock() >= 1040.0


class TwoListings(NoWrites):
    """Lists `first` and then fails; the next time lists `second`."""

    capabilities = Capabilities(strong_version=True, conditional_read=True, real_directories=False)

    def __init__(self, first: Sequence[Entry], second: Sequence[Entry]) -> None:
        self._listings = [first, second]

    def stat(self, key: str) -> Entry:
        raise NotFound(key)

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        yield self._listings.pop(0)
        if self._listings:
            raise Unreachable("cut")

    def read(self, key: str, start: int, end: int, version: str) -> bytes:
        raise NotFound(key)

    def close(self) -> None: ...


def test_a_file_and_a_directory_of_one_name_are_not_taken_for_each_other() -> None:
    file, directory = Entry("a", Kind.FILE, 1, 1, "v"), Entry("a", Kind.DIRECTORY, 0, 0, "")
    store = RetryingStore(TwoListings([file], [file, directory]), 60)
    assert [e for page in store.list("") for e in page] == [file, directory]


def test_a_sleep_ends_at_once_when_the_remote_goes_down() -> None:
    bench = Bench()
    store = RetryingStore(bench.faults, 60, interrupt=bench.interrupt)
    fault = bench.faults.add("stat", Throttled("429", 50.0))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(store.stat, "f1")
        assert fault.reached.wait(10)
        bench.interrupt.set()
        with pytest.raises(Unreachable):
            answer.result(10)
    assert bench.attempts() == 1


def test_a_sleep_ends_at_once_when_the_store_is_closed() -> None:
    bench = Bench()
    store = RetryingStore(bench.faults, 60)
    fault = bench.faults.add("stat", Throttled("429", 50.0))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(store.stat, "f1")
        assert fault.reached.wait(10)
        store.close()
        with pytest.raises(Unreachable):
            answer.result(10)
    assert bench.faults.closed


def test_an_error_that_is_none_of_the_remotes_goes_through() -> None:
    bench = Bench()
    bench.faults.add(error=ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        bench.store.stat("f1")
    assert bench.attempts() == 1


RETRIED = (Unreachable, Throttled, Locked)
OUTCOMES = st.one_of(
    st.none(),
    st.sampled_from(NEVER_RETRIED),
    st.builds(Unreachable, st.just("x"), answered=st.booleans()),
    st.builds(Throttled, st.just("x"), st.none() | st.floats(0, 100)),
    st.builds(Locked, st.just("x")),
)
ATTEMPTS = st.lists(st.tuples(OUTCOMES, st.floats(0, 30)), min_size=1, max_size=25)


@given(ATTEMPTS, st.floats(0.1, 60), st.lists(st.floats(0, 1), min_size=30, max_size=30))
def test_retries_keep_to_the_deadline_and_to_what_may_be_retried(
    attempts: list[tuple[RemoteError | None, float]], timeout_s: float, jitters: list[float]
) -> None:
    clock = FakeClock()
    faults = FaultStore(MemoryStore({"f": b"0"}), sleep=clock.advance)
    for n, (error, duration_s) in enumerate(attempts, start=1):
        faults.add("stat", error, calls=[n], delay_s=duration_s)
    jitter = iter(jitters)
    observer = Observer()
    store = RetryingStore(
        faults,
        timeout_s,
        observer=observer,
        clock=clock,
        wait=clock.wait,
        jitter=lambda: next(jitter),
    )
    outcome: RemoteError | None = None
    try:
        store.stat("f")
    except RemoteError as error:
        outcome = error
    made = attempts[: len(faults.requests)]
    elapsed_s = clock() - 1000.0
    # All attempts but the last ended in what may be retried, and the last is the outcome.
    assert all(isinstance(error, RETRIED) for error, _ in made[:-1])
    assert len(made) < len(faults.requests) or made[-1][0] is outcome
    assert len(faults.requests) <= MAX_ATTEMPTS
    # The last attempt began in time; only its own length may go beyond the deadline.
    last_s = made[-1][1] if len(made) == len(faults.requests) else 0.0
    assert elapsed_s - last_s <= timeout_s + 1e-6 or len(faults.requests) == 1
    # Nobody was asked again before the time that they had named.
    waited_for = [e.retry_after_s or 0.0 for e, _ in made[:-1] if isinstance(e, Throttled)]
    assert sum(clock.waits) >= sum(waited_for) - 1e-6
    # Health hears of each failure, and of giving up exactly when it is one that was retried.
    assert len(observer.failed) == sum(isinstance(e, RETRIED) for e, _ in made)
    assert [e for e, _ in observer.given_up] == ([outcome] if isinstance(outcome, RETRIED) else [])
