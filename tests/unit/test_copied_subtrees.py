"""Where a listing is believed for long: what others change is never hidden for ever."""

from pathlib import Path

from mountd.config import CopiedSubtree
from mountd.transfer.pinned_tree import PinState
from tests.conftest import ExpectedLog
from tests.fakes.keeping import Kept, kept_files, until
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import BLOCK, Clock, names, walk
from tests.unit.test_pins import RefusingStore

SMALL = b"s" * 10_000
TREE = {"d/a": SMALL, "d/b": SMALL + b"b", "d/e/c": SMALL + b"c", "other": SMALL + b"o"}
COPY = (CopiedSubtree("d", 3600.0),)
OFTEN = (CopiedSubtree("d", 1.0),)


def is_here(kept: Kept, path: bytes) -> bool:
    tree = kept.pins.at(path)
    return tree is not None and tree.state is PinState.HERE


async def test_one_copied_file_hides_nothing_beside_it(tmp_path: Path) -> None:
    store, clock = MemoryStore(TREE), Clock()
    copies = (CopiedSubtree("d/a", 3600.0),)
    async with kept_files(store, tmp_path, copies=copies, clock=clock) as kept:
        await until(lambda: is_here(kept, b"d/a"))
        store.seed("d/new", SMALL)
        clock.now_s += 1000
        assert await names(kept.fs, "d") == ["a", "b", "e", "new"]


async def test_what_came_and_went_before_it_was_fetched_is_forgotten(tmp_path: Path) -> None:
    store, clock = RefusingStore(TREE), Clock()
    async with kept_files(store, tmp_path, copies=OFTEN, clock=clock) as kept:
        await until(lambda: is_here(kept, b"d"))
        store.refuses = True
        store.seed("d/temporary", SMALL)
        await until(lambda: store.refused > 0)
        store.drop("d/temporary")
        store.refuses = False
        await until(lambda: is_here(kept, b"d"), 60)


async def test_a_change_that_has_no_room_here_is_shown_all_the_same(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("do not fit")
    store, clock = MemoryStore(TREE), Clock()
    room = 6 * (BLOCK + 4096)
    async with kept_files(store, tmp_path, copies=OFTEN, clock=clock, cache_bytes=room) as kept:
        await until(lambda: is_here(kept, b"d"))
        store.seed("d/large", b"l" * (8 * BLOCK))
        store.seed("d/new/large", b"l" * (8 * BLOCK))
        tree = kept.pins.at(b"d")
        assert tree is not None
        await until(lambda: tree.state is PinState.NO_ROOM, 60)
        clock.now_s += 1000
        assert await names(kept.fs, "d") == ["a", "b", "e", "large", "new"]
        lists = store.calls["list"]
        clock.now_s += 1000
        store.drop("d/large")
        assert await names(kept.fs, "d") == ["a", "b", "e", "new"]
        assert store.calls["list"] > lists


async def test_a_listing_that_fell_out_of_the_cache_is_listed_again(tmp_path: Path) -> None:
    store, clock = RefusingStore(TREE), Clock()
    async with kept_files(store, tmp_path, copies=COPY, clock=clock) as kept:
        await until(lambda: is_here(kept, b"d"))
        store.refuses = True
        store.seed("d/new", SMALL)
        await walk(kept.fs, "d")
        kept.fs.tree.cache.forget("d/")
        assert await names(kept.fs, "d") == ["a", "b", "e", "new"]


async def test_after_a_start_the_kernel_is_told_what_is_believed_no_more(tmp_path: Path) -> None:
    store, clock = RefusingStore(TREE), Clock()
    async with kept_files(store, tmp_path, copies=COPY, clock=clock) as kept:
        await until(lambda: is_here(kept, b"d"))
    store.refuses = True
    async with kept_files(store, tmp_path, copies=COPY, clock=clock) as kept:
        number = (await walk(kept.fs, "d/e")).number
        assert (await kept.fs.tree.lookup(kept.fs.tree.directory(number), b"c")).ttl_s > 10_000
        file = kept.fs.files.remote_file_of(await walk(kept.fs, "d/e/c"))
        kept.blocks.drop(file.digest, 0)
        tree = kept.pins.at(b"d")
        assert tree is not None
        await until(lambda: tree.state is PinState.WAITING)
        assert (await kept.fs.tree.lookup(kept.fs.tree.directory(number), b"c")).ttl_s < 100
        assert (number, b"c") in kept.forgotten


async def test_while_there_is_no_room_to_fill_other_directories_are_followed(
    tmp_path: Path,
) -> None:
    store, clock, staged = MemoryStore(TREE), Clock(), [0]
    async with kept_files(
        store, tmp_path, copies=OFTEN, clock=clock, staged_bytes=lambda: staged[0]
    ) as kept:
        await until(lambda: is_here(kept, b"d"))
        staged[0] = 1 << 40  # all of the cache is for what was written here
        store.seed("d/e/new", SMALL)
        tree = kept.pins.at(b"d")
        assert tree is not None
        await until(lambda: tree.state is PinState.FILLING)
        store.drop("d/a")

        def is_gone() -> bool:
            cached = kept.fs.tree.cache.get("d/")
            return cached is not None and cached.listing.find(b"a") < 0

        await until(is_gone, 20)
        staged[0] = 0
        await until(lambda: is_here(kept, b"d"), 60)
        assert await names(kept.fs, "d/e") == ["c", "new"]
