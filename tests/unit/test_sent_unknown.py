"""What had arrived when the daemon was killed, and was not noted: the next daemon's readers get the
file as it was acknowledged, also before the queue has sent anything."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from mountd.errors import Stale, Unreachable
from mountd.remotes.base import Body, Identity, Upload
from mountd.types import Entry
from mountd.vfs.attributes import NewAttributes
from tests.fakes.fault_store import FaultStore
from tests.fakes.keeping import until
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, mounted_files, walk
from tests.unit.test_writing import BIG, edit, read, rename

EDITED = BIG[:10] + b"edited" + BIG[16:]


class WithoutIds(MemoryStore):
    """As a Nextcloud: it keeps no upload ids, and says when the file is about to be made."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(objects, keeps_attributes=False, put_delta=False)

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        data = bytes(body.read(0, body.size))
        if upload.completing is not None:
            upload.completing(hashlib.md5(data, usedforsecurity=False).hexdigest())
        return super().put(key, body, expect, upload)

    def identify(self, key: str) -> Identity:
        return replace(super().identify(key), upload_id="")


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


@pytest.mark.parametrize("kind", [MemoryStore, WithoutIds])
async def test_holes_are_read_from_what_has_arrived(
    tmp_path: Path, kind: type[MemoryStore]
) -> None:
    store = kind({"f": BIG})
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


@pytest.mark.parametrize("then", ["rename", "write on", "cut"])
async def test_holes_are_read_from_what_has_arrived_whatever_was_done_to_the_file_since(
    tmp_path: Path, then: str
) -> None:
    store = WithoutIds({"f": BIG})
    wanted = EDITED
    async with mounted_files(losing_answers(store), tmp_path, queue=True) as mounted:
        await edit(mounted.fs, "f", 10, b"edited")
        await crash_while_sending(mounted, lambda: store.data("f") == EDITED)
        if then == "rename":
            await rename(mounted.fs, "f", "g")
        elif then == "write on":
            await edit(mounted.fs, "f", 100, b"more")
            wanted = EDITED[:100] + b"more" + EDITED[104:]
        else:
            number = (await walk(mounted.fs, "f")).number
            await mounted.fs.set_attributes(number, NewAttributes(size=70_000), None)
            wanted = EDITED[:70_000]
    name = "g" if then == "rename" else "f"
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        await hold_open(mounted, name)
        assert await read(mounted.fs, name) == wanted
        assert await sent(mounted) == 0
    assert list(store.keys()) == [name]
    assert store.data(name) == wanted


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
