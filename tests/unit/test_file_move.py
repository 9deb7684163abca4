"""A file that was only renamed is one request where the remote moves files."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from mountd.errors import Denied, Locked, Throttled, Unreachable
from mountd.sync.attempts import Asker, Doubts
from mountd.sync.call_threads import CallThreads
from mountd.sync.file_move import FileMoves
from mountd.sync.open_moves import OpenMoves
from mountd.types import Entry
from mountd_cache.changes import Change, Rows
from tests.conftest import ExpectedLog
from tests.fakes.fault_store import FaultStore
from tests.fakes.local_tree import LocalTree
from tests.fakes.memory_journal import MemoryJournal, reopened
from tests.fakes.moving_store import MovingStore
from tests.fakes.syncing import Syncing, reached, syncing, writes


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    """`syncing` moves it on when nothing goes on."""
    return mock_clock


class Store(MovingStore):
    """`ended`: a move has, in whatever."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(objects)
        self.ended = threading.Event()

    def move_file(self, source: str, version: str, key: str) -> Entry:
        try:
            return super().move_file(source, version, key)
        finally:
            self.ended.set()


@pytest.fixture
def store() -> Store:
    return Store({"a": b"data", "x": b"other"})


def calls(s: Syncing) -> list[str]:
    return [call for call, _ in writes(s.faults.requests)]


def remote(store: Store) -> dict[str, bytes]:
    keys = store.keys()
    return {key: store.data(key) for key in keys}


def is_settled(s: Syncing) -> bool:
    return all(change.is_clean for change in s.journal.ledger.changes.values())


async def test_a_rename_is_one_request_and_both_names_are_settled(
    clock: MockClock, store: Store
) -> None:
    async with syncing(store) as s:
        s.tree.save("b", b"data")
        await s.settled()
        version = store.stat("b").version
        s.faults.requests.clear()
        s.tree.rename("b", "c")
        await s.settled()
        assert calls(s) == ["move_file"]
        assert store.stat("c").version == version
        assert is_settled(s)


async def test_a_new_time_or_mode_follows_in_a_step_of_its_own(
    clock: MockClock, store: Store
) -> None:
    async with syncing(store) as s:
        s.tree.set_mode("a", "100600")
        s.tree.rename("a", "b")
        await s.settled()
        assert calls(s) == ["move_file", "copy"]
        assert remote(store) == {"b": b"data", "x": b"other"}
        assert store.identify("b").entry.attributes == {"mode": "100600"}


@pytest.mark.parametrize("also", ["copied", "edited", "over a file"])
async def test_what_is_more_than_a_rename_goes_as_ever(
    clock: MockClock, store: Store, also: str
) -> None:
    async with syncing(store) as s:
        s.tree.rename("a", "x" if also == "over a file" else "b")
        if also == "edited":
            s.tree.write("b", b"D", 0)
        elif also == "copied":
            s.tree.save("a", b"new")
        await s.settled()
        assert "move_file" not in calls(s)


THEN: dict[str, tuple[Callable[[Syncing], None], dict[str, bytes]]] = {
    "nothing": (lambda s: None, {"b": b"data"}),
    "back": (lambda s: s.tree.rename("b", "a"), {"a": b"data"}),
    "on": (lambda s: s.tree.rename("b", "c"), {"c": b"data"}),
    "removed": (lambda s: s.tree.unlink("b"), {}),
    "edited": (lambda s: s.tree.write("b", b"D", 0), {"b": b"Data"}),
    "made again": (lambda s: s.tree.save("a", b"new"), {"a": b"new", "b": b"data"}),
    "replaced": (lambda s: s.tree.rename("x", "b"), {"b": b"other"}),
    "followed": (lambda s: s.tree.rename("x", "a"), {"a": b"other", "b": b"data"}),
}
RACES = pytest.mark.parametrize("then", list(THEN))


def expected(then: str) -> dict[str, bytes]:
    found = THEN[then][1]
    return found if b"other" in found.values() else {**found, "x": b"other"}


@RACES
@pytest.mark.parametrize("answer", ["comes", "is lost", "is lost before"])
async def test_what_the_user_does_meanwhile_becomes_so(
    clock: MockClock, store: Store, then: str, answer: str
) -> None:
    hang = threading.Event()
    error = None if answer == "comes" else Unreachable("cut")
    async with syncing(store) as s:
        fault = s.faults.add(
            "move_file", error, hang=hang, after_effect=answer == "is lost", calls=[1]
        )
        s.tree.rename("a", "b")
        await reached(fault.reached)
        THEN[then][0](s)
        hang.set()
        await s.settled()
        assert remote(store) == expected(then)
        assert is_settled(s)


@RACES
async def test_after_a_kill_the_next_process_finds_what_was_moved(
    clock: MockClock, store: Store, then: str
) -> None:
    journal, moves, hang = MemoryJournal(), OpenMoves(), threading.Event()
    async with syncing(store, journal=journal, open_moves=moves) as s:
        fault = s.faults.add("move_file", hang=hang, calls=[1])
        s.tree.rename("a", "b")
        await reached(fault.reached)
        THEN[then][0](s)
    hang.set()
    await reached(store.ended)
    async with syncing(store, journal=reopened(journal), open_moves=moves) as s:
        await s.settled()
        assert remote(store) == expected(then)
        assert is_settled(s)
        assert moves.all() == []


async def test_a_power_cut_takes_the_note_and_a_look_tells_the_same(
    clock: MockClock, store: Store
) -> None:
    journal = MemoryJournal()
    async with syncing(store, journal=journal) as s:
        s.tree.rename("a", "b")
    store.move_file("a", store.stat("a").version, "b")
    async with syncing(store, journal=reopened(journal)) as s:
        await s.settled()
        assert calls(s) == ["move_file", "identify", "identify"]
        assert remote(store) == {"b": b"data", "x": b"other"}


@pytest.mark.parametrize("then", ["nothing", "made again", "on", "edited", "removed"])
@pytest.mark.parametrize("is_listed", [True, False])
async def test_a_note_of_what_was_settled_that_a_power_cut_brings_back_says_nothing(
    clock: MockClock, store: Store, then: str, is_listed: bool
) -> None:
    journal, moves = MemoryJournal(), OpenMoves()
    async with syncing(store, journal=journal, open_moves=moves) as s:
        hang = threading.Event()
        fault = s.faults.add("move_file", hang=hang, calls=[1])
        s.tree.rename("a", "b")
        await reached(fault.reached)
        (noted,) = moves.all()
        hang.set()
        await s.settled()
        if is_listed and then in ("nothing", "made again"):
            s.journal.commit(Rows(forget=("a", "b")))
        s.faults.add("write", Unreachable("down"))
        s.faults.add("identify", Unreachable("down"))
        THEN[then][0](s)
    moves.put(noted)
    async with syncing(store, journal=reopened(journal), open_moves=moves) as s:
        await s.settled()
        assert remote(store) == expected(then)
        assert is_settled(s)
        assert moves.all() == []


async def test_what_somebody_has_put_at_the_old_name_since_stays(
    clock: MockClock, store: Store
) -> None:
    async with syncing(store) as s:
        s.tree.rename("a", "b")
        store.move_file("a", store.stat("a").version, "b")
        store.seed("a", b"theirs")
        await s.settled()
        assert remote(store) == {"a": b"theirs", "b": b"data", "x": b"other"}
        assert "delete" not in calls(s)
        assert s.tree.foreigners == ["a"]


async def test_what_somebody_has_put_at_the_new_name_stays_beside_ours(
    clock: MockClock, store: Store, expected_log: ExpectedLog
) -> None:
    expected_log("conflict")
    async with syncing(store) as s:
        s.tree.rename("a", "b")
        store.seed("b", b"theirs")
        await s.settled()
        found = remote(store)
        assert found.pop("b") == b"theirs"
        assert sorted(found.values()) == [b"data", b"other"]
        assert "a" not in found


async def test_what_somebody_has_changed_at_the_old_name_is_not_moved(
    clock: MockClock, store: Store, expected_log: ExpectedLog
) -> None:
    expected_log("conflict|is gone|changed on the remote")
    async with syncing(store) as s:
        s.tree.rename("a", "b")
        store.seed("a", b"theirs")
        await s.settled()
        assert remote(store)["a"] == b"theirs"


@pytest.mark.parametrize("error", [Locked("423"), Throttled("503", 1.0), Unreachable("504")])
async def test_what_is_refused_for_now_is_tried_again(
    clock: MockClock, store: Store, error: Exception
) -> None:
    async with syncing(store) as s:
        s.faults.add("move_file", error, calls=[1])
        s.tree.rename("a", "b")
        await s.settled()
        assert calls(s) == ["move_file", "identify", "identify", "move_file"]
        assert remote(store) == {"b": b"data", "x": b"other"}


async def test_what_the_remote_will_not_move_is_copied(clock: MockClock, store: Store) -> None:
    async with syncing(store) as s:
        s.faults.add("move_file", Denied("403"))
        s.tree.rename("a", "b")
        await s.settled()
        assert calls(s) == ["move_file", "copy", "delete"]
        assert remote(store) == {"b": b"data", "x": b"other"}


async def test_while_nobody_can_say_what_became_of_it_nothing_goes_to_either_name(
    clock: MockClock, store: Store
) -> None:
    async with syncing(store) as s:
        s.faults.add("move_file", Unreachable("cut"), after_effect=True, calls=[1])
        looks = s.faults.add("identify", Unreachable("down"))
        s.tree.rename("a", "b")
        await trio.sleep(3.0)
        s.tree.rename("b", "a")
        await trio.sleep(30.0)
        assert set(calls(s)) == {"move_file", "identify"}
        s.faults.remove(looks)
        await s.settled()
        assert remote(store) == {"a": b"data", "x": b"other"}


async def test_who_may_not_look_what_became_of_it_is_told_so_after_an_edit_too(
    clock: MockClock, store: Store, expected_log: ExpectedLog
) -> None:
    expected_log("the share is gone")
    async with syncing(store) as s:
        s.faults.add("move_file", Unreachable("cut"), after_effect=True, calls=[1])
        looks = s.faults.add("identify", Denied("the share is gone"))
        s.tree.rename("a", "b")
        await trio.sleep(300.0)
        s.tree.write("b", b"D", 0)
        await trio.sleep(300.0)
        assert "the share is gone" in s.journal.ledger.changes["b"].reason
        s.faults.remove(looks)
        s.tree.write("b", b"E", 3)
        await s.settled()
        assert remote(store) == {"b": b"DatE", "x": b"other"}
        assert is_settled(s)


async def test_who_reads_it_meanwhile_waits_and_asks_again(clock: MockClock, store: Store) -> None:
    hang = threading.Event()
    async with syncing(store) as s:
        fault = s.faults.add("move_file", hang=hang, calls=[1])
        s.tree.rename("a", "b")
        await reached(fault.reached)
        base = s.journal.ledger.changes["b"].base
        assert base is not None
        async with trio.open_nursery() as nursery:
            found: list[bool] = []

            async def look() -> None:
                found.append(await s.queue.find_base("b", base))

            nursery.start_soon(look)
            await trio.testing.wait_all_tasks_blocked()
            assert found == []
            hang.set()
        assert found == [True]
        assert store.data("b") == b"data"


async def test_a_rename_back_that_a_listing_took_in_meanwhile_is_done_on_the_remote(
    clock: MockClock, store: Store
) -> None:
    hang = threading.Event()
    async with syncing(store) as s:
        fault = s.faults.add("move_file", hang=hang, calls=[1])
        s.tree.rename("a", "b")
        await reached(fault.reached)
        s.tree.rename("b", "a")
        assert s.journal.ledger.changes["a"].is_clean
        s.journal.commit(Rows(forget=("a",)))
        hang.set()
        await s.settled()
        assert remote(store) == {"a": b"data", "x": b"other"}
        assert is_settled(s)


async def refused(s: Syncing, key: str) -> None:
    """Until a try has come to nothing."""
    while not any(c.attempts for c in s.queue.items() if c.key == key):  # noqa: ASYNC110
        await trio.sleep(0.05)


async def test_what_arrives_after_all_under_a_name_that_is_no_longer_wanted_is_found(
    clock: MockClock, store: Store
) -> None:
    """The first request hangs in a proxy: twice there is no answer, and nothing has happened."""
    version = store.stat("a").version
    async with syncing(store) as s:
        fault = s.faults.add("move_file", Unreachable("504"))
        s.tree.rename("a", "b")
        await refused(s, "b")
        s.tree.rename("b", "c")
        await refused(s, "c")
        s.tree.rename("c", "d")
        store.move_file("a", version, "b")
        s.faults.remove(fault)
        await s.settled()
        assert remote(store) == {"d": b"data", "x": b"other"}
        assert is_settled(s)


async def test_two_who_find_it_there_settle_it_once(store: Store) -> None:
    journal, faults, hang = MemoryJournal(), FaultStore(store), threading.Event()
    tree = LocalTree(journal, store, time.time_ns)
    tree.forgets_clean = False
    asker = Asker(faults, Doubts(journal.id, 0), CallThreads(2))
    version = store.stat("a").version
    async with trio.open_nursery() as nursery:
        moves = FileMoves(
            *(journal, asker, tree, OpenMoves(), (), holding), wall_clock=time.time_ns
        )
        moves.begin(nursery)
        fault = faults.add("move_file", Unreachable("504"))
        tree.rename("a", "b")
        change = journal.ledger.changes["b"]
        assert change.base is not None
        with pytest.raises(Unreachable):
            await moves.send(change, nothing_in_the_way)
        faults.remove(fault)
        store.move_file("a", version, "b")
        look = faults.add("identify", hang=hang, calls=[2])
        nursery.start_soon(moves.find, change.base)
        await reached(look.reached)
        assert await moves.find(change.base)
        assert journal.ledger.changes["b"].is_clean
        # It is edited, and that is sent.
        now = replace(journal.ledger.changes["b"], expect="newer")
        journal.commit(Rows(changes=(now,)))
        hang.set()
    assert journal.ledger.changes["b"].expect == "newer"


async def nothing_in_the_way(change: Change) -> None: ...


def holding(*below: str) -> AbstractContextManager[None]:
    return nullcontext()
