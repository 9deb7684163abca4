"""Where rooms meet while something is written: foreign changes, uploads and listings in between."""

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from mountd.errors import Unreachable, Unsupported
from mountd.remotes.base import Upload
from mountd.sync.attempts import Asker, Doubts
from mountd.sync.bring_in import BringIn
from mountd.sync.call_threads import CallThreads
from mountd.sync.sending import FileSender
from mountd.sync.upload_id import UploadId
from mountd.vfs.attributes import NewAttributes
from mountd_cache.changes import Base
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, mounted_files, names, walk
from tests.unit.test_writing import BIG, directory, edit, make, read, rename


async def sent(mounted: MountedFiles) -> int:
    """Waits until the queue has nothing to do; how many changes are left."""
    assert mounted.queue is not None
    return await mounted.queue.drain("", 10)


@pytest.mark.parametrize("removed", [False, True])
async def test_what_is_written_after_a_foreign_change_was_seen_is_not_lost(
    tmp_path: Path, expected_log: Any, removed: bool
) -> None:
    expected_log("conflict")
    store = MemoryStore({"f": b"old", "g": b""})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        fh = await fs.open((await walk(fs, "f")).number, writes=True)
        if removed:
            store.drop("f")
        else:
            store.seed("f", b"foreign!")
        fs.tree.expire("")
        assert await names(fs) == (["g"] if removed else ["f", "g"])
        await fs.write(fh, 0, b"ours")
        fs.release(fh)
        assert await sent(mounted) == 0
        keys = list(store.keys())
        bodies = {store.data(key) for key in keys}
        assert bodies == ({b"", b"ours"} if removed else {b"", b"foreign!", b"ours"}), keys


async def test_a_full_disk_leaves_no_bytes_behind_that_no_record_names(tmp_path: Path) -> None:
    async with mounted_files(MemoryStore({"f": b"old"}), tmp_path) as mounted:
        fs, journal = mounted.fs, mounted.journal
        number = (await walk(fs, "f")).number
        fh = await fs.open(number, writes=True)
        commit = journal.commit

        def full(*args: Any, **options: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        journal.commit = full  # type: ignore[method-assign]
        with pytest.raises(OSError, match="No space"):
            await fs.create(fs.tree.root, b"new", {})
        with pytest.raises(OSError, match="No space"):
            await fs.write(fh, 0, b"x")
        journal.commit = commit  # type: ignore[method-assign]
        assert list((tmp_path / "journal/staging").rglob("*-*")) == []
        assert await names(fs) == ["f"]
        assert await read(fs, "f") == b"old"
        await fs.write(fh, 0, b"x")
        fs.release(fh)
        assert await read(fs, "f") == b"xld"


async def test_what_is_discarded_leaves_no_inode_that_the_kernel_has_pages_of(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"f": b"old"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        before = await edit(fs, "f", 0, b"new!")
        assert mounted.queue is not None
        mounted.queue.discard("f")
        assert await read(fs, "f") == b"old"
        assert (await walk(fs, "f")).number != before


async def test_a_rename_that_is_discarded_leaves_the_file_where_it_was(tmp_path: Path) -> None:
    store = MemoryStore({"a": b"precious"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        await rename(fs, "a", "b")
        assert mounted.queue is not None
        mounted.queue.discard("b")
        assert await sent(mounted) == 0
        assert store.keys() == ["a"]
        assert await names(fs) == ["a"]
        assert await read(fs, "a") == b"precious"


async def test_one_inode_never_has_two_names(tmp_path: Path) -> None:
    store = MemoryStore({"a": b"precious"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        await rename(fs, "a", "b")
        assert mounted.queue is not None
        mounted.queue.discard("a")  # the removal of the old name: both stay
        assert await names(fs) == ["a", "b"]
        assert (await walk(fs, "a")).number != (await walk(fs, "b")).number
        await edit(fs, "a", 0, b"P")
        assert await sent(mounted) == 0
        assert {key: store.data(key) for key in list(store.keys())} == {
            "a": b"Precious",
            "b": b"precious",
        }


async def test_a_file_that_is_open_for_writing_is_not_discarded(tmp_path: Path) -> None:
    async with mounted_files(MemoryStore(), tmp_path, queue=True) as mounted:
        fs = mounted.fs
        fh, _ = await fs.create(fs.tree.root, b"f", {})
        assert mounted.queue is not None
        with pytest.raises(ValueError, match="open"):
            mounted.queue.discard("f")
        fs.release(fh)
        mounted.queue.discard("f")
        assert await names(fs) == []


async def test_a_removal_that_is_given_up_makes_no_second_name_of_an_inode(
    tmp_path: Path, expected_log: Any
) -> None:
    expected_log("changed on the remote")
    memory = MemoryStore({"a": b"first"})
    store = FaultStore(memory)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        await make(fs, "new", b"second")
        fh = await fs.open((await walk(fs, "a")).number, writes=True)
        await fs.unlink(fs.tree.root, b"a")
        await fs.write(fh, 0, b"scratch")
        memory.seed("a", b"foreign")
        assert await sent(mounted) == 0
        store.add("list", Unreachable("down"))
        expected_log("listing")
        assert await read(fs, "a") == b"first", "as it was last seen"
        node = await walk(fs, "a")
        assert node.number != fs.files.handle(fh).node.number
        store.remove()
        fs.tree.expire("")
        assert await read(fs, "a") == b"foreign"
        fs.release(fh)


async def test_a_file_that_is_sent_while_it_is_opened_is_read_as_it_was_sent(
    tmp_path: Path,
) -> None:
    memory = MemoryStore({"f": b"old old"})
    store = FaultStore(memory)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        number = (await walk(fs, "f")).number
        gate = threading.Event()
        slow = store.add("read", hang=gate)
        opened: list[int] = []

        async def opening() -> None:
            opened.append(await fs.open(number))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(opening)
            await trio.to_thread.run_sync(slow.reached.wait, 10)
            fh = await fs.open(number, writes=True, truncates=True)
            await fs.write(fh, 0, b"new new new")
            fs.release(fh)
            assert await sent(mounted) == 0
            store.remove()
            gate.set()
        assert bytes(memoryview(await fs.read(opened[0], 0, 100))) == b"new new new"
        fs.release(opened[0])


@pytest.mark.parametrize("staged", [False, True])
async def test_a_read_under_way_goes_on_where_our_own_upload_or_rename_put_the_bytes(
    tmp_path: Path, staged: bool
) -> None:
    memory = MemoryStore({"f": BIG})
    store = FaultStore(memory)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        number = (await walk(fs, "f")).number
        fh = await fs.open(number, writes=True)
        if staged:
            await fs.write(fh, 0, b"x")
        gate = threading.Event()
        slow = store.add("read", hang=gate, calls=[1])
        read_now: list[bytes] = []

        async def reading() -> None:
            read_now.append(bytes(memoryview(await fs.read(fh, 100_000, 1000))))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reading)
            await trio.to_thread.run_sync(slow.reached.wait, 10)
            await rename(fs, "f", "g")
            assert await sent(mounted) == 0
            assert memory.keys() == ["g"]
            gate.set()
        assert read_now == [BIG[100_000:101_000]]
        fs.release(fh)


async def test_what_is_sent_while_a_rename_waits_for_a_listing_is_renamed(tmp_path: Path) -> None:
    store = FaultStore(MemoryStore({"from/old": b"1", "to/x": b"2"}))
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        await make(fs, "from/new", b"new")
        await walk(fs, "to")
        gate = threading.Event()
        slow = store.add("list", key="to/", hang=gate)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rename, fs, "from/new", "to/new")
            await trio.to_thread.run_sync(slow.reached.wait, 10)
            assert await sent(mounted) == 0
            await fs.folding.fold_waiting()
            assert "from/new" not in fs.tree.ledger.changes
            gate.set()
        assert await names(fs, "to") == ["new", "x"]
        assert await names(fs, "from") == ["old"]


async def test_what_changes_while_a_directory_is_listed_for_its_rename_moves_as_it_is_then(
    tmp_path: Path,
) -> None:
    memory = MemoryStore({"d/edited": b"1", "d/gone": b"2", "d/same": b"3"})
    store = FaultStore(memory)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        await names(fs, "d")
        await make(fs, "d/new", b"new")
        await edit(fs, "d/edited", 1, b"+")
        await fs.unlink(await directory(fs, "d"), b"gone")
        gate = threading.Event()
        slow = store.add("list_tree", after_pages=1, hang=gate)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rename, fs, "d", "e")
            await trio.to_thread.run_sync(slow.reached.wait, 10)
            assert await sent(mounted) == 0
            await fs.folding.fold_waiting()
            gate.set()
        assert await names(fs, "e") == ["edited", "new", "same"]
        assert await sent(mounted) == 0
        assert {key: memory.data(key) for key in list(memory.keys()) if key[-1] != "/"} == {
            "e/edited": b"1+",
            "e/new": b"new",
            "e/same": b"3",
        }
        await fs.folding.fold_waiting()
        assert not [key for key in fs.tree.ledger.changes if key.startswith("d/")]


async def test_a_directory_that_could_not_be_made_yet_moves_with_what_was_sent_into_it(
    tmp_path: Path,
) -> None:
    memory = MemoryStore()
    store = FaultStore(memory)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        store.add("make_dir", Unreachable("no"))
        await fs.make_directory(fs.tree.root, b"d", {})
        await make(fs, "d/x", b"x")
        with trio.fail_after(60):
            while "d/x" not in set(memory.keys()) or "d/x" in fs.tree.ledger.changes:
                await trio.sleep(0.05)
                await fs.folding.fold_waiting()
        await rename(fs, "d", "e")
        assert await names(fs, "e") == ["x"]
        assert await read(fs, "e/x") == b"x"


async def test_a_directory_is_renamed_although_one_below_it_was_removed(tmp_path: Path) -> None:
    memory = MemoryStore({"d/x": b"1", "d/sub/": b""}, real_directories=True)
    store = FaultStore(memory)
    store.add("list_tree", Unsupported("no"))
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        await fs.remove_directory(await directory(fs, "d"), b"sub")
        assert await sent(mounted) == 0
        await rename(fs, "d", "e")
        assert await names(fs, "e") == ["x"]


@pytest.mark.parametrize("meanwhile", ["write", "set the time", "remove"])
async def test_what_is_done_with_a_file_just_before_its_base_is_brought_in_stays(
    tmp_path: Path, meanwhile: str
) -> None:
    memory = MemoryStore({"f": b"precious", "g": b"other"})
    async with mounted_files(memory, tmp_path) as mounted:
        fs, journal = mounted.fs, mounted.journal
        asker = Asker(memory, Doubts(journal.id, 0), CallThreads(1))
        await rename(fs, "f", "h")
        looked_at = journal.ledger.changes["h"]
        number = (await walk(fs, "h")).number
        # The queue has seen it, and its task has not run yet.
        if meanwhile == "write":
            fh = await fs.open(number, writes=True)
            await fs.write(fh, 0, b"P")
            fs.release(fh)
        elif meanwhile == "set the time":
            await fs.set_attributes(number, NewAttributes(mtime_ns=5_000_000_000), None)
        else:
            await fs.unlink(fs.tree.root, b"h")
        await BringIn(journal, asker, fs.queue_view).stage(looked_at)
        if meanwhile == "remove":
            assert await names(fs) == ["g"]
            return
        assert await read(fs, "h") == (b"Precious" if meanwhile == "write" else b"precious")
        if meanwhile == "set the time":
            assert fs.attributes(number).mtime_ns == 5_000_000_000


@pytest.mark.parametrize("meanwhile", ["write", "set the mode", "remove"])
async def test_what_is_done_while_the_remote_is_asked_for_a_base_stays(
    tmp_path: Path, meanwhile: str
) -> None:
    memory = MemoryStore({"f": b"precious", "g": b"other"})
    store = FaultStore(memory)
    async with mounted_files(store, tmp_path) as mounted:
        fs, journal = mounted.fs, mounted.journal
        asker = Asker(store, Doubts(journal.id, 0), CallThreads(1))
        sender = FileSender(journal, asker, fs.queue_view, wall_clock=time.time_ns)
        number = (await walk(fs, "f")).number
        await fs.set_attributes(number, NewAttributes(mode=0o600), None)
        before = journal.ledger.changes["f"]
        # Its new mode was sent, and we don't know.
        ours = Upload(str(UploadId.of(journal.id, "f", time.time_ns(), 1)), 0, {})
        made = memory.copy("f", before.expect, "f", before.expect, ours)
        gate = threading.Event()
        slow = store.add("identify", hang=gate)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.find_base, "f", Base("f", before.expect, before.size))
            await trio.to_thread.run_sync(slow.reached.wait, 10)
            if meanwhile == "write":
                fh = await fs.open(number, writes=True, truncates=True)
                await fs.write(fh, 0, b"new")
                fs.release(fh)
            elif meanwhile == "set the mode":
                await fs.set_attributes(number, NewAttributes(mode=0o640), None)
            else:
                await fs.unlink(fs.tree.root, b"f")
            gate.set()
        if meanwhile == "write":
            assert await read(fs, "f") == b"new"
        elif meanwhile == "set the mode":
            change = journal.ledger.changes["f"]
            assert change.attributes["mode"] == str(0o100640)
            assert change.expect == made.version
        else:
            assert await names(fs) == ["g"]
