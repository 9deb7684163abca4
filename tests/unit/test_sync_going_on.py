"""Large uploads that break off: what the queue goes on with, and what it ends."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from mountd.errors import Denied, Unreachable
from mountd.remotes.base import Body, Capabilities, Identity, Upload
from mountd.sync.unfinished import UnfinishedUploads
from mountd.types import Entry
from tests.conftest import ExpectedLog
from tests.fakes.memory_journal import MemoryJournal, reopened
from tests.fakes.parts_store import PART, PartsStore
from tests.fakes.syncing import Syncing, in_flight, syncing

PARTS = 10
DATA = b"".join(bytes([number]) * PART for number in range(PARTS))


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    """`syncing` moves it on when nothing goes on."""
    return mock_clock


@pytest.fixture
def store() -> PartsStore:
    return PartsStore()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await trio.sleep(0.1)
    raise AssertionError("it doesn't come to that")


async def broken_off(s: Syncing, store: PartsStore, parts: int = 6) -> None:
    """An upload of DATA to `a` of which so many parts have come; the remote is down then."""
    store.cut_after = [parts]
    s.tree.write("a", DATA)
    await until(lambda: not store.cut_after and not s.queue.counts().uploading)
    s.is_well.clear()
    assert len(store.begun) == 1


async def up_again(s: Syncing) -> None:
    s.is_well.set()
    s.queue.wake()
    await s.settled()


class SumStore(PartsStore):
    """Keeps sums instead of upload ids, as a Nextcloud does."""

    is_slow = False

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, keeps_attributes=False)

    def identify(self, key: str) -> Identity:
        return replace(super().identify(key), upload_id="")

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        if upload.completing is not None:
            data = bytes(body.read(0, body.size))
            upload.completing(hashlib.md5(data, usedforsecurity=False).hexdigest())
        if self.is_slow:
            raise Unreachable("it takes effect later")
        return super().put(key, body, expect, upload)


async def arrived_unheard(folder: Path, store: PartsStore) -> MemoryJournal:
    """A piece was written into the remote's `a` and sent, and the process died before the answer;
    the version that the rest of the bytes was read from is gone."""
    journal = MemoryJournal()
    async with syncing(store, journal=journal, unfinished=UnfinishedUploads.load(folder)) as s:
        s.faults.add("put", Unreachable("cut"), key="a", calls=[1], after_effect=True)
        s.faults.add("identify", Unreachable("cut"))
        s.tree.write("a", b"first", 3)
        await until(lambda: store.data("a")[3:8] == b"first" and not s.queue.counts().uploading)
    return reopened(journal)


def calls(s: Syncing) -> list[str]:
    return [call for call, _ in s.faults.requests]


async def test_the_next_try_sends_only_what_is_missing(clock: MockClock, store: PartsStore) -> None:
    async with syncing(store) as s:
        await broken_off(s, store)
        await up_again(s)
        assert (store.sent, store.begun) == (PARTS, {})
        assert store.data("a") == DATA


async def test_another_process_goes_on(clock: MockClock, store: PartsStore, tmp_path: Path) -> None:
    journal = MemoryJournal()
    first = UnfinishedUploads.load(tmp_path / "uploads")
    async with syncing(store, journal=journal, unfinished=first) as s:
        await broken_off(s, store)
    second = UnfinishedUploads.load(tmp_path / "uploads")
    async with syncing(store, journal=reopened(journal), unfinished=second) as s:
        await s.settled()
        assert (store.sent, store.begun, len(second)) == (PARTS, {}, 0)
        assert store.data("a") == DATA
        assert s.tree.foreigners == []


@pytest.mark.parametrize("then", ["nothing", "a piece", "anew", "replaced", "removed", "a mode"])
@pytest.mark.parametrize("data", [DATA, b"a small one, sent whole"])
async def test_what_a_former_process_completed_is_known_by_its_sum(
    clock: MockClock, tmp_path: Path, data: bytes, then: str
) -> None:
    store = SumStore({"a": data})
    journal = await arrived_unheard(tmp_path / "uploads", store)
    second = UnfinishedUploads.load(tmp_path / "uploads")
    wanted = data[:3] + b"first" + data[8:]
    async with syncing(store, journal=journal, unfinished=second) as s:
        match then:
            case "a piece":
                s.tree.write("a", b"later", 10)
                wanted = wanted[:10] + b"later" + wanted[15:]
            case "anew":
                s.tree.save("a", b"short")
                wanted = b"short"
            case "replaced":
                s.tree.save("b", b"short")
                s.tree.rename("b", "a")
                wanted = b"short"
            case "removed":
                s.tree.unlink("a")
            case "a mode":
                s.tree.set_mode("a", "33188")
        await s.settled()
        await until(lambda: not len(second))  # which is swept after the rest is settled
        assert (s.tree.foreigners, s.queue.counts().failed) == ([], 0)
        there = {} if then == "removed" else {"a": wanted}
        names = store.keys()
        assert {key: store.data(key) for key in names} == there


class UnsummedStore(SumStore):
    """A Nextcloud keeps a sum only of what came with one, and a copy of that."""

    def identify(self, key: str) -> Identity:
        return replace(super().identify(key), md5="")


@pytest.mark.parametrize("kind", [SumStore, UnsummedStore])
async def test_a_copy_that_a_former_process_had_made_is_known_by_the_sum_of_its_source(
    clock: MockClock, tmp_path: Path, kind: type[SumStore]
) -> None:
    store, journal = kind({"a": DATA[:100]}), MemoryJournal()
    async with syncing(store, journal=journal) as s:
        s.faults.add("copy", Unreachable("cut"), after_effect=True)
        s.faults.add("identify", Unreachable("cut"))
        s.tree.rename("a", "b")
        await until(lambda: store.keys().count("b") == 1 and not s.queue.counts().uploading)
    async with syncing(store, journal=reopened(journal)) as s:
        await s.settled()
        assert (s.tree.foreigners, s.queue.counts().failed, store.keys()) == ([], 0, ["b"])


async def test_what_a_former_process_sent_is_known_when_it_arrives_after_the_look(
    clock: MockClock, tmp_path: Path
) -> None:
    store, journal, folder = SumStore({"a": b"a small one"}), MemoryJournal(), tmp_path / "uploads"
    store.is_slow = True
    async with syncing(store, journal=journal, unfinished=UnfinishedUploads.load(folder)) as s:
        s.faults.add("identify", Unreachable("cut"))
        s.tree.write("a", b"first", 3)
        await until(lambda: "put" in calls(s) and not s.queue.counts().uploading)
    store.is_slow = False
    second = UnfinishedUploads.load(folder)
    async with syncing(store, journal=reopened(journal), unfinished=second) as s:
        s.tree.write("a", b"XY")
        hang = await in_flight(s)
        store.edited_by_others("a", b"a sfirstone")
        hang.set()
        await s.settled()
        await until(lambda: not len(second))  # which is swept after the rest is settled
        assert (s.tree.foreigners, s.queue.counts().failed) == ([], 0)
        assert (store.keys(), store.data("a")) == (["a"], b"XYsfirstone")


async def test_what_was_frozen_goes_first_and_the_rest_follows(
    clock: MockClock, store: PartsStore
) -> None:
    async with syncing(store) as s:
        await broken_off(s, store)
        s.tree.write("a", b"later", 3)
        await up_again(s)
        assert store.data("a") == DATA[:3] + b"later" + DATA[8:]
        assert [call for call in calls(s) if call in ("put", "abandon")] == ["put"] * 3
        assert store.begun == {}


async def test_what_is_mostly_overwritten_is_ended(clock: MockClock, store: PartsStore) -> None:
    async with syncing(store) as s:
        await broken_off(s, store)
        s.tree.save("a", b"short")
        await up_again(s)
        assert store.data("a") == b"short"
        assert calls(s).index("abandon") < len(calls(s)) - 1
        assert (calls(s)[-1], store.begun, store.sent) == ("put", {}, 6)


async def test_other_attributes_are_another_upload(clock: MockClock, store: PartsStore) -> None:
    async with syncing(store) as s:
        await broken_off(s, store)
        s.tree.set_mode("a", "33152")
        await up_again(s)
        assert (store.begun, store.sent) == ({}, 6 + PARTS)
        assert store.data("a") == DATA


async def test_before_a_file_is_removed_its_upload_is_ended(
    clock: MockClock, store: PartsStore
) -> None:
    async with syncing(store) as s:
        await broken_off(s, store)
        s.tree.unlink("a")
        await up_again(s)
        asked = calls(s)
        assert "abandon" in asked
        assert "delete" not in asked[: asked.index("abandon")]
        assert (store.keys(), store.begun) == ([], {})


async def test_a_renamed_file_is_sent_anew(clock: MockClock, store: PartsStore) -> None:
    async with syncing(store) as s:
        await broken_off(s, store)
        s.tree.rename("a", "b")
        await up_again(s)
        assert (store.keys(), store.begun) == (["b"], {})
        assert store.data("b") == DATA


async def test_a_discarded_upload_is_ended(clock: MockClock, store: PartsStore) -> None:
    async with syncing(store) as s:
        await broken_off(s, store)
        s.queue.discard("a")
        s.is_well.set()
        s.queue.wake()
        await until(lambda: not store.begun)
        assert calls(s)[-1] == "abandon"
        assert store.keys() == []


async def test_somebody_elses_file_ends_it_and_ours_becomes_a_conflict_copy(
    clock: MockClock, store: PartsStore, expected_log: ExpectedLog
) -> None:
    expected_log("conflict: 'a' changed on the remote")
    async with syncing(store) as s:
        await broken_off(s, store)
        store.seed("a", b"theirs")
        await up_again(s)
        assert store.data("a") == b"theirs"
        copies = sorted({*store.keys()} - {"a"})
        assert [store.data(key) for key in copies] == [DATA]
        assert store.begun == {}


async def test_what_can_not_be_ended_now_is_ended_later(
    clock: MockClock, store: PartsStore
) -> None:
    async with syncing(store) as s:
        await broken_off(s, store)
        s.faults.add("abandon", Unreachable("reset"), calls=[1, 2])
        s.queue.discard("a")
        s.is_well.set()
        s.queue.wake()
        await until(lambda: not store.begun)
        assert calls(s).count("abandon") == 3


async def test_who_may_not_end_uploads_still_sends(clock: MockClock, store: PartsStore) -> None:
    async with syncing(store) as s:
        await broken_off(s, store)
        s.faults.add("abandon", Denied("no"))
        s.tree.rename("a", "b")
        await up_again(s)
        assert store.data("b") == DATA
