"""What was sent into a directory that is elsewhere by now, when its parent is renamed here."""

import threading
from pathlib import Path

import pytest
import trio

from mountd.vfs.attributes import NewAttributes
from tests.fakes.fault_store import Fault, FaultStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, mounted_files, names, walk
from tests.fakes.syncing import reached
from tests.unit.test_folding import drained
from tests.unit.test_writing import directory, edit, rename


async def crash_in_rename(mounted: MountedFiles, fault: Fault) -> None:
    """Of `p/d` to `g`, which the remote does, and whose answer `fault` keeps."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rename, mounted.fs, "p/d", "g")
        await reached(fault.reached)
        mounted.crashes = True
        nursery.cancel_scope.cancel()


async def rename_file_by_file(mounted: MountedFiles) -> None:
    """`p` to `q`, with `x` alone in it: nothing else comes along."""
    await edit(mounted.fs, "p/x", 0, b"WAITS")
    await rename(mounted.fs, "p", "q")
    await drained(mounted)
    assert (await names(mounted.fs), await names(mounted.fs, "q")) == (["g", "q", "top"], ["x"])


@pytest.mark.parametrize("is_moved_twice", [False, True])
async def test_what_a_cut_rename_has_moved_away_does_not_come_back_with_its_former_parent(
    tmp_path: Path, is_moved_twice: bool
) -> None:
    files = {"p/d/a": b"1", "p/x": b"2", "top": b"0"}
    store = MemoryStore(files, real_directories=True, native_move=True)
    faults = FaultStore(store)
    hang = threading.Event()
    fault = faults.add("move_dir", hang=hang, after_effect=True, calls=[1])
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        await walk(mounted.fs, "p/d/a")
        await edit(mounted.fs, "p/d/a", 0, b"EDITED")
        await drained(mounted)
        await crash_in_rename(mounted, fault)
    hang.set()
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        fs.refresh(b"")
        assert (await names(fs), await names(fs, "p")) == (["g", "p", "top"], ["x"])
        assert "p/d/a" in mounted.journal.ledger.changes, "it is not known yet where that is"
        if is_moved_twice:
            await rename(fs, "p", "o")
            await rename(fs, "o", "p")
        await rename_file_by_file(mounted)
        there = {key: store.data(key) for key in list(store.keys()) if not key.endswith("/")}
        assert there == {"g/a": b"EDITED", "q/x": b"WAITS", "top": b"0"}


@pytest.mark.parametrize("is_known_by_its_mode", [False, True])
async def test_nor_does_what_was_sent_deeper_into_what_a_cut_rename_has_moved_away(
    tmp_path: Path, is_known_by_its_mode: bool
) -> None:
    files = {"p/d/e/a": b"1", "p/x": b"2", "top": b"0"}
    store = MemoryStore(files, real_directories=True, native_move=True)
    faults = FaultStore(store)
    hang = threading.Event()
    fault = faults.add("move_dir", hang=hang, after_effect=True, calls=[1])
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        await walk(mounted.fs, "p/d/e/a")
        await edit(mounted.fs, "p/d/e/a", 0, b"EDITED")
        if is_known_by_its_mode:
            number = (await walk(mounted.fs, "p/d/e")).number
            await mounted.fs.set_attributes(number, NewAttributes(mode=0o700), None)
        await drained(mounted)
        await crash_in_rename(mounted, fault)
    hang.set()
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        fs.refresh(b"")
        assert (await names(fs), await names(fs, "p")) == (["g", "p", "top"], ["x"])
        changes = mounted.journal.ledger.changes
        assert "p/d/e/a" in changes
        assert ("p/d/e/" in changes) == is_known_by_its_mode
        await rename_file_by_file(mounted)
        there = {key: store.data(key) for key in list(store.keys()) if not key.endswith("/")}
        assert there == {"g/e/a": b"EDITED", "q/x": b"WAITS", "top": b"0"}


@pytest.mark.parametrize("is_renamed_to_it", [False, True])
async def test_what_was_sent_into_a_directory_that_others_have_moved_is_not_in_the_next_of_its_name(
    tmp_path: Path, is_renamed_to_it: bool
) -> None:
    files = {"p/d/a": b"1", "p/x": b"2", "from/b": b"3"}
    store = MemoryStore(files, real_directories=True, native_move=True)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        await walk(fs, "from/b")
        await walk(fs, "p/d/a")
        await edit(fs, "p/d/a", 0, b"EDITED")
        await drained(mounted)
        store.move_dir("p/d/", "g/")
        fs.refresh(b"")
        assert (await names(fs), await names(fs, "p")) == (["from", "g", "p"], ["x"])
        if is_renamed_to_it:
            await edit(fs, "from/b", 0, b"WAITS")
            await rename(fs, "from", "p/d")  # file by file
        else:
            await fs.make_directory(await directory(fs, "p"), b"d", {})
        assert await names(fs, "p/d") == ["b"] * is_renamed_to_it
        await drained(mounted)
        assert await names(fs, "p/d") == ["b"] * is_renamed_to_it
        assert await names(fs, "g") == ["a"]
