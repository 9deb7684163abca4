"""RemoteHealth and HealthStore: when a remote counts as down, and how it comes back."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mountd.errors import (
    ContainerMissing,
    Corrupt,
    Denied,
    Locked,
    NotFound,
    RemoteError,
    SignInRefused,
    Throttled,
    Unreachable,
)
from mountd.remotes.health import (
    DEGRADED_FOR_S,
    DENIED_CHECK_S,
    SIGN_IN_CHECK_S,
    SLOW_S,
    HealthSnapshot,
    HealthState,
    RemoteHealth,
)
from mountd.remotes.health_store import HealthStore
from mountd.remotes.retry import RetryingStore
from tests.fakes.fake_clock import FakeClock
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore

OK, DEGRADED, UNREACHABLE, DENIED = HealthState
STARTED = datetime(2026, 1, 31, 10, tzinfo=UTC)
SOON_S = 10.0


class Bench:
    """Health and retries over faults, on one fake clock; the probe is the first page."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.faults = FaultStore(MemoryStore({"f": b"0", "d/g": b"1"}), sleep=self.clock.advance)
        self.health = RemoteHealth(
            lambda: next(iter(self.faults.list("")), None),
            clock=self.clock,
            utc_now=lambda: STARTED + timedelta(seconds=self.clock() - 1000.0),
            jitter=lambda: 1.0,
        )
        retrying = RetryingStore(
            self.faults,
            60.0,
            observer=self.health,
            interrupt=self.health.interrupt,
            clock=self.clock,
            wait=self.clock.wait,
            jitter=lambda: 0.5,
        )
        self.store = HealthStore(retrying, self.health)
        self.changes: list[HealthSnapshot] = []
        self.health.subscribe(self.changes.append)

    def requests(self) -> int:
        return len(self.faults.requests)

    def fails(self, error: type[RemoteError]) -> str:
        with pytest.raises(error) as raised:
            self.store.stat("f")
        return str(raised.value)

    def go_down(self) -> None:
        self.clock.advance(0.1)  # later than the last answer
        self.faults.add(error=Unreachable("refused"))
        self.fails(Unreachable)


def test_a_new_remote_is_ok() -> None:
    bench = Bench()
    assert bench.health.snapshot() == HealthSnapshot(OK, "2026-01-31T10:00:00Z", None)
    assert bench.health.probe_once() == math.inf
    assert bench.requests() == 0


def test_the_first_unreachable_out_of_retry_takes_the_remote_down_for_everybody() -> None:
    bench = Bench()
    bench.clock.advance(65 - 0.1)
    bench.go_down()
    assert bench.health.state is UNREACHABLE
    snapshot = bench.health.snapshot()
    assert snapshot.last_error == "Unreachable: refused"
    assert snapshot.since == "2026-01-31T10:01:05Z"
    assert bench.changes == [snapshot]
    before, began_s = bench.requests(), bench.clock()
    assert "since 2026-01-31T10:01:05Z" in bench.fails(Unreachable)
    with pytest.raises(Unreachable):
        bench.store.read("f", 0, 1, "")
    with pytest.raises(Unreachable):
        list(bench.store.list(""))
    assert (bench.requests(), bench.clock()) == (before, began_s)


def test_a_failure_that_a_retry_mended_changes_nothing() -> None:
    bench = Bench()
    bench.faults.add("stat", Unreachable("reset"), calls=[1])
    bench.store.stat("f")
    assert bench.health.state is OK


def test_one_key_that_always_fails_is_no_dead_remote_while_others_are_answered() -> None:
    bench = Bench()

    def fail() -> Exception:
        bench.store.stat("d/g")  # somebody else's call, meanwhile
        return Unreachable("500", answered=True)

    bench.faults.add("stat", fail, key="f")
    bench.fails(Unreachable)
    assert bench.health.state is DEGRADED
    assert bench.store.stat("d/g").name == "g"


def test_probes_back_off_from_one_second_to_thirty_and_bring_the_remote_back() -> None:
    bench = Bench()
    bench.go_down()
    delays = [bench.health.probe_once() for _ in range(8)]
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    bench.faults.remove()
    assert bench.health.probe_once() == math.inf
    assert bench.health.snapshot().last_error is None
    assert [change.state for change in bench.changes] == [UNREACHABLE, OK]
    assert bench.store.stat("f").name == "f"
    bench.go_down()
    assert bench.health.probe_once() == 1.0


def test_a_probe_is_one_request_without_retries() -> None:
    bench = Bench()
    bench.go_down()
    before = bench.requests()
    bench.health.probe_once()
    assert bench.requests() == before + 1


@pytest.mark.parametrize("answer", [None, NotFound("empty prefix")])
def test_any_true_answer_to_a_probe_means_that_the_remote_is_there(
    answer: Exception | None,
) -> None:
    bench = Bench()
    bench.go_down()
    bench.faults.remove()
    bench.faults.add("list", answer)
    bench.health.probe_once()
    assert bench.health.state is OK


@pytest.mark.parametrize("answer", [Throttled("429"), ContainerMissing("b"), Corrupt("a portal")])
def test_a_probe_that_is_answered_with_trouble_ends_in_degraded(answer: Exception) -> None:
    bench = Bench()
    bench.go_down()
    bench.faults.remove()
    bench.faults.add("list", answer)
    assert bench.health.probe_once() == DEGRADED_FOR_S
    assert bench.health.state is DEGRADED
    assert bench.store.stat("f").name == "f"


def test_two_probes_at_the_same_time_are_one() -> None:
    bench = Bench()
    bench.go_down()
    bench.faults.remove()
    gate = threading.Event()
    stuck = bench.faults.add("list", Unreachable("timed out"), hang=gate)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(bench.health.probe_once)
        assert stuck.reached.wait(SOON_S)
        bench.health.probe_once()
        assert stuck.hits == 1
        gate.set()
        first.result(SOON_S)


def test_three_troubles_within_ten_seconds_are_degraded_and_quiet_ends_it() -> None:
    bench = Bench()
    bench.faults.add("stat", Throttled("429", 0.5), calls=[1, 2, 3])
    bench.store.stat("f")
    assert bench.health.state is DEGRADED
    assert bench.health.snapshot().last_error == "Throttled: 429"
    bench.clock.advance(DEGRADED_FOR_S - 1)
    bench.store.stat("f")
    assert bench.health.state is DEGRADED
    bench.clock.advance(1)
    bench.store.stat("f")
    assert bench.health.state is OK


def test_troubles_far_from_each_other_are_none() -> None:
    bench = Bench()
    bench.faults.add("stat", Throttled("429"), calls=range(1, 20, 2))
    for _ in range(8):
        bench.store.stat("f")
        bench.clock.advance(DEGRADED_FOR_S / 2 + 0.5)
    assert bench.health.state is OK


def test_a_probe_ends_degraded_when_nobody_calls() -> None:
    bench = Bench()
    bench.faults.add("stat", Throttled("429", 0.5), calls=[1, 2, 3])
    bench.store.stat("f")
    bench.clock.advance(bench.health.probe_once())
    assert bench.health.probe_once() == math.inf
    assert bench.health.state is OK


def test_slow_small_requests_are_degraded() -> None:
    bench = Bench()
    for took_s in (SLOW_S + 1, SLOW_S - 1, SLOW_S + 1):
        bench.health.small_took(took_s)
    assert bench.health.state is OK
    bench.health.small_took(SLOW_S + 1)
    assert bench.health.state is DEGRADED


def test_a_missing_bucket_is_degraded_at_once() -> None:
    bench = Bench()
    bench.faults.add("stat", ContainerMissing("lab"))
    bench.fails(ContainerMissing)
    assert bench.health.state is DEGRADED
    assert bench.health.snapshot().last_error == "ContainerMissing: lab"


def test_one_denied_key_is_no_denied_remote() -> None:
    bench = Bench()
    bench.faults.add("stat", Denied("403"), key="f")
    bench.fails(Denied)
    assert bench.faults.requests == [("stat", "f"), ("list", "")]
    assert bench.health.state is OK


def test_a_folder_of_denied_keys_costs_one_look_at_the_root_in_ten_seconds() -> None:
    bench = Bench()
    bench.faults.add("stat", Denied("403"), key="f")
    for _ in range(5):
        bench.fails(Denied)
    assert bench.faults.requests.count(("list", "")) == 1
    bench.clock.advance(DENIED_CHECK_S)
    bench.fails(Denied)
    assert bench.faults.requests.count(("list", "")) == 2


def test_a_root_that_is_denied_too_is_a_denied_remote_which_is_not_asked_any_more() -> None:
    bench = Bench()
    bench.faults.add(error=Denied("401 expired"))
    bench.fails(Denied)
    assert bench.health.state is DENIED
    before = bench.requests()
    assert "expired" in bench.fails(Denied)
    assert bench.requests() == before
    assert [bench.health.probe_once() for _ in range(5)] == [30.0, 60.0, 120.0, 240.0, 300.0]
    bench.faults.remove()
    assert bench.health.probe_once() == math.inf
    assert bench.health.state is OK


def test_a_write_whose_sign_in_is_refused_is_a_denied_remote_at_once() -> None:
    bench = Bench()
    bench.faults.add(error=SignInRefused("401"))
    bench.clock.advance(0.1)
    with pytest.raises(SignInRefused):
        bench.store.delete("f", None)
    assert bench.health.state is DENIED
    assert bench.health.snapshot().last_error == "Denied: 401"


def test_what_was_answered_before_the_sign_in_was_refused_delays_that_by_a_second() -> None:
    bench = Bench()
    bench.store.stat("f")  # at the same moment: it may have been sent later
    bench.faults.add(error=SignInRefused("401"))
    bench.fails(SignInRefused)
    assert bench.health.state is OK
    bench.clock.advance(SIGN_IN_CHECK_S)
    bench.fails(SignInRefused)
    assert bench.health.state is DENIED


def test_a_root_that_may_not_be_listed_is_no_denied_remote_while_keys_are_answered() -> None:
    bench = Bench()

    def deny() -> Exception:
        bench.store.stat("f")  # somebody else's call, meanwhile
        return Denied("no ListBucket")

    bench.faults.add("list", deny)
    with pytest.raises(Denied):
        list(bench.store.list(""))
    assert bench.health.state is OK


def test_a_denied_remote_that_goes_away_is_unreachable_and_the_other_way_round() -> None:
    bench = Bench()
    denied = bench.faults.add(error=Denied("401"))
    bench.fails(Denied)
    bench.faults.remove(denied)
    refused = bench.faults.add(error=Unreachable("refused"))
    assert bench.health.probe_once() == 1.0
    assert bench.health.state is UNREACHABLE
    bench.faults.remove(refused)
    bench.faults.add(error=Denied("401"))
    assert bench.health.probe_once() == 30.0
    assert bench.health.state is DENIED


def test_a_listing_ends_when_the_remote_goes_down_between_two_pages() -> None:
    bench = Bench()
    pages = bench.store.list("")
    next(pages)
    bench.go_down()
    with pytest.raises(Unreachable):
        next(pages)


def test_a_call_of_before_does_not_bring_the_remote_back() -> None:
    bench = Bench()
    gate = threading.Event()
    slow = bench.faults.add("read", hang=gate)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(bench.store.read, "f", 0, 1, "")
        assert slow.reached.wait(SOON_S)
        bench.go_down()
        gate.set()
        assert bytes(answer.result(SOON_S)) == b"0"
    assert bench.health.state is UNREACHABLE


def test_a_closed_store_ends_calls_at_once_and_stays_closed() -> None:
    bench = Bench()
    bench.store.close()
    assert bench.faults.closed
    bench.fails(Unreachable)
    assert bench.health.interrupt.is_set()
    assert bench.requests() == 0


def test_the_last_error_is_one_short_line() -> None:
    bench = Bench()
    bench.faults.add(error=Unreachable("first\nsecond " + "x" * 1000))
    bench.fails(Unreachable)
    text = bench.health.snapshot().last_error
    assert text is not None
    assert text.startswith("Unreachable: first second xxx")
    assert len(text) < 350


REMOTE_ANSWERS = [
    None,
    Unreachable("x"),
    Denied("x"),
    Throttled("x"),
    Throttled("x", 2.0),
    ContainerMissing("x"),
    Locked("x"),
    NotFound("x"),
]


class HealthMachine(RuleBasedStateMachine):
    """Any order of answers, failures, probes and time keeps what the module says."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.remote: RemoteError | None = None  # what the remote answers to everything

    @rule(seconds=st.sampled_from([0.1, 3.0, 11.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.bench.clock.advance(seconds)

    @rule(error=st.sampled_from(REMOTE_ANSWERS))
    def the_remote_changes(self, error: RemoteError | None) -> None:
        self.remote = error
        self.bench.faults.remove()
        self.bench.faults.add(error=error)

    @rule()
    def somebody_calls(self) -> None:
        down = self.bench.health.state in (UNREACHABLE, DENIED)
        before, began_s = self.bench.requests(), self.bench.clock()
        raised: RemoteError | None = None
        try:
            self.bench.store.stat("f")
        except RemoteError as error:
            raised = error
        if down:
            assert self.bench.requests() == before
            assert self.bench.clock() == began_s
            assert isinstance(raised, (Unreachable, Denied))
        else:
            assert type(raised) is type(self.remote)
            assert self.bench.clock() - began_s <= 60.0
            if isinstance(raised, Unreachable):
                assert self.bench.health.state is UNREACHABLE
            assert self.bench.requests() > before

    @rule()
    def the_prober_looks(self) -> None:
        was_ok, before = self.bench.health.state is OK, self.bench.requests()
        delay_s = self.bench.health.probe_once()
        assert self.bench.requests() == before + (not was_ok)
        assert (delay_s == math.inf) == (self.bench.health.state is OK)
        assert delay_s == math.inf or 1.0 <= delay_s <= 300.0

    @precondition(lambda self: self.remote is None)
    @rule()
    def a_healthy_remote_is_ok_again_after_a_while(self) -> None:
        for _ in range(2):
            self.bench.health.probe_once()
            self.bench.clock.advance(DEGRADED_FOR_S)
        self.bench.health.probe_once()
        assert self.bench.health.state is OK

    @invariant()
    def waits_are_interrupted_exactly_while_it_is_down(self) -> None:
        down = self.bench.health.state in (UNREACHABLE, DENIED)
        assert self.bench.health.interrupt.is_set() == down
        assert (self.bench.health.snapshot().last_error is None) == (self.bench.health.state is OK)

    @invariant()
    def subscribers_saw_every_change_once(self) -> None:
        states = [change.state for change in self.bench.changes]
        assert all(a is not b for a, b in zip([OK, *states], states, strict=False))
        assert self.bench.health.state is (states[-1] if states else OK)


HealthMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestHealthMachine = HealthMachine.TestCase
