"""The wrappers on one another, with real threads and the real clock."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from mountd.config import Settings
from mountd.errors import Locked, Throttled, Unreachable
from mountd.remotes import call
from mountd.remotes.base import Capabilities, Upload
from mountd.remotes.health import HealthState
from mountd.remotes.stack import RemoteStack
from tests.fakes.body import BytesBody
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore

SOON_S = 10.0


def stack_of(native: FaultStore, request_timeout_s: float = 20.0) -> RemoteStack:
    return RemoteStack(
        native, Settings(cache_dir=Path("/nowhere"), request_timeout_s=request_timeout_s)
    )


def test_who_waits_for_a_slot_or_a_retry_is_told_when_the_remote_goes_down() -> None:
    gate = threading.Event()
    native = FaultStore(MemoryStore({f"f{i}": b"0" for i in range(200)}))
    hanging = native.add("read", Unreachable("timed out"), hang=gate)
    sleeping = native.add("stat", Locked("423"))
    stack = stack_of(native)
    slots = native.capabilities.max_parallel
    with ThreadPoolExecutor(slots + 9) as pool:
        reads = [pool.submit(stack.store.read, f"f{i}", 0, 1, "") for i in range(slots - 1)]
        assert hanging.reached.wait(SOON_S)
        waiting = [pool.submit(stack.store.stat, f"f{i}") for i in range(8)]
        assert sleeping.reached.wait(SOON_S)
        stack.health.gave_up(Unreachable("refused"), time.monotonic())
        for future in waiting:
            with pytest.raises(Unreachable):
                future.result(SOON_S)
        assert not any(read.done() for read in reads)  # those end by their own timeouts
        gate.set()
        for read in reads:
            with pytest.raises(Unreachable):
                read.result(SOON_S)
    assert stack.limiter.in_flight == 0


class FewSlots(MemoryStore):
    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, max_parallel=4)


def test_small_uploads_may_have_all_of_a_few_slots_and_a_read_waits_for_one_of_them() -> None:
    gate = threading.Event()
    native = FaultStore(FewSlots({"f": b"0"}))
    hanging = [native.add("put", key=f"k{i}", hang=gate) for i in range(3)]
    first = threading.Event()
    hanging.append(native.add("put", key="k3", hang=first))
    stack = stack_of(native)
    assert (stack.uploads.light.parallel, stack.uploads.limiter.parallel) == (4, 3)
    assert stack.small_uploads() == 6  # two of them wait for the end of another
    with ThreadPoolExecutor(9) as pool:
        puts = [
            pool.submit(stack.store.put, f"k{i}", BytesBody(b"1"), None, Upload()) for i in range(8)
        ]
        assert all(fault.reached.wait(SOON_S) for fault in hanging)
        reading = pool.submit(stack.store.read, "f", 0, 1, "")
        first.set()
        assert reading.result(SOON_S) == b"0"
        assert not any(put.done() for put in puts[:3])
        gate.set()
        for put in puts:
            put.result(SOON_S)


class Widening(MemoryStore):
    now = 4

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, max_parallel=32, parallel_now=lambda: self.now)


def test_small_uploads_follow_what_the_remote_bears_and_leave_an_eighth_to_others() -> None:
    """What is begun beyond that waits where no read does."""
    native = Widening()
    stack = RemoteStack(native, Settings(cache_dir=Path("/nowhere")))
    seen = []
    for now in (4, 8, 16, 32):
        native.now = now
        seen.append((stack.uploads.light.parallel, stack.small_uploads()))
    assert seen == [(4, 6), (7, 10), (14, 21), (28, 36)]
    assert stack.most_small_uploads == 36


def test_a_probe_needs_no_slot() -> None:
    gate = threading.Event()
    native = FaultStore(MemoryStore({"f": b"0"}))
    hanging = native.add("read", hang=gate)
    stack = stack_of(native)
    slots = native.capabilities.max_parallel
    with ThreadPoolExecutor(slots) as pool:
        reads = [pool.submit(stack.store.read, "f", 0, 1, "") for _ in range(slots)]
        assert hanging.reached.wait(SOON_S)
        while stack.limiter.in_flight < slots:
            time.sleep(0.001)
        stack.health.gave_up(Unreachable("refused"), time.monotonic())
        stack.health.probe_once()
        assert stack.health.state is HealthState.OK
        gate.set()
        for read in reads:
            assert bytes(read.result(SOON_S)) == b"0"


def test_requests_of_the_stack_are_counted_with_retries_and_probes() -> None:
    native = FaultStore(MemoryStore({"f": b"0123456789"}))
    native.add("read", Unreachable("reset"), calls=[1])
    stack = stack_of(native)
    assert bytes(stack.store.read("f", 0, 10, "")) == b"0123456789"
    native.add(error=Unreachable("refused"), key="f")
    with pytest.raises(Unreachable):
        stack.store.stat("f")
    stack.health.probe_once()
    counts = stack.counting.counts
    assert (counts.get, counts.stat, counts.list, counts.down_bytes) == (2, 3, 1, 10)


def test_threads_on_a_remote_that_comes_and_goes_neither_hang_nor_leak_slots() -> None:
    """24 readers for half a second; the remote dies and returns, one prober brings it back."""
    native = FaultStore(MemoryStore({"f": b"0123456789"}))
    stack = stack_of(native, request_timeout_s=5.0)
    over = threading.Event()
    slowest_s = 0.0

    def read_on(worker: int) -> int:
        nonlocal slowest_s
        call.prefetching.set(worker % 2 == 0)
        answered = 0
        while not over.is_set():
            began_s = time.monotonic()
            try:
                assert bytes(stack.store.read("f", 0, 10, "")) == b"0123456789"
                answered += 1
            except (Unreachable, Throttled):
                over.wait(0.002)
            slowest_s = max(slowest_s, time.monotonic() - began_s)
        return answered

    def probe_on() -> None:
        while not over.is_set():
            over.wait(min(stack.health.probe_once(), 0.01))

    def until(reached: Callable[[], bool]) -> None:
        give_up_s = time.monotonic() + SOON_S
        while not reached():
            assert time.monotonic() < give_up_s
            time.sleep(0.001)

    with ThreadPoolExecutor(25) as pool:
        prober = pool.submit(probe_on)
        readers = [pool.submit(read_on, i) for i in range(24)]
        for error in (Unreachable("refused"), Throttled("429", 0.01), Unreachable("reset")):
            native.add(error=error)
            until(lambda: stack.health.state is not HealthState.OK)
            native.remove()
            until(lambda: stack.health.state in (HealthState.OK, HealthState.DEGRADED))
        over.set()
        answered = sum(reader.result(SOON_S) for reader in readers)
        prober.result(SOON_S)
    assert answered > 0
    assert slowest_s < 5.0 + SOON_S
    assert stack.limiter.in_flight == 0


def test_a_sleep_between_retries_holds_no_slot() -> None:
    native = FaultStore(MemoryStore({"f": b"0"}))
    native.add("stat", Throttled("429", 15.0), key="f")
    stack = stack_of(native)
    with ThreadPoolExecutor(1) as pool:
        asleep = pool.submit(stack.store.stat, "f")
        give_up_s = time.monotonic() + SOON_S
        while not native.requests or stack.limiter.in_flight:
            assert time.monotonic() < give_up_s
            time.sleep(0.001)
        stack.store.close()
        with pytest.raises(Unreachable):
            asleep.result(SOON_S)
