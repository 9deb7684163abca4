"""The sync queue when the remote loses answers, has something else by now, or refuses."""

import errno

import pytest
import trio
from trio.testing import MockClock

from mountd.errors import (
    Corrupt,
    Denied,
    Locked,
    QuotaExceeded,
    SignInRefused,
    Throttled,
    Unreachable,
)
from mountd.sync.base import QueueCounts
from mountd.sync.queue import SyncQueue
from mountd.sync.retry import MOST_SIGN_INS
from mountd_cache.changes import ChangeState
from tests.conftest import ExpectedLog
from tests.fakes.body import BytesBody
from tests.fakes.local_tree import LocalTree
from tests.fakes.memory_journal import MemoryJournal, reopened
from tests.fakes.memory_store import MemoryStore
from tests.fakes.syncing import in_flight, now_ns, syncing


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    """`syncing` moves it on when nothing goes on."""
    return mock_clock


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


# -- lost answers


@pytest.mark.parametrize("call", ["put", "copy", "delete", "make_dir", "remove_dir"])
async def test_a_lost_answer_is_no_conflict_and_nothing_is_done_twice(
    clock: MockClock, call: str
) -> None:
    store = MemoryStore({"old": b"1", "gone": b"2", "e/": b""})
    async with syncing(store) as s:
        s.faults.add("write", Unreachable("reset"), after_effect=True, calls=range(1, 6))
        s.tree.write("new", b"3")
        s.tree.rename("old", "moved")
        s.tree.unlink("gone")
        s.tree.make_directory("d/")
        s.tree.remove_directory("e/")
        await s.settled()
        assert store.keys() == ["d/", "moved", "new"]
        assert (store.calls["put"], store.calls["copy"]) == (1, 1)
        assert s.tree.foreigners == []


async def test_before_repeating_the_remote_is_asked_what_is_there(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        s.faults.add("put", Unreachable("refused"), calls=[1])
        s.tree.write("a", b"1")
        await s.settled()
        assert [call for call, _ in s.faults.requests] == ["put", "identify", "put"]


async def test_what_landed_late_is_removed_with_the_file(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        s.faults.add("put", Unreachable("reset"), after_effect=True)
        s.faults.add("identify", Unreachable("reset"), calls=[1, 2])
        s.tree.write("a", b"1")
        await trio.sleep(1.5)
        assert store.keys() == ["a"]
        s.tree.unlink("a")
        await s.settled()
        assert store.keys() == []


async def test_a_base_that_a_lost_upload_has_replaced_is_found_again(
    clock: MockClock, store: MemoryStore
) -> None:
    store.seed("a", b"0123456789")
    async with syncing(store) as s:
        s.faults.add("put", Unreachable("reset"), after_effect=True, calls=[1])
        s.faults.add("identify", Unreachable("reset"), calls=[1])
        s.tree.write("a", b"AA", 2)
        await trio.sleep(1.5)
        assert store.data("a") == b"01AA456789"
        s.tree.rename("a", "b")
        await s.settled()
        assert (store.keys(), store.data("b")) == (["b"], b"01AA456789")


async def test_an_upload_of_a_wrong_size_is_sent_again(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        s.faults.add("put", Corrupt("the checksum differs"), calls=[1])
        s.tree.write("a", b"1")
        await s.settled()
        assert store.data("a") == b"1"


# -- conflicts


async def test_a_lost_race_leaves_theirs_in_place_and_ours_beside_it(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("conflict: 'd/a.txt' changed on the remote")
    store.seed("d/a.txt", b"old")
    journal = MemoryJournal()
    async with syncing(store, journal=journal) as s:
        s.tree.save("d/a.txt", b"ours")
        number = s.tree.number("d/a.txt")
        store.seed("d/a.txt", b"theirs")
        await s.settled()
        (copy,) = {*store.keys()} - {"d/a.txt"}
        assert copy.startswith("d/a (conflict box 20")
        assert copy.endswith(").txt")
        assert (store.data("d/a.txt"), store.data(copy)) == (b"theirs", b"ours")
        assert s.tree.foreigners == ["d/a.txt"]
        (step,) = [rows for rows in journal.commits if rows.forget and rows.changes]
        (moved,) = step.changes
        assert (moved.conflict, moved.number, moved.key) == ("d/a.txt", number, copy)


async def test_a_new_file_meets_one_of_the_same_name(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("conflict")
    async with syncing(store) as s:
        s.tree.write("a", b"ours")
        store.seed("a", b"theirs")
        await s.settled()
        assert sorted(map(store.data, store.keys())) == [b"ours", b"theirs"]


async def test_a_file_that_somebody_else_removed_comes_back_with_our_changes(
    clock: MockClock, store: MemoryStore
) -> None:
    store.seed("a", b"old")
    async with syncing(store) as s:
        s.tree.save("a", b"ours")
        store.drop("a")
        await s.settled()
        assert (store.keys(), store.data("a")) == (["a"], b"ours")


async def test_what_has_changed_is_not_removed(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("is not removed")
    store.seed("a", b"old")
    async with syncing(store) as s:
        s.tree.unlink("a")
        store.seed("a", b"theirs")
        await s.settled()
        assert store.data("a") == b"theirs"
        assert s.tree.foreigners == ["a"]
        assert not s.journal.ledger.changes


async def test_holes_of_a_base_that_is_gone_are_never_zeros(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("the version that this was based on is gone")
    store.seed("a", b"0123456789")
    async with syncing(store) as s:
        s.tree.write("a", b"AA", 2)
        store.seed("a", b"theirs")
        assert await s.queue.drain() == 1
        assert (store.keys(), store.data("a")) == (["a"], b"theirs")
        (item,) = s.queue.items()
        assert item.state == "conflict"
        assert item.reason.startswith("conflict: the version that this was based on is gone")
        content = s.journal.ledger.contents[s.journal.ledger.changes["a"].content]
        assert list(content.layers[0].extents) == [(2, 4)]
        assert s.queue.counts() == QueueCounts(0, 0, 1, 1, 2, s.queue.counts().oldest_s, "a")


async def test_a_restored_old_version_of_ours_is_somebody_elses(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("conflict")
    async with syncing(store) as s:
        s.tree.save("a", b"first")
        await s.settled()
        old = store.upload("a")
        await trio.sleep(5)
        s.tree.save("a", b"second")
        await s.settled()
        await trio.sleep(5)
        s.tree.save("a", b"third")
        store.put("a", BytesBody(b"first"), None, old)
        await s.settled()
        assert store.data("a") == b"first"
        assert len(store.keys()) == 2


# -- errors


@pytest.mark.parametrize(
    "error",
    [Unreachable("x"), Throttled("x", 5.0), Locked("x"), Corrupt("x"), OSError(errno.EIO, "disk")],
    ids=lambda error: type(error).__name__,
)
async def test_what_may_pass_is_tried_again_for_ever_and_ever_more_rarely(
    clock: MockClock, store: MemoryStore, error: Exception
) -> None:
    async with syncing(store) as s:
        fault = s.faults.add("put", error)
        s.tree.write("a", b"1")
        await trio.sleep(1000)
        assert 18 <= fault.hits <= 25
        (item,) = s.queue.items()
        assert (item.state, item.attempts) == ("pending", fault.hits)
        assert 0 < item.next_try_s <= 60
        s.faults.remove()
        await s.settled()
        assert store.keys() == ["a"]


async def test_what_nobody_foresaw_is_logged_once_and_tried_again(
    clock: MockClock,
    store: MemoryStore,
    expected_log: ExpectedLog,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected_log("could not be sent, and is tried again")
    async with syncing(store) as s:
        s.faults.add("put", ZeroDivisionError("what"), calls=[1, 2, 3])
        s.tree.write("a", b"1")
        await s.settled()
        assert store.keys() == ["a"]
    assert len([r for r in caplog.records if r.levelname == "ERROR" and r.exc_info]) == 1


async def test_what_is_refused_stays_until_somebody_retries(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("refused by the remote: read-only key")
    async with syncing(store) as s:
        fault = s.faults.add("put", Denied("read-only key"))
        s.tree.write("a", b"1")
        await trio.sleep(1000)
        assert fault.hits == 1
        assert s.queue.denied
        assert s.queue.state_of(s.tree.number("a")) == "failed"
        assert s.journal.ledger.changes["a"].state is ChangeState.FAILED
        assert s.journal.ledger.changes["a"].reason == "read-only key"
        s.faults.remove()
        s.queue.retry("a")
        await s.settled()
        assert store.keys() == ["a"]
        assert not s.queue.denied


async def test_an_expired_token_does_not_fail_what_is_queued(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:

        def deny() -> Exception:
            s.is_well.clear()
            return Denied("expired")

        s.faults.add("put", deny)
        s.tree.write("a", b"1")
        await trio.sleep(10)
        assert s.queue.counts().failed == 0
        s.faults.remove()
        s.is_well.set()
        s.queue.wake()
        await s.settled()
        assert store.keys() == ["a"]


async def test_a_sign_in_that_is_refused_to_one_file_alone_fails_it_after_a_minute(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("writes are refused")
    expected_log("refused by the remote: wrong signature")
    async with syncing(store) as s:
        fault = s.faults.add("put", SignInRefused("wrong signature"))
        s.tree.write("a", b"1")
        await trio.sleep(20)
        assert s.queue.counts().failed == 0
        assert await s.queue.drain() == 1, "it waited for ever"
        assert s.journal.ledger.changes["a"].state is ChangeState.FAILED
        assert fault.hits == MOST_SIGN_INS + 1
        s.faults.remove()
        s.queue.retry("a")
        await s.settled()
        assert store.keys() == ["a"]


def said_by_taking(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = (record for record in caplog.records if record.name == "mountd.sync.taking")
    return [(record.levelname, record.getMessage()) for record in found]


async def test_a_full_remote_is_one_line_when_it_begins_and_one_when_it_ends(
    clock: MockClock,
    store: MemoryStore,
    expected_log: ExpectedLog,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected_log("the remote has no room")
    caplog.set_level("INFO", "mountd.sync.taking")
    async with syncing(store) as s:
        for name in "ab":
            s.faults.add("put", QuotaExceeded("507 of the bucket"), key=name)
            s.tree.write(name, b"12345")
        await trio.sleep(1000)
        assert s.queue.taking.state.name == "FULL"
        assert s.queue.taking.reason == "507 of the bucket"
        s.tree.write("small", b"1")
        await trio.sleep(10)
        assert store.keys() == ["small"]
        assert s.queue.taking.state.name == "FULL"  # the others still wait for room
        s.faults.remove()
        await trio.sleep(301)
        assert s.queue.taking.state.name == "OK"
    begins, ends = said_by_taking(caplog)
    assert begins[0] == "WARNING"
    assert begins[1].startswith("the remote has no room for what is written: 507 of the bucket; ")
    assert "2 changes wait on this machine (10 bytes)" in begins[1]
    assert ends[0] == "INFO"
    assert ends[1].startswith("the remote has room again, after ")


async def test_what_was_refused_and_is_discarded_ends_the_refusal(
    clock: MockClock,
    store: MemoryStore,
    expected_log: ExpectedLog,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected_log("refused by the remote: 403")
    caplog.set_level("INFO", "mountd.sync.taking")
    async with syncing(store) as s:
        s.faults.add("put", Denied("403"))
        s.tree.write("a", b"1")
        await trio.sleep(100)
        assert s.queue.taking.state.name == "REFUSED"
        s.queue.discard("a")
        await trio.sleep(1)
        assert s.queue.taking.state.name == "OK"
    assert "is not wanted any more" in said_by_taking(caplog)[-1][1]


async def test_a_full_remote_is_asked_every_five_minutes(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("the remote has no room")
    async with syncing(store) as s:
        fault = s.faults.add("put", QuotaExceeded("full"))
        s.tree.write("a", b"1")
        assert await s.queue.drain() == 1
        await trio.sleep(1000)
        assert fault.hits == 4
        assert s.queue.counts().failed == 1
        s.faults.remove()
        await trio.sleep(301)
        assert store.keys() == ["a"]


async def test_what_is_discarded_is_forgotten_with_its_bytes(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("refused")
    store.seed("a", b"theirs")
    async with syncing(store) as s:
        s.faults.add("put", Denied("no"))
        s.tree.save("a", b"ours")
        await s.settled()
        s.queue.discard("a")
        assert not s.journal.ledger.changes
        assert not s.journal.ledger.contents
        assert s.tree.foreigners == ["a"]
        with pytest.raises(KeyError):
            s.queue.discard("a")
        await trio.sleep(1)
        assert not s.queue.denied


async def test_what_is_in_flight_is_not_discarded(clock: MockClock, store: MemoryStore) -> None:
    async with syncing(store) as s:
        s.tree.write("a", b"1")
        hang = await in_flight(s)
        with pytest.raises(ValueError, match="is being sent"):
            s.queue.discard("a")
        hang.set()
        await s.settled()


async def test_a_full_local_disk_does_not_end_the_queue(
    clock: MockClock, store: MemoryStore
) -> None:
    journal = MemoryJournal()
    async with syncing(store, journal=journal) as s:
        s.tree.write("a", b"1")
        s.tree.write("b", b"1")
        journal.fail = OSError(errno.ENOSPC, "full")
        await trio.sleep(100)
        journal.fail = None
        await s.settled()
        assert store.keys() == ["a", "b"]
        assert (store.calls["put"], s.tree.foreigners) == (2, [])


async def test_a_killed_process_leaves_nothing_that_its_successor_takes_for_a_conflict(
    clock: MockClock, store: MemoryStore
) -> None:
    journal = MemoryJournal()
    async with syncing(store, journal=journal) as s:
        s.faults.add("put", Unreachable("reset"), after_effect=True)
        s.faults.add("identify", Unreachable("reset"))
        s.tree.write("same", b"1")
        s.tree.write("more", b"1")
        s.tree.write("gone", b"1")
        await trio.sleep(1.5)
        assert store.keys() == ["gone", "more", "same"]
        s.tree.write("more", b"2", 1)
    version = store.stat("same").version
    journal = reopened(journal)
    async with syncing(store, journal=journal) as s:
        s.tree.seen.clear()
        s.tree.unlink("gone")
        await s.settled()
        found = dict(zip(store.keys(), map(store.data, store.keys()), strict=True))
        assert found == {"same": b"1", "more": b"12"}
        assert store.stat("same").version == version


# -- a fault of its own


async def test_a_fault_of_the_queue_itself_is_logged_once_and_not_run_into_again_and_again(
    autojump_clock: MockClock,
    store: MemoryStore,
    expected_log: ExpectedLog,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected_log("the sync queue failed, and goes on")
    looks = 0

    def pressed() -> bool:
        nonlocal looks
        looks += 1
        if looks < 8:
            raise RuntimeError("a fault")
        return False

    journal = MemoryJournal()
    tree = LocalTree(journal, store, now_ns)
    queue = SyncQueue(
        journal, store, tree, write_back_s=0.0, max_transfers=4, wall_clock=now_ns, pressed=pressed
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(queue.run)
        tree.write("a", b"1")
        with trio.move_on_after(30.0):
            while True:  # as a user who goes on writing
                queue.wake()
                await trio.sleep(0.01)
        assert looks < 8
        await queue.drain()
        nursery.cancel_scope.cancel()
    assert store.keys() == ["a"]
    assert sum("the sync queue failed" in record.getMessage() for record in caplog.records) == 1


async def test_a_remote_that_can_not_be_asked_ahead_is_asked_with_the_change(
    clock: MockClock,
) -> None:
    class Asking(MemoryStore):
        asked = 0

        def prepare_changes(self) -> None:
            self.asked += 1
            raise Unreachable("not now")

    store = Asking()
    async with syncing(store) as s:
        assert store.asked == 0
        s.tree.write("a", b"1")
        await s.settled()
        s.tree.write("b", b"1")
        await s.settled()
    assert store.asked == 1
    assert store.keys() == ["a", "b"]


async def test_a_put_that_was_under_way_when_another_was_refused_says_nothing_about_rights(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("refused by the remote: no more")
    async with syncing(store) as s:
        s.tree.write("a", b"1")
        hang = await in_flight(s)
        s.faults.add("put", Denied("no more"), key="late")
        s.tree.write("late", b"2")
        await trio.sleep(100)
        assert s.queue.denied
        hang.set()
        await trio.sleep(100)
        assert store.keys() == ["a"]
        assert s.queue.denied
        s.faults.remove()
        s.queue.retry("late")
        await s.settled()
        assert not s.queue.denied
    assert store.keys() == ["a", "late"]
