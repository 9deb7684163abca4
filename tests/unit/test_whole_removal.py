"""A tree that was removed goes by one request, where the remote can tell that it is just that."""

import threading

import pytest
import trio
from trio.testing import MockClock

from mountd.errors import Locked, Unreachable
from tests.conftest import ExpectedLog
from tests.fakes.memory_store import MemoryStore
from tests.fakes.syncing import Syncing, reached, syncing, writes

TREE = {"d/a": b"1", "d/b": b"2", "d/s/c": b"3", "d/s/e": b"4", "f": b"5"}


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    """`syncing` moves it on when nothing goes on."""
    return mock_clock


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(TREE, real_directories=True, removes_trees=True)


def remove(s: Syncing, *, but: str = "") -> None:
    """As `rm -r d` does."""
    for key in ("d/a", "d/b", "d/s/c", "d/s/e"):
        if key != but:
            s.tree.unlink(key)
    s.tree.remove_directory("d/s/")
    s.tree.remove_directory("d/")


async def test_a_removed_tree_is_one_request(clock: MockClock, store: MemoryStore) -> None:
    async with syncing(store) as s:
        remove(s)
        await s.settled()
        assert writes(s.faults.requests) == [("remove_tree", "d/")]
        assert store.keys() == ["f"]
        assert all(change.is_clean for change in s.journal.ledger.changes.values())


async def test_without_somebody_who_waits_it_is_one_request_too(
    clock: MockClock, store: MemoryStore
) -> None:
    """The files are due before the directory is."""
    async with syncing(store, write_back_s=1.0) as s:
        for key in ("d/a", "d/b", "d/s/c", "d/s/e"):
            s.tree.unlink(key)
        s.tree.remove_directory("d/s/")
        await trio.sleep(0.5)
        s.tree.remove_directory("d/")
        await trio.sleep(3.0)
        assert writes(s.faults.requests) == [("remove_tree", "d/")]


async def test_what_others_have_put_there_stays_and_the_rest_goes_one_by_one(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("not removed")
    async with syncing(store) as s:
        store.seed("d/s/theirs", b"new")
        remove(s)
        await s.settled()
        assert store.keys() == ["d/", "d/s/", "d/s/theirs", "f"]
        assert [call for call, _ in writes(s.faults.requests)].count("remove_tree") == 1


async def test_what_others_have_changed_stays(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("not removed")
    async with syncing(store) as s:
        store.seed("d/b", b"theirs")
        remove(s)
        await s.settled()
        assert store.data("d/b") == b"theirs"
        assert store.keys() == ["d/", "d/b", "f"]


async def test_a_part_that_others_have_changed_does_not_keep_the_other_parts(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("not removed")
    store.seed("d/s/g", b"6")
    async with syncing(store) as s:
        store.seed("d/b", b"theirs")
        s.tree.unlink("d/s/g")
        remove(s)
        await s.settled()
        assert ("remove_tree", "d/s/") in s.faults.requests
        assert store.keys() == ["d/", "d/b", "f"]


async def test_what_is_made_there_meanwhile_comes_after_it(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        hang = threading.Event()
        fault = s.faults.add("remove_tree", hang=hang)
        remove(s)
        await reached(fault.reached)
        s.tree.make_directory("d/")
        s.tree.save("d/a", b"new")
        await trio.sleep(5.0)
        assert store.data("d/a") == b"1"
        hang.set()
        await s.settled()
        assert {key: store.data(key) for key in ("d/a", "f")} == {"d/a": b"new", "f": b"5"}
        assert store.keys() == ["d/", "d/a", "f"]


@pytest.mark.parametrize("after_effect", [False, True])
async def test_an_answer_that_was_lost_does_no_harm(
    clock: MockClock, store: MemoryStore, after_effect: bool
) -> None:
    async with syncing(store) as s:
        s.faults.add("remove_tree", Unreachable("reset"), after_effect=after_effect, calls=[1])
        remove(s)
        await s.settled()
        assert store.keys() == ["f"]
        assert all(change.is_clean for change in s.journal.ledger.changes.values())


async def test_what_is_locked_goes_one_by_one(clock: MockClock, store: MemoryStore) -> None:
    async with syncing(store) as s:
        s.faults.add("remove_tree", Locked("423"))
        remove(s)
        await s.settled()
        assert store.keys() == ["f"]
        assert [call for call, _ in s.faults.requests].count("remove_tree") == 1


async def test_bytes_that_something_else_is_made_of_are_not_removed_first(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        s.tree.rename("d/a", "kept")
        remove(s, but="d/a")
        await s.settled()
        assert store.data("kept") == b"1"
        assert store.keys() == ["f", "kept"]


async def test_few_removals_go_as_they_are(clock: MockClock) -> None:
    store = MemoryStore({"d/a": b"1"}, real_directories=True, removes_trees=True)
    async with syncing(store) as s:
        s.tree.unlink("d/a")
        s.tree.remove_directory("d/")
        await s.settled()
        assert writes(s.faults.requests) == [("delete", "d/a"), ("remove_dir", "d/")]


async def test_a_remote_that_can_not_is_not_asked(clock: MockClock) -> None:
    store = MemoryStore(TREE, real_directories=True)
    async with syncing(store) as s:
        remove(s)
        await s.settled()
        assert "remove_tree" not in {call for call, _ in s.faults.requests}
        assert store.keys() == ["f"]


async def test_a_tree_that_is_too_large_goes_in_parts(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mountd.sync.whole_removal.MOST_CHANGES", 4)
    store = MemoryStore(
        {f"d/{part}/{n}": b"1" for part in "pq" for n in range(3)},
        real_directories=True,
        removes_trees=True,
    )
    async with syncing(store) as s:
        for part in "pq":
            for n in range(3):
                s.tree.unlink(f"d/{part}/{n}")
            s.tree.remove_directory(f"d/{part}/")
        s.tree.remove_directory("d/")
        await s.settled()
        assert sorted(writes(s.faults.requests)) == [
            ("remove_dir", "d/"),
            ("remove_tree", "d/p/"),
            ("remove_tree", "d/q/"),
        ]
