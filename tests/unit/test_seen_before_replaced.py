"""What others put in the place of a file, while an operation on its name waits for a listing, is
not what the kernel was told of: it is neither replaced nor removed."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mountd.errors import NoEntry, Unreachable
from mountd.vfs.filesystem import FileSystem
from tests.conftest import ExpectedLog
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import Clock, MountedFiles, mounted_files, names, walk
from tests.unit.test_links import contents, link, sent, target, unlink
from tests.unit.test_writing import make, read, rename

TTL_S = 60.0


async def removed(fs: FileSystem) -> None:
    await unlink(fs, "d/x")


async def replaced(fs: FileSystem) -> None:
    await rename(fs, "d/new", "d/x")


async def replaced_by_a_link(fs: FileSystem) -> None:
    await rename(fs, "d/link", "d/x")


OPERATIONS = [removed, replaced, replaced_by_a_link]
Operation = Callable[[FileSystem], Awaitable[None]]


async def begun(mounted: MountedFiles) -> None:
    """What the operations need, sent; and the kernel has looked all of it up."""
    await make(mounted.fs, "d/new", b"ours")
    await link(mounted.fs, "d/link", b"target")
    await sent(mounted)
    for path in ("d/new", "d/link", "d/x"):
        await walk(mounted.fs, path)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_what_a_listing_brings_in_the_middle_of_an_operation_stays(
    operation: Operation, tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("conflict|'d/x'")
    store, clock = MemoryStore({"d/x": b"before"}), Clock()
    async with mounted_files(store, tmp_path, ttl_s=TTL_S, clock=clock, queue=True) as mounted:
        await begun(mounted)
        store.seed("d/x", b"theirs")
        clock.now_s += TTL_S + 1
        await operation(mounted.fs)
        await sent(mounted)
        mounted.fs.refresh(b"")
        assert await read(mounted.fs, "d/x") == b"theirs"
        assert b"theirs" in contents(store).values()
        if operation is replaced:
            assert b"ours" in contents(store).values()
        if operation is replaced_by_a_link:
            assert b"target" in contents(store).values()


async def test_what_comes_under_a_name_that_the_kernel_was_told_is_free_stays(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("conflict")
    store, clock = MemoryStore({"d/z": b"1"}), Clock()
    async with mounted_files(store, tmp_path, ttl_s=TTL_S, clock=clock, queue=True) as mounted:
        await make(mounted.fs, "d/new", b"ours")
        await sent(mounted)
        with pytest.raises(NoEntry):
            await walk(mounted.fs, "d/x")
        store.seed("d/x", b"theirs")
        clock.now_s += TTL_S + 1
        await rename(mounted.fs, "d/new", "d/x")
        await sent(mounted)
        assert sorted(contents(store).values()) == [b"1", b"ours", b"theirs"]
        mounted.fs.refresh(b"")
        assert await read(mounted.fs, "d/x") == b"theirs"


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_what_was_looked_up_since_is_replaced(operation: Operation, tmp_path: Path) -> None:
    store, clock = MemoryStore({"d/x": b"before"}), Clock()
    async with mounted_files(store, tmp_path, ttl_s=TTL_S, clock=clock, queue=True) as mounted:
        await begun(mounted)
        store.seed("d/x", b"theirs")
        clock.now_s += TTL_S + 1
        assert await read(mounted.fs, "d/x") == b"theirs"
        await operation(mounted.fs)
        await sent(mounted)
        assert b"theirs" not in contents(store).values()


async def test_what_was_sent_is_looked_up_with_a_listing_where_none_is_kept(tmp_path: Path) -> None:
    """Others may have replaced it since, and the kernel is not told of the old one."""
    store = MemoryStore({"d/z": b"1"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        await make(mounted.fs, "d/x", b"ours")
        assert mounted.queue is not None
        assert await mounted.queue.drain("", 30.0) == 0
        store.seed("d/x", b"theirs")
        mounted.metadata.forget("d/")
        assert mounted.journal.ledger.changes["d/x"].is_clean
        assert await read(mounted.fs, "d/x") == b"theirs"


@pytest.mark.parametrize("is_well", [True, False])
async def test_what_was_sent_is_found_where_no_listing_can_be_had(
    is_well: bool, tmp_path: Path, expected_log: ExpectedLog
) -> None:
    if is_well:
        expected_log("listing ")
    memory, wells = MemoryStore({}), [True]
    store = FaultStore(memory)
    async with mounted_files(
        store, tmp_path, queue=True, remote_is_well=lambda: wells[0]
    ) as mounted:
        number = await link(mounted.fs, "x", b"ours")
        assert mounted.queue is not None
        assert await mounted.queue.drain("", 30.0) == 0
        mounted.metadata.forget("")
        wells[0] = is_well
        store.add("list", Unreachable("no network"))
        assert (await walk(mounted.fs, "x")).number == number
        assert await target(mounted.fs, "x") == b"ours"


@pytest.mark.parametrize("is_forgotten", [False, True])
@pytest.mark.parametrize("is_kept", [False, True])
async def test_the_kernel_hears_of_every_listing_in_which_others_have_replaced_what_it_believes(
    tmp_path: Path, is_forgotten: bool, is_kept: bool
) -> None:
    """It believes what was written here for a whole TTL, and the listing may be asked for before:
    an rm or mv within it would take theirs."""
    store, clock = MemoryStore({"d/z": b"1"}), Clock()
    async with mounted_files(store, tmp_path, ttl_s=TTL_S, clock=clock, queue=True) as mounted:
        told: list[tuple[int, bytes]] = []
        mounted.fs.queue_view.invalidate = told.extend
        await walk(mounted.fs, "d/z")
        clock.now_s += TTL_S - 1
        for name in ("x", "own"):
            await make(mounted.fs, f"d/{name}", b"ours")
        assert mounted.queue is not None
        assert await mounted.queue.drain("", 30.0) == 0
        if is_forgotten:
            await mounted.fs.folding.fold_waiting()
            assert "d/x" not in mounted.journal.ledger.changes
        if not is_kept:
            mounted.metadata.forget("d/")
        store.seed("d/x", b"theirs")
        clock.now_s += 2
        assert await names(mounted.fs, "d") == ["own", "x", "z"]
        directory = (await walk(mounted.fs, "d")).number
        if is_kept:
            assert told == [(directory, b"x")]
        elif not is_forgotten:
            assert (directory, b"x") in told
        told.clear()
        handle = await mounted.fs.open((await walk(mounted.fs, "d/own")).number, writes=True)
        await mounted.fs.write(handle, 0, b"again")
        mounted.fs.release(handle)
        clock.now_s += TTL_S + 1
        assert await names(mounted.fs, "d") == ["own", "x", "z"]
        await sent(mounted)
        clock.now_s += TTL_S + 1
        assert await names(mounted.fs, "d") == ["own", "x", "z"]
        assert told == []
