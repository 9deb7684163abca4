"""What the remote has taken leaves the journal, and a crash on the way hides nothing."""

from collections.abc import Callable
from pathlib import Path

import trio

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
