"""Corners of the write side: names that mountd keeps for itself, handles and disks that fail."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mountd.errors import Exists, FileSystemError, NameNotAllowed
from mountd.remotes.base import NameRules
from mountd.vfs.attributes import NewAttributes
from mountd_cache.changes import ChangeState, Rows
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import mounted_files, names
from tests.unit.test_writing import directory, make, read, rename


def full(*args: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["a␛file", ".mountd", ".mountd-probe-x", "x␛~" + "0" * 32])
async def test_a_name_that_the_listing_would_show_otherwise_is_refused(
    tmp_path: Path, name: str
) -> None:
    async with mounted_files(MemoryStore({"a": b"1", "d/x": b""}), tmp_path) as mounted:
        fs, root = mounted.fs, mounted.fs.tree.root
        with pytest.raises((FileSystemError, NameNotAllowed)):
            await fs.create(root, name.encode(), {})
        with pytest.raises((FileSystemError, NameNotAllowed)):
            await rename(fs, "a", name)
        if "probe" not in name:
            with pytest.raises((FileSystemError, NameNotAllowed)):
                await fs.make_directory(root, name.encode(), {})
            with pytest.raises((FileSystemError, NameNotAllowed)):
                await rename(fs, "d", name)
        assert await names(fs) == ["a", "d"]


async def test_a_name_that_the_remote_forbids_is_refused_at_once_and_asks_nothing(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"a": b"1", "d/x": b"", "old.part": b"2"})
    store.name_rules = NameRules(names=frozenset((".htaccess",)), extensions=(".part",))
    async with mounted_files(store, tmp_path) as mounted:
        fs, root = mounted.fs, mounted.fs.tree.root
        assert await names(fs) == ["a", "d", "old.part"]
        calls = store.calls.total()
        for name in ("b.part", ".HTACCESS"):
            with pytest.raises(NameNotAllowed):
                await fs.create(root, name.encode(), {})
            with pytest.raises(NameNotAllowed):
                await fs.make_directory(root, name.encode(), {})
            with pytest.raises(NameNotAllowed):
                await rename(fs, "a", name)
            with pytest.raises(NameNotAllowed):
                await rename(fs, "d", name)
        assert store.calls.total() == calls
        await rename(fs, "old.part", "new")
        assert await names(fs) == ["a", "d", "new"]


async def test_a_file_beside_a_directory_keeps_its_place_when_the_directory_goes(
    tmp_path: Path,
) -> None:
    async with mounted_files(MemoryStore({"a": b"file", "a/": b""}), tmp_path) as mounted:
        fs = mounted.fs
        assert await names(fs) == ["a", "a␛file"]
        await fs.remove_directory(fs.tree.root, b"a")
        with pytest.raises(Exists):
            await fs.create(fs.tree.root, b"a", {})
        await make(fs, "b", b"")
        with pytest.raises(Exists):
            await rename(fs, "b", "a")
        assert await read(fs, "a␛file") == b"file"


async def test_a_removal_that_finds_no_room_changes_nothing(tmp_path: Path) -> None:
    async with mounted_files(MemoryStore({"d/x": b"1"}), tmp_path) as mounted:
        fs, journal = mounted.fs, mounted.journal
        parent = await directory(fs, "d")
        commit = journal.commit
        journal.commit = full  # type: ignore[method-assign]
        with pytest.raises(OSError, match="No space"):
            await fs.unlink(parent, b"x")
        journal.commit = commit  # type: ignore[method-assign]
        assert await read(fs, "d/x") == b"1"
        assert not fs.tree.ledger.changes


async def test_a_last_handle_that_finds_no_room_is_released_all_the_same(tmp_path: Path) -> None:
    async with mounted_files(MemoryStore(), tmp_path) as mounted:
        fs, journal = mounted.fs, mounted.journal
        fh, made = await fs.create(fs.tree.root, b"f", {})
        await fs.write(fh, 0, b"x")
        await fs.unlink(fs.tree.root, b"f")
        commit = journal.commit
        journal.commit = full  # type: ignore[method-assign]
        with pytest.raises(OSError, match="No space"):
            fs.release(fh)
        journal.commit = commit  # type: ignore[method-assign]
        assert not fs.writes.is_open_for_writing(made.number)
        assert not fs.files.is_open(made.number)


async def test_a_failed_file_that_is_touched_waits_without_its_old_reason(tmp_path: Path) -> None:
    memory = MemoryStore()
    async with mounted_files(memory, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        assert mounted.queue is not None
        number = await make(fs, "f", b"x")
        change = fs.tree.ledger.changes["f"]
        failed = replace(change, state=ChangeState.FAILED, reason="it was refused")
        mounted.journal.commit(Rows(changes=(failed,)))
        await fs.set_attributes(number, NewAttributes(mode=0o600), None)
        assert fs.tree.ledger.changes["f"].reason == ""


async def test_a_file_whose_staged_bytes_are_lost_can_be_handled_like_any_other(
    tmp_path: Path,
) -> None:
    memory = MemoryStore({"g": b"1"})
    async with mounted_files(memory, tmp_path, queue=True) as mounted:
        fs, journal = mounted.fs, mounted.journal
        assert mounted.queue is not None
        number = await make(fs, "f", b"x")
        change = fs.tree.ledger.changes["f"]
        failed = replace(change, state=ChangeState.FAILED, reason="torn by a power loss")
        journal.commit(Rows(changes=(failed,), drop=(change.content,)))
        mounted.queue.retry()
        await fs.set_attributes(number, NewAttributes(mode=0o600), None)
        await rename(fs, "f", "h")
        moved = fs.tree.ledger.changes["h"]
        assert (moved.state, moved.reason) == (ChangeState.FAILED, "torn by a power loss")
        await fs.unlink(fs.tree.root, b"h")
        assert await mounted.queue.drain("", 10) == 0
        assert await names(fs) == ["g"]


async def test_a_directory_that_waits_for_its_marker_is_not_taken_for_empty(tmp_path: Path) -> None:
    memory = MemoryStore({"d/x": b"1"})
    async with mounted_files(memory, tmp_path) as mounted:
        fs = mounted.fs
        await fs.unlink(await directory(fs, "d"), b"x")
        memory.seed("d/foreign", b"2")
        fs.tree.cache.forget("d/")  # as where a crash came before it was on the disk
        assert await names(fs, "d") == ["foreign"]
