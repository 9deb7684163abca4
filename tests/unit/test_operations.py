"""The FUSE handlers without a kernel: whatever goes wrong below them, the answer is an errno."""

import errno
import json
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pyfuse3
import pytest

from mountd.fusefs.kernel import KernelLevers
from mountd.fusefs.operations import Operations, ownership
from mountd.vfs.filesystem import ABSENT_NAMES, FileSystem
from mountd.vfs.nodes import ROOT
from mountd.vfs.virtual_files import DIRECTORY, FIRST_HANDLE, STATUS, VirtualFiles
from mountd_cache.listing import Listing, Row
from tests.conftest import ExpectedLog
from tests.fakes.fake_clock import FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import BLOCK, file_system, mounted_files, walk

CONTEXT = pyfuse3.RequestContext.__new__(pyfuse3.RequestContext)
TOKEN = pyfuse3.ReaddirToken.__new__(pyfuse3.ReaddirToken)


def operations(
    fs: FileSystem, status: Callable[[], bytes] = lambda: json.dumps({}).encode()
) -> Operations:
    return Operations(fs, VirtualFiles(status), ownership(0, 0, 0o022), xattrs=True)


@asynccontextmanager
async def served(store: MemoryStore, folder: Path) -> AsyncIterator[tuple[FileSystem, Operations]]:
    async with file_system(store, folder) as fs:
        yield fs, operations(fs)


class Replies(list[tuple[bytes, Mapping[str, int], int]]):
    """Stands in for pyfuse3.readdir_reply; is full after `room` rows."""

    def __init__(self, room: int = 1000) -> None:
        super().__init__()
        self.room = room

    def __call__(
        self, token: object, name: bytes, entry: pyfuse3.EntryAttributes, position: int
    ) -> bool:
        if len(self) >= self.room:
            return False
        self.append((name, entry.__getstate__(), position))
        return True

    def names(self) -> list[bytes]:
        return [name for name, _, _ in self]


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> Replies:
    found = Replies()
    monkeypatch.setattr(pyfuse3, "readdir_reply", found)
    return found


def spoil(fs: FileSystem) -> None:
    """A listing as a damaged cache may hold it: `\\xff` is the spelling of no remote name."""
    rows = [
        Row(b"a", False, 1, 5, "v", 101),
        Row(b"\xff", True, 0, 0, "", 102),
        Row(b"z", True, 0, 0, "", 103),
    ]
    fs.tree.cache.put("", Listing.build(rows), time.time())


# -- nothing but FUSEError


async def test_a_key_error_of_a_store_is_eio_for_the_reader(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("unforeseen")
    store = MemoryStore({"f": b"x" * (4 * BLOCK)})
    async with served(store, tmp_path) as (fs, ops):
        opened = await ops.open((await walk(fs, "f")).number, 0, CONTEXT)
        store.fail_always(KeyError("ETag"))
        with pytest.raises(pyfuse3.FUSEError) as failed:
            await ops.read(opened.fh, 0, 100)
        assert failed.value.errno == errno.EIO
        await ops.release(opened.fh)


@pytest.mark.parametrize("fh", [4711, FIRST_HANDLE + 4711])
async def test_handles_that_nobody_has_end_in_an_errno_and_never_end_the_mount(
    tmp_path: Path, expected_log: ExpectedLog, fh: int
) -> None:
    expected_log("unforeseen|could not be released")
    async with served(MemoryStore(), tmp_path) as (_, ops):
        with pytest.raises(pyfuse3.FUSEError):
            await ops.read(fh, 0, 100)
        with pytest.raises(pyfuse3.FUSEError):
            await ops.readdir(fh, 0, TOKEN)
        await ops.release(fh)
        await ops.releasedir(fh)


async def test_an_inode_that_nobody_knows_is_estale_everywhere(tmp_path: Path) -> None:
    async with served(MemoryStore(), tmp_path) as (_, ops):
        for call in (
            ops.getattr(4711, CONTEXT),
            ops.lookup(4711, b"f", CONTEXT),
            ops.opendir(4711, CONTEXT),
            ops.open(4711, os.O_RDONLY, CONTEXT),
            ops.getxattr(4711, b"user.mountd.url", CONTEXT),
            ops.listxattr(4711, CONTEXT),
        ):
            with pytest.raises(pyfuse3.FUSEError) as failed:
                await call
            assert failed.value.errno == errno.ESTALE
        await ops.forget([(4711, 1), (ROOT, 1)])
        assert (await ops.statfs(CONTEXT)).f_namemax == 255


async def test_one_inode_that_cannot_be_forgotten_does_not_keep_the_others(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("could not be forgotten")

    async with served(MemoryStore({"f": b"x"}), tmp_path) as (fs, ops):
        number = (await walk(fs, "f")).number
        # Taking "1" from a count fails; nothing that the kernel sends does, so far.
        await ops.forget([(number, "1"), (number, 1)])  # type: ignore[list-item]
        assert not fs.tree.holds(number)


async def test_a_status_that_cannot_be_made_is_eio(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("unforeseen")

    def broken() -> bytes:
        raise KeyError("state")

    async with file_system(MemoryStore(), tmp_path) as fs:
        with pytest.raises(pyfuse3.FUSEError) as failed:
            await operations(fs, broken).open(STATUS, os.O_RDONLY, CONTEXT)
        assert failed.value.errno == errno.EIO


async def test_a_row_that_stands_for_no_remote_name_is_left_out_of_the_listing(
    tmp_path: Path, expected_log: ExpectedLog, replies: Replies
) -> None:
    expected_log("left out")
    async with served(MemoryStore(), tmp_path) as (fs, ops):
        spoil(fs)
        await ops.readdir(await ops.opendir(ROOT, CONTEXT), 0, TOKEN)
        assert replies.names() == [b".", b"..", b"a", b"z"]
        with pytest.raises(pyfuse3.FUSEError) as failed:
            await ops.lookup(ROOT, b"\xff", CONTEXT)
        assert failed.value.errno == errno.EINVAL


async def test_a_row_that_found_no_room_in_the_reply_is_not_counted(
    tmp_path: Path, replies: Replies
) -> None:
    async with served(MemoryStore({"a": b"", "b": b""}), tmp_path) as (fs, ops):
        replies.room = 3
        handle = await ops.opendir(ROOT, CONTEXT)
        await ops.readdir(handle, 0, TOKEN)
        held = [fs.tree.holds(number) for number in _numbers(fs)]
        assert (replies.names()[2:], held) == ([b"a"], [True, False])
        replies.room = 1000
        await ops.readdir(handle, replies[-1][2], TOKEN)
        await ops.forget([(number, 1) for number in _numbers(fs)])
        assert replies.names()[2:] == [b"a", b"b"]
        assert not any(fs.tree.holds(number) for number in _numbers(fs))


# -- what is not there


async def test_an_absent_name_in_the_reserved_directory_is_enoent(tmp_path: Path) -> None:
    async with served(MemoryStore(), tmp_path) as (_, ops):
        found = await ops.lookup(DIRECTORY, b"no-such-name", CONTEXT)
        assert (found.st_ino, found.entry_timeout) == (0, 0)
        assert (await ops.lookup(DIRECTORY, b"status.json", CONTEXT)).st_ino == STATUS


async def test_a_refresh_names_what_the_kernel_was_told_is_not_there(tmp_path: Path) -> None:
    async with served(MemoryStore({"d/f": b"x"}), tmp_path) as (fs, ops):
        directory = (await walk(fs, "d")).number
        assert (await ops.lookup(ROOT, b"later", CONTEXT)).st_ino == 0
        assert (await ops.lookup(directory, b"later", CONTEXT)).st_ino == 0
        assert (ROOT, b"d") in fs.refresh(b"d")  # with all that is below it
        assert (ROOT, b"later") in fs.refresh(b"")
        assert (ROOT, b"later") not in fs.refresh(b"")  # asked again, it would be noted again


async def test_the_absent_names_that_are_remembered_are_bounded(tmp_path: Path) -> None:
    async with served(MemoryStore(), tmp_path) as (fs, ops):
        for i in range(ABSENT_NAMES + 10):
            await ops.lookup(ROOT, b"%d" % i, CONTEXT)
        told = fs.refresh(b"")
        assert len(told) == ABSENT_NAMES
        assert told[0] == (ROOT, b"10")


# -- times and attributes


async def test_what_has_no_time_shows_when_the_mount_came_up_and_not_1970(
    tmp_path: Path, replies: Replies
) -> None:
    before_ns = time.time_ns()
    store = MemoryStore({"d/f": b"x"})
    store.seed("dated", b"x", mtime_ns=5 * 10**9)
    async with served(store, tmp_path) as (_, ops):
        root = await ops.getattr(ROOT, CONTEXT)
        directory = await ops.lookup(ROOT, b"d", CONTEXT)
        assert stat.S_ISDIR(directory.st_mode)
        assert before_ns <= root.st_mtime_ns <= time.time_ns()
        assert directory.st_mtime_ns == root.st_mtime_ns
        assert (await ops.lookup(ROOT, b"dated", CONTEXT)).st_mtime_ns == 5 * 10**9
        await ops.readdir(await ops.opendir(ROOT, CONTEXT), 0, TOKEN)
        times = {name: entry["st_mtime_ns"] for name, entry, _ in replies}
        assert times == dict.fromkeys([b".", b"..", b"d"], root.st_mtime_ns) | {b"dated": 5 * 10**9}


async def test_a_key_with_any_lone_surrogate_has_a_url(tmp_path: Path) -> None:
    async with served(MemoryStore({"b\ud800": b"odd"}), tmp_path) as (fs, ops):
        number = (await walk(fs, "b␛uD800")).number
        url = await ops.getxattr(number, b"user.mountd.url", CONTEXT)
        assert url.endswith(b"b\xed\xa0\x80")


def test_levers_that_cannot_be_set_make_one_warning() -> None:
    assert KernelLevers().warning() is None
    warning = KernelLevers(notes=["one could not be set", "two could not be set"]).warning()
    assert (
        warning == "one could not be set; two could not be set; `mountd doctor` says how to get it"
    )


def _numbers(fs: FileSystem) -> list[int]:
    cached = fs.tree.cache.get("")
    assert cached is not None
    return [cached.listing.ino(row) for row in range(len(cached.listing))]


async def test_what_was_removed_or_replaced_while_a_directory_is_read_is_not_told_as_it_was(
    tmp_path: Path, replies: Replies
) -> None:
    store = MemoryStore({name: name.encode() for name in "abcde"})
    async with served(store, tmp_path) as (fs, ops):
        handle = await ops.opendir(ROOT, CONTEXT)
        replies.room = 3  # with . and ..
        await ops.readdir(handle, 0, TOKEN)
        await ops.unlink(ROOT, b"b", CONTEXT)
        await ops.rename(ROOT, b"c", ROOT, b"d", 0, CONTEXT)
        moved = (await walk(fs, "d")).number
        position = replies[-1][2]
        replies.clear()
        replies.room = 100
        await ops.readdir(handle, position, TOKEN)
        assert replies.names() == [b"d", b"e"]
        assert replies[0][1]["st_ino"] == moved


async def test_the_status_can_not_be_written_to(tmp_path: Path) -> None:
    async with served(MemoryStore(), tmp_path) as (_, ops):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await ops.open(STATUS, os.O_WRONLY, CONTEXT)
        assert caught.value.errno == errno.EPERM


async def test_a_bad_sector_of_the_cache_is_eio_and_one_line(
    tmp_path: Path, expected_log: ExpectedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_log("EIO: the cache's disk")
    async with served(MemoryStore({"f": b"1"}), tmp_path) as (fs, ops):
        node = await walk(fs, "f")
        fh = await fs.open(node.number, writes=True)
        await ops.write(fh, 0, b"2")

        def torn(*arguments: object) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(fs.writes.journal, "read", torn)
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await ops.read(fh, 0, 1)
        assert caught.value.errno == errno.EIO


async def test_a_directory_does_not_end_where_all_that_is_next_was_taken_away(
    tmp_path: Path, replies: Replies
) -> None:
    """An answer without a row says to the kernel that there are no more."""
    store = MemoryStore({f"f{i:03}": b"x" for i in range(300)})
    async with mounted_files(store, tmp_path, asks_for_metadata=True) as mounted:
        fs, ops = mounted.fs, operations(mounted.fs)
        handle = await ops.opendir(ROOT, CONTEXT)
        replies.room = 12
        await ops.readdir(handle, 0, TOKEN)
        position = replies[-1][2]
        for i in range(10, 290):
            await fs.unlink(fs.tree.root, b"f%03d" % i)
        replies.room = 1000
        replies.clear()
        await ops.readdir(handle, position, TOKEN)
        assert replies.names() == [b"f%03d" % i for i in range(290, 300)]


# -- times


async def test_a_write_without_a_setattr_leaves_the_mtime_that_the_kernel_was_told(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    async with file_system(MemoryStore(), tmp_path, clock=clock) as fs:
        ops = operations(fs)
        info, made = await ops.create(ROOT, b"file", 0o644, os.O_WRONLY, CONTEXT)
        clock.advance(3)
        await ops.write(info.fh, 0, b"bytes")  # write(2) was in the tick of the create
        assert fs.attributes(made.st_ino).mtime_ns == 1003_000_000_000
        await ops.release(info.fh)
        assert fs.attributes(made.st_ino).mtime_ns == made.st_mtime_ns == 1000_000_000_000
        again = await ops.open(made.st_ino, os.O_WRONLY, CONTEXT)
        clock.advance(3)
        await ops.write(again.fh, 0, b"other")  # and nobody knows what the kernel has of this one
        await ops.release(again.fh)
        assert fs.attributes(made.st_ino).mtime_ns == 1006_000_000_000


# -- what is made ready


async def test_a_file_whose_data_file_was_made_ready_is_written_read_and_removed_as_any(
    tmp_path: Path,
) -> None:
    async with file_system(MemoryStore(), tmp_path) as fs:
        ops = operations(fs)
        for steps in range(4):
            name = b"file-%d" % steps
            info, made = await ops.create(ROOT, name, 0o644, os.O_WRONLY, CONTEXT)
            for _ in range(steps):
                ops.meanwhile.take()
            assert (ops.meanwhile.step is None) == (steps >= 2)
            await ops.write(info.fh, 0, b"bytes")
            ops.meanwhile.take()  # what comes late does nothing
            assert ops.meanwhile.step is None
            assert await ops.read(info.fh, 0, 100) == b"bytes"
            await ops.release(info.fh)
            assert fs.attributes(made.st_ino).size == 5
            await ops.unlink(ROOT, name, CONTEXT)


async def test_what_was_to_be_made_ready_and_is_gone_is_left_alone(
    tmp_path: Path,
) -> None:
    async with file_system(MemoryStore(), tmp_path) as fs:
        ops = operations(fs)
        info, _ = await ops.create(ROOT, b"gone", 0o644, os.O_WRONLY, CONTEXT)
        await ops.unlink(ROOT, b"gone", CONTEXT)
        await ops.release(info.fh)
        ops.meanwhile.take()
        assert ops.meanwhile.step is None
