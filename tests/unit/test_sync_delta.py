"""Files that are sent by what differs from their base: when, and what becomes of it."""

import threading

import pytest
import trio
from trio.testing import MockClock

from mountd.errors import NotFound, Unreachable, Unsupported
from mountd.sync.body import StagedBody
from mountd.sync.delta import MIN_BYTES
from mountd_cache.changes import BASE, ZERO, Base, Piece
from tests.conftest import ExpectedLog
from tests.fakes.memory_journal import MemoryJournal
from tests.fakes.memory_store import MemoryStore
from tests.fakes.syncing import reached, syncing

LARGE = bytes(range(256)) * (MIN_BYTES // 256)


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    """Jumps when nothing has happened for 10 ms: threads answer within that."""
    mock_clock.autojump_threshold = 0.01
    return mock_clock


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore({"a": LARGE})


def edited(data: bytes, offset: int) -> bytes:
    return LARGE[:offset] + data + LARGE[offset + len(data) :]


def test_what_is_the_same_as_the_base_is_told_in_ranges() -> None:
    layers = [(0, 3, BASE), (3, 5, BASE), (5, 6, 0), (6, 7, ZERO), (7, 9, BASE)]
    pieces = [Piece(*piece) for piece in layers]
    body = StagedBody(MemoryJournal(), MemoryStore(), 1, Base("a", "g1", 9), pieces)
    assert body.same == [(0, 5), (7, 9)]


async def test_a_small_edit_of_a_large_file_moves_nothing_else(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        s.tree.write("a", b"edit", 1000)
        await s.settled()
        # Asked before: what somebody else may have set beside these bytes.
        assert s.faults.requests == [("identify", "a"), ("put_delta", "a")]
        assert store.data("a") == edited(b"edit", 1000)
        s.tree.write("a", b"more", MIN_BYTES)
        await s.settled()
        assert store.data("a") == edited(b"edit", 1000) + b"more"
        assert store.calls["put"] == 0


async def test_a_renamed_file_that_was_edited_is_made_of_its_old_name(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        s.tree.write("a", b"edit", 1000)
        s.tree.rename("a", "b")
        await s.settled()
        assert s.faults.requests[:2] == [("identify", "a"), ("put_delta", "b")]
        assert (store.keys(), store.data("b")) == (["b"], edited(b"edit", 1000))


async def test_small_files_and_mostly_new_ones_go_whole(
    clock: MockClock, store: MemoryStore
) -> None:
    store.seed("small", LARGE[:-1])
    async with syncing(store) as s:
        s.tree.write("small", b"edit", 1000)
        s.tree.write("a", LARGE[: MIN_BYTES // 2])
        await s.settled()
        assert store.calls["put_delta"] == 0
        assert store.data("small") == edited(b"edit", 1000)[:-1]
        assert store.data("a") == LARGE


async def test_where_it_can_not_be_done_the_file_goes_whole(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        s.faults.add("put_delta", Unsupported("not this one"))
        s.tree.write("a", b"edit", 1000)
        await s.settled()
        assert store.data("a") == edited(b"edit", 1000)
        assert (store.calls["put_delta"], store.calls["put"]) == (0, 1)
    whole = MemoryStore({"a": LARGE}, put_delta=False)
    async with syncing(whole) as s:
        s.tree.write("a", b"edit", 1000)
        await s.settled()
        assert ("put_delta", "a") not in s.faults.requests
        assert whole.data("a") == edited(b"edit", 1000)


async def test_a_delta_whose_answer_was_lost_is_not_made_twice(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        s.faults.add("put_delta", Unreachable("lost"), calls=[1], after_effect=True)
        s.tree.write("a", b"edit", 1000)
        await s.settled()
        assert store.data("a") == edited(b"edit", 1000)
        assert store.calls["put_delta"] == 1
        assert s.tree.foreigners == []


@pytest.mark.parametrize("is_removed", [False, True])
async def test_a_base_that_is_gone_is_a_conflict_and_never_a_mix(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog, is_removed: bool
) -> None:
    expected_log("the version that this was based on is gone")
    async with syncing(store) as s:
        s.tree.write("a", b"edit", 1000)
        if is_removed:
            store.drop("a")
        else:
            store.seed("a", b"theirs" * MIN_BYTES)
        assert await s.queue.drain() == 1
        assert s.queue.counts().conflicts == 1
        assert store.keys() == ([] if is_removed else ["a"])
        if not is_removed:
            assert store.data("a") == b"theirs" * MIN_BYTES
        assert s.journal.ledger.contents[s.journal.ledger.changes["a"].content].base is not None


async def test_a_target_that_somebody_made_is_a_conflict_copy_with_all_bytes(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("conflict")
    async with syncing(store) as s:
        s.tree.write("a", b"edit", 1000)
        s.tree.rename("a", "b")
        store.seed("b", b"theirs")
        await s.settled()
        (copy,) = set(store.keys()) - {"b"}
        assert store.data("b") == b"theirs"
        assert "conflict" in copy
        assert store.data(copy) == edited(b"edit", 1000)


async def test_an_edit_during_a_delta_follows_it(clock: MockClock, store: MemoryStore) -> None:
    async with syncing(store) as s:
        hang = threading.Event()
        fault = s.faults.add("put_delta", hang=hang, calls=[1])
        s.tree.write("a", b"edit", 1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(s.settled)
            await reached(fault.reached)
            s.tree.write("a", b"next", 2000)
            hang.set()
        await s.settled()
        assert store.data("a")[1000:1004] == b"edit"
        assert store.data("a")[2000:2004] == b"next"
        assert store.calls["put"] == 0


async def test_what_the_remote_does_not_find_without_its_being_the_base_stays_what_it_is(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        s.faults.add("put_delta", NotFound("who knows"), calls=[1])
        s.tree.write("a", b"edit", 1000)
        await s.settled()
        assert store.data("a") == edited(b"edit", 1000)
