"""Who goes through directories by name and in the order of their numbers has the next ones listed
and fetched ahead: how many listings and files somebody had to wait for."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from mountd.vfs.filesystem import FileSystem
from mountd.vfs.nodes import Directory
from mountd.vfs.steps_ahead import MOST_LISTS, MOST_NUMBERS, MOST_PARENTS, by_numbers
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import content, file_system

SIZE = 20_000


async def waited(fs: FileSystem, keys: Sequence[str], *, reads: bool = True) -> tuple[int, int]:
    """The listings and the files that were not here when they were wanted."""
    listings, misses = 0, fs.blocks.counters.misses
    for i, key in enumerate(keys):
        directory: Directory = fs.tree.root
        for name in key.split("/")[:-1]:
            listings += fs.tree.fresh(directory) is None
            directory = fs.tree.directory((await fs.tree.lookup(directory, name.encode())).number)
        listings += fs.tree.fresh(directory) is None
        await fs.tree.lookup(directory, key.rpartition("/")[2].encode())
        if reads:
            assert len(await content(fs, key)) == SIZE
        await settled(fs, keys[i + 1 : i + 30 : 2])
    return listings, fs.blocks.counters.misses - misses


async def settled(fs: FileSystem, keys: Sequence[str]) -> None:
    """What was begun of them is here."""
    while any(is_coming(fs, key) for key in keys):
        await wait_all_tasks_blocked(0.0002)


def is_coming(fs: FileSystem, key: str) -> bool:
    folder, _, name = key.rpartition("/")
    above = [folder[: at + 1] for at in range(len(folder)) if folder[at] == "/"]
    if any(fs.tree.refreshes.is_listing(each) for each in (*above, f"{folder}/")):
        return True
    known = fs.tree.cache.get(f"{folder}/")
    if known is None:
        return False
    row = known.listing.find(name.encode())
    parent = Directory(0, None, 0, f"{folder}/")
    cached = fs.files.cached(fs.files.file_of_row(parent, known.listing, row))
    try:
        return cached.running_bytes > 0
    finally:
        cached.close()


@pytest.mark.parametrize(
    "keys",
    [
        [f"z/c/{i}/0/0" for i in range(80)],
        [f"z/{i}/{j}/{k}" for i in range(9) for j in range(3) for k in range(3)],
    ],
    ids=["one chunk a directory", "three levels"],
)
async def test_chunks_in_the_order_of_their_numbers_are_listed_and_fetched_ahead(
    tmp_path: Path, mock_clock: MockClock, keys: list[str]
) -> None:
    store = MemoryStore({key: b"x" * SIZE for key in keys})
    folders = {key[: key.rfind("/")] for key in keys} | {key.rsplit("/", 2)[0] for key in keys}
    async with file_system(store, tmp_path) as fs:
        listings, misses = await waited(fs, keys)
        assert listings <= 20
        assert misses <= 40
        assert store.calls["read"] == len(keys)
        assert store.calls["list"] <= len(folders) + 3


async def test_workers_that_are_a_little_apart_are_in_order_too(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    chance = random.Random(1)
    keys = [f"c/{i}/0" for i in sorted(range(80), key=lambda i: i + chance.randrange(4))]
    async with file_system(MemoryStore({key: b"x" * SIZE for key in keys}), tmp_path) as fs:
        listings, misses = await waited(fs, keys)
    assert listings <= 30
    assert misses <= 40


async def test_in_no_order_nothing_is_listed_that_nobody_wants(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    keys = [f"c/{i}/0" for i in range(200)]
    store = MemoryStore({key: b"x" * SIZE for key in keys})
    async with file_system(store, tmp_path) as fs:
        await waited(fs, random.Random(1).sample(keys, 40))
    assert store.calls["list"] <= 2 + 40
    assert store.calls["read"] <= 40


async def test_who_looks_names_up_and_reads_nothing_has_no_file_fetched(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    keys = [f"c/{i}/0" for i in range(60)]
    store = MemoryStore({key: b"x" * SIZE for key in keys})
    async with file_system(store, tmp_path) as fs:
        listings, _ = await waited(fs, keys, reads=False)
    assert listings <= 15
    assert store.calls["read"] == 0


async def test_a_remote_that_is_not_well_is_not_asked_ahead(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    keys = [f"c/{i}/0" for i in range(60)]
    store = MemoryStore({key: b"x" * SIZE for key in keys})
    async with file_system(store, tmp_path, remote_is_well=lambda: False) as fs:
        await waited(fs, keys[:20])
    assert store.calls["list"] <= 2 + 20


async def test_the_order_is_kept_of_few_directories_however_many_are_gone_through(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    folders = [f"{i}/0/" for i in range(200)]
    async with file_system(MemoryStore({f"{each}a": b"x" for each in folders}), tmp_path) as fs:
        above = []
        for folder in folders:
            directory = fs.tree.root
            for name in (*folder.split("/")[:2], "a"):
                found = await fs.tree.lookup(directory, name.encode())
                if name != "a":
                    above.append(directory)
                    directory = fs.tree.directory(found.number)
        assert len(set(above)) == 201
        assert fs.tree.root.steps is not None, "in use all the time"
        assert 0 < sum(each.steps is not None for each in set(above)) <= MOST_PARENTS


async def test_a_deep_tree_is_listed_ahead_in_small_pieces_however_wide_it_is(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """Whoever wants another directory meanwhile waits behind what was begun."""

    def below(folder: str, depth: int) -> list[str]:
        if not depth:
            return [f"{folder}/0"]
        return [key for i in range(4) for key in below(f"{folder}/{i}", depth - 1)]

    keys = [key for i in range(14) for key in below(f"c/{i}", 5)]
    store = MemoryStore(dict.fromkeys(keys, b"x"))
    async with file_system(store, tmp_path) as fs:
        root = fs.tree.directory((await fs.tree.lookup(fs.tree.root, b"c")).number)
        for i in range(7):
            entered = fs.tree.directory((await fs.tree.lookup(root, b"%d" % i)).number)
            before = store.calls["list"]
            if root.steps is not None:
                root.steps.entered = 10_000  # as if all below was wanted so far
            fs.tree.entered(entered)
            await wait_all_tasks_blocked(0.0002)
            while any(fs.tree.refreshes.is_listing(key) for key in fs.tree.ahead | {entered.key}):
                await wait_all_tasks_blocked(0.0002)
            assert store.calls["list"] - before <= MOST_LISTS + 1
        assert 200 <= store.calls["list"] <= 7 * (MOST_LISTS + 1)


async def test_of_wide_trees_in_which_one_path_is_wanted_little_more_is_listed(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    keys = [f"{i}/{a}/{b}/f" for i in range(60) for a in "abcdef" for b in "abcdef"]
    store = MemoryStore({key: b"x" * SIZE for key in keys})
    async with file_system(store, tmp_path) as fs:
        wanted = [f"{i}/a/a/f" for i in range(60)]
        listings, _ = await waited(fs, wanted)
    assert listings <= 60
    assert store.calls["list"] <= 4 * 3 * 60
    assert store.calls["read"] <= 4 * 60


async def test_who_reads_one_file_of_many_in_each_has_few_others_fetched(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    keys = [f"{i}/{name:02d}" for i in range(100) for name in range(30)]
    store = MemoryStore({key: b"x" * SIZE for key in keys})
    async with file_system(store, tmp_path) as fs:
        await waited(fs, keys[::30])
    assert store.calls["read"] <= 4 * 100


async def test_who_reads_all_files_of_each_has_all_fetched_ahead(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    keys = [f"{i}/{name:02d}" for i in range(40) for name in range(12)]
    store = MemoryStore({key: b"x" * SIZE for key in keys})
    async with file_system(store, tmp_path) as fs:
        listings, misses = await waited(fs, keys)
    assert listings <= 30
    assert misses <= len(keys) // 3
    assert store.calls["read"] <= len(keys) * 3 // 2  # a disk that is slow lets some of them go


def test_names_are_in_the_order_of_their_numbers_of_which_few_count() -> None:
    names = [b"%d.%d" % (i, j) for i in (2, 9, 10, 100) for j in (3, 20)]
    assert sorted(reversed(names), key=by_numbers) == names
    assert sorted([b"a10", b"a9", b"10", b"", b"b"], key=by_numbers) == [
        *(b"", b"10", b"a9", b"a10", b"b")
    ]
    assert len(by_numbers(b"1a" * 120)) == MOST_NUMBERS + 1
