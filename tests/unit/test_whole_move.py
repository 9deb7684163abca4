"""A directory's rename that the remote does in one request."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from mountd.errors import Denied, Exists, NoEntry, Unreachable
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, content, mounted_files, names, walk
from tests.fakes.syncing import reached
from tests.unit.test_folding import drained, make
from tests.unit.test_writing import edit, read, rename

FILES = {"d/a": b"1", "d/s/b": b"22", "d/s/t/c": b"333", "top": b"0"}


def moving() -> MemoryStore:
    return MemoryStore(FILES, real_directories=True, native_move=True)


def data(store: MemoryStore) -> dict[str, bytes]:
    return {key: store.data(key) for key in list(store.keys()) if not key.endswith("/")}


def placed(new: str) -> dict[str, bytes]:
    return {key.replace("d/", new, 1): found for key, found in FILES.items()}


async def numbers(mounted: MountedFiles, *paths: str) -> list[int]:
    return [(await walk(mounted.fs, path)).number for path in paths]


async def test_a_rename_is_one_request_and_takes_along_all_that_is_known(tmp_path: Path) -> None:
    store = moving()
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        before = await numbers(mounted, "d", "d/a", "d/s", "d/s/b")
        fh = await fs.open(before[3])
        store.calls.clear()
        await rename(fs, "d", "e")
        assert store.calls == {"move_dir": 1}
        assert data(store) == placed("e/")
        assert await numbers(mounted, "e", "e/a", "e/s", "e/s/b") == before
        assert store.calls == {"move_dir": 1}, "nothing has to be listed again"
        assert await fs.read(fh, 0, 10) == b"22"
        assert await names(fs) == ["e", "top"]
        assert await content(fs, "e/s/t/c") == b"333"
        fs.release(fh)
        await fs.folding.fold_waiting()
        assert not mounted.journal.ledger.changes
        assert (await names(fs), await names(fs, "e")) == (["e", "top"], ["a", "s"])
    async with mounted_files(store, tmp_path) as mounted:
        assert await numbers(mounted, "e", "e/a", "e/s", "e/s/b") == before


async def test_to_and_fro_and_into_another_directory(tmp_path: Path) -> None:
    store = moving()
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        before = await numbers(mounted, "d", "d/a", "d/s", "d/s/b")
        for old, new in [("d", "e"), ("e", "d"), ("d/s", "u"), ("u", "d/s"), ("d", "e")]:
            await rename(fs, old, new)
        assert store.calls["move_dir"] == 5
        assert data(store) == placed("e/")
        assert await numbers(mounted, "e", "e/a", "e/s", "e/s/b") == before
        await edit(fs, "e/s/b", 0, b"X")
        await drained(mounted)
        assert store.data("e/s/b") == b"X2"
        with pytest.raises(NoEntry):
            await walk(fs, "d")


@pytest.mark.parametrize("changes", ["a new file", "an edit", "a mode"])
async def test_what_waits_below_it_goes_file_by_file_as_elsewhere(
    tmp_path: Path, changes: str
) -> None:
    store = moving()
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        if changes == "a new file":
            await make(mounted, b"new", b"bytes")
            await rename(fs, "new", "d/new")
        elif changes == "an edit":
            await edit(fs, "d/s/b", 0, b"X")
        else:
            await rename(fs, "d/a", "d/b")
        await rename(fs, "d", "e")
        assert store.calls["move_dir"] == 0
        await drained(mounted)
        assert not any(key.startswith("d") for key in data(store))
        assert len(data(store)) == (5 if changes == "a new file" else 4)
        await rename(fs, "e", "f")
        assert store.calls["move_dir"] == 1, "nothing waits any more"


async def test_a_lost_answer_is_settled_by_a_look(tmp_path: Path) -> None:
    store = moving()
    faults = FaultStore(store)
    faults.add("move_dir", Unreachable("reset"), after_effect=True)
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        before = await numbers(mounted, "d", "d/a", "d/s", "d/s/b")
        await rename(fs, "d", "e")
        assert await numbers(mounted, "e", "e/a", "e/s", "e/s/b") == before
        assert await names(fs) == ["e", "top"]


def theirs(store: MemoryStore) -> None:
    store.seed("e/x", b"theirs")


@pytest.mark.parametrize(
    ("error", "raised", "others"),
    [
        (Unreachable("refused"), Unreachable, None),
        (Denied("not yours"), Denied, None),
        (None, Exists, theirs),
        (None, NoEntry, lambda store: store.move_dir("d/", "elsewhere/")),
    ],
)
async def test_what_the_remote_did_not_do_is_told_and_nothing_has_changed(
    tmp_path: Path,
    error: Exception | None,
    raised: type[Exception],
    others: Callable[[MemoryStore], None] | None,
) -> None:
    store = moving()
    faults = FaultStore(store)
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        before = await numbers(mounted, "d", "d/a")
        await names(fs)
        if others is not None:
            others(store)
        remote = data(store)
        if error is not None:
            faults.add("move_dir", error, calls=[1])
        with pytest.raises(raised):
            await rename(fs, "d", "e")
        assert data(store) == remote
        assert not list(mounted.journal.ledger.unsent())
        found = await names(fs)  # listed anew: what others did is seen
        if raised is NoEntry:
            assert found == ["elsewhere", "top"]
        else:
            assert await numbers(mounted, "d", "d/a") == before
            assert ("e" in found) is (raised is Exists)


async def test_what_is_done_below_it_meanwhile_goes_to_the_new_place(tmp_path: Path) -> None:
    store = moving()
    faults = FaultStore(store)
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        fs, queue = mounted.fs, mounted.queue
        assert queue is not None
        hang = threading.Event()
        fault = faults.add("move_dir", hang=hang, calls=[1])
        await walk(fs, "d/s/t/c")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rename, fs, "d", "e")
            await reached(fault.reached)
            await edit(fs, "d/s/b", 0, b"X")
            await rename(fs, "d/s/t/c", "d/s/moved")
            await rename(fs, "d/a", "out")
            assert await queue.drain("", 0.5) > 0
            assert not [call for call in faults.requests if call[0] in ("put", "copy", "delete")]
            hang.set()
        await drained(mounted)
        assert data(store) == {"top": b"0", "out": b"1", "e/s/b": b"X2", "e/s/moved": b"333"}
        assert await read(fs, "e/s/b") == b"X2"
        assert await names(fs, "e/s") == ["b", "moved", "t"]


async def test_who_reads_and_lists_between_the_move_and_its_answer_waits_for_that(
    tmp_path: Path,
) -> None:
    store = moving()
    faults = FaultStore(store)
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        number = (await walk(fs, "d/s/b")).number
        directory = await walk(fs, "d/s/t")
        hang = threading.Event()
        fault = faults.add("move_dir", hang=hang, after_effect=True, calls=[1])
        asked, read_ = faults.add("list", key="d/s/t/"), faults.add("read", key="d/s/b")
        found: list[object] = []

        async def look() -> None:
            fh = await fs.open(number)
            found.append(bytes(memoryview(await fs.read(fh, 0, 9))))
            fs.release(fh)

        async def list_() -> None:
            found.append(
                len((await fs.read_directory(fs.tree.directory(directory.number))).listing)
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rename, fs, "d", "e")
            await reached(fault.reached)
            nursery.start_soon(look)
            nursery.start_soon(list_)
            await reached(asked.reached)
            await reached(read_.reached)
            assert not found
            hang.set()
        assert sorted(map(str, found)) == ["1", "b'22'"]


async def test_a_crash_before_the_answer_is_what_a_rename_by_others_would_be(
    tmp_path: Path,
) -> None:
    store = moving()
    faults = FaultStore(store)
    hang = threading.Event()
    fault = faults.add("move_dir", hang=hang, after_effect=True, calls=[1])
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        await walk(mounted.fs, "d/s/b")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rename, mounted.fs, "d", "e")
            await reached(fault.reached)
            mounted.crashes = True
            nursery.cancel_scope.cancel()
    hang.set()
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        mounted.fs.refresh(b"")
        assert await names(mounted.fs) == ["e", "top"]
        assert await read(mounted.fs, "e/s/b") == b"22"
        await drained(mounted)
        assert data(store) == placed("e/")


async def test_while_the_remote_is_known_to_be_down_it_is_not_asked(tmp_path: Path) -> None:
    store = moving()
    is_well = True
    async with mounted_files(
        store, tmp_path, queue=True, remote_is_well=lambda: is_well
    ) as mounted:
        for path in ("d/s/t", "d/s", "d"):
            await names(mounted.fs, path)
        is_well = False
        store.calls.clear()
        await rename(mounted.fs, "d", "e")
        assert store.calls["move_dir"] == 0
        assert await names(mounted.fs, "e/s/t") == ["c"]
        is_well = True
        await drained(mounted)
        assert data(store) == placed("e/")


async def test_a_move_without_an_answer_ends_in_time_and_so_does_who_waits_for_it(
    tmp_path: Path,
) -> None:
    store = moving()
    store.seed("other/x", b"")
    faults = FaultStore(store)
    hang = threading.Event()
    faults.add("move_dir", hang=hang)
    async with mounted_files(faults, tmp_path, queue=True, wait_s=1.0) as mounted:
        fs = mounted.fs
        await numbers(mounted, "d", "other")
        timed_out: list[str] = []

        async def try_(old: str, new: str) -> None:
            with pytest.raises(TimeoutError):
                await rename(fs, old, new)
            timed_out.append(old)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(try_, "d", "e")
                nursery.start_soon(try_, "other", "d/other")
        assert sorted(timed_out) == ["d", "other"]
        assert await read(fs, "d/a") == b"1"
        hang.set()  # it lands after all: as if somebody else had renamed it
