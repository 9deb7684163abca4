"""Who has a file open while the remote gives it another key."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from mountd.errors import NotFound
from mountd.vfs.notes import NotedFile
from mountd.vfs.restoring import Noted, restore
from tests.fakes.fault_store import Fault, FaultStore
from tests.fakes.mounted import MountedFiles, mounted_files, walk
from tests.fakes.moving_store import MovingStore
from tests.unit.test_writing import BIG, rename
from tests.unit.test_writing_races import sent

EDITED = BIG[:5] + b"edit" + BIG[9:]


@asynccontextmanager
async def moving(
    mounted: MountedFiles, store: FaultStore, gate: threading.Event, *, done: bool
) -> AsyncIterator[Fault]:
    """`f` becomes `h` while the block lasts. `done`: the remote has done it already, and its answer
    is not here yet."""
    slow = store.add("move_file", hang=gate, after_effect=done, calls=[1])
    async with trio.open_nursery() as nursery:
        await rename(mounted.fs, "f", "h")
        nursery.start_soon(sent, mounted)
        await trio.to_thread.run_sync(slow.reached.wait, 10)
        yield slow
        gate.set()


async def read_all(mounted: MountedFiles, fh: int) -> bytes:
    return bytes(memoryview(await mounted.fs.read(fh, 0, len(BIG) + 1)))


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("then", ["nothing", "unlink", "rename on", "edit", "edit and unlink"])
async def test_who_has_it_open_reads_on_while_and_after_it_is_moved(
    tmp_path: Path, then: str, done: bool
) -> None:
    memory = MovingStore({"f": BIG, "g": b""})
    store, gate = FaultStore(memory), threading.Event()
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        fh = await fs.open((await walk(fs, "f")).number, writes=True)
        wanted = EDITED if "edit" in then else BIG
        async with moving(mounted, store, gate, done=done):
            if "edit" in then:
                await fs.write(fh, 5, b"edit")
            if "unlink" in then:
                await fs.unlink(fs.tree.root, b"h")
            if then == "rename on":
                await rename(fs, "h", "i")
            async with trio.open_nursery() as nursery:
                found: list[bytes] = []

                async def look() -> None:
                    found.append(await read_all(mounted, fh))

                nursery.start_soon(look)
                if done:
                    await trio.testing.wait_all_tasks_blocked(0.05)
                gate.set()
            assert found == [wanted]
        assert await read_all(mounted, fh) == wanted
        fs.release(fh)
        assert await sent(mounted) == 0
        name = {"rename on": "i"}.get(then, "h")
        assert memory.keys() == (["g"] if "unlink" in then else ["g", name])
        assert "unlink" in then or memory.data(name) == wanted
        assert "copy" not in memory.calls


async def test_who_waits_for_what_another_reader_asked_for_under_the_old_name_gets_it(
    tmp_path: Path,
) -> None:
    memory = MovingStore({"f": BIG, "g": b""}, identifies=True)
    store, gate = FaultStore(memory), threading.Event()
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        number = (await walk(fs, "f")).number
        one, other = await fs.open(number), await fs.open(number)
        late = threading.Event()
        slow = store.add("read", NotFound("f"), hang=late, calls=[1])
        async with trio.open_nursery() as nursery:
            found: list[bytes] = []

            async def look(fh: int) -> None:
                found.append(await read_all(mounted, fh))

            nursery.start_soon(look, one)
            await trio.to_thread.run_sync(slow.reached.wait, 10)
            async with moving(mounted, store, gate, done=True):
                gate.set()
            assert await sent(mounted) == 0
            nursery.start_soon(look, other)
            await trio.testing.wait_all_tasks_blocked(0.05)
            late.set()
        assert found == [BIG, BIG]


async def test_a_handle_that_was_noted_just_before_the_move_was_known_is_read_on_after_a_kill(
    tmp_path: Path,
) -> None:
    memory = MovingStore({"f": BIG, "g": b""})
    async with mounted_files(memory, tmp_path, queue=True) as mounted:
        number = (await walk(mounted.fs, "f")).number
        version = memory.stat("f").version
        await rename(mounted.fs, "f", "h")
        assert await sent(mounted) == 0
        mounted.crashes = True
    async with mounted_files(memory, tmp_path, queue=True) as mounted:
        noted = NotedFile(number, 1, False, False, len(BIG), 0, "f", version)
        restore(mounted.fs, Noted({}, {7: noted}, {}))
        assert await read_all(mounted, 7) == BIG
