"""A directory in which something waits to be sent is there, although the remote has nothing in it:
the removals may have travelled before what was made."""

import contextlib
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mountd.errors import Unreachable
from mountd.vfs.filesystem import FileSystem
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, mounted_files, names, walk
from tests.unit.test_writing import directory, make, read, rename


class Killed(Exception):
    """Stands for SIGKILL."""


async def only_removals_are_sent(mounted: MountedFiles) -> int:
    """The inode of the directory `d`, of which the remote has nothing any more."""
    fs, queue = mounted.fs, mounted.queue
    assert queue is not None
    number = (await walk(fs, "d")).number
    await names(fs, "d")
    await make(fs, "d/new", b"new")
    await fs.unlink(fs.tree.directory(number), b"old")
    await queue.drain("", 0.5)
    await fs.folding.fold_waiting()
    return number


@pytest.mark.parametrize("keeps_listings", [True, False])
async def test_a_directory_stays_while_what_is_in_it_is_not_sent(
    tmp_path: Path, keeps_listings: bool
) -> None:
    store = MemoryStore({"d/old": b"old", "other": b"1"})
    faults = FaultStore(store)
    faults.add("put", Unreachable("down"))
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        number = await only_removals_are_sent(mounted)
        assert list(store.keys()) == ["other"]
        fs.tree.expire_below("")
        assert await names(fs) == ["d", "other"]
        assert await names(fs, "d") == ["new"]
        assert (await walk(fs, "d")).number == number
        assert await read(fs, "d/new") == b"new"
        mounted.crashes = True
    if not keeps_listings:
        shutil.rmtree(tmp_path / "metadata")
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        assert await names(fs) == ["d", "other"]
        assert await read(fs, "d/new") == b"new"
        assert mounted.queue is not None
        assert await mounted.queue.drain("", 10) == 0
        fs.tree.expire_below("")
        assert await names(fs, "d") == ["new"]
    assert sorted(store.keys()) == ["d/new", "other"]


async def test_a_directory_that_somebody_else_removed_is_gone_where_nothing_waits(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"d/old": b"old", "other": b"1"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        assert await names(fs) == ["d", "other"]
        store.drop("d/old")
        fs.tree.expire_below("")
        assert await names(fs) == ["other"]


async def test_it_can_be_renamed_too(tmp_path: Path) -> None:
    store = MemoryStore({"d/old": b"old", "other": b"1"})
    faults = FaultStore(store)
    fault = faults.add("put", Unreachable("down"), calls=range(1, 3))
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        await only_removals_are_sent(mounted)
        assert fault.hits
        mounted.fs.tree.expire_below("")
        await rename(mounted.fs, "d", "e")
        assert await names(mounted.fs) == ["e", "other"]
        assert await read(mounted.fs, "e/new") == b"new"
        assert mounted.queue is not None
        assert await mounted.queue.drain("", 10) == 0
    assert sorted(store.keys()) == ["e/", "e/new", "other"]


async def unlinked(fs: FileSystem) -> None:
    await fs.unlink(await directory(fs, "d"), b"x")


async def file_moved(fs: FileSystem) -> None:
    await rename(fs, "d/x", "y")


async def directory_removed(fs: FileSystem) -> None:
    await fs.unlink(await directory(fs, "d/sub"), b"x")
    await fs.remove_directory(await directory(fs, "d"), b"sub")


async def directory_moved(fs: FileSystem) -> None:
    await rename(fs, "d/sub", "e")


@pytest.mark.parametrize("empties", [unlinked, file_moved, directory_removed, directory_moved])
async def test_a_kill_between_two_steps_of_the_journal_never_loses_an_emptied_directory(
    tmp_path: Path, empties: Callable[[FileSystem], Awaitable[None]]
) -> None:
    key = "d/x" if empties in (unlinked, file_moved) else "d/sub/x"
    for steps in range(1, 3):
        store = MemoryStore({key: b"1", "other": b"1"})
        async with mounted_files(store, tmp_path / str(steps)) as mounted:
            fs, journal, commit, done = mounted.fs, mounted.journal, mounted.journal.commit, 0
            await names(fs, "d")

            def killed_before(*args: Any, **options: Any) -> None:
                nonlocal done
                done += 1
                if done > steps:  # noqa: B023
                    raise Killed
                commit(*args, **options)  # noqa: B023

            journal.commit = killed_before  # type: ignore[method-assign]
            with contextlib.suppress(Killed):
                await empties(fs)
            mounted.crashes = True
        async with mounted_files(store, tmp_path / str(steps), queue=True) as mounted:
            assert mounted.queue is not None
            assert await mounted.queue.drain("", 10) == 0
            mounted.fs.tree.expire_below("")
            assert "d" in await names(mounted.fs)


@pytest.mark.parametrize("is_link", [False, True])
async def test_what_is_made_at_the_name_of_a_removed_directory_has_that_name_at_once(
    tmp_path: Path, is_link: bool
) -> None:
    """A bucket takes the file before all that was in the directory is gone: it was shown as
    `d␛file` until then, with another inode afterwards."""
    store = MemoryStore({"d/old": b"old", "d/sub/old": b"old"})
    faults = FaultStore(store)
    faults.add("delete", Unreachable("down"))
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        fs, queue = mounted.fs, mounted.queue
        assert queue is not None
        root, d = fs.tree.root, await directory(fs, "d")
        await fs.unlink(await directory(fs, "d/sub"), b"old")
        await fs.unlink(d, b"old")
        await fs.remove_directory(d, b"sub")
        await fs.remove_directory(root, b"d")
        if is_link:
            await fs.make_link(root, b"d", b"target", {})
        else:
            await make(fs, "d", b"new")
        number = (await walk(fs, "d")).number
        await queue.drain("", 0.5)
        assert sorted(store.keys())[-2:] == ["d/old", "d/sub/old"]
        for _ in range(2):
            await fs.folding.fold_waiting()
            fs.refresh(b"")
            assert await names(fs) == ["d"]
            assert (await walk(fs, "d")).number == number
        faults.remove()
        assert await queue.drain("", 30.0) == 0
        assert list(store.keys()) == ["d.rclonelink" if is_link else "d"]
        for _ in range(2):
            await fs.folding.fold_waiting()
            fs.refresh(b"")
            assert await names(fs) == ["d"]
            assert (await walk(fs, "d")).number == number


async def test_a_directory_made_anew_is_renamed_also_when_the_remote_has_only_removed_the_former(
    tmp_path: Path,
) -> None:
    """As it is when that was under way, or when the daemon was killed right after it: ENOENT."""
    store = MemoryStore({"d/old": b"old", "other": b"1"}, real_directories=True)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs, queue = mounted.fs, mounted.queue
        assert queue is not None
        root = fs.tree.root
        await fs.unlink(await directory(fs, "d"), b"old")
        await fs.remove_directory(root, b"d")
        made = await fs.make_directory(root, b"d", {})
        store.delete("d/old", None)
        store.remove_dir("d/")
        await fs.rename(root, b"d", root, b"e")
        await make(fs, "e/new", b"new")
        assert await names(fs) == ["e", "other"]
        assert await queue.drain("", 30.0) == 0
        fs.refresh(b"")
        assert (await walk(fs, "e")).number == made.number
        assert await names(fs, "e") == ["new"]
        assert list(store.keys()) == ["e/", "e/new", "other"]
