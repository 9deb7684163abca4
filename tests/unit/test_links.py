"""Symbolic links through the vfs: shown as links here, small files on the remote."""

import errno
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from mountd.errors import (
    Exists,
    FileSystemError,
    IsADirectory,
    NameTooLong,
    NoEntry,
    NotADirectory,
    NotPossible,
    Unreachable,
)
from mountd.vfs.attributes import NewAttributes
from mountd.vfs.filesystem import FileSystem
from mountd_cache.durability import SyncMark
from tests.conftest import ExpectedLog
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, file_system, mounted_files, names, walk
from tests.unit.test_writing import directory, edit, make, read, rename


async def link(fs: FileSystem, path: str, target: bytes) -> int:
    parent, _, name = path.rpartition("/")
    made = await fs.make_link(await directory(fs, parent), name.encode(), target, {})
    assert made.is_link
    assert not made.is_dir
    assert made.size == len(target)
    return made.number


async def target(fs: FileSystem, path: str) -> bytes:
    node = await walk(fs, path)
    assert fs.attributes(node.number).is_link
    return await fs.links.read(node.number)


async def unlink(fs: FileSystem, path: str) -> None:
    parent, _, name = path.rpartition("/")
    await fs.unlink(await directory(fs, parent), name.encode())


async def is_link(fs: FileSystem, path: str) -> bool:
    return fs.attributes((await walk(fs, path)).number).is_link


async def sent(mounted: MountedFiles) -> None:
    assert mounted.queue is not None
    assert await mounted.queue.drain("", 30.0) == 0
    await mounted.fs.folding.fold_waiting()


def contents(store: MemoryStore) -> dict[str, bytes]:
    return {key: store.data(key) for key in store.keys() if not key.endswith("/")}  # noqa: SIM118


async def test_a_link_is_a_small_file_on_the_remote_and_a_link_wherever_it_is_mounted(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"d/f": b"1"})
    async with mounted_files(store, tmp_path / "one", queue=True) as mounted:
        fs = mounted.fs
        number = await link(fs, "d/x", b"/etc/\xff no such\n")
        assert await names(fs, "d") == ["f", "x"]
        assert await target(fs, "d/x") == b"/etc/\xff no such\n"
        await sent(mounted)
        assert contents(store) == {"d/f": b"1", "d/x.rclonelink": b"/etc/\xff no such\n"}
        fs.refresh(b"")
        assert await names(fs, "d") == ["f", "x"]
        assert (await walk(fs, "d/x")).number == number
        assert await is_link(fs, "d/x")
        assert not mounted.journal.ledger.changes
    for folder in ("one", "two"):
        async with file_system(store, tmp_path / folder) as fs:
            assert await target(fs, "d/x") == b"/etc/\xff no such\n"
            assert (await walk(fs, "d/x")).number == number or folder == "two"


async def test_listing_links_asks_for_nothing_else_and_a_target_is_fetched_once(
    tmp_path: Path,
) -> None:
    store = MemoryStore({f"l{i}.rclonelink": b"there" for i in range(20)})
    async with file_system(store, tmp_path) as fs:
        assert await names(fs) == sorted(f"l{i}" for i in range(20))
        for i in range(20):
            assert await is_link(fs, f"l{i}")
        assert (store.calls["list"], store.calls["read"], store.calls["stat"]) == (1, 0, 0)
        for _ in range(3):
            assert await target(fs, "l7") == b"there"
        assert (store.calls["read"], store.calls["stat"]) == (1, 0)


async def test_a_link_is_there_after_a_kill_with_its_inode_and_target(tmp_path: Path) -> None:
    store = MemoryStore({})
    async with mounted_files(store, tmp_path) as mounted:
        number = await link(mounted.fs, "x", b"y")
        mounted.crashes = True
    async with file_system(store, tmp_path) as fs:
        assert await target(fs, "x") == b"y"
        assert (await walk(fs, "x")).number == number


@pytest.mark.parametrize("fails_at", [1, 2])
async def test_a_link_is_made_whole_or_not_at_all(tmp_path: Path, fails_at: int) -> None:
    async with mounted_files(MemoryStore({}), tmp_path) as mounted:
        fs, journal = mounted.fs, mounted.journal
        commit = journal.commit
        calls = 0

        def full(*args: Any, **options: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            commit(*args, **options)

        journal.commit = full  # type: ignore[method-assign]
        with pytest.raises(OSError, match="No space"):
            await link(fs, "x", b"y")
        journal.commit = commit  # type: ignore[method-assign]
        assert await names(fs) == []
        assert not journal.ledger.contents
        await link(fs, "x", b"z")
        assert await target(fs, "x") == b"z"


async def test_syncing_a_directory_syncs_the_targets_of_its_links(tmp_path: Path) -> None:
    async with mounted_files(MemoryStore({"d/f": b""}), tmp_path) as mounted:
        fs, journal = mounted.fs, mounted.journal
        await link(fs, "d/x", b"y")
        await make(fs, "d/other", b"z")
        change = journal.ledger.changes["d/x.rclonelink"]
        begin_sync = journal.begin_sync
        synced: list[Collection[int] | None] = []

        def watched(ids: Collection[int] | None) -> SyncMark:
            synced.append(ids)
            return begin_sync(ids)

        journal.begin_sync = watched  # type: ignore[method-assign, assignment]
        await fs.links.sync_directory(await directory(fs))
        await fs.links.sync_directory(await directory(fs, "d"))
        assert synced == [[], [change.content]]


async def test_a_name_is_a_file_or_a_link_but_not_both(tmp_path: Path) -> None:
    store = MemoryStore({"f": b"1", "l.rclonelink": b"t", "d/x": b""})
    async with file_system(store, tmp_path) as fs:
        root = await directory(fs)
        for name in (b"f", b"l", b"d"):
            with pytest.raises(Exists):
                await fs.make_link(root, name, b"t", {})
        for path in ("f", "l"):
            with pytest.raises(Exists):
                await make(fs, path, b"")
            with pytest.raises(Exists):
                await fs.make_directory(root, path.encode(), {})
            with pytest.raises(NotADirectory):
                await rename(fs, "d", path)
        with pytest.raises(IsADirectory):
            await rename(fs, "l", "d")
        with pytest.raises(Exists):
            await rename(fs, "l", "f", replaces=False)
        with pytest.raises(NotADirectory):
            await fs.remove_directory(root, b"l")
        assert await names(fs) == ["d", "f", "l"]


@pytest.mark.parametrize("is_sent", [False, True])
async def test_links_and_files_replace_each_other(tmp_path: Path, is_sent: bool) -> None:
    store = MemoryStore({"f": b"file", "l.rclonelink": b"target", "g": b"other"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        numbers = {name: (await walk(fs, name)).number for name in ("f", "l")}

        async def now(**expected: bytes) -> None:
            if is_sent:
                await sent(mounted)
                fs.refresh(b"")
            assert await names(fs) == sorted(expected)
            for name, data in expected.items():
                if await is_link(fs, name):
                    assert await target(fs, name) == data
                else:
                    assert await read(fs, name) == data

        await rename(fs, "l", "f")
        assert (await walk(fs, "f")).number == numbers["l"]
        await now(f=b"target", g=b"other")
        await rename(fs, "g", "f")
        await now(f=b"other")
        await link(fs, "n", b"new")
        await rename(fs, "n", "f")
        await now(f=b"new")
        await unlink(fs, "f")
        await make(fs, "f", b"again")
        await now(f=b"again")
        await unlink(fs, "f")
        await link(fs, "f", b"at last")
        await now(f=b"at last")
        await sent(mounted)
        assert contents(store) == {"f.rclonelink": b"at last"}


async def test_a_replaced_file_stays_readable_for_who_has_it_open(tmp_path: Path) -> None:
    async with file_system(MemoryStore({"f": b"1234"}), tmp_path) as fs:
        number = await edit(fs, "f", 0, b"x")
        handle = await fs.open(number)
        await link(fs, "l", b"t")
        await rename(fs, "l", "f")
        assert bytes(await fs.read(handle, 0, 9)) == b"x234"
        assert fs.attributes(number).size == 4
        fs.release(handle)
        assert await target(fs, "f") == b"t"


async def test_a_link_in_the_place_of_a_file_is_shown_while_the_remote_still_has_both(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"f": b"file"})
    faults = FaultStore(store)
    down = faults.add("delete", Unreachable("down"))
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        fs, queue = mounted.fs, mounted.queue
        assert queue is not None
        await walk(fs, "f")
        await unlink(fs, "f")
        number = await link(fs, "f", b"t")
        await queue.drain("", 0.5)
        assert contents(store) == {"f": b"file", "f.rclonelink": b"t"}
        for _ in range(2):
            await fs.folding.fold_waiting()
            fs.refresh(b"")
            assert await names(fs) == ["f"]
            assert (await walk(fs, "f")).number == number
            assert await target(fs, "f") == b"t"
        assert down.hits
        faults.remove()
        await queue.drain("", 30.0)
        assert contents(store) == {"f.rclonelink": b"t"}
        fs.refresh(b"")
        assert (await walk(fs, "f")).number == number


async def test_where_the_remote_has_both_nothing_is_hidden(tmp_path: Path) -> None:
    store = MemoryStore({"f": b"file", "f.rclonelink": b"t"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        assert await names(fs) == ["f", "f.rclonelink"]
        assert await read(fs, "f.rclonelink") == b"t"
        assert not await is_link(fs, "f.rclonelink")
        await unlink(fs, "f")
        with pytest.raises(Exists):
            await link(fs, "f", b"other")
        await sent(mounted)
        fs.refresh(b"")
        assert await names(fs) == ["f"]
        assert await target(fs, "f") == b"t"
        assert contents(store) == {"f.rclonelink": b"t"}


async def test_a_plain_file_can_not_get_a_name_that_the_remote_has_for_links(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"a": b"1", "big.rclonelink": b"b" * 5000, "empty.rclonelink": b""})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        root = await directory(fs)
        assert await names(fs) == ["a", "big.rclonelink", "empty.rclonelink"]
        with pytest.raises(NotPossible):
            await make(fs, "new.rclonelink", b"")
        with pytest.raises(NotPossible):
            await rename(fs, "a", "new.rclonelink")
        with pytest.raises(NotPossible):
            await fs.make_link(root, b"new.rclonelink", b"t", {})
        with pytest.raises(Exists):
            await link(fs, "empty", b"t")
        await fs.make_directory(root, b"dir.rclonelink", {})
        await edit(fs, "big.rclonelink", 0, b"BB")
        await rename(fs, "empty.rclonelink", "renamed")
        await sent(mounted)
        assert store.data("big.rclonelink")[:3] == b"BBb"
        assert await names(fs) == ["a", "big.rclonelink", "dir.rclonelink", "renamed"]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (b"n" * 245, NameTooLong),
        (b".mountd-probe-x", NotPossible),
        ("a␛file".encode(), NotPossible),
        (b".mountd", FileSystemError),
    ],
)
async def test_a_name_that_could_not_be_kept_is_refused(
    tmp_path: Path, name: bytes, error: type[Exception]
) -> None:
    async with file_system(MemoryStore({"a/x": b""}), tmp_path) as fs:
        with pytest.raises(error):
            await fs.make_link(await directory(fs), name, b"t", {})
        for empty, too_long in ((b"", NoEntry), (b"t" * 4096, NameTooLong)):
            with pytest.raises(too_long):
                await fs.make_link(await directory(fs), b"x", empty, {})
        assert await names(fs) == ["a"]
        await link(fs, "n" * 244, b"t")


async def test_what_is_no_target_is_never_given_to_the_kernel(tmp_path: Path) -> None:
    store = MemoryStore({"nul.rclonelink": b"a\0b"})
    async with file_system(store, tmp_path) as fs:
        node = await walk(fs, "nul")
        with pytest.raises(NotPossible):
            await fs.links.read(node.number)


async def test_a_link_that_becomes_a_file_of_the_same_bytes_gets_another_inode(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"x.rclonelink": b"same"})
    async with file_system(store, tmp_path) as fs:
        number = (await walk(fs, "x")).number
        entry = store.stat("x.rclonelink")
        store.drop("x.rclonelink")
        store.seed("x", b"same", entry.mtime_ns)
        fs.refresh(b"")
        assert (await walk(fs, "x")).number != number
        assert not await is_link(fs, "x")
        assert await read(fs, "x") == b"same"


async def test_two_machines_that_make_one_link_keep_both(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("conflict")
    store = MemoryStore({})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        await link(fs, "lib.so", b"ours")
        store.seed("lib.so.rclonelink", b"theirs")
        await sent(mounted)
        fs.refresh(b"")
        shown = await names(fs)
        assert len(shown) == 2
        assert shown[1].startswith("lib.so (conflict")
        assert not shown[1].endswith(".rclonelink")
        assert [await target(fs, name) for name in shown] == [b"theirs", b"ours"]


async def test_a_renamed_directory_takes_its_links_along(tmp_path: Path) -> None:
    store = MemoryStore({"d/sub/l.rclonelink": b"remote", "d/both": b"1", "d/x": b"2"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        await link(fs, "d/new", b"made here")
        await unlink(fs, "d/both")
        await link(fs, "d/both", b"in its place")
        await rename(fs, "d", "e")
        for look in range(2):
            assert await names(fs, "e") == ["both", "new", "sub", "x"]
            assert await target(fs, "e/both") == b"in its place"
            assert await target(fs, "e/new") == b"made here"
            assert await target(fs, "e/sub/l") == b"remote"
            if not look:
                await sent(mounted)
                fs.refresh(b"")
        assert contents(store) == {
            "e/both.rclonelink": b"in its place",
            "e/new.rclonelink": b"made here",
            "e/sub/l.rclonelink": b"remote",
            "e/x": b"2",
        }


async def test_a_link_keeps_its_time_and_has_no_mode(tmp_path: Path) -> None:
    store = MemoryStore({"old.rclonelink": b"t"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        for name, number in (("new", await link(fs, "new", b"t")), ("old", 0)):
            number = number or (await walk(fs, name)).number
            new = NewAttributes(uid=7, mtime_ns=1_700_000_000_000_000_001)
            told = await fs.set_attributes(number, new, None)
            assert (told.mtime_ns, told.uid) == (1_700_000_000_000_000_001, 7)
            assert told.is_link
        await sent(mounted)
        assert store.stat("new.rclonelink").mtime_ns == 1_700_000_000_000_000_001
        assert store.stat("old.rclonelink").mtime_ns == 1_700_000_000_000_000_001
        assert await target(fs, "old") == await target(fs, "new") == b"t"


async def test_without_the_remote_links_are_made_and_those_read_before_are_read(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"old.rclonelink": b"t"})
    faults = FaultStore(store)
    async with file_system(faults, tmp_path) as fs:
        assert await target(fs, "old") == b"t"
        faults.add("read", Unreachable("down"))
        faults.add("list", Unreachable("down"))
        await link(fs, "new", b"n")
        assert await target(fs, "new") == b"n"
        assert await target(fs, "old") == b"t"


async def test_a_foreign_file_in_the_place_of_one_that_became_a_link_here_is_seen(
    tmp_path: Path,
) -> None:
    store = MemoryStore({})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs, queue = mounted.fs, mounted.queue
        assert queue is not None
        await make(fs, "f", b"never sent")
        await link(fs, "l", b"t")
        await rename(fs, "l", "f")
        store.seed("f", b"theirs")
        await queue.drain("", 5.0)
        fs.refresh(b"")
        await names(fs)
        fs.refresh(b"")
        assert await names(fs) == ["f", "f.rclonelink"]
        assert await read(fs, "f") == b"theirs"


@pytest.mark.parametrize("ours_is_link", [False, True])
async def test_what_others_made_under_the_name_of_ours_is_seen_once_ours_was_sent(
    tmp_path: Path, ours_is_link: bool
) -> None:
    store = MemoryStore({"other": b""})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        if ours_is_link:
            await link(fs, "x", b"ours")
            store.seed("x", b"theirs")
        else:
            await make(fs, "x", b"ours")
            store.seed("x.rclonelink", b"theirs")
        fs.refresh(b"")
        assert await names(fs) == ["other", "x"]
        assert await is_link(fs, "x") is ours_is_link
        await sent(mounted)
        fs.refresh(b"")
        assert await names(fs) == ["other", "x", "x.rclonelink"]
        theirs, made_here = ("x", "x.rclonelink") if ours_is_link else ("x.rclonelink", "x")
        assert await read(fs, theirs) == b"theirs"
        assert await read(fs, made_here) == b"ours"
