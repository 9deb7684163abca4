"""The read side without a kernel: defects that a review found, one test each."""

import gc
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from mountd.errors import Stale
from mountd.vfs.filesystem import FileSystem
from mountd.vfs.nodes import Directory
from tests.conftest import ExpectedLog
from tests.fakes.dict_blocks import until
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import BLOCK, Clock, content, file_system, names, walk


async def test_a_time_that_does_not_fit_neither_hides_a_file_nor_ends_the_mount(
    tmp_path: Path,
) -> None:
    # `Last-Modified: Fri, 31 Dec 9999 23:59:59 GMT` has more nanoseconds than 63 bits.
    store = MemoryStore({"a": b"alpha"})
    store.seed("far", b"future", mtime_ns=253_402_300_799 * 10**9)
    async with file_system(store, tmp_path) as fs:
        assert await names(fs) == ["a", "far"]
        assert await content(fs, "far") == b"future"


async def test_a_bug_in_a_store_fails_one_listing_and_not_the_mount(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("listing|unforeseen")
    store = MemoryStore({"d/a": b"alpha", "b": b"beta"})
    async with file_system(store, tmp_path) as fs:
        assert await names(fs) == ["b", "d"]
        store.fail_next(KeyError("LastModified"))
        with pytest.raises(Exception, match="LastModified"):
            await names(fs, "d")
        assert await names(fs, "d") == ["a"]


class ShortStore(MemoryStore):
    """Breaks the store's promise: a body that ends early comes as if it were whole."""

    def read(self, key: str, start: int, end: int, version: str) -> bytes:
        return super().read(key, start, end, version)[:-1]


async def test_a_store_that_answers_too_little_is_an_error_never_a_short_read(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("unforeseen")
    async with file_system(ShortStore({"f": b"x" * (3 * BLOCK)}), tmp_path) as fs:
        handle = fs.files.handle(await fs.files.open(await walk(fs, "f")))
        with pytest.raises(Exception, match=r"\d"):
            await fs.files.read(handle, 0, BLOCK)


async def test_a_key_with_any_lone_surrogate_is_read_and_opens_beside_its_siblings(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"a": b"alpha", "b": b"beta", "b\ud800": b"odd", "c": b"gamma"})
    async with file_system(store, tmp_path) as fs:
        for shown, body in [("a", b"alpha"), ("b", b"beta"), ("b␛uD800", b"odd"), ("c", b"gamma")]:
            assert await content(fs, shown) == body


async def test_a_refresh_during_a_listing_is_not_lost(tmp_path: Path) -> None:
    remote, clock = MemoryStore({"old": b"1"}), Clock()
    store, hang = FaultStore(remote), threading.Event()
    async with file_system(store, tmp_path, clock=clock) as fs:
        assert await names(fs) == ["old"]
        clock.now_s += 61
        fault = store.add("list", hang=hang, after_effect=True, calls=[1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(names, fs)
            await trio.to_thread.run_sync(fault.reached.wait)
            remote.seed("new", b"2")  # after the remote has answered
            fs.refresh(b"")
            hang.set()
        assert await names(fs) == ["new", "old"]


async def test_a_listing_that_takes_longer_than_the_ttl_is_used_all_the_same(
    tmp_path: Path,
) -> None:
    remote, clock = MemoryStore({"a": b"1"}), Clock()

    def sleep(seconds: float) -> None:
        clock.now_s += seconds

    store = FaultStore(remote, sleep=sleep)
    store.add("list", delay_s=90.0)
    async with file_system(store, tmp_path, clock=clock) as fs:
        assert await names(fs) == ["a"]
        for _ in range(5):
            await walk(fs, "a")
        assert remote.calls["list"] == 1


async def test_a_directory_forgotten_while_it_is_listed_is_not_listed_twice_at_once(
    tmp_path: Path,
) -> None:
    store = FaultStore(MemoryStore({"d/a": b"1", "d/b": b"2"}))
    gates = [threading.Event(), threading.Event()]
    faults = [
        store.add("list", key="d/", hang=gate, calls=[call])
        for call, gate in enumerate(gates, start=1)
    ]
    async with file_system(store, tmp_path) as fs:
        directory = await walk(fs, "d")
        assert isinstance(directory, Directory)
        first = fs.tree.refreshes.start(directory.key)  # as a walker ahead does
        assert await trio.to_thread.run_sync(faults[0].reached.wait, 5)
        fs.tree.forget(directory.number, 1)
        again = await walk(fs, "d")
        assert isinstance(again, Directory)
        second = fs.tree.refreshes.start(again.key)
        gates[0].set()
        await first.done.wait()
        number = (await walk(fs, "d/a")).number
        gates[1].set()
        await second.done.wait()
        assert fs.attributes(number).number == number  # not Stale: nothing has changed
        assert store.requests.count(("list", "d/")) == 1


async def test_a_small_file_that_changed_is_stale_at_open_also_when_it_was_fetched_ahead(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"f": b"old"})
    async with file_system(store, tmp_path) as fs:
        node = await walk(fs, "f")
        store.gate = threading.Event()
        listing = fs.tree.locate(node)[0].listing
        assert fs.files.fetch_ahead(fs.tree.root, listing, node.row)
        store.seed("f", b"newer")
        async with trio.open_nursery() as nursery:

            async def open_stale() -> None:
                with pytest.raises(Stale):
                    await fs.files.open(node)

            nursery.start_soon(open_stale)
            await trio.testing.wait_all_tasks_blocked(0.01)
            store.gate.set()
        assert await content(fs, "f") == b"newer"


async def test_a_small_file_that_changed_is_stale_at_open_also_the_second_time(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"f": b"old"})
    async with file_system(store, tmp_path, cache_bytes=0) as fs:
        assert await content(fs, "f") == b"old"
        await until(lambda: fs.blocks.used_bytes == 0)  # read, and not kept
        node = await walk(fs, "f")
        store.seed("f", b"newer")
        with pytest.raises(Stale):
            await fs.files.open(node)


async def test_directories_that_a_walk_only_passed_by_take_no_memory(tmp_path: Path) -> None:
    def directories() -> int:
        gc.collect()
        return sum(isinstance(found, Directory) for found in gc.get_objects())

    async def walk_through(fs: FileSystem, shown: list[str]) -> None:
        """Lists these, and is forgotten by the kernel."""
        for name in shown:
            node = await walk(fs, name)
            assert isinstance(node, Directory)
            await fs.read_directory(node)
            fs.tree.forget(node.number, 1)

    store = MemoryStore({f"d{i:02d}/f": b"x" for i in range(40)})
    async with file_system(store, tmp_path) as fs:
        everything = await names(fs)
        await walk_through(fs, everything)
        before = directories()
        await names(fs)
        await walk_through(fs, everything[:8])  # all listings are here: nothing to fetch ahead
        assert directories() <= before + 2
