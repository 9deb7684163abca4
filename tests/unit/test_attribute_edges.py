"""What strangers put into metadata, and what happens between two looks, loses and hides nothing."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from mountd.errors import Exists, Unsupported
from mountd.types import Entry
from mountd.vfs.attributes import NewAttributes
from mountd.vfs.nodes import Directory
from mountd.vfs.user_xattrs import decoded
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import content, mounted_files, names, walk
from tests.unit.test_folding import drained
from tests.unit.test_writing import edit


class Held(MemoryStore):
    """Each kind of call says that it has begun, and waits until it may go."""

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        super().__init__(objects)
        self.begun = {"list": threading.Event(), "stat": threading.Event()}
        self.go = {"list": threading.Event(), "stat": threading.Event()}

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        self._held("list")
        yield from super().list(directory)

    def stat(self, key: str) -> Entry:
        self._held("stat")
        return super().stat(key)

    def _held(self, call: str) -> None:
        self.begun[call].set()
        self.go[call].wait(10)


@pytest.mark.parametrize("time", ["-9999999999.000000000", "9999999999.999999999"])
async def test_a_time_that_no_kernel_knows_does_not_end_the_mount(
    tmp_path: Path, time: str
) -> None:
    store = MemoryStore()
    store.seed("f", b"x", 5, {"mode": "33261", "mtime": time})
    async with mounted_files(store, tmp_path, asks_for_metadata=True) as mounted:
        fs = mounted.fs
        await fs.asking.name(fs.tree.root, b"f")
        assert abs((await fs.tree.lookup(fs.tree.root, b"f")).mtime_ns) < 1 << 63
    async with mounted_files(store, tmp_path) as mounted:
        found = mounted.fs.attributes((await walk(mounted.fs, "f")).number)
        assert found.mode == 0o100755


async def test_what_others_keep_among_the_xattrs_stays_there(tmp_path: Path) -> None:
    store = MemoryStore()
    theirs = "%7B%22security.acl%22%3A%22eA%3D%3D%22%2C%22user.a%22%3A%22eA%3D%3D%22%7D"
    store.seed("f", b"x", 5, {"xattr": theirs})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        number = (await walk(fs, "f")).number
        await fs.user_xattrs.set(number, b"user.b", b"2")
        await fs.user_xattrs.remove(number, b"user.a")
        await drained(mounted)
        text = store.upload("f").attributes["xattr"]
        assert "security.acl" in text
        assert decoded(text) == {b"user.b": b"2"}


async def test_a_file_that_others_changed_before_its_directory_is_renamed_gets_an_inode_of_its_own(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"d/x": b"old", "d/y": b"same"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        before = (await walk(fs, "d/x")).number
        same = (await walk(fs, "d/y")).number
        store.seed("d/x", b"newer")
        await fs.rename(fs.tree.root, b"d", fs.tree.root, b"e")
        assert (await walk(fs, "e/y")).number == same
        assert (await walk(fs, "e/x")).number != before
        assert await content(fs, "e/x") == b"newer"


async def test_a_directory_is_renamed_with_our_file_and_the_link_that_others_made_beside_it(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"d/x": b"1"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        directory = await walk(fs, "d")
        assert isinstance(directory, Directory)
        fh, _ = await fs.create(directory, b"f", {})
        await fs.write(fh, 0, b"ours")
        store.seed("d/f.rclonelink", b"theirs")
        await fs.rename(fs.tree.root, b"d", fs.tree.root, b"e")
        fs.release(fh)
        assert await names(fs, "e") == ["f", "f.rclonelink", "x"]
        await drained(mounted)
        assert store.keys() == ["e/", "e/f", "e/f.rclonelink", "e/x"]
        assert store.data("e/f") == b"ours"
        assert await names(fs, "e") == ["f", "f.rclonelink", "x"]


async def test_what_was_changed_while_a_file_was_elsewhere_is_sent(tmp_path: Path) -> None:
    store = MemoryStore({"f": b"1", "g": b"2", "h": b"3"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs, root = mounted.fs, mounted.fs.tree.root
        for name, new in ((b"f", NewAttributes(mode=0o700)), (b"g", NewAttributes(mtime_ns=99))):
            number = (await walk(fs, name.decode())).number
            await fs.rename(root, name, root, b"away")
            await fs.set_attributes(number, new, None)
            await fs.rename(root, b"away", root, name)
        await walk(fs, "h")
        await fs.rename(root, b"h", root, b"away")
        await fs.rename(root, b"away", root, b"h")
        await drained(mounted)
        assert store.upload("f").attributes == {"mode": str(0o100700)}
        assert store.upload("g").mtime_ns == 99
        assert store.calls["copy"] == 2


async def test_full_metadata_cost_no_second_list_where_nothing_stays_fresh(tmp_path: Path) -> None:
    store = MemoryStore({"f": b"1"})
    async with mounted_files(store, tmp_path, asks_for_metadata=True, ttl_s=0) as mounted:
        fs = mounted.fs
        cached = await fs.asking.name(fs.tree.root, b"f")
        await fs.tree.lookup(fs.tree.root, b"f", cached)
        assert store.calls["list"] == 1


async def test_xattrs_of_another_kind_are_not_replaced(tmp_path: Path) -> None:
    store = MemoryStore()
    store.seed("f", b"x", 5, {"xattr": "somebody's note"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        number = (await walk(fs, "f")).number
        with pytest.raises(Unsupported):
            await fs.user_xattrs.set(number, b"user.b", b"2")
        await drained(mounted)
        assert store.upload("f").attributes == {"xattr": "somebody's note"}


@pytest.mark.parametrize("link_first", [True, False])
async def test_a_directory_and_a_link_that_need_one_name_on_the_remote(
    tmp_path: Path, link_first: bool
) -> None:
    store = MemoryStore(real_directories=True)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs, root = mounted.fs, mounted.fs.tree.root
        makes = [
            lambda: fs.make_link(root, b"a", b"target", {}),
            lambda: fs.make_directory(root, b"a.rclonelink", {}),
        ]
        await (makes if link_first else makes[::-1])[0]()
        with pytest.raises(Exists):
            await (makes if link_first else makes[::-1])[1]()
        await drained(mounted)


async def test_a_mode_that_the_remote_does_not_keep_outlives_the_listing(tmp_path: Path) -> None:
    store = MemoryStore({"f": b"1"}, keeps_attributes=False)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        number = (await walk(fs, "f")).number
        await fs.set_attributes(number, NewAttributes(mode=0o700), None)
        await drained(mounted)
        await fs.folding.fold_waiting()
        mounted.metadata.forget("")
        assert fs.attributes((await walk(fs, "f")).number).mode == 0o100700


async def test_questions_that_hang_keep_no_fsync_waiting(tmp_path: Path) -> None:
    store = MemoryStore({f"f{i}": b"x" for i in range(50)})
    async with mounted_files(store, tmp_path) as mounted:
        fs = mounted.fs
        numbers = [await edit(fs, f"f{i}", 0, b"y") for i in range(50)]
        store.gate = threading.Event()
        try:
            async with trio.open_nursery() as nursery:
                for number in numbers:
                    nursery.start_soon(fs.user_xattrs.get, number, b"user.a")
                await trio.testing.wait_all_tasks_blocked()
                with trio.fail_after(5):
                    await fs.writes.sync(numbers[0])
                nursery.cancel_scope.cancel()
        finally:
            store.gate.set()


async def test_a_look_up_waits_for_its_listing_and_its_attributes_together_no_longer_than_for_one(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    store = Held({"f": b"x"})
    async with mounted_files(store, tmp_path, asks_for_metadata=True, wait_s=10) as mounted:
        fs = mounted.fs
        done: list[object] = []

        async def look() -> None:
            done.append(await fs.asking.name(fs.tree.root, b"f"))

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look)
                await trio.to_thread.run_sync(store.begun["list"].wait, 10)
                mock_clock.jump(8)
                store.go["list"].set()
                await trio.to_thread.run_sync(store.begun["stat"].wait, 10)
                mock_clock.jump(4)
                await trio.testing.wait_all_tasks_blocked()
                assert done
        finally:
            store.go["stat"].set()
