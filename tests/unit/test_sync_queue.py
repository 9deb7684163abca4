"""The sync queue over a fake remote: what travels, when, and in which order."""

import threading
import time

import pytest
import trio
from trio.testing import MockClock

from mountd.errors import (
    NameNotAllowed,
    Throttled,
    Unreachable,
    Unsupported,
)
from tests.conftest import ExpectedLog
from tests.fakes.memory_journal import MemoryJournal
from tests.fakes.memory_store import MemoryStore
from tests.fakes.syncing import in_flight, reached, syncing, writes


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    """`syncing` moves it on when nothing goes on."""
    return mock_clock


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


# -- when


async def test_a_change_waits_for_the_delay_after_the_last_write(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store, write_back_s=2.0) as s:
        s.tree.write("a", b"1")
        await trio.sleep(1.5)
        s.tree.write("a", b"2", 1)
        await trio.sleep(1.5)
        assert store.keys() == []
        await trio.sleep(1.0)
        assert store.data("a") == b"12"
        assert store.calls["put"] == 1


async def test_a_file_made_and_removed_within_the_delay_never_travels(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        s.tree.write("a", b"1")
        s.tree.unlink("a")
        await s.settled()
        assert s.faults.requests == []
        assert not s.journal.ledger.changes


async def test_saving_by_rename_is_one_upload(clock: MockClock, store: MemoryStore) -> None:
    store.seed("a", b"old")
    async with syncing(store) as s:
        s.tree.write("a.tmp", b"new")
        s.tree.rename("a.tmp", "a")
        await s.settled()
        assert store.data("a") == b"new"
        assert writes(s.faults.requests) == [("put", "a")]


async def test_a_file_that_stays_open_is_sent_after_a_minute_and_then_each_minute(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        s.tree.write("log", b"1")
        s.tree.open_numbers.add(s.tree.number("log"))
        for at in range(1, 130):
            await trio.sleep(1)
            s.tree.write("log", b"x", at)
        assert store.calls["put"] == 2


async def test_a_drain_sends_what_is_open_and_what_would_wait(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store, write_back_s=1000) as s:
        s.tree.write("d/a", b"1")
        s.tree.write("b", b"2")
        s.tree.open_numbers.add(s.tree.number("d/a"))
        assert await s.queue.drain("d/") == 0
        assert store.keys() == ["d/a"]
        assert await s.queue.drain() == 0
        assert store.keys() == ["b", "d/a"]


async def test_a_drain_ends_though_somebody_goes_on_writing(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        s.tree.write("log", b"first")
        s.tree.open_numbers.add(s.tree.number("log"))
        hang = threading.Event()
        fault = s.faults.add("put", hang=hang)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(s.queue.drain)
            await reached(fault.reached)
            s.tree.write("log", b"more", 5)
            hang.set()
        assert store.data("log") == b"first"
        assert s.queue.counts().pending == 1


async def test_a_drain_ends_when_only_what_was_refused_is_left(
    clock: MockClock, store: MemoryStore, expected_log: ExpectedLog
) -> None:
    expected_log("refused by the remote")
    async with syncing(store) as s:
        s.faults.add("put", NameNotAllowed("no"), key="bad")
        s.tree.write("bad", b"1")
        s.tree.write("good", b"2")
        assert await s.queue.drain() == 1
        assert store.keys() == ["good"]


class _Stalling(threading.Event):
    """Asked in each look; `stalls` is a machine that does other things meanwhile."""

    stalls = False

    def is_set(self) -> bool:
        if self.stalls:
            self.stalls = False
            time.sleep(1.0)
        return super().is_set()


async def test_a_look_that_stalled_is_not_rested_from_as_if_it_had_been_work(
    clock: MockClock, store: MemoryStore
) -> None:
    """A flush on a busy machine waited for nine times that."""
    is_well = _Stalling()
    async with syncing(store, is_well=is_well) as s:
        s.tree.write("a", b"1")
        began_s = trio.current_time()
        is_well.stalls = True
        assert await s.queue.drain() == 0
        assert not is_well.stalls
        assert trio.current_time() - began_s < 3


async def test_a_drain_ends_at_its_timeout(clock: MockClock, store: MemoryStore) -> None:
    async with syncing(store) as s:
        s.is_well.clear()
        s.tree.write("a", b"1")
        began_s = trio.current_time()
        assert await s.queue.drain(timeout_s=30) == 1
        assert trio.current_time() - began_s == pytest.approx(30, abs=1)


async def test_nobody_asks_a_remote_that_is_down_and_all_goes_when_it_is_back(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        s.is_well.clear()
        s.tree.write("a", b"1")
        await trio.sleep(500)
        assert s.faults.requests == []
        s.is_well.set()
        s.queue.wake()
        await s.settled()
        assert store.keys() == ["a"]


async def test_big_files_leave_slots_to_small_ones(clock: MockClock, store: MemoryStore) -> None:
    async with syncing(store, max_transfers=4) as s:
        hang = threading.Event()
        fault = s.faults.add("put", hang=hang, key="big*")
        for number in range(6):
            s.tree.truncate(f"big{number}", 9 << 20)
        await trio.sleep(1.5)
        await reached(fault.reached)
        s.tree.write("small", b"1")
        assert await s.queue.drain("small") == 0
        assert s.queue.counts().uploading == 3
        hang.set()
        await s.settled()


# -- while it travels


async def test_what_is_written_during_an_upload_is_sent_after_it(
    clock: MockClock, store: MemoryStore
) -> None:
    store.seed("a", b"0123456789")
    async with syncing(store) as s:
        s.tree.write("a", b"AA", 2)
        hang = await in_flight(s)
        assert s.queue.state_of(s.tree.number("a")) == "uploading"
        s.tree.write("a", b"BB", 6)
        hang.set()
        await s.queue.drain()
        assert store.data("a") == b"01AA45BB89"
        assert store.calls["put"] == 2


async def test_a_file_unlinked_during_its_upload_is_gone_afterwards(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        s.tree.write("a", b"1")
        hang = await in_flight(s)
        s.tree.unlink("a")
        hang.set()
        await s.settled()
        assert store.keys() == []


async def test_a_file_renamed_during_its_upload_is_at_its_new_name_only(
    clock: MockClock, store: MemoryStore
) -> None:
    """With holes: what they read from was replaced by the upload itself."""
    store.seed("a", b"0123456789")
    async with syncing(store) as s:
        s.tree.write("a", b"AA", 2)
        hang = await in_flight(s)
        s.tree.rename("a", "b")
        s.tree.write("b", b"BB", 6)
        hang.set()
        await s.settled()
        assert store.keys() == ["b"]
        assert store.data("b") == b"01AA45BB89"


async def test_a_file_replaced_during_its_upload_is_the_new_one(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        s.tree.write("a", b"one")
        hang = await in_flight(s)
        s.tree.write("b", b"two")
        s.tree.rename("b", "a")
        hang.set()
        await s.settled()
        assert (store.keys(), store.data("a")) == (["a"], b"two")


async def test_attributes_set_during_an_upload_follow_it(
    clock: MockClock, store: MemoryStore
) -> None:
    async with syncing(store) as s:
        s.tree.write("a", b"one")
        hang = await in_flight(s)
        s.tree.set_mode("a", "33261")
        hang.set()
        await s.settled()
        assert store.upload("a").attributes == {"mode": "33261"}
        assert writes(s.faults.requests) == [("put", "a"), ("copy", "a")]


async def test_attributes_that_a_server_fails_at_until_its_store_gives_up_are_kept_here(
    clock: MockClock, store: MemoryStore
) -> None:
    store.seed("a", b"one")
    async with syncing(store) as s:
        s.faults.add("copy", Unreachable("HTTP 500", answered=True), calls=range(1, 8))
        s.faults.add("copy", Unsupported("HTTP 500"))
        s.tree.set_mode("a", "33261")
        await s.settled()
        assert list(s.journal.ledger.unsent()) == []
        assert s.faults.requests.count(("copy", "a")) == 8
        assert not store.upload("a").attributes


async def test_pins_are_given_back(clock: MockClock, store: MemoryStore) -> None:
    journal = MemoryJournal()
    async with syncing(store, journal=journal) as s:
        s.faults.add("put", Throttled("slow"), calls=[1])
        s.tree.write("a", b"one")
        await s.settled()
    assert journal.pinned == set()


# -- names


async def test_a_clean_file_is_renamed_by_a_copy_and_then_a_delete(
    clock: MockClock, store: MemoryStore
) -> None:
    store.seed("a", b"1")
    async with syncing(store) as s:
        s.tree.rename("a", "b")
        await s.settled()
        assert writes(s.faults.requests) == [("copy", "b"), ("delete", "a")]
        assert (store.keys(), store.data("b")) == (["b"], b"1")


async def test_without_server_copy_a_renamed_file_goes_through_us(clock: MockClock) -> None:
    store = MemoryStore({"a": b"1" * 1000}, server_copy=False)
    async with syncing(store) as s:
        s.tree.rename("a", "b")
        await s.settled()
        assert (store.keys(), store.data("b")) == (["b"], b"1" * 1000)


async def test_a_file_waits_until_its_old_version_is_copied_away(
    clock: MockClock, store: MemoryStore
) -> None:
    store.seed("a", b"old")
    async with syncing(store) as s:
        s.tree.rename("a", "a~")
        s.tree.write("a", b"new")
        await s.settled()
        assert writes(s.faults.requests) == [("copy", "a~"), ("put", "a")]
        assert (store.data("a"), store.data("a~")) == (b"new", b"old")


async def test_two_files_can_be_swapped(clock: MockClock, store: MemoryStore) -> None:
    store.seed("a", b"a" * 10)
    store.seed("b", b"b" * 20)
    async with syncing(store) as s:
        s.tree.rename("a", "t")
        s.tree.rename("b", "a")
        s.tree.rename("t", "b")
        await s.settled()
        assert (store.data("a"), store.data("b")) == (b"b" * 20, b"a" * 10)
        assert store.keys() == ["a", "b"]


async def test_on_real_directories_a_file_can_become_a_directory_with_itself_in_it(
    clock: MockClock,
) -> None:
    store = MemoryStore({"f": b"1"}, real_directories=True)
    async with syncing(store) as s:
        s.tree.rename("f", "t")
        s.tree.make_directory("f/")
        s.tree.rename("t", "f/f")
        await s.settled()
        assert (store.keys(), store.data("f/f")) == (["f/", "f/f"], b"1")


async def test_parents_are_made_first_and_removed_last(clock: MockClock) -> None:
    store = MemoryStore(real_directories=True)
    async with syncing(store) as s:
        s.tree.make_directory("d/")
        s.tree.make_directory("d/e/")
        s.tree.write("d/e/f", b"1")
        await s.settled()
        assert store.keys() == ["d/", "d/e/", "d/e/f"]
        s.tree.unlink("d/e/f")
        s.tree.remove_directory("d/e/")
        s.tree.remove_directory("d/")
        await s.settled()
        assert store.keys() == []


async def test_a_parent_that_somebody_removed_is_made_again(clock: MockClock) -> None:
    store = MemoryStore(real_directories=True)
    store.seed("d/e/")
    async with syncing(store) as s:
        s.tree.write("d/e/f", b"1")
        store.drop("d/e/")
        store.drop("d/")
        await s.settled()
        assert store.data("d/e/f") == b"1"


async def test_a_directory_that_somebody_has_filled_stays(
    clock: MockClock, expected_log: ExpectedLog
) -> None:
    expected_log("not removed")
    store = MemoryStore(real_directories=True)
    store.seed("d/")
    async with syncing(store) as s:
        s.tree.remove_directory("d/")
        store.seed("d/theirs", b"1")
        await s.settled()
        assert store.keys() == ["d/", "d/theirs"]
        assert not s.journal.ledger.changes
        assert "d/" in s.tree.foreigners
