"""The sync queue when the remote refuses, is full, or fails; and when the queue itself does."""

import errno

import pytest
import trio
from trio.testing import MockClock

from mountd.errors import (
    Corrupt,
    Denied,
    Locked,
    NameNotAllowed,
    QuotaExceeded,
    SignInRefused,
    Throttled,
    Unreachable,
)
from mountd.sync.queue import SyncQueue
from mountd.sync.retry import MOST_SIGN_INS
from mountd_cache.changes import ChangeState
from tests.conftest import ExpectedLog
from tests.fakes.local_tree import LocalTree
from tests.fakes.memory_journal import MemoryJournal
from tests.fakes.memory_store import MemoryStore
from tests.fakes.syncing import in_flight, now_ns, syncing


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    """`syncing` moves it on when nothing goes on."""
    return mock_clock


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


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


async def test_the_reason_of_a_refusal_is_told_however_long_the_key_is(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("was refused by the remote")
    key = "d" * 900
    async with syncing(store) as s:
        s.faults.add("put", NameNotAllowed(f"s3://lab/{key}: the name is too long (400)"))
        s.tree.write(key, b"1")
        await s.settled()
        (item,) = s.queue.items()
        assert item.reason.startswith("s3://lab/ddd")
        assert item.reason.endswith("ddd: the name is too long (400)")
        assert len(item.reason) < 350
