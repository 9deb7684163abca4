"""Counting, limits, retries and health, on the write half."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mountd.config import Settings
from mountd.errors import Denied, Locked, RemoteError, Throttled, Unreachable, VersionChanged
from mountd.remotes import call
from mountd.remotes.base import ABSENT, Body, Upload
from mountd.remotes.counting import CountingStore, TransferCounts
from mountd.remotes.health import HealthState, RemoteHealth
from mountd.remotes.health_store import HealthStore
from mountd.remotes.limit import Limiter
from mountd.remotes.limited_store import LimitedStore, Pace, Uploads
from mountd.remotes.retry import RetryingStore
from mountd.remotes.stack import RemoteStack
from mountd.types import Entry
from tests.fakes.body import BytesBody
from tests.fakes.fake_clock import FakeClock
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore

SOON_S = 10.0
NOTHING = Upload()


class DeadlineStore(MemoryStore):
    """Keeps the deadline that each put came with."""

    def __init__(self) -> None:
        super().__init__()
        self.deadlines_s: list[float] = []

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        self.deadlines_s.append(call.deadline_s.get())
        return super().put(key, body, expect, upload)


def test_each_change_is_a_put_and_only_what_arrived_counts_as_bytes() -> None:
    faults = FaultStore(MemoryStore())
    store = CountingStore(faults)
    faults.add("put", Unreachable("cut"), key="lost")
    version = store.put("k", BytesBody(b"12345"), ABSENT, NOTHING).version
    with pytest.raises(Unreachable):
        store.put("lost", BytesBody(b"123"), ABSENT, NOTHING)
    store.copy("k", version, "l", ABSENT, NOTHING)
    store.make_dir("d/")
    store.remove_dir("d/")
    store.delete("l", None)
    store.identify("k")
    assert [key for page in store.list_tree("") for key, _ in page] == ["k"]
    assert store.counts == TransferCounts(put=6, stat=1, list=1, up_bytes=5)


def test_of_a_delta_only_what_was_read_counts_as_sent() -> None:
    native = MemoryStore({"k": b"0123456789"})
    store = RemoteStack(native, Settings(cache_dir=Path("/nonexistent"), bandwidth_up=1 << 30))
    version, body = store.store.stat("k").version, BytesBody(b"01x34y6789z")
    same = [(0, 2), (3, 5), (6, 10)]
    made = store.store.put_delta("k", body, version, NOTHING, "k", version, same)
    assert native.data("k") == body.data
    assert made == store.store.stat("k")
    assert (store.counting.counts.put, store.counting.counts.up_bytes) == (1, 3)
    with pytest.raises(VersionChanged):
        store.store.put_delta("k", body, made.version, NOTHING, "k", version, same)
    assert store.counting.counts.up_bytes == 3


def test_what_a_store_reads_twice_of_a_delta_counts_once() -> None:
    class Rereading(MemoryStore):
        def put_delta(
            self,
            key: str,
            body: Body,
            expect: str | None,
            upload: Upload,
            source: str,
            version: str,
            same: Sequence[tuple[int, int]],
        ) -> Entry:
            body.read(4, 8)
            return super().put_delta(key, body, expect, upload, source, version, same)

    store = CountingStore(Rereading({"k": b"01234567"}))
    version = store.stat("k").version
    store.put_delta("k", BytesBody(b"0123abcd"), version, NOTHING, "k", version, [(0, 4)])
    assert store.counts.up_bytes == 4


def test_a_write_is_tried_once_and_a_look_at_it_is_tried_again() -> None:
    faults = FaultStore(MemoryStore({"k": b"x"}))
    store = RetryingStore(faults, 60.0, clock=FakeClock(), wait=FakeClock().wait)
    for error in (Unreachable("cut"), Throttled("slow down"), Locked("423")):
        fault = faults.add("write", error)
        with pytest.raises(type(error)):
            store.put("k", BytesBody(b"y"), None, NOTHING)
        with pytest.raises(type(error)):
            store.delete("k", None)
        assert fault.hits == 2
        faults.remove()
    faults.add("identify", Unreachable("cut"), calls=[1])
    faults.add("list_tree", Unreachable("cut"), calls=[1], after_pages=1)
    assert store.identify("k").entry.name == "k"
    assert [key for page in store.list_tree("") for key, _ in page] == ["k"]


def test_a_put_has_the_time_that_its_size_needs() -> None:
    native, clock = DeadlineStore(), FakeClock()
    store = RetryingStore(native, 60.0, clock=clock)
    store.put("k", BytesBody(b""), ABSENT, NOTHING)
    store.put("l", BytesBody(bytes(call.SLOWEST_UPLOAD_BYTES_PER_S)), ABSENT, NOTHING)
    assert native.deadlines_s == [clock() + 60.0, clock() + 61.0]


def test_uploads_leave_slots_for_reads() -> None:
    gate = threading.Event()
    faults = FaultStore(MemoryStore({"k": b"x"}))
    faults.add("put", hang=gate)
    limiter = Limiter(4)
    store = LimitedStore(faults, limiter, uploads=Uploads(3))
    with ThreadPoolExecutor(6) as pool:
        puts = [pool.submit(store.put, f"p{i}", BytesBody(b""), ABSENT, NOTHING) for i in range(6)]
        assert soon(lambda: len(faults.requests) == 3)
        assert store.read("k", 0, 1, "") == b"x"
        assert limiter.in_flight == 3
        gate.set()
        for put in puts:
            put.result(SOON_S)
    assert limiter.in_flight == 0


def soon(what: Callable[[], bool]) -> bool:
    waited = threading.Event()
    for _ in range(1000):
        if what():
            return True
        waited.wait(0.005)
    return False


def test_a_throttled_put_slows_everybody_down() -> None:
    faults = FaultStore(MemoryStore())
    faults.add("put", Throttled("slow down", 1.0))
    limiter = Limiter(8)
    store = LimitedStore(faults, limiter)
    with pytest.raises(Throttled):
        store.put("k", BytesBody(b""), ABSENT, NOTHING)
    assert (limiter.parallel, limiter.in_flight) == (4, 0)


def test_a_large_body_goes_out_at_the_pace_that_was_set() -> None:
    clock = FakeClock()
    uploads = Uploads(2, bandwidth_up=1_000_000, clock=clock, wait=clock.wait)
    with uploads.begin(BytesBody(bytes(10_000_000))) as body:
        began_s = clock()
        for start in range(0, body.size, 500_000):
            assert len(bytes(body.read(start, start + 500_000))) == 500_000
        # A second's worth is free, and the last piece pays after it went.
        assert clock() - began_s == pytest.approx(8.5)
        assert max(clock.waits) <= 0.5 + 1e-6


def test_a_pause_saves_up_a_second_and_no_more() -> None:
    clock = FakeClock()
    pace = Pace(1000, clock=clock, wait=clock.wait)
    clock.advance(100.0)
    for _ in range(3):
        pace.take(1000)
    assert sum(clock.waits) == pytest.approx(1.0)


def test_who_waits_for_the_pace_is_told_when_the_remote_goes_down_and_pays_nothing() -> None:
    clock, interrupt = FakeClock(), threading.Event()
    pace = Pace(1000, interrupt=interrupt, clock=clock, wait=clock.wait)
    pace.take(2000)
    interrupt.set()
    with pytest.raises(Unreachable):
        pace.take(10_000)
    interrupt.clear()
    pace.take(1)
    assert clock.waits[-1] == pytest.approx(1.0)


def test_our_own_limit_is_no_reason_for_a_timeout() -> None:
    native, clock = DeadlineStore(), FakeClock()
    uploads = Uploads(2, bandwidth_up=1000, clock=clock, wait=clock.wait)
    store = LimitedStore(native, Limiter(2), clock=clock, uploads=uploads)
    token = call.deadline_s.set(clock() + 5.0)
    try:
        store.put("k", BytesBody(bytes(10_000)), ABSENT, NOTHING)
    finally:
        call.deadline_s.reset(token)
    assert native.deadlines_s == [1005.0 + 20.0]


class Bench:
    """Health over faults on a fake clock; the probe is the first page."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.faults = FaultStore(MemoryStore({"f": b"0"}), sleep=self.clock.advance)
        self.health = RemoteHealth(
            lambda: next(iter(self.faults.list("")), None), clock=self.clock, jitter=lambda: 1.0
        )
        self.store = HealthStore(RetryingStore(self.faults, 60.0, clock=self.clock), self.health)

    def put_fails(self, error: RemoteError) -> None:
        fault = self.faults.add("put", error, delay_s=1.0)
        with pytest.raises(type(error)):
            self.store.put("k", BytesBody(b""), ABSENT, NOTHING)
        self.faults.remove(fault)

    def looks(self) -> int:
        return self.faults.requests.count(("list", ""))


def test_a_key_that_may_not_write_is_no_remote_that_denies() -> None:
    bench = Bench()
    bench.faults.add("list", Denied("403"))
    bench.put_fails(Denied("403"))
    assert bench.health.state is HealthState.OK
    assert bench.looks() == 0


def test_a_write_that_nothing_answers_takes_a_dead_remote_down() -> None:
    bench = Bench()
    bench.faults.add("list", Unreachable("refused"))
    bench.put_fails(Unreachable("refused"))
    assert bench.health.state is HealthState.UNREACHABLE
    requests = len(bench.faults.requests)
    with pytest.raises(Unreachable):
        bench.store.put("k", BytesBody(b""), ABSENT, NOTHING)
    with pytest.raises(Unreachable):
        bench.store.delete("k", None)
    assert len(bench.faults.requests) == requests


def test_a_write_cut_off_by_a_remote_that_lives_changes_nothing() -> None:
    bench = Bench()
    bench.faults.add("list", Unreachable("idle connection"), calls=[1])
    bench.put_fails(Unreachable("idle connection"))
    assert bench.health.state is HealthState.OK
    assert bench.looks() == 2


def test_a_write_during_which_something_was_answered_says_nothing_about_the_remote() -> None:
    bench = Bench()
    bench.faults.add("list", Unreachable("refused"))

    def error() -> Exception:
        bench.store.stat("f")
        return Unreachable("reset")

    bench.faults.add("put", error, delay_s=1.0)
    with pytest.raises(Unreachable):
        bench.store.put("k", BytesBody(b""), ABSENT, NOTHING)
    bench.faults.remove()
    bench.put_fails(Unreachable("500", answered=True))
    assert bench.health.state is HealthState.OK
    assert bench.looks() == 0


def test_an_answer_to_a_write_is_an_answer() -> None:
    bench = Bench()
    bench.put_fails(VersionChanged("412"))
    bench.health.gave_up(Unreachable("an older call"), bench.clock() - 0.5)
    assert bench.health.state is HealthState.OK


def test_a_stack_bounds_uploads_by_max_transfers_and_leaves_a_quarter_of_the_slots() -> None:
    native = MemoryStore()
    for wanted, uploads in ((16, 16), (1000, native.capabilities.max_parallel * 3 // 4)):
        settings = Settings(cache_dir=Path("/nowhere"), max_transfers=wanted, bandwidth_up=1 << 20)
        stack = RemoteStack(native, settings)
        assert stack.uploads.limiter.parallel == uploads
        stack.store.put(f"k{wanted}", BytesBody(bytes(100)), ABSENT, NOTHING)
        assert stack.counting.counts.up_bytes == 100
