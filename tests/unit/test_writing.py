"""Writing through the vfs, without a queue: what is seen before anything was sent."""

from pathlib import Path
from stat import S_IFDIR, S_IFREG, S_IMODE

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mountd.errors import (
    Exists,
    IsADirectory,
    NoEntry,
    NoSpace,
    NotADirectory,
    NotEmpty,
    NotPossible,
    Stale,
)
from mountd.vfs.attributes import NewAttributes
from mountd.vfs.filesystem import FileSystem
from mountd.vfs.nodes import Directory
from mountd_cache.changes import ChangeKind
from tests.conftest import ExpectedLog
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import content, file_system, names, walk

BIG = bytes(range(256)) * 1024  # four blocks


async def directory(fs: FileSystem, path: str = "") -> Directory:
    found = await walk(fs, path)
    assert isinstance(found, Directory)
    return found


async def make(fs: FileSystem, path: str, data: bytes) -> int:
    """A new file with that content, closed again; its inode."""
    parent, _, name = path.rpartition("/")
    fh, made = await fs.create(await directory(fs, parent), name.encode(), {})
    await fs.write(fh, 0, data)
    fs.release(fh)
    return made.number


async def edit(fs: FileSystem, path: str, offset: int, data: bytes) -> int:
    node = await walk(fs, path)
    fh = await fs.open(node.number, writes=True)
    await fs.write(fh, offset, data)
    fs.release(fh)
    return node.number


async def read(fs: FileSystem, path: str) -> bytes:
    fh = await fs.open((await walk(fs, path)).number)
    try:
        size = fs.attributes(fs.files.handle(fh).node.number).size
        return bytes(memoryview(await fs.read(fh, 0, size + 1)))
    finally:
        fs.release(fh)


async def rename(fs: FileSystem, old: str, new: str, *, replaces: bool = True) -> None:
    (p1, _, n1), (p2, _, n2) = old.rpartition("/"), new.rpartition("/")
    one, two = await directory(fs, p1), await directory(fs, p2)
    await fs.rename(one, n1.encode(), two, n2.encode(), replaces=replaces)


async def test_a_new_file_is_there_with_its_bytes_and_nothing_was_sent(tmp_path: Path) -> None:
    store = MemoryStore({"old": b"1"})
    async with file_system(store, tmp_path) as fs:
        number = await make(fs, "new", b"hello")
        assert await names(fs) == ["new", "old"]
        assert await read(fs, "new") == b"hello"
        assert (await walk(fs, "new")).number == number
        assert store.calls["put"] == 0


async def test_what_was_written_is_there_after_a_remount_with_the_same_inode(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"d/old": b"1"})
    async with file_system(store, tmp_path) as fs:
        number = await make(fs, "d/new", b"hello")
        await edit(fs, "d/old", 1, b"2")
        await fs.make_directory(fs.tree.root, b"made", {})
        await make(fs, "made/x", b"x")
    async with file_system(store, tmp_path) as fs:
        assert await names(fs) == ["d", "made"]
        assert await read(fs, "d/new") == b"hello"
        assert await read(fs, "d/old") == b"12"
        assert await read(fs, "made/x") == b"x"
        assert (await walk(fs, "d/new")).number == number


async def test_an_edit_is_read_over_the_remote_bytes_and_keeps_the_inode(tmp_path: Path) -> None:
    async with file_system(MemoryStore({"f": BIG}), tmp_path) as fs:
        before = (await walk(fs, "f")).number
        assert await edit(fs, "f", 100_000, b"xyz") == before
        wanted = BIG[:100_000] + b"xyz" + BIG[100_003:]
        assert await read(fs, "f") == wanted
        assert fs.attributes(before).size == len(BIG)
        await edit(fs, "f", len(BIG) + 10, b"end")
        assert await read(fs, "f") == wanted + bytes(10) + b"end"


async def test_a_reader_that_opened_before_sees_what_is_written_later(tmp_path: Path) -> None:
    async with file_system(MemoryStore({"f": b"old old"}), tmp_path) as fs:
        node = await walk(fs, "f")
        fh = await fs.open(node.number)
        assert bytes(memoryview(await fs.read(fh, 0, 100))) == b"old old"
        await edit(fs, "f", 0, b"new")
        assert bytes(memoryview(await fs.read(fh, 0, 100))) == b"new old"
        fs.release(fh)


async def test_truncation_cuts_and_grows_with_zeros(tmp_path: Path) -> None:
    async with file_system(MemoryStore({"f": BIG}), tmp_path) as fs:
        number = (await walk(fs, "f")).number
        await fs.set_attributes(number, NewAttributes(size=1000), None)
        assert await read(fs, "f") == BIG[:1000]
        await fs.set_attributes(number, NewAttributes(size=2000), None)
        assert await read(fs, "f") == BIG[:1000] + bytes(1000)
        fh = await fs.open(number, writes=True, truncates=True)
        assert fs.attributes(number).size == 0
        fs.release(fh)


async def test_unlinked_files_are_gone_and_stay_readable_while_open(tmp_path: Path) -> None:
    async with file_system(MemoryStore({"a": b"remote", "b": b"1"}), tmp_path) as fs:
        await make(fs, "c", b"staged")
        handles = [await fs.open((await walk(fs, n)).number, writes=True) for n in "ac"]
        for name in (b"a", b"c"):
            await fs.unlink(fs.tree.root, name)
        assert await names(fs) == ["b"]
        with pytest.raises(NoEntry):
            await walk(fs, "a")
        assert bytes(memoryview(await fs.read(handles[0], 0, 100))) == b"remote"
        assert bytes(memoryview(await fs.read(handles[1], 0, 100))) == b"staged"
        await fs.write(handles[0], 0, b"REM")
        await fs.write(handles[1], 6, b"+")
        assert bytes(memoryview(await fs.read(handles[0], 0, 100))) == b"REMote"
        assert bytes(memoryview(await fs.read(handles[1], 0, 100))) == b"staged+"
        assert await names(fs) == ["b"], "a write brings no name back"
        for fh in handles:
            fs.release(fh)
        assert not fs.tree.ledger.contents


async def test_a_file_that_is_deleted_and_made_again_is_another_one(tmp_path: Path) -> None:
    async with file_system(MemoryStore({"f": b"old"}), tmp_path) as fs:
        before = (await walk(fs, "f")).number
        await fs.unlink(fs.tree.root, b"f")
        after = await make(fs, "f", b"new")
        assert after != before
        assert await read(fs, "f") == b"new"
        change = fs.tree.ledger.changes["f"]
        assert change.expect, "the old object must be replaced, not taken for a stranger's"


async def test_names_that_exist_or_do_not_are_told_apart(tmp_path: Path) -> None:
    async with file_system(MemoryStore({"f": b"1", "d/x": b"2"}), tmp_path) as fs:
        root = fs.tree.root
        with pytest.raises(Exists):
            await fs.create(root, b"f", {})
        with pytest.raises(Exists):
            await fs.make_directory(root, b"d", {})
        with pytest.raises(NoEntry):
            await fs.unlink(root, b"nothing")
        with pytest.raises(IsADirectory):
            await fs.unlink(root, b"d")
        with pytest.raises(NotADirectory):
            await fs.remove_directory(root, b"f")
        with pytest.raises(NotEmpty):
            await fs.remove_directory(root, b"d")
        with pytest.raises(NoEntry):
            await rename(fs, "nothing", "x")
        with pytest.raises(IsADirectory):
            await rename(fs, "f", "d")
        with pytest.raises(NotADirectory):
            await rename(fs, "d", "f")
        with pytest.raises(Exists):
            await rename(fs, "f", "d/x", replaces=False)
        with pytest.raises(NotPossible):
            await rename(fs, "d", "d/inside")


async def test_a_directory_lives_until_rmdir(tmp_path: Path) -> None:
    async with file_system(MemoryStore({"d/x": b"2"}), tmp_path) as fs:
        await fs.unlink(await directory(fs, "d"), b"x")
        assert await names(fs) == ["d"]
        marker = fs.tree.ledger.changes["d/"]
        assert marker.kind is ChangeKind.DIRECTORY, "else it would vanish with its last object"
        await fs.remove_directory(fs.tree.root, b"d")
        assert await names(fs) == []
        await fs.make_directory(fs.tree.root, b"d", {})
        assert await names(fs, "d") == []


async def test_a_directory_stays_when_its_last_directory_moves_away(tmp_path: Path) -> None:
    async with file_system(MemoryStore({"d/sub/x": b"1"}), tmp_path) as fs:
        await rename(fs, "d/sub", "moved")
        assert fs.tree.ledger.changes["d/"].kind is ChangeKind.DIRECTORY
        fs.refresh(b"")
        assert await names(fs) == ["d", "moved"]


async def test_a_renamed_file_keeps_inode_bytes_and_handles(tmp_path: Path) -> None:
    async with file_system(MemoryStore({"a": b"remote", "d/x": b"1"}), tmp_path) as fs:
        number = (await walk(fs, "a")).number
        fh = await fs.open(number, writes=True)
        await rename(fs, "a", "d/b")
        assert await names(fs) == ["d"]
        assert await names(fs, "d") == ["b", "x"]
        assert (await walk(fs, "d/b")).number == number
        assert await read(fs, "d/b") == b"remote"
        await fs.write(fh, 0, b"R")
        assert await read(fs, "d/b") == b"Remote"
        fs.release(fh)


async def test_saving_by_rename_leaves_one_change(tmp_path: Path) -> None:
    async with file_system(MemoryStore({"doc": b"old"}), tmp_path) as fs:
        version = (await directory(fs)) and fs.tree.attributes(await walk(fs, "doc")).version
        await make(fs, ".doc.swp", b"new")
        await rename(fs, ".doc.swp", "doc")
        assert await names(fs) == ["doc"]
        assert await read(fs, "doc") == b"new"
        changes = fs.tree.ledger.changes
        assert changes["doc"].expect == version
        assert changes[".doc.swp"].is_gone
        assert changes[".doc.swp"].expect == "", "it was never on the remote"


async def test_a_file_that_comes_back_has_nothing_to_send(tmp_path: Path) -> None:
    async with file_system(MemoryStore({"a": b"remote"}), tmp_path) as fs:
        await rename(fs, "a", "b")
        await rename(fs, "b", "a")
        assert await read(fs, "a") == b"remote"
        assert fs.tree.ledger.changes["a"].is_clean


async def test_a_replaced_file_stays_readable_for_who_has_it_open(tmp_path: Path) -> None:
    async with file_system(MemoryStore({"a": b"old", "b": b"new!"}), tmp_path) as fs:
        fh = await fs.open((await walk(fs, "a")).number)
        await rename(fs, "b", "a")
        assert bytes(memoryview(await fs.read(fh, 0, 10))) == b"old"
        assert await read(fs, "a") == b"new!"
        fs.release(fh)


@pytest.mark.parametrize("real_directories", [False, True])
async def test_a_renamed_directory_moves_with_all_that_is_below(
    tmp_path: Path, real_directories: bool
) -> None:
    objects = {"d/a": b"1", "d/sub/b": b"22", "d/sub/deep/c": b"333", "e/x": b""}
    store = MemoryStore(objects, real_directories=real_directories)
    async with file_system(store, tmp_path) as fs:
        numbers = {p: (await walk(fs, p)).number for p in ("d/a", "d/sub", "d/sub/b")}
        await make(fs, "d/sub/new", b"staged")
        await edit(fs, "d/a", 1, b"+")
        await fs.unlink(await directory(fs, "d/sub/deep"), b"c")
        await rename(fs, "d", "e/moved")
        assert await names(fs) == ["e"]
        assert await names(fs, "e") == ["moved", "x"]
        assert await names(fs, "e/moved") == ["a", "sub"]
        assert await names(fs, "e/moved/sub") == ["b", "deep", "new"]
        assert await names(fs, "e/moved/sub/deep") == []
        assert await read(fs, "e/moved/a") == b"1+"
        assert await read(fs, "e/moved/sub/b") == b"22"
        assert await read(fs, "e/moved/sub/new") == b"staged"
        for path, number in numbers.items():
            assert (await walk(fs, path.replace("d/", "e/moved/", 1))).number == number
    async with file_system(store, tmp_path) as fs:
        assert await names(fs, "e/moved/sub") == ["b", "deep", "new"]


async def test_a_directory_is_renamed_over_an_empty_one_only(tmp_path: Path) -> None:
    async with file_system(MemoryStore({"d/a": b"1", "e/x": b""}), tmp_path) as fs:
        await fs.make_directory(fs.tree.root, b"empty", {})
        with pytest.raises(NotEmpty):
            await rename(fs, "d", "e")
        await rename(fs, "d", "empty")
        assert await names(fs, "empty") == ["a"]


async def test_modes_and_times_are_kept(tmp_path: Path) -> None:
    store = MemoryStore({"f": b"1", "d/x": b""})
    async with file_system(store, tmp_path) as fs:
        number = (await walk(fs, "f")).number
        new = NewAttributes(mode=0o755, mtime_ns=1_000_000_000)
        got = await fs.set_attributes(number, new, None)
        assert (S_IMODE(got.mode or 0), got.mtime_ns) == (0o755, 1_000_000_000)
        await make(fs, "new", b"x")
        made = (await walk(fs, "new")).number
        assert (await fs.set_attributes(made, new, None)).mtime_ns == 1_000_000_000
        folder = (await walk(fs, "d")).number
        got = await fs.set_attributes(folder, NewAttributes(mode=0o700), None)
        assert got.mode == S_IFDIR | 0o700
    async with file_system(store, tmp_path) as fs:
        assert fs.tree.attributes(await walk(fs, "f")).mode == S_IFREG | 0o755
        assert fs.tree.attributes(await walk(fs, "new")).mtime_ns == 1_000_000_000
        assert fs.tree.attributes(await walk(fs, "d")).mode == S_IFDIR | 0o700


async def test_a_foreign_change_is_not_what_an_edit_was_based_on(tmp_path: Path) -> None:
    store = MemoryStore({"f": BIG})
    async with file_system(store, tmp_path) as fs:
        await edit(fs, "f", 0, b"x")
        store.seed("f", b"foreign")
        with pytest.raises(Stale):
            await read(fs, "f")


async def test_writers_get_no_space_when_nothing_is_sent_in_time(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("cache_size")
    async with file_system(MemoryStore(), tmp_path, cache_bytes=100_000, wait_s=0.2) as fs:
        fh, _ = await fs.create(fs.tree.root, b"f", {})
        await fs.write(fh, 0, bytes(90_000))
        with pytest.raises(NoSpace):
            await fs.write(fh, 90_000, bytes(20_000))
        fs.release(fh)
        assert len(await read(fs, "f")) == 90_000


async def test_writers_get_room_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    size = 200_000
    async with file_system(MemoryStore(), tmp_path, cache_bytes=9 * size, wait_s=20) as fs:
        for number in range(8):
            fh, _ = await fs.create(fs.tree.root, b"old-%d" % number, {})
            await fs.write(fh, 0, bytes(size))
            fs.release(fh)
        fh, _ = await fs.create(fs.tree.root, b"new", {})
        told, done = trio.open_memory_channel[int](9)

        async def write(number: int) -> None:
            await fs.write(fh, number * size, bytes(size))
            told.send_nowait(number)

        async with trio.open_nursery() as nursery:
            for number in range(9):  # the first finds room
                nursery.start_soon(write, number)
                await wait_all_tasks_blocked()
            assert await done.receive() == 0
            for number in range(1, 9):
                await fs.unlink(fs.tree.root, b"old-%d" % (number - 1))
                assert await done.receive() == number
        fs.release(fh)


async def test_a_writer_that_gives_up_its_place_keeps_no_other_from_the_room(
    tmp_path: Path,
) -> None:
    size = 200_000
    async with file_system(MemoryStore(), tmp_path, cache_bytes=size, wait_s=20) as fs:
        old, _ = await fs.create(fs.tree.root, b"old", {})
        await fs.write(old, 0, bytes(size))
        fs.release(old)
        fh, _ = await fs.create(fs.tree.root, b"new", {})
        scopes = [trio.CancelScope() for _ in range(3)]

        async def write(scope: trio.CancelScope) -> None:
            with scope:
                await fs.write(fh, 0, bytes(size))

        async with trio.open_nursery() as nursery:
            for scope in scopes:
                nursery.start_soon(write, scope)
                await wait_all_tasks_blocked()
            for scope in scopes[:2]:  # who has the turn, and who waits for it
                scope.cancel()
            await wait_all_tasks_blocked()
            await fs.unlink(fs.tree.root, b"old")
        assert [scope.cancelled_caught for scope in scopes] == [True, True, False]
        assert fs.writes.room.free_bytes == 0
        fs.release(fh)


async def test_the_content_helper_and_reads_of_unchanged_files_agree(tmp_path: Path) -> None:
    async with file_system(MemoryStore({"f": BIG}), tmp_path) as fs:
        assert await content(fs, "f") == await read(fs, "f") == BIG
