"""Bytes that a power cut took from the staging area: never zeros, never another version's, and the
file is sent as soon as they are written again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mountd.errors import Lost
from mountd.vfs.attributes import NewAttributes
from mountd.vfs.filesystem import FileSystem
from mountd_cache.changes import Change, ChangeState, Rows
from mountd_cache.journal import Journal
from mountd_cache.sidecar import PAGE
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import mounted_files, walk
from tests.unit.test_writing import edit, make, read, rename

TORN = "torn by a power loss"


async def torn(folder: Path, store: MemoryStore, expected_log: Any) -> None:
    """A file `f` of 16 bytes of which the last eight are lost."""
    expected_log("'f' is not sent: torn")
    expected_log("'f' can't be read")
    async with mounted_files(store, folder) as mounted:
        fs = mounted.fs
        number = await make(fs, "f", b"01234567")
        await fs.writes.sync(number)
        await edit(fs, "f", 8, b"89abcdef")
        mounted.crashes = True
    (path,) = (folder / "journal" / "staging").iterdir()
    with path.open("r+b") as file:
        file.seek(PAGE + 8)
        file.write(bytes(8))
    Journal.open(folder / "journal", boot_id="another").abandon()


def change_of(fs: FileSystem, key: str = "f") -> Change:
    return fs.tree.ledger.changes[key]


async def test_it_stays_refused_until_the_lost_bytes_are_written_again(
    tmp_path: Path, expected_log: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    await torn(tmp_path, store, expected_log)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs, queue = mounted.fs, mounted.queue
        assert queue is not None
        for _ in range(3):
            with pytest.raises(Lost, match=TORN):
                await read(fs, "f")
        assert sum("can't be read" in record.message for record in caplog.records) == 1
        await edit(fs, "f", 0, b"ABCD")
        assert (change_of(fs).state, change_of(fs).reason) == (ChangeState.FAILED, TORN)
        await edit(fs, "f", 8, b"EFGH")
        assert change_of(fs).state is ChangeState.FAILED
        await edit(fs, "f", 12, b"IJKL")
        assert (change_of(fs).state, change_of(fs).reason) == (ChangeState.PENDING, "")
        assert await queue.drain("", 10) == 0
    assert store.data("f") == b"ABCD4567EFGHIJKL"


@pytest.mark.parametrize("size", [0, 8])
async def test_it_is_sent_when_the_lost_bytes_are_cut_off(
    tmp_path: Path, expected_log: Any, size: int
) -> None:
    store = MemoryStore()
    await torn(tmp_path, store, expected_log)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs, queue = mounted.fs, mounted.queue
        assert queue is not None
        number = (await walk(fs, "f")).number
        with pytest.raises(Lost):
            await read(fs, "f")
        await fs.set_attributes(number, NewAttributes(size=size), None)
        await edit(fs, "f", size, b"new")
        assert await queue.drain("", 10) == 0
    assert store.data("f") == b"01234567"[:size] + b"new"


async def test_retried_renamed_and_touched_it_is_refused_as_before_and_never_sent(
    tmp_path: Path, expected_log: Any
) -> None:
    store = MemoryStore({"other": b"1"})
    await torn(tmp_path, store, expected_log)
    expected_log("'f' was refused by the remote: torn")
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs, queue = mounted.fs, mounted.queue
        assert queue is not None
        with pytest.raises(Lost):
            await read(fs, "f")
        queue.retry()
        assert await queue.drain("", 10) == 1
        assert (change_of(fs).state, change_of(fs).reason) == (ChangeState.FAILED, TORN)
        number = (await walk(fs, "f")).number
        await fs.set_attributes(number, NewAttributes(mode=0o600), None)
        await rename(fs, "f", "g")
        moved = change_of(fs, "g")
        assert (moved.state, moved.reason) == (ChangeState.FAILED, TORN)
        assert await queue.drain("", 1) == 1
        await edit(fs, "g", 8, b"89abcdef")
        assert await queue.drain("", 10) == 0
    assert store.data("g") == b"0123456789abcdef"


async def test_a_kill_right_after_the_lost_bytes_were_written_again_changes_nothing(
    tmp_path: Path, expected_log: Any
) -> None:
    store = MemoryStore()
    await torn(tmp_path, store, expected_log)
    async with mounted_files(store, tmp_path) as mounted:
        with pytest.raises(Lost):
            await read(mounted.fs, "f")
        content = change_of(mounted.fs).content
        mounted.journal.write(content, 8, b"ABCDEFGH", 5)
        mounted.crashes = True
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        assert mounted.queue is not None
        assert await mounted.queue.drain("", 10) == 0
    assert store.data("f") == b"01234567ABCDEFGH"


async def test_what_is_in_quarantine_is_neither_read_as_the_old_version_nor_written_over_it(
    tmp_path: Path, expected_log: Any, caplog: pytest.LogCaptureFixture
) -> None:
    expected_log("'f' can't be read: it is in quarantine")
    store = MemoryStore({"f": b"as it was on the remote"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs, queue, journal = mounted.fs, mounted.queue, mounted.journal
        assert queue is not None
        number = await edit(fs, "f", 0, b"edited")
        change = change_of(fs)
        failed = replace(change, state=ChangeState.FAILED, reason="it is in quarantine")
        journal.commit(Rows(changes=(failed,), drop=(change.content,)))
        for _ in range(2):
            with pytest.raises(Lost, match="quarantine"):
                await read(fs, "f")
            with pytest.raises(Lost):
                await edit(fs, "f", 3, b"x")
        with pytest.raises(Lost):
            await fs.set_attributes(number, NewAttributes(size=5), None)
        assert sum("can't be read" in record.message for record in caplog.records) == 1
        assert await queue.drain("", 1) == 1
        assert store.data("f") == b"as it was on the remote"
        await fs.set_attributes(number, NewAttributes(size=0), None)
        await edit(fs, "f", 0, b"anew")
        assert await read(fs, "f") == b"anew"
        assert await queue.drain("", 10) == 0
    assert store.data("f") == b"anew"
