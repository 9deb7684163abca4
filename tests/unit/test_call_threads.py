"""The queue's own threads, and how many changes may be under way."""

import threading

import pytest
import trio
import trio.testing

from mountd.errors import NotFound
from mountd.remotes.base import LIGHT_BYTES
from mountd.sync.call_threads import CallThreads
from mountd.sync.lanes import BIG_BYTES, Lanes
from mountd_cache.changes import Change, ChangeKind
from mountd_cache.ledger import Ledger


def _raise(error: Exception) -> None:
    raise error


async def test_a_call_returns_or_raises_what_its_function_does() -> None:
    threads = CallThreads(2)
    assert await threads.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(NotFound):
        await threads.run(_raise, NotFound("gone"))
    assert await threads.run(threading.current_thread) is not threading.current_thread()
    threads.rest()
    assert await threads.run(divmod, 7, 2) == (3, 1)
    threads.rest()


async def test_no_more_calls_run_than_are_allowed_and_all_of_them_end() -> None:
    threads, gate = CallThreads(3), threading.Semaphore(0)
    running: set[int] = set()
    most: list[int] = []

    def call(number: int) -> int:
        running.add(number)
        most.append(len(running))
        gate.acquire()
        running.discard(number)
        return number

    found: list[int] = []

    async def one(number: int) -> None:
        found.append(await threads.run(call, number))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(one, number)
        await trio.testing.wait_all_tasks_blocked()
        gate.release(20)
    assert sorted(found) == list(range(20))
    assert max(most) <= 3
    threads.rest()


async def test_a_call_that_is_cancelled_goes_on_and_harms_nobody() -> None:
    threads, gate, done = CallThreads(1), threading.Event(), threading.Event()

    def call() -> None:
        gate.wait()
        done.set()

    with trio.CancelScope() as scope:
        scope.cancel()
        await threads.run(call)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(threads.run, call)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert not done.is_set()
    gate.set()
    assert await threads.run(divmod, 7, 2) == (3, 1)
    assert done.is_set()
    threads.rest()


def _change(key: str, since_ns: int, size: int, kind: ChangeKind = ChangeKind.FILE) -> Change:
    return Change(
        key=key,
        directory="",
        name=key.encode(),
        number=since_ns,
        kind=kind,
        sequence=since_ns,
        since_ns=since_ns,
        changed_ns=since_ns,
        size=size,
    )


def _began(lanes: Lanes) -> list[str]:
    keys: list[str] = []
    while (change := lanes.next()) is not None:
        lanes.begin(change)
        keys.append(change.key)
    return keys


def test_small_changes_go_many_at_once_and_others_do_not_wait_for_them() -> None:
    lanes = Lanes(Ledger(), max_transfers=4, at_once=10)
    small = [_change(f"s{at:02d}", at, LIGHT_BYTES) for at in range(20)]
    plain = [_change(f"p{at:02d}", 5 + at, LIGHT_BYTES + 1) for at in range(20)]
    lanes.fill(sorted([*small, *plain], key=lambda change: change.since_ns))
    began = _began(lanes)
    assert sorted(began) == sorted([f"s{at:02d}" for at in range(8)] + ["p00", "p01"])
    for key in began[:6]:
        lanes.end(lanes.in_flight[key].change)
    assert {"p02", "p03"} <= set(_began(lanes))
    assert sum(key.startswith("p") for key in lanes.in_flight) == 4
    assert not lanes.has_room(small[-1])


def test_fewer_small_changes_go_at_once_while_the_remote_bears_fewer() -> None:
    bears = [6]
    lanes = Lanes(Ledger(), max_transfers=4, at_once=12, now=lambda: bears[0])
    lanes.fill([_change(f"s{at:02d}", at, 1) for at in range(20)])
    assert len(_began(lanes)) == 6
    bears[0] = 9
    assert len(_began(lanes)) == 3
    bears[0] = 1  # never fewer than the transfers that the user wants
    for key in list(lanes.in_flight)[:6]:
        lanes.end(lanes.in_flight[key].change)
    assert len(_began(lanes)) == 1


def test_only_many_small_changes_that_wait_make_a_look_needless() -> None:
    lanes = Lanes(Ledger(), max_transfers=4, at_once=10)
    lanes.fill([_change(f"b{at:02d}", at, BIG_BYTES) for at in range(50)])
    assert not lanes.is_well_filled
    lanes.fill([_change(f"s{at:02d}", at, 1) for at in range(40)])
    assert lanes.is_well_filled
    while lanes.is_well_filled:
        began = lanes.next()
        assert began is not None
        lanes.begin(began)
        lanes.end(began)
    assert len(_began(lanes)) == 10


def test_a_quarter_of_the_transfers_is_kept_free_of_big_files() -> None:
    lanes = Lanes(Ledger(), max_transfers=4, at_once=0)
    big = [_change(f"b{at}", at, BIG_BYTES) for at in range(9)]
    lanes.fill([*big, _change("p", 20, BIG_BYTES - 1), _change("q", 21, BIG_BYTES - 1)])
    assert _began(lanes) == ["b0", "b1", "b2", "p"]
    lanes.end(big[0])
    assert _began(lanes) == ["b3"]


def test_what_carries_no_bytes_is_small() -> None:
    lanes = Lanes(Ledger(), max_transfers=1, at_once=3)
    gone = [_change(f"g{at}", at, BIG_BYTES, ChangeKind.GONE_FILE) for at in range(5)]
    lanes.fill(gone)
    assert _began(lanes) == ["g0", "g1", "g2"]


async def test_a_thread_that_can_not_be_started_fails_one_call_and_not_all_that_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = CallThreads(1)
    with monkeypatch.context() as none_left:
        none_left.setattr(threading.Thread, "start", lambda self: _raise(RuntimeError("no more")))
        with pytest.raises(RuntimeError, match="no more"):
            await threads.run(divmod, 7, 2)
    with trio.fail_after(30):
        assert await threads.run(divmod, 7, 2) == (3, 1)
    threads.rest()


async def test_where_no_further_thread_can_be_started_those_that_are_there_do_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, gate = CallThreads(2), threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(threads.run, gate.wait)
        await trio.testing.wait_all_tasks_blocked()
        monkeypatch.setattr(threading.Thread, "start", lambda self: _raise(RuntimeError("no more")))
        nursery.start_soon(threads.run, divmod, 7, 2)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    threads.rest()


async def test_who_starts_the_others_takes_the_place_of_one_that_can_not_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, gate, start = CallThreads(4), threading.Event(), threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name == "queue":
            raise RuntimeError("no more")
        start(thread)

    for _ in range(2):  # after `rest`, too, nobody has taken what ends a thread for another
        gate.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(threads.run, gate.wait)
            await trio.testing.wait_all_tasks_blocked()
            with monkeypatch.context() as none_left:
                none_left.setattr(threading.Thread, "start", refused)
                with trio.fail_after(30):
                    assert await threads.run(divmod, 7, 2) == (3, 1)
                    nursery.start_soon(threads.run, gate.wait)
                    nursery.start_soon(threads.run, gate.wait)
                    await trio.testing.wait_all_tasks_blocked()
            gate.set()
        threads.rest()


async def test_threads_are_started_before_their_calls_come_if_those_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, started, start = CallThreads(20), threading.Semaphore(0), threading.Thread.start
    begun: list[threading.Thread] = []

    def counted(thread: threading.Thread) -> None:
        is_ours = threading.current_thread() in (threading.main_thread(), *begun)
        if is_ours:  # the test before may still start some
            begun.append(thread)
        start(thread)
        if is_ours and thread.name == "queue":
            started.release()

    def all_started() -> None:
        for _ in range(12):
            assert started.acquire(timeout=5)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", counted)
        threads.expect(3)
        assert not begun
        threads.expect(12)
        threads.expect(12)
        await trio.to_thread.run_sync(all_started)
        for number in range(12):
            assert await threads.run(divmod, number, 2) == divmod(number, 2)
        threads.expect(0)
    assert [thread.name for thread in begun].count("queue") == 12
