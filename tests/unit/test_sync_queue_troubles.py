"""The sync queue when the remote loses answers, or has something else by now."""

import threading

import pytest
import trio
from trio.testing import MockClock

from mountd.errors import (
    Corrupt,
    Unreachable,
)
from mountd.remotes.base import KeyLimit
from mountd.sync.base import QueueCounts
from tests.conftest import ExpectedLog
from tests.fakes.body import BytesBody
from tests.fakes.memory_journal import MemoryJournal, reopened
from tests.fakes.memory_store import MemoryStore
from tests.fakes.syncing import now_ns, reached, syncing


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


async def test_a_conflict_copys_key_fits_the_remotes_limit(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("conflict: 'ddd/name.txt' changed on the remote")
    store.key_limit = KeyLimit(45)
    store.seed("ddd/name.txt", b"old")
    async with syncing(store) as s:
        s.tree.save("ddd/name.txt", b"ours")
        store.seed("ddd/name.txt", b"theirs")
        await s.settled()
        (copy,) = {*store.keys()} - {"ddd/name.txt"}
        assert copy.startswith("ddd/na (conflict box 20")
        assert len(copy) == 45  # all that fits
        assert (store.data("ddd/name.txt"), store.data(copy)) == (b"theirs", b"ours")


async def test_where_no_name_of_a_copy_fits_ours_stays_here_and_says_why(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("no name for a copy of ours fits here")
    expected_log("'ddd/name': it changed on the remote, and is not removed")
    store.key_limit = KeyLimit(12)
    store.seed("ddd/name", b"old")
    async with syncing(store) as s:
        s.tree.save("ddd/name", b"ours")
        store.seed("ddd/name", b"theirs")
        assert await s.queue.drain() == 1
        assert (store.keys(), store.data("ddd/name")) == (["ddd/name"], b"theirs")
        (item,) = s.queue.items()
        assert (item.state, item.size) == ("failed", 4)
        assert "its path is too long; move it to a shorter one" in item.reason
        s.tree.rename("ddd/name", "e")
        await s.settled()
        assert (store.data("ddd/name"), store.data("e")) == (b"theirs", b"ours")


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


@pytest.mark.parametrize("theirs", [b"ours, and theirs", b"OURS"])
@pytest.mark.parametrize("then", ["retried", "edited", "removed"])
async def test_what_others_made_of_an_upload_whose_answer_was_lost_is_theirs(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog, then: str, theirs: bytes
) -> None:
    # s3fs, gcsfuse and goofys keep the metadata of what they replace, our upload id among it.
    expected_log("changed on the remote")
    journal = MemoryJournal()
    async with syncing(store, journal=journal) as s:
        s.faults.add("put", Unreachable("reset"), after_effect=True)
        s.faults.add("identify", Unreachable("reset"))
        s.tree.write("a", b"ours")
        await trio.sleep(1.5)
        assert store.data("a") == b"ours"
    mtime_ns = now_ns() + 10**10 if len(theirs) == 4 else None
    store.edited_by_others("a", theirs, mtime_ns)
    async with syncing(store, journal=reopened(journal)) as s:
        s.tree.seen.clear()
        if then == "edited":
            s.tree.write("a", b"more", 4)
        elif then == "removed":
            s.tree.unlink("a")
        await s.settled()
        assert store.data("a") == theirs
        copies = [store.data(key) for key in {*store.keys()} - {"a"}]
        ours = {"retried": [b"ours"], "edited": [b"oursmore"], "removed": []}
        assert copies == ours[then]


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


async def test_a_file_that_is_unlinked_while_its_parents_are_made_is_not_sent(
    clock: MockClock,
) -> None:
    store = MemoryStore(real_directories=True)
    async with syncing(store) as s:
        s.tree.save("d/a", b"1")  # the remote has lost `d`
        hang = threading.Event()
        fault = s.faults.add("make_dir", hang=hang, calls=[1])
        await reached(fault.reached)
        s.tree.unlink("d/a")
        puts = store.calls["put"]
        hang.set()
        await s.settled()
        assert (store.keys(), store.calls["put"]) == (["d/"], puts)
        assert not s.queue.items()


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
