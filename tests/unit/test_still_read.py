"""A version that somebody still reads comes here before our own change takes it away."""

import threading
from pathlib import Path

import pytest
import trio

from mountd.errors import Stale, Unreachable
from mountd.vfs.last_readers import LastReaders
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import Clock, file_system, mounted_files, walk
from tests.unit.test_writing import BIG, make, rename
from tests.unit.test_writing_races import sent


@pytest.mark.parametrize("how", ["unlink", "replace", "edit, then unlink"])
async def test_a_version_that_is_still_read_comes_here_before_it_goes(
    tmp_path: Path, how: str
) -> None:
    memory = MemoryStore({"f": BIG, "g": b""})
    async with mounted_files(memory, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        fh = await fs.open((await walk(fs, "f")).number, writes=True)
        wanted = BIG
        if how.startswith("edit"):
            await fs.write(fh, 5, b"edit")
            wanted = BIG[:5] + b"edit" + BIG[9:]
        if how == "replace":
            await make(fs, "new", b"new")
            await rename(fs, "new", "f")
        else:
            await fs.unlink(fs.tree.root, b"f")
        assert await sent(mounted) == 0
        assert memory.keys() == (["f", "g"] if how == "replace" else ["g"])
        memory.fail_always(Unreachable("all that is needed is here"))
        assert bytes(memoryview(await fs.read(fh, 0, len(BIG) + 1))) == wanted
        memory.fail_always(None)
        fs.release(fh)
        assert not fs.tree.ledger.contents


@pytest.mark.parametrize("meanwhile", ["unlink", "write, then unlink", "rename and write"])
async def test_what_was_sent_under_an_open_file_that_is_unlinked_comes_here_before_it_goes(
    tmp_path: Path, meanwhile: str
) -> None:
    memory = MemoryStore({"f": BIG, "g": b""})
    store = FaultStore(memory)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs, gate = mounted.fs, threading.Event()
        fh = await fs.open((await walk(fs, "f")).number, writes=True)
        await fs.write(fh, 5, b"edit")
        wanted, name = BIG[:5] + b"edit" + BIG[9:], b"f"
        slow = store.add("put", hang=gate, calls=[1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sent, mounted)
            await trio.to_thread.run_sync(slow.reached.wait, 10)
            if meanwhile.startswith("rename"):
                await rename(fs, "f", "h")
                name = b"h"
            if "write" in meanwhile:
                await fs.write(fh, 20, b"more")
                wanted = wanted[:20] + b"more" + wanted[24:]
            if meanwhile == "unlink":
                await fs.unlink(fs.tree.root, name)
            gate.set()
        if meanwhile != "unlink":
            await fs.unlink(fs.tree.root, name)
        assert await sent(mounted) == 0
        assert memory.keys() == ["g"]
        memory.fail_always(Unreachable("all that is needed is here"))
        assert bytes(memoryview(await fs.read(fh, 0, len(BIG) + 1))) == wanted
        memory.fail_always(None)
        fs.release(fh)
        assert not fs.tree.ledger.contents


async def test_who_closes_while_another_reader_s_bytes_come_here_leaves_nothing(
    tmp_path: Path,
) -> None:
    memory = MemoryStore({"f": BIG, "g": b""})
    store = FaultStore(memory)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs, gate = mounted.fs, threading.Event()
        one = await fs.open((await walk(fs, "f")).number)
        fs.tree.disown("", "f", fs.queue_view.new_number())
        other = await fs.open((await walk(fs, "f")).number)
        slow = store.add("read", hang=gate, calls=[1])
        await fs.unlink(fs.tree.root, b"f")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sent, mounted)
            await trio.to_thread.run_sync(slow.reached.wait, 10)
            fs.release(one)
            fs.release(other)
            gate.set()
        assert memory.keys() == ["g"]
        assert not fs.tree.ledger.contents


async def test_what_is_too_large_to_be_kept_waits_for_its_last_reader(tmp_path: Path) -> None:
    memory = MemoryStore({"f": BIG})
    async with mounted_files(memory, tmp_path, queue=True, cache_bytes=len(BIG)) as mounted:
        fs = mounted.fs
        assert mounted.queue is not None
        fh = await fs.open((await walk(fs, "f")).number)
        await fs.unlink(fs.tree.root, b"f")
        assert await mounted.queue.drain("", 0.5) == 1
        assert memory.keys() == ["f"]
        assert "still read" in mounted.queue.items()[0].reason
        assert bytes(memoryview(await fs.read(fh, 0, len(BIG)))) == BIG
        fs.release(fh)
        assert await sent(mounted) == 0
        assert memory.keys() == []


async def test_what_is_too_large_to_be_kept_goes_when_the_mount_does(tmp_path: Path) -> None:
    memory = MemoryStore({"f": BIG})
    async with mounted_files(memory, tmp_path, queue=True, cache_bytes=len(BIG)) as mounted:
        fs = mounted.fs
        fh = await fs.open((await walk(fs, "f")).number)
        await fs.unlink(fs.tree.root, b"f")
        fs.last_readers.is_over = True
        assert await sent(mounted) == 0
        fs.release(fh)


async def test_a_reader_never_keeps_the_queue_for_more_than_ten_minutes_and_is_told_then(
    tmp_path: Path,
) -> None:
    clock, memory = Clock(), MemoryStore({"f": BIG})
    async with file_system(memory, tmp_path, cache_bytes=len(BIG)) as fs:
        readers = LastReaders(fs.files, fs.writes, clock=clock)
        fh = await fs.open((await walk(fs, "f")).number)
        await fs.unlink(fs.tree.root, b"f")
        change = fs.tree.ledger.changes["f"]
        assert not await readers.spare(change)
        clock.now_s += 599
        assert not await readers.spare(change)
        clock.now_s += 2
        assert await readers.spare(change)
        memory.drop("f")
        with pytest.raises(Stale):
            await fs.read(fh, 0, len(BIG))
        fs.release(fh)
