"""What had arrived when the daemon was killed, and was not noted: the next daemon's readers get the
file as it was acknowledged, also before the queue has sent anything."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from mountd.errors import Stale, Unreachable
from mountd.vfs.attributes import NewAttributes
from tests.fakes.fault_store import FaultStore
from tests.fakes.keeping import until
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, mounted_files, walk
from tests.unit.test_writing import BIG, edit, read

EDITED = BIG[:10] + b"edited" + BIG[16:]


def losing_answers(store: MemoryStore) -> FaultStore:
    faults = FaultStore(store)
    for write in ("put", "put_delta", "copy"):
        faults.add(write, Unreachable("cut"), after_effect=True)
    return faults


async def crash_while_sending(mounted: MountedFiles, has_arrived: Callable[[], bool]) -> None:
    """It is on the remote, and the journal doesn't know."""
    assert mounted.queue is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mounted.queue.drain)
        await until(has_arrived)
        nursery.cancel_scope.cancel()
    mounted.crashes = True


async def sent(mounted: MountedFiles) -> int:
    assert mounted.queue is not None
    return await mounted.queue.drain("", 10)


async def hold_open(mounted: MountedFiles, path: str) -> int:
    """The queue leaves a file alone for a minute that is open for writing."""
    return await mounted.fs.open((await walk(mounted.fs, path)).number, writes=True)


async def test_holes_are_read_from_what_has_arrived(tmp_path: Path) -> None:
    store = MemoryStore({"f": BIG})
    async with mounted_files(losing_answers(store), tmp_path, queue=True) as mounted:
        await edit(mounted.fs, "f", 10, b"edited")
        await crash_while_sending(mounted, lambda: store.data("f") == EDITED)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        await hold_open(mounted, "f")
        assert await read(mounted.fs, "f") == EDITED
        assert await sent(mounted) == 0
    assert list(store.keys()) == ["f"]
    assert store.data("f") == EDITED


@pytest.mark.parametrize("size", [1000, len(BIG)])
async def test_a_file_whose_new_times_have_arrived_is_read(tmp_path: Path, size: int) -> None:
    store = MemoryStore({"f": BIG[:size]})
    async with mounted_files(losing_answers(store), tmp_path, queue=True) as mounted:
        number = (await walk(mounted.fs, "f")).number
        await mounted.fs.set_attributes(number, NewAttributes(mtime_ns=10**18), None)
        before = store.stat("f").version
        await crash_while_sending(mounted, lambda: store.stat("f").version != before)
    async with mounted_files(store, tmp_path, queue=False) as mounted:
        with pytest.raises(Stale):  # nobody there to ask
            await read(mounted.fs, "f")
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        assert await read(mounted.fs, "f") == BIG[:size]
        assert mounted.fs.attributes((await walk(mounted.fs, "f")).number).mtime_ns == 10**18
        assert await sent(mounted) == 0


async def test_what_somebody_else_has_put_there_is_still_stale(tmp_path: Path) -> None:
    store = MemoryStore({"f": BIG})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        await edit(mounted.fs, "f", 10, b"edited")
        await hold_open(mounted, "f")
        store.seed("f", os.urandom(len(BIG)))
        with pytest.raises(Stale):
            await read(mounted.fs, "f")


async def test_a_time_that_is_set_after_its_file_has_arrived_arrives_too(tmp_path: Path) -> None:
    store = MemoryStore({"f": BIG})
    async with mounted_files(losing_answers(store), tmp_path, queue=True) as mounted:
        number = await edit(mounted.fs, "f", 10, b"edited")
        await crash_while_sending(mounted, lambda: store.data("f") == EDITED)
        await mounted.fs.set_attributes(number, NewAttributes(mtime_ns=10**18), None)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        assert await sent(mounted) == 0
    assert store.data("f") == EDITED
    assert store.stat("f").mtime_ns == 10**18
