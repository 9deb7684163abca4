"""Pins without a kernel: what is held, filled, followed, refused, and found again."""

from pathlib import Path

import pytest
import trio
import trio.testing

from mountd.config import CopiedSubtree
from mountd.errors import (
    Corrupt,
    NoAttribute,
    NoEntry,
    NoSpace,
    NotPermitted,
    NotPossible,
    Unreachable,
)
from mountd.transfer.pinned_tree import PinState
from mountd.vfs.keeping import PIN, WARM
from tests.conftest import ExpectedLog
from tests.fakes.fault_store import FaultStore
from tests.fakes.keeping import Kept, kept_files, until
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import BLOCK, Clock, content, names, walk

SMALL = b"s" * 10_000
LARGE = bytes(range(256)) * (5 * BLOCK // 256) + b"end"
TREE = {"d/a": SMALL, "d/b": LARGE, "d/e/c": SMALL + b"c", "other": SMALL + b"o"}


class RefusingStore(MemoryStore):
    """`refuses`: no bytes are given, listings are."""

    refuses = False
    refused = 0

    def read(self, key: str, start: int, end: int, version: str) -> bytes:
        if self.refuses:
            self.refused += 1
            raise Corrupt("not now")
        return super().read(key, start, end, version)


def is_here(kept: Kept, path: bytes) -> bool:
    tree = kept.pins.at(path)
    return tree is not None and tree.state is PinState.HERE


async def pinned(kept: Kept, path: bytes) -> None:
    await kept.pins.pin(path)
    await until(lambda: is_here(kept, path))


async def test_all_below_a_pinned_directory_is_fetched_and_read_without_the_remote(
    tmp_path: Path,
) -> None:
    store = MemoryStore(TREE)
    async with kept_files(store, tmp_path) as kept:
        await pinned(kept, b"d")
        store.calls.clear()
        assert await content(kept.fs, "d/a") == SMALL
        assert await content(kept.fs, "d/b") == LARGE
        assert await content(kept.fs, "d/e/c") == SMALL + b"c"
        assert store.calls["read"] == 0
        assert await content(kept.fs, "other") == SMALL + b"o"
        assert store.calls["read"] == 1
        size = kept.means.holds.held_bytes
        assert kept.blocks.pinned_bytes == size
        [told] = kept.pins.status()
        assert (told["path"], told["files"], told["missing_bytes"]) == ("d", 3, 0)


async def test_one_file_can_be_pinned_and_nothing_beside_it(tmp_path: Path) -> None:
    store = MemoryStore(TREE)
    async with kept_files(store, tmp_path) as kept:
        await pinned(kept, b"d/a")
        assert kept.blocks.pinned_bytes == kept.blocks.disk_bytes(len(SMALL))
        assert store.calls["read"] == 1


async def test_pins_overlap_and_what_one_lets_go_the_other_keeps(tmp_path: Path) -> None:
    async with kept_files(MemoryStore(TREE), tmp_path) as kept:
        await pinned(kept, b"d")
        size = kept.blocks.pinned_bytes
        await pinned(kept, b"d/e")
        assert kept.blocks.pinned_bytes == size == kept.means.holds.held_bytes
        await kept.pins.unpin(b"d")
        assert kept.blocks.pinned_bytes == kept.blocks.disk_bytes(len(SMALL) + 1)
        await kept.pins.unpin(b"d/e")
        assert kept.blocks.pinned_bytes == 0 == kept.means.holds.held_bytes
        with pytest.raises(NoEntry):
            await kept.pins.unpin(b"d/e")


async def test_pins_and_their_blocks_survive_a_restart_without_a_request(tmp_path: Path) -> None:
    store = MemoryStore(TREE)
    async with kept_files(store, tmp_path) as kept:
        await pinned(kept, b"d")
        size = kept.blocks.pinned_bytes
    store.calls.clear()
    async with kept_files(store, tmp_path) as kept:
        # Held before anything was looked at.
        assert kept.means.holds.held_bytes == size
        await until(lambda: is_here(kept, b"d"))
        assert kept.blocks.pinned_bytes == size == kept.means.holds.held_bytes
        assert store.calls == {}


async def test_what_does_not_fit_is_refused_and_leaves_nothing_pinned(tmp_path: Path) -> None:
    store = MemoryStore(TREE)
    room = 6 * (BLOCK + 4096)  # nine tenths of it take the five blocks and not the rest
    async with kept_files(store, tmp_path, cache_bytes=room) as kept:
        with pytest.raises(NoSpace, match="do not fit"):
            await kept.pins.pin(b"d")
        assert kept.pins.status() == []
        assert kept.means.holds.held_bytes == 0
        await pinned(kept, b"d/e")
    async with kept_files(store, tmp_path, cache_bytes=room) as kept:
        assert [told["path"] for told in kept.pins.status()] == ["d/e"]


async def test_a_pin_that_grows_too_large_keeps_what_fits_and_says_what_is_missing(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("bytes of 'd' do not fit")
    store = MemoryStore({"d/a": SMALL})
    async with kept_files(store, tmp_path, cache_bytes=6 * (BLOCK + 4096)) as kept:
        await pinned(kept, b"d")
        store.seed("d/b", LARGE * 2)
        kept.fs.refresh(b"d")
        await names(kept.fs, "d")
        tree = kept.pins.at(b"d")
        assert tree is not None
        await until(lambda: tree.state is PinState.NO_ROOM)
        [told] = kept.pins.status()
        assert told["no_room_bytes"] == told["missing_bytes"] == 2 * len(LARGE)
        assert kept.blocks.pinned_bytes == kept.blocks.disk_bytes(len(SMALL))


async def test_a_foreign_change_is_fetched_when_it_was_seen_and_the_old_version_let_go(
    tmp_path: Path,
) -> None:
    store = MemoryStore(TREE)
    async with kept_files(store, tmp_path) as kept:
        await pinned(kept, b"d")
        size = kept.blocks.pinned_bytes
        store.seed("d/b", LARGE[:BLOCK])
        store.seed("d/new", SMALL + b"new")
        store.drop("d/a")
        kept.fs.refresh(b"d")
        assert await names(kept.fs, "d") == ["b", "e", "new"]
        sizes = (BLOCK, len(SMALL) + 3, len(SMALL) + 1)
        wanted = sum(kept.blocks.disk_bytes(n) for n in sizes)
        await until(lambda: kept.blocks.pinned_bytes == wanted)
        assert wanted < size
        store.calls.clear()
        assert await content(kept.fs, "d/new") == SMALL + b"new"
        assert await content(kept.fs, "d/b") == LARGE[:BLOCK]
        assert store.calls["read"] == 0


async def test_a_large_file_that_changes_takes_the_room_of_what_it_was(tmp_path: Path) -> None:
    store = MemoryStore({"d/a": SMALL, "d/b": LARGE, "other": SMALL})
    async with kept_files(store, tmp_path, cache_bytes=11 * (BLOCK + 4096)) as kept:
        await pinned(kept, b"d")
        held, reads = kept.blocks.pinned_bytes, store.calls["read"]
        store.seed("d/b", LARGE[::-1])
        kept.fs.refresh(b"d")
        await names(kept.fs, "d")
        await until(lambda: store.calls["read"] > reads and is_here(kept, b"d"))
        assert kept.blocks.pinned_bytes == held
        store.calls.clear()
        assert await content(kept.fs, "d/b") == LARGE[::-1]
        assert store.calls["read"] == 0
        await kept.pins.unpin(b"d")
        assert kept.blocks.pinned_bytes == 0


async def test_a_path_that_was_removed_is_not_pinned_any_more(tmp_path: Path) -> None:
    store = MemoryStore(TREE)
    async with kept_files(store, tmp_path) as kept:
        await pinned(kept, b"d/e")
        store.drop("d/e/c")
        kept.fs.refresh(b"")
        await names(kept.fs, "d")
        await until(lambda: kept.pins.status() == [])
        assert kept.blocks.pinned_bytes == 0
    async with kept_files(store, tmp_path) as kept:
        assert kept.pins.status() == []


async def test_unreachable_is_not_removed(tmp_path: Path, expected_log: ExpectedLog) -> None:
    expected_log("listing")
    store, is_well = MemoryStore(TREE), True
    async with kept_files(store, tmp_path, remote_is_well=lambda: is_well) as kept:
        await pinned(kept, b"d")
        size = kept.blocks.pinned_bytes
        store.fail_always(Unreachable("down"))
        is_well = False
        kept.fs.refresh(b"")
        await names(kept.fs, "d")
        await trio.sleep(1)
        assert [told["path"] for told in kept.pins.status()] == ["d"]
        assert kept.blocks.pinned_bytes == size


async def test_pinned_blocks_survive_any_reading_of_others(tmp_path: Path) -> None:
    others = {f"x/{i:02}": bytes([i]) * 2 * BLOCK for i in range(30)}
    store = FaultStore(MemoryStore({**TREE, **others}))
    async with kept_files(store, tmp_path, cache_bytes=16 * (BLOCK + 4096)) as kept:
        await pinned(kept, b"d")
        for name, data in others.items():
            assert await content(kept.fs, name) == data
        store.requests.clear()  # what is fetched ahead of the others may still come
        assert await content(kept.fs, "d/b") == LARGE
        assert ("read", "d/b") not in store.requests
        assert kept.blocks.bytes_used <= 17 * (BLOCK + 4096)


async def test_what_was_written_here_has_room_before_a_pin_goes_on(tmp_path: Path) -> None:
    staged = 60 << 20
    store = MemoryStore(TREE)
    limit = (60 << 20) + BLOCK
    async with kept_files(store, tmp_path, cache_bytes=limit, staged_bytes=lambda: staged) as kept:
        tree = await kept.pins.pin(b"d/b")
        await until(lambda: tree.state is PinState.FILLING)
        await trio.sleep(0.5)
        assert kept.blocks.pinned_bytes <= BLOCK
        staged = 0
        await until(lambda: is_here(kept, b"d/b"))


async def test_the_xattr_pins_shows_how_far_it_is_and_unpins(tmp_path: Path) -> None:
    store = MemoryStore(TREE)
    async with kept_files(store, tmp_path) as kept:
        number = (await walk(kept.fs, "d")).number
        inside = (await walk(kept.fs, "d/e/c")).number
        with pytest.raises(NoAttribute):
            kept.fs.xattr(number, PIN)
        with pytest.raises(NotPossible):
            await kept.fs.set_xattr(number, PIN, b"yes")
        await kept.fs.set_xattr(number, PIN, b"0")
        await kept.fs.set_xattr(number, PIN, b"1\n")
        assert kept.fs.xattr(number, PIN) in (b"1", *(b"%d%%" % i for i in range(100)))
        await until(lambda: kept.fs.xattr(number, PIN) == b"1")
        assert kept.fs.xattr(inside, PIN) == b"1"
        with pytest.raises(NotPossible, match="pinned with d"):
            await kept.fs.set_xattr(inside, PIN, None)
        await kept.fs.set_xattr(number, PIN, None)
        with pytest.raises(NoAttribute):
            await kept.fs.set_xattr(number, PIN, None)
        assert kept.blocks.pinned_bytes == 0


async def test_warm_by_xattr_fills_and_lets_go(tmp_path: Path) -> None:
    store = MemoryStore(TREE)
    async with kept_files(store, tmp_path) as kept:
        number = (await walk(kept.fs, "d")).number
        await kept.fs.set_xattr(number, WARM, b"1")
        await until(lambda: kept.fs.xattr(number, WARM) == b"1")
        assert kept.blocks.pinned_bytes == 0 == kept.means.holds.held_bytes
        store.calls.clear()
        assert await content(kept.fs, "d/b") == LARGE
        assert store.calls["read"] == 0
        await kept.fs.set_xattr(number, WARM, b"0")
        with pytest.raises(NoAttribute):
            kept.fs.xattr(number, WARM)


COPY = (CopiedSubtree("d", 3600.0),)


async def test_a_copied_subtree_is_not_asked_about_however_old_it_is(tmp_path: Path) -> None:
    store, clock = MemoryStore(TREE), Clock()
    async with kept_files(store, tmp_path, copies=COPY, clock=clock) as kept:
        await until(lambda: is_here(kept, b"d"))
        store.calls.clear()
        for _ in range(3):
            clock.now_s += 1000
            assert await names(kept.fs, "d") == ["a", "b", "e"]
            assert await content(kept.fs, "d/b") == LARGE
            assert await content(kept.fs, "d/e/c") == SMALL + b"c"
            with pytest.raises(NoEntry):
                await walk(kept.fs, "d/missing")
        assert store.calls == {}
        await names(kept.fs)  # the root is not part of it
        assert store.calls["list"] == 1
        with pytest.raises(NotPermitted, match="config file"):
            await kept.pins.unpin(b"d")
    store.fail_always(Unreachable("gone"))
    async with kept_files(store, tmp_path, copies=COPY, clock=clock) as kept:
        store.calls.clear()
        assert await content(kept.fs, "d/b") == LARGE  # before the first look is over
        await until(lambda: is_here(kept, b"d"))
        clock.now_s += 1000
        assert await content(kept.fs, "d/e/c") == SMALL + b"c"
        assert store.calls == {}


async def test_a_foreign_change_in_a_copied_subtree_appears_when_it_is_here(
    tmp_path: Path,
) -> None:
    store, clock = RefusingStore(TREE), Clock()
    copies = (CopiedSubtree("d", 1.0),)
    async with kept_files(store, tmp_path, copies=copies, clock=clock) as kept:
        await until(lambda: is_here(kept, b"d"))
        before = (await walk(kept.fs, "d/b")).number
        store.refuses = True
        store.seed("d/b", LARGE[::-1])
        store.seed("d/new/x/y", SMALL + b"y")
        await until(lambda: store.refused > 0)
        assert await names(kept.fs, "d") == ["a", "b", "e"]
        assert await content(kept.fs, "d/b") == LARGE
        store.refuses = False

        def has_new() -> bool:
            cached = kept.fs.tree.cache.get("d/")
            return cached is not None and cached.listing.find(b"new") >= 0

        await until(has_new, 60)
        store.calls.clear()
        assert await content(kept.fs, "d/b") == LARGE[::-1]
        assert (await walk(kept.fs, "d/b")).number != before
        assert await content(kept.fs, "d/new/x/y") == SMALL + b"y"
        assert store.calls["read"] == 0
        await until(lambda: {name for _, name in kept.forgotten} >= {b"b", b"new"})


@pytest.mark.parametrize("is_slow", [False, True])
async def test_refresh_shows_a_change_in_a_copied_subtree_at_once(
    tmp_path: Path, is_slow: bool
) -> None:
    store = MemoryStore(TREE)
    async with kept_files(store, tmp_path, copies=COPY) as kept:
        await until(lambda: is_here(kept, b"d"))
        store.seed("d/new", SMALL)
        assert await names(kept.fs, "d") == ["a", "b", "e"]
        kept.fs.refresh(b"d")
        if is_slow:  # nobody looks before the daemon has
            await until(lambda: "d/" in kept.fs.tree.settled)
        assert await names(kept.fs, "d") == ["a", "b", "e", "new"]
        await until(lambda: "d/" in kept.fs.tree.settled)
        store.calls.clear()
        assert await content(kept.fs, "d/new") == SMALL
        assert store.calls == {}


async def test_a_copied_subtree_that_is_removed_is_gone_for_readers_and_may_come_back(
    tmp_path: Path,
) -> None:
    store, clock = MemoryStore(TREE), Clock()
    copies = (CopiedSubtree("d", 0.5),)
    async with kept_files(store, tmp_path, copies=copies, clock=clock) as kept:
        await until(lambda: is_here(kept, b"d"))
        for key in ("d/a", "d/b", "d/e/c"):
            store.drop(key)
        clock.now_s += 100
        tree = kept.pins.at(b"d")
        assert tree is not None
        await until(lambda: tree.state is PinState.NOT_THERE, 60)
        assert await names(kept.fs) == ["other"]
        assert kept.blocks.pinned_bytes == 0
        store.seed("d/again", SMALL)
        clock.now_s += 100
        assert await names(kept.fs) == ["d", "other"]
        await until(lambda: is_here(kept, b"d"))
        store.calls.clear()
        assert await content(kept.fs, "d/again") == SMALL
        assert store.calls["read"] == 0


async def test_what_was_only_written_here_can_be_pinned_and_is_followed_when_it_is_sent(
    tmp_path: Path,
) -> None:
    store = MemoryStore(TREE)
    async with kept_files(store, tmp_path) as kept:
        fs = kept.fs
        _, made = await fs.names.make_directory(fs.tree.root, b"mine", {})
        directory = fs.tree.directory(made.number)
        handle, _ = await fs.create(directory, b"new", {})
        await fs.write(handle, 0, SMALL)
        tree = await kept.pins.pin(b"mine")
        await until(lambda: tree.state is PinState.HERE)
        assert tree.totals.missing_bytes == 0
        fs.release(handle)
        await until(lambda: "mine/new" in store.keys())  # noqa: SIM118 - not a dict
        kept.fs.refresh(b"")
        await names(fs, "mine")
        await until(lambda: kept.blocks.pinned_bytes == kept.blocks.disk_bytes(len(SMALL)))


async def test_a_pin_of_everything_and_of_one_file_beside_others(tmp_path: Path) -> None:
    store = MemoryStore(TREE)
    async with kept_files(store, tmp_path) as kept:
        await pinned(kept, b"")
        await pinned(kept, b"other")
        assert await content(kept.fs, "other") == TREE["other"]
        assert store.calls["read"] == 3 + 1 + 1  # the large one in ranges
        await kept.pins.unpin(b"")
        store.seed("other", b"another")
        store.seed("beside", b"beside")
        kept.fs.refresh(b"")
        await names(kept.fs)
        await until(lambda: kept.blocks.pinned_bytes == kept.blocks.disk_bytes(7))
        await until(lambda: is_here(kept, b"other"))
        store.calls.clear()
        assert await content(kept.fs, "other") == b"another"
        assert store.calls["read"] == 0


async def test_what_a_pin_let_go_is_let_go_although_it_is_unpinned_meanwhile(
    tmp_path: Path,
) -> None:
    store = MemoryStore(TREE)
    async with kept_files(store, tmp_path) as kept:
        await pinned(kept, b"d")
        store.seed("d/a", SMALL[::-1])
        turn = kept.means.in_turn
        await turn.acquire_on_behalf_of("first")
        kept.fs.refresh(b"d")
        await names(kept.fs, "d")
        await until(lambda: turn.statistics().tasks_waiting == 1)  # it is to look
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn.acquire_on_behalf_of, "second")
            await until(lambda: turn.statistics().tasks_waiting == 2)
            turn.release_on_behalf_of("first")
        await until(lambda: turn.statistics().tasks_waiting == 1)  # it has looked
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept.pins.unpin, b"d")
            await until(lambda: kept.pins.at(b"d") is None)
            await trio.testing.wait_all_tasks_blocked()
            turn.release_on_behalf_of("second")
        assert kept.means.holds.held_bytes == kept.blocks.pinned_bytes == 0
