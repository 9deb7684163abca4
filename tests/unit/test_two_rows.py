"""Until its removal was sent, what was renamed has two rows in the kept listing, with one inode
number: the hidden one of its old name must never be taken for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mountd.errors import Unreachable
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, mounted_files, names, walk
from tests.unit.test_writing import BIG, edit, make, read, rename


@asynccontextmanager
async def renamed(store: MemoryStore, folder: Path, new: str) -> AsyncIterator[MountedFiles]:
    """`old` became `new` on the remote, but is not removed there. The kernel knows its inode."""
    faults = FaultStore(store)
    for removal in ("delete", "remove_dir"):
        faults.add(removal, Unreachable("down"))
    async with mounted_files(faults, folder, queue=True) as mounted:
        fs, queue = mounted.fs, mounted.queue
        assert queue is not None
        await names(fs)
        await walk(fs, "old")
        await rename(fs, "old", new)
        await queue.drain("", 0.5)
        await fs.folding.fold_waiting()
        await make(fs, "0", b"a row before all others")
        await queue.drain("", 0.5)
        await fs.folding.fold_waiting()
        yield mounted


async def test_a_renamed_file_is_read_and_written_at_its_new_name(tmp_path: Path) -> None:
    store = MemoryStore({"old": BIG})
    async with renamed(store, tmp_path, "renamed") as mounted:
        fs = mounted.fs
        store.drop("old")
        assert await names(fs) == ["0", "renamed"]
        number = (await walk(fs, "renamed")).number
        await make(fs, "1", b"")
        assert mounted.queue is not None
        await mounted.queue.drain("", 0.5)
        await fs.folding.fold_waiting()
        assert fs.files.remote_file_of(fs.tree.node(number)).key == "renamed"
        assert await read(fs, "renamed") == BIG
        await edit(fs, "renamed", 0, b"edited")
        assert (await read(fs, "renamed")).startswith(b"edited")
        assert await names(fs) == ["0", "1", "renamed"]


async def test_a_renamed_directory_that_becomes_empty_stays_at_its_new_name(
    tmp_path: Path,
) -> None:
    async with renamed(MemoryStore({"old/x": b"x"}), tmp_path, "renamed") as mounted:
        fs = mounted.fs
        directory = fs.tree.held_directory("renamed/")
        assert directory is not None
        await fs.unlink(directory, b"x")
        assert await names(fs) == ["0", "renamed"]
        await fs.remove_directory(fs.tree.root, b"renamed")
        assert await names(fs) == ["0"]
