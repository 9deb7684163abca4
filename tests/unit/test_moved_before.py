"""A crash right after a directory was renamed by one MOVE, before its listings were on disk."""

from pathlib import Path

import pytest

from mountd.vfs.nodes import Directory
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, mounted_files, names, walk
from tests.unit.test_folding import drained
from tests.unit.test_writing import rename

FILES = {"d/a": b"1", "d/s/b": b"22", "d/s/t/c": b"333", "o/x": b"4", "top": b"0"}
BELOW = ("", "/a", "/s", "/s/b", "/s/t", "/s/t/c")


def moving() -> MemoryStore:
    return MemoryStore(FILES, real_directories=True, native_move=True)


async def numbers(mounted: MountedFiles, top: str, *rest: str) -> list[int]:
    return [(await walk(mounted.fs, top + below)).number for below in rest or BELOW]


RENAMES = {
    "once": [("d", "e")],
    "in a chain": [("d", "e"), ("e", "f"), ("f", "g")],
    "to and fro": [("d", "e"), ("e", "d"), ("d", "f")],
    "back": [("d", "e"), ("e", "d")],
    "below another": [("d", "o/d"), ("o", "p")],
    "with what is above it, first": [("d", "o/d"), ("o", "p"), ("p/d", "p/e")],
    "and one below it": [("d/s", "d/u"), ("d", "e"), ("e/u", "e/s")],
}
ENDS = {"below another": "p/d", "with what is above it, first": "p/e"}


@pytest.mark.parametrize("way", RENAMES)
async def test_what_is_below_a_directory_renamed_just_before_a_crash_keeps_its_numbers(
    tmp_path: Path, way: str
) -> None:
    store, end = moving(), ENDS.get(way, RENAMES[way][-1][1].partition("/")[0])
    async with mounted_files(store, tmp_path, queue=True, slow_metadata=True) as mounted:
        before = await numbers(mounted, "d")
        other = await numbers(mounted, "o", "/x")
        assert mounted.metadata.flush(5)
        for old, new in RENAMES[way]:
            await rename(mounted.fs, old, new)
        assert store.calls["move_dir"] == len(RENAMES[way])
        assert await numbers(mounted, end) == before
        mounted.crashes = True
    async with mounted_files(store, tmp_path) as mounted:
        assert await numbers(mounted, end) == before
        assert await numbers(mounted, "p" if end.startswith("p") else "o", "/x") == other
        assert await names(mounted.fs, end) == ["a", "s"]


async def test_what_others_have_made_there_since_is_seen(tmp_path: Path) -> None:
    store = moving()
    async with mounted_files(store, tmp_path, queue=True, slow_metadata=True) as mounted:
        before = await numbers(mounted, "d")
        assert mounted.metadata.flush(5)
        await rename(mounted.fs, "d", "e")
        mounted.crashes = True
    store.seed("e/s/new", b"theirs")
    store.seed("e/a", b"others")
    async with mounted_files(store, tmp_path) as mounted:
        assert await names(mounted.fs, "e/s") == ["b", "new", "t"]
        now = await numbers(mounted, "e")
        assert now[0] == before[0]
        assert now[1] != before[1]
        assert now[2:] == before[2:]


async def test_the_listings_of_one_that_came_to_its_name_later_are_not_taken(
    tmp_path: Path,
) -> None:
    """`d` of the disk is one directory, that of the journal another, which had the name since."""
    store = moving()
    async with mounted_files(store, tmp_path, queue=True, slow_metadata=True) as mounted:
        fs = mounted.fs
        await numbers(mounted, "d")
        assert mounted.metadata.flush(5)
        await rename(fs, "d", "e")
        await fs.make_directory(fs.tree.root, b"d", {})
        await drained(mounted)
        await rename(fs, "d", "f")
        mounted.crashes = True
    async with mounted_files(store, tmp_path, remote_is_well=lambda: False) as mounted:
        assert isinstance(await walk(mounted.fs, "f"), Directory)
        assert await names(mounted.fs, "f") == []
