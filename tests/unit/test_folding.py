"""What the remote has taken leaves the journal, and a crash on the way hides nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from mountd.vfs.attributes import NewAttributes
from mountd.vfs.folding import rest_s
from mountd.vfs.nodes import Directory
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, mounted_files, names, walk


async def make(mounted: MountedFiles, name: bytes, data: bytes) -> int:
    fh, made = await mounted.fs.create(mounted.fs.tree.root, name, {})
    await mounted.fs.write(fh, 0, data)
    mounted.fs.release(fh)
    return made.number


async def drained(mounted: MountedFiles) -> None:
    assert mounted.queue is not None
    with trio.fail_after(10):
        assert await mounted.queue.drain() == 0


async def test_what_a_listing_has_shown_is_there_after_a_crash_before_it_was_on_disk(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"old": b"1"})
    async with mounted_files(store, tmp_path, queue=True, slow_metadata=True) as mounted:
        assert await names(mounted.fs) == ["old"]
        mounted.metadata.flush()
        number = await make(mounted, b"new", b"hello")
        await drained(mounted)
        mounted.fs.refresh(b"")
        assert await names(mounted.fs) == ["new", "old"]
        mounted.crashes = True
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        assert await names(mounted.fs) == ["new", "old"]
        assert (await walk(mounted.fs, "new")).number == number


async def test_what_was_in_a_removed_directory_leaves_the_journal(tmp_path: Path) -> None:
    async with mounted_files(MemoryStore({"d/x": b"1"}), tmp_path, queue=True) as mounted:
        fs = mounted.fs
        directory = await walk(fs, "d")
        assert isinstance(directory, Directory)
        await fs.unlink(directory, b"x")
        await fs.remove_directory(fs.tree.root, b"d")
        await drained(mounted)
        await fs.folding.fold_waiting()
        assert not mounted.journal.ledger.changes


async def test_a_directory_that_others_keep_never_shares_an_inode_with_the_one_that_moved_away(
    tmp_path: Path, expected_log: Callable[[str], None]
) -> None:
    expected_log("there is something in it on the remote")
    store = MemoryStore({"d/x": b"1"})
    async with mounted_files(store, tmp_path, queue=True, slow_metadata=True) as mounted:
        fs = mounted.fs
        await walk(fs, "d/x")
        mounted.metadata.flush()
        await fs.rename(fs.tree.root, b"d", fs.tree.root, b"e")
        store.seed("d/foreign", b"2")
        await drained(mounted)
        mounted.crashes = True
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        fs.refresh(b"")
        assert (await walk(fs, "d")).number != (await walk(fs, "e")).number
        assert await names(fs, "d") == ["foreign"]
        assert await names(fs, "e") == ["x"]


async def test_a_mode_leaves_the_journal_and_stays_with_the_version_that_has_it(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"f": b"1", "g": b"2"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        number = (await walk(fs, "f")).number
        await fs.set_attributes(number, NewAttributes(mode=0o750, uid=7), None)
        await make(mounted, b"new", b"hello")
        await drained(mounted)
        await fs.folding.fold_waiting()
        assert not mounted.journal.ledger.changes
        fs.refresh(b"")
        assert await names(fs) == ["f", "g", "new"]
        assert (await walk(fs, "f")).number == number
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        found = fs.attributes((await walk(fs, "f")).number)
        assert (found.number, found.mode, found.uid, found.gid) == (number, 0o100750, 7, None)
        assert fs.attributes((await walk(fs, "g")).number).mode is None
        store.seed("f", b"foreign")
        fs.refresh(b"")
        assert fs.attributes((await walk(fs, "f")).number).mode is None


async def test_a_mode_goes_where_its_file_is_renamed_to(tmp_path: Path) -> None:
    store = MemoryStore({"f": b"1", "d/x": b"2"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        for path in ("f", "d/x"):
            number = (await walk(fs, path)).number
            await fs.set_attributes(number, NewAttributes(mode=0o700), None)
        await drained(mounted)
        await fs.folding.fold_waiting()
        await fs.rename(fs.tree.root, b"f", fs.tree.root, b"g")
        await fs.rename(fs.tree.root, b"d", fs.tree.root, b"e")
        for path in ("g", "e/x"):
            assert fs.attributes((await walk(fs, path)).number).mode == 0o100700
        await drained(mounted)
        assert {store.upload(key).attributes["mode"] for key in ("g", "e/x")} == {str(0o100700)}


async def test_a_directorys_mode_is_in_the_journal_because_it_is_nowhere_else(
    tmp_path: Path,
) -> None:
    async with mounted_files(MemoryStore({"d/x": b"1"}), tmp_path, queue=True) as mounted:
        fs = mounted.fs
        number = (await walk(fs, "d")).number
        await fs.set_attributes(number, NewAttributes(mode=0o700), None)
        await drained(mounted)
        await fs.folding.fold_waiting()
        assert list(mounted.journal.ledger.changes) == ["d/"]


@pytest.mark.parametrize(
    ("cost_s", "expected_s"), [(0.0, 1.0), (0.001, 1.0), (0.1, 5.0), (9.0, 60.0)]
)
def test_what_takes_long_is_folded_more_seldom(cost_s: float, expected_s: float) -> None:
    """A row of a directory takes 20 us, whatever was sent into it."""
    assert rest_s(cost_s) == pytest.approx(expected_s)
