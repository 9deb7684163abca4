"""Which directories make a set, and several sets read at once: counts of reads at the remote."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from mountd.vfs.epoch_sets import JOINED, LOOK_EVERY, OWN_SET, QUIET_S, SETS, EpochSets
from mountd.vfs.filesystem import FileSystem
from mountd.vfs.fill_ahead import FillAhead
from mountd.vfs.nodes import Directory, Node
from mountd.vfs.tree import Tree
from mountd_cache.block_cache import BlockCache
from mountd_cache.opening_order import SetOrder
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import content, file_system

SIZE = 20_000


class Cycles:
    """The cache, as far as it is told anything."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.blocks = self

    def expect_cycle(self, size_bytes: int) -> None:
        self.told.append(size_bytes)


class Reading:
    """Opens of files that are never waited for; `names` says how many a directory has."""

    def __init__(self, names: int = 10) -> None:
        self.now = 0.0
        self.cache = Cycles()
        known = SimpleNamespace(listing=range(names))
        tree = cast("Tree", SimpleNamespace(cache=SimpleNamespace(get=lambda key: known)))
        blocks = cast("BlockCache", self.cache)
        fill = cast("FillAhead", None)
        self.sets = EpochSets(tree, None, fill, blocks, lambda: self.now)  # type: ignore[arg-type]
        self._numbers: dict[tuple[str, int], int] = {}

    def open(self, directory: str, rows: Iterable[int] = range(1)) -> None:
        for row in rows:
            number = self._numbers.setdefault((directory, row), len(self._numbers) + 1)
            self.sets.opened(Node(number, Directory(0, None, 0, directory), row), 10)

    @property
    def roots(self) -> list[tuple[str, bool]]:
        return [(each.root, each.is_whole) for each in self.sets.sets]


def test_directories_of_few_files_are_a_set_with_those_beside_them() -> None:
    reading = Reading(names=OWN_SET - 1)
    for number in range(100):
        reading.open(f"a/train/{number}/")
    reading.open("a/val/0/")
    reading.open("b/")
    assert reading.roots == [("a/train/", False), ("a/val/", False), ("", False)]


def test_a_directory_of_many_files_is_a_set() -> None:
    reading = Reading(names=OWN_SET)
    reading.open("data/a/")
    reading.open("data/b/")
    reading.open("")
    assert reading.roots == [("data/a/", False), ("data/b/", False), ("", False)]


def test_many_sets_beside_each_other_in_their_first_epoch_become_one_in_the_order_read() -> None:
    reading = Reading(names=OWN_SET)
    order = [f"a/{number:02d}/" for number in range(20)]
    for directory in order:
        reading.open(directory, range(3))
    assert reading.roots == [("a/", True)]
    [joined] = reading.sets.sets
    assert [each.directory for each in map(joined.record.now.__getitem__, range(60))] == [
        directory for directory in order for _ in range(3)
    ]
    for directory in order:
        reading.open(directory, range(3))
    assert (joined.record.turns, joined.record.is_in_order) == (1, True)


def test_sets_that_were_read_twice_are_not_joined_and_the_one_read_least_lately_goes() -> None:
    reading = Reading(names=OWN_SET)
    for number in range(SETS + 1):
        reading.now += 1
        reading.open(f"{number}/", range(40))
        reading.open(f"{number}/", range(40))
    assert reading.roots == [(f"{number}/", False) for number in range(1, SETS + 1)]


def test_names_spread_over_two_levels_of_directories_are_one_set() -> None:
    reading = Reading()
    chance = random.Random(1)
    for _ in range(200):
        reading.open(f"i/{chance.randrange(256):02x}/{chance.randrange(256):02x}/")
    assert reading.roots == [("i/", True)]


def test_there_are_never_more_sets_than_said() -> None:
    reading = Reading()
    chance = random.Random(2)
    for _ in range(3000):
        depth = chance.randrange(5)
        reading.open("".join(f"{chance.randrange(4)}/" for _ in range(depth)), range(3))
        assert len(reading.roots) <= SETS
    assert JOINED < SETS


def test_what_was_recorded_is_found_again_whatever_the_directory_has_by_now() -> None:
    first = Reading(names=OWN_SET)
    first.open("a/", range(300))
    second = Reading(names=OWN_SET - 1)
    second.sets.restore(
        SetOrder(each.root, each.is_whole, each.record.best) for each in first.sets.sets
    )
    second.open("a/", range(20))
    assert second.roots == [("a/", False)]
    [found] = second.sets.sets
    assert found.record.is_in_order


def test_no_more_files_come_back_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Reading(names=OWN_SET)
    for directory in ("a/", "b/", "c/"):
        first.open(directory, range(300))
    monkeypatch.setattr("mountd.vfs.epoch_sets.MAX_FILES", 300)
    second = Reading()
    second.sets.restore(
        SetOrder(each.root, each.is_whole, each.record.best) for each in first.sets.sets
    )
    assert second.roots == [("a/", False), ("b/", False)]


def test_the_cache_is_told_of_all_cycles_that_are_being_read_and_of_no_other() -> None:
    reading = Reading(names=OWN_SET)
    for _ in range(2):
        for start in range(0, 640, LOOK_EVERY):
            rows = range(start, start + LOOK_EVERY)
            reading.open("a/", rows)
            reading.open("b/", rows)
    assert reading.cache.told[-1] == 2 * 640 * 10
    reading.now += QUIET_S + 1
    for _ in range(2):
        reading.open("b/", range(640))
    assert reading.cache.told[-1] == 640 * 10


def test_of_more_files_than_are_kept_the_quiet_sets_go_and_then_no_more_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mountd.vfs.epoch_sets.MAX_FILES", 500)
    reading = Reading(names=OWN_SET)
    reading.open("a/", range(640))
    reading.now += QUIET_S + 1
    reading.open("b/", range(640))
    assert reading.roots == [("b/", False)]
    reading.open("c/", range(640))
    kept = sum(each.record.files for each in reading.sets.sets)
    assert len(reading.roots) == 2
    assert kept <= 1000 + 2 * LOOK_EVERY


def test_a_set_of_more_files_than_are_kept_is_being_read_also_in_the_rest_of_an_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mountd.vfs.epoch_sets.MAX_FILES", 320)
    reading = Reading(names=OWN_SET)
    for _ in range(4):
        for start in range(0, 960, LOOK_EVERY):
            reading.now += QUIET_S / 4
            reading.open("a/", range(start, start + LOOK_EVERY))
    [only] = reading.sets.sets
    assert (only.record.turns, only.record.is_in_order) == (3, True)
    assert reading.cache.told[-1] > 0


def remote(*sets: str, count: int = 300) -> MemoryStore:
    return MemoryStore({key(each, i): b"x" * SIZE for each in sets for i in range(count)})


def key(name: str, number: int) -> str:
    return f"{name}/{number % 3}/{number:06d}"


async def read(fs: FileSystem, names: Sequence[str]) -> int:
    """How many of these somebody had to wait for."""
    before = fs.blocks.counters.misses
    for name in names:
        assert len(await content(fs, name)) == SIZE
        while fs.files.fill.running_bytes > 0 or fs.blocks.backlog_room < fs.blocks.backlog_limit:
            await wait_all_tasks_blocked(0.0002)
    return fs.blocks.counters.misses - before


def order(name: str, seed: int, count: int = 300) -> list[str]:
    return [key(name, number) for number in random.Random(seed).sample(range(count), count)]


def together(slow: Sequence[str], fast: Sequence[str]) -> list[str]:
    """Two readers at once, one of whom opens twice as many."""
    found: list[str] = []
    for i, name in enumerate(slow):
        found += (name, *fast[2 * i : 2 * i + 2])
    return found


async def test_two_sets_that_are_read_at_once_are_each_fetched_ahead_in_their_order(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """The fast one goes through its set twice in the time: its epochs end elsewhere."""
    store = remote("a", "b")
    slow, fast = order("a", 1), order("b", 2)
    async with file_system(store, tmp_path, cache_bytes=4 << 20) as fs:  # some 110 of the 600
        await read(fs, together(slow, [*fast, *fast]))
        store.calls.clear()
        missed = await read(fs, together(slow, [*fast, *fast]))
        assert [each.root for each in fs.files.epochs.sets] == ["a/", "b/"]
        assert missed <= 150
        assert store.calls["read"] <= 900
