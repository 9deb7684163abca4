"""The remote has no longer what a file was made from: what the cache has of it is as good."""

from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from mountd_cache.changes import ChangeState
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import BLOCK, content, mounted_files
from tests.fakes.syncing import Syncing, syncing
from tests.unit.test_writing import edit

COPY = "a (conflict box"


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    """`syncing` moves it on when nothing goes on."""
    return mock_clock


def cache(s: Syncing, key: str, data: bytes) -> None:
    s.tree.cached[key, s.tree.seen[key].version] = data


@pytest.mark.parametrize("theirs", [b"theirs", None])
async def test_what_the_cache_has_whole_becomes_what_the_user_saw(
    clock: MockClock, expected_log: Any, theirs: bytes | None
) -> None:
    store = MemoryStore({"a": b"0123456789"})
    async with syncing(store) as s:
        cache(s, "a", b"0123456789")
        s.tree.write("a", b"AA", 2)
        if theirs is None:  # nothing is there that a copy would be beside
            store.drop("a")
        else:
            expected_log("conflict: 'a' changed on the remote; ours becomes")
            store.seed("a", theirs)
        assert await s.queue.drain() == 0
        found = {key[: len(COPY)]: store.data(key) for key in list(store.keys())}
    wanted = {"a": theirs, COPY: b"01AA456789"}
    assert found == ({"a": b"01AA456789"} if theirs is None else wanted)


async def test_what_the_cache_has_in_part_stays_here_and_says_what_to_do(
    clock: MockClock, expected_log: Any
) -> None:
    expected_log("the version that this was based on is gone")
    expected_log("ours becomes")
    store = MemoryStore({"a": b"0123456789"})
    async with syncing(store) as s:
        cache(s, "a", b"01234567")
        s.tree.write("a", b"AA", 2)
        store.seed("a", b"theirs")
        assert await s.queue.drain() == 1
        assert (store.keys(), store.data("a")) == (["a"], b"theirs")
        (item,) = s.queue.items()
        assert "write the file anew as a whole" in item.reason
        assert "mountd queue --discard" in item.reason
        staged = s.journal.ledger.contents[s.journal.ledger.changes["a"].content]
        assert list(staged.layers[0].extents) == [(2, 4)], "half of it helps nobody"
        s.tree.save("a", b"all of it")
        assert await s.queue.drain() == 0
        assert sorted(store.data(key) for key in list(store.keys())) == [b"all of it", b"theirs"]


@pytest.mark.parametrize("is_edited", [True, False])
async def test_a_renamed_file_goes_to_its_name_and_theirs_stays_at_the_old_one(
    clock: MockClock, expected_log: Any, is_edited: bool
) -> None:
    expected_log("'a': it changed on the remote, and is not removed")
    store = MemoryStore({"a": b"0123456789"})
    async with syncing(store) as s:
        cache(s, "a", b"0123456789")
        s.tree.rename("a", "b")
        if is_edited:
            s.tree.write("b", b"AA", 2)
        store.seed("a", b"theirs")
        assert await s.queue.drain() == 0
    wanted = b"01AA456789" if is_edited else b"0123456789"
    assert {key: store.data(key) for key in list(store.keys())} == {"a": b"theirs", "b": wanted}


async def test_a_file_that_was_only_touched_makes_no_copy(
    clock: MockClock, expected_log: Any
) -> None:
    expected_log("its new attributes are dropped")
    store = MemoryStore({"a": b"0123456789"})
    async with syncing(store) as s:
        cache(s, "a", b"0123456789")
        s.tree.truncate("a", 10)
        s.tree.set_mode("a", "420")
        store.seed("a", b"theirs")
        assert await s.queue.drain() == 0
    assert {key: store.data(key) for key in list(store.keys())} == {"a": b"theirs"}


async def test_a_chmod_of_theirs_does_not_make_it_ours(clock: MockClock, expected_log: Any) -> None:
    expected_log("the version that this was based on is gone")
    store = MemoryStore({"a": b"0123456789"})
    async with syncing(store) as s:
        s.tree.rename("a", "b")
        store.seed("a", b"theirs")
        assert await s.queue.drain() == 1
        s.tree.set_mode("a", "420")
        await s.queue.drain()
        assert store.upload("a").attributes == {"mode": "420"}
        s.queue.retry()
        assert await s.queue.drain() == 1
    assert {key: store.data(key) for key in list(store.keys())} == {"a": b"theirs"}


@pytest.mark.parametrize("read", ["all", "half"])
async def test_the_block_cache_gives_what_was_read_of_that_version(
    tmp_path: Path, expected_log: Any, read: str
) -> None:
    expected_log("conflict")
    data = bytes(range(256)) * (BLOCK // 128)  # two blocks
    memory = MemoryStore({"a": data, "b": data})
    async with mounted_files(memory, tmp_path, queue=True) as mounted:
        fs, queue = mounted.fs, mounted.queue
        assert queue is not None
        if read == "all":
            assert await content(fs, "a") == data
        await edit(fs, "a", BLOCK // 2, b"EDITED")
        memory.seed("a", b"theirs")
        left = await queue.drain("", 20)
        assert memory.data("a") == b"theirs"
        copies = [memory.data(key) for key in list(memory.keys()) if "conflict" in key]
        if read == "half":
            assert (left, copies) == (1, [])
            assert fs.tree.ledger.changes["a"].state is ChangeState.FAILED
            return
    assert left == 0
    assert copies == [data[: BLOCK // 2] + b"EDITED" + data[BLOCK // 2 + 6 :]]
