"""What runs beside a mount never ends it, and an end has one plain reason."""

import errno
import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from mountd.errors import (
    ContainerMissing,
    Denied,
    NotFound,
    RemoteError,
    SignInRefused,
    StartError,
    Unreachable,
)
from mountd.remotes.counting import TransferCounts
from mountd.remotes.health import HealthState, RemoteHealth
from mountd.running.first_look import FirstLook
from mountd.running.plain_error import plain_error
from mountd.running.upkeep import (
    HURRIED_DENIED_S,
    HURRIED_S,
    PROBE_AFTER_A_DEFECT_S,
    TIDY_EVERY_S,
    Prober,
    moved,
    scan_cache,
    tidy_memory,
)
from mountd_cache.block_cache import CacheCounters
from tests.conftest import ExpectedLog
from tests.fakes.in_threads import threads_have_ended


def defect() -> None:
    raise KeyError("a defect")


async def test_a_defect_in_what_runs_once_is_logged_and_goes_no_further(
    expected_log: ExpectedLog,
) -> None:
    expected_log("could not be scanned|unforeseen")
    await scan_cache(defect)
    first_look = FirstLook(defect, "s3://b", ())
    await first_look.look()
    assert await first_look.refusal() == ""


async def test_whoever_mounts_hears_of_a_refusal_and_not_of_an_outage_nor_waits_for_one(
    expected_log: ExpectedLog, autojump_clock: trio.testing.MockClock
) -> None:
    expected_log("serving what is cached")

    def raising(error: RemoteError) -> Callable[[], object]:
        def first_page() -> object:
            raise error

        return first_page

    for error, heard in (
        (SignInRefused("401"), "s3://b refuses user and password or token: 401"),
        (Denied("403"), "s3://b refuses these credentials: 403"),
        (ContainerMissing("404"), "s3://b does not exist: 404"),
        (Unreachable("no answer"), ""),
        (NotFound("an empty prefix"), ""),
    ):
        first_look = FirstLook(raising(error), "s3://b", ("user",))
        await first_look.look()
        assert await first_look.refusal() == heard
    not_ended = FirstLook(defect, "s3://b", ())
    assert await not_ended.refusal() == ""
    assert trio.current_time() < 2


async def test_a_defect_while_memory_is_tidied_does_not_end_the_tidying(
    expected_log: ExpectedLog, mock_clock: trio.testing.MockClock
) -> None:
    expected_log("could not be given back")
    reads, called = [5], [threading.Event(), threading.Event()]

    def give_back() -> None:
        next(event for event in called if not event.is_set()).set()
        defect()

    async def pass_by() -> None:
        mock_clock.jump(TIDY_EVERY_S + 1)
        await trio.testing.wait_all_tasks_blocked(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tidy_memory, lambda: reads[0], give_back)
        await trio.testing.wait_all_tasks_blocked()
        for given_back in called:
            for _ in range(50):  # quiet for two rounds, and time for the thread to fail
                await pass_by()
                if given_back.is_set():
                    break
            assert given_back.is_set()
            reads[0] += 1
        nursery.cancel_scope.cancel()


def test_a_mount_that_is_only_written_to_is_not_idle() -> None:
    read, sent = CacheCounters(hits=3), TransferCounts(put=1, up_bytes=5)
    before = moved(read, sent)
    assert moved(read, TransferCounts(put=2, up_bytes=9)) != before
    assert moved(read, TransferCounts(put=2, up_bytes=5)) != before
    assert moved(CacheCounters(hits=3, misses=1), sent) != before
    assert moved(read, TransferCounts(put=1, up_bytes=5, list=7)) == before


async def test_a_probe_with_a_defect_is_followed_by_another_probe(
    expected_log: ExpectedLog, mock_clock: trio.testing.MockClock
) -> None:
    expected_log("unforeseen")
    probed = [threading.Event(), threading.Event()]
    answers = iter([KeyError("a defect"), None])

    def probe() -> None:
        next(event for event in probed if not event.is_set()).set()
        answer = next(answers)
        if answer is not None:
            raise answer

    health = RemoteHealth(probe)
    health.gave_up(Unreachable("away"), first_failed_s=0.0)
    assert health.state is HealthState.UNREACHABLE
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Prober(health).run)
        assert await trio.to_thread.run_sync(probed[0].wait, 60)
        await threads_have_ended()
        mock_clock.jump(PROBE_AFTER_A_DEFECT_S + 1)
        assert await trio.to_thread.run_sync(probed[1].wait, 60)
        nursery.cancel_scope.cancel()


class Probes:
    """Fails as it is told to; `wait` returns when there was one more."""

    def __init__(self, error: RemoteError | None) -> None:
        self.error = error
        self.number = 0
        self._done = threading.Semaphore(0)

    def __call__(self) -> None:
        self.number += 1
        self._done.release()
        if self.error is not None:
            raise self.error

    async def wait(self) -> None:
        assert await trio.to_thread.run_sync(self._done.acquire, True, 60)
        await threads_have_ended()


async def test_who_waits_for_the_remote_has_it_looked_at_now_and_not_when_the_delay_is_over(
    mock_clock: trio.testing.MockClock,
) -> None:
    probes, changes = Probes(Unreachable("away")), trio.Event()
    health = RemoteHealth(probes, jitter=lambda: 1.0)
    health.gave_up(Unreachable("away"), first_failed_s=0.0)
    prober = Prober(health, changes.set)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run)
        for _ in range(6):  # until the delay is at its longest
            await probes.wait()
            mock_clock.jump(40)
        await probes.wait()
        prober.hurry(is_first=True)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert probes.number == 7  # it was looked at just now
        probes.error = None
        mock_clock.jump(HURRIED_S)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert probes.number == 7
        prober.hurry(is_first=False)
        await probes.wait()
        with trio.fail_after(5):
            await changes.wait()
        assert health.state is HealthState.OK
        prober.hurry(is_first=True)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert probes.number == 8
        nursery.cancel_scope.cancel()


async def test_a_remote_that_denies_is_looked_at_once_for_each_who_waits(
    mock_clock: trio.testing.MockClock,
) -> None:
    probes = Probes(Denied("401"))
    health = RemoteHealth(probes, jitter=lambda: 1.0)
    health.call_failed(Denied("401"))
    assert health.state is HealthState.DENIED
    prober = Prober(health)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run)
        for _ in range(2):
            await probes.wait()
        prober.hurry(is_first=True)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert probes.number == 2  # it was looked at just now
        mock_clock.jump(HURRIED_DENIED_S)
        prober.hurry(is_first=False)
        await probes.wait()
        mock_clock.jump(HURRIED_DENIED_S)
        for _ in range(3):
            prober.hurry(is_first=False)
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert probes.number == 3
        prober.hurry(is_first=True)
        await probes.wait()
        assert probes.number == 4
        nursery.cancel_scope.cancel()


def test_the_plain_error_of_a_group_is_an_interrupt_then_a_reason_not_to_start_then_the_first(
    expected_log: ExpectedLog,
) -> None:
    expected_log("^and: ")
    start, other, interrupt = StartError("no"), OSError(errno.EIO, "io"), KeyboardInterrupt()
    assert plain_error(ExceptionGroup("", [other])) is other
    assert plain_error(ExceptionGroup("", [other, ExceptionGroup("", [start])])) is start
    group = BaseExceptionGroup("", [start, other, BaseExceptionGroup("", [interrupt])])
    assert plain_error(group) is interrupt


def test_an_error_keeps_its_own_cause_when_it_is_taken_out_of_its_group() -> None:
    cause = Unreachable("away")
    error = StartError("no")
    error.__cause__ = cause
    with pytest.raises(StartError) as caught:
        raise plain_error(ExceptionGroup("", [error]))
    assert caught.value.__cause__ is cause
