"""Directory moves and what happens beside them."""

import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from mountd.errors import Exists, Throttled
from mountd.remotes.limit import Limiter
from mountd.remotes.limited_store import LimitedStore
from mountd.remotes.retry import RetryingStore
from mountd.vfs.attributes import NewAttributes
from tests.fakes.fault_store import FaultStore
from tests.fakes.mounted import mounted_files, names, walk
from tests.fakes.syncing import reached
from tests.unit.test_folding import drained
from tests.unit.test_whole_move import data, moving, placed
from tests.unit.test_writing import read, rename


async def test_a_directory_gets_the_name_of_a_file_that_was_just_removed(tmp_path: Path) -> None:
    store = moving()
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        await walk(fs, "top")
        await fs.unlink(fs.tree.root, b"top")
        await rename(fs, "d", "top")
        assert await read(fs, "top/s/b") == b"22"
        await drained(mounted)
        assert data(store) == {k: v for k, v in placed("top/").items() if k != "top"}


async def test_who_lists_what_was_moved_meanwhile_hears_no_enoent(tmp_path: Path) -> None:
    """The LIST of the old name is answered after the MOVE is."""
    store = moving()
    faults = FaultStore(store)
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        directory = fs.tree.directory((await walk(fs, "d/s/t")).number)
        move, hang = threading.Event(), threading.Event()
        moved = faults.add("move_dir", hang=move, after_effect=True, calls=[1])
        listed = faults.add("list", key="d/s/t/", hang=hang, calls=[1])
        rows: list[int] = []

        async def list_() -> None:
            rows.append(len((await fs.read_directory(directory)).listing))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(list_)
            await reached(listed.reached)
            async with trio.open_nursery() as inner:
                inner.start_soon(rename, fs, "d", "e")
                await reached(moved.reached)
                move.set()
            hang.set()
        assert rows == [1]
        assert await names(fs, "e/s/t") == ["c"]


async def test_a_file_that_is_sent_while_its_directory_is_renamed_twice_goes_along(
    tmp_path: Path,
) -> None:
    """The second rename waited for the first, which gave the directory another key."""
    store = moving()
    faults = FaultStore(store)
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        await walk(fs, "d/s/b")
        move, hang = threading.Event(), threading.Event()
        moved = faults.add("move_dir", hang=move, calls=[1])
        listed = faults.add("list_tree", hang=hang, after_pages=1)
        parent = fs.tree.directory((await walk(fs, "d")).number)
        inner = fs.tree.directory((await walk(fs, "d/s")).number)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rename, fs, "d", "e")
            await reached(moved.reached)
            fh, _ = await fs.create(inner, b"new", {})
            await fs.write(fh, 0, b"bytes")
            fs.release(fh)
            nursery.start_soon(fs.rename, parent, b"s", parent, b"t")
            await trio.testing.wait_all_tasks_blocked()
            move.set()
            await reached(listed.reached)
            await drained(mounted)
            assert store.data("e/s/new") == b"bytes"
            await fs.folding.fold_waiting()
            hang.set()
        assert await read(fs, "e/t/new") == b"bytes"
        await drained(mounted)
        assert store.data("e/t/new") == b"bytes"


async def test_a_mode_that_a_directory_gets_while_it_moves_stays(tmp_path: Path) -> None:
    store = moving()
    faults = FaultStore(store)
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        number = (await walk(fs, "d")).number
        await fs.set_attributes(number, NewAttributes(mode=0o755), None)
        move = threading.Event()
        moved = faults.add("move_dir", hang=move, calls=[1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rename, fs, "d", "e")
            await reached(moved.reached)
            new = NewAttributes(mode=0o700, mtime_ns=1_500_000_000 * 10**9)
            await fs.set_attributes(number, new, None)
            move.set()
        assert (await walk(fs, "e")).number == number
        found = fs.attributes(number)
        assert (stat.S_IMODE(found.mode or 0), found.mtime_ns) == (0o700, 1_500_000_000 * 10**9)


async def test_what_was_made_at_the_new_name_meanwhile_is_not_forgotten(
    tmp_path: Path, expected_log: Any
) -> None:
    """The kernel lets nobody make it, but nothing else here knows that."""
    store = moving()
    faults = FaultStore(store)
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        await walk(fs, "d/s/b")
        move = threading.Event()
        moved = faults.add("move_dir", hang=move, calls=[1])

        async def rename_() -> None:
            with pytest.raises(Exists):
                await rename(fs, "d", "e")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rename_)
            await reached(moved.reached)
            made = await fs.make_directory(fs.tree.root, b"e", {})
            fh, _ = await fs.create(fs.tree.directory(made.number), b"new", {})
            await fs.write(fh, 0, b"bytes")
            fs.release(fh)
            move.set()
        assert await read(fs, "e/new") == b"bytes"
        await drained(mounted)
        assert data(store) == {**placed("e/"), "e/new": b"bytes"}
        assert await names(fs) == ["e", "top"]
        assert await read(fs, "e/s/b") == b"22"


async def test_a_move_whose_caller_was_told_that_it_failed_does_not_begin_after_that(
    tmp_path: Path,
) -> None:
    """It waits for others' requests, which may take longer than a rename may."""
    store, limiter = moving(), Limiter(1)
    limited = RetryingStore(LimitedStore(store, limiter), 30.0)
    async with mounted_files(limited, tmp_path, queue=True, wait_s=1.0) as mounted:
        fs = mounted.fs
        await walk(fs, "d/s/b")
        limiter.acquire()
        with pytest.raises((Throttled, TimeoutError)):
            await rename(fs, "d", "e")
        limiter.release()
        await trio.to_thread.run_sync(limiter.acquire)  # after all that still wait
        limiter.release()
        assert store.calls["move_dir"] == 0
        assert await read(fs, "d/s/b") == b"22"
