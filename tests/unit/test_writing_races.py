"""Where rooms meet while something is written: foreign changes, uploads and listings in between."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, mounted_files, names, walk
from tests.unit.test_writing import read


async def sent(mounted: MountedFiles) -> int:
    """Waits until the queue has nothing to do; how many changes are left."""
    assert mounted.queue is not None
    return await mounted.queue.drain("", 10)


@pytest.mark.parametrize("removed", [False, True])
async def test_what_is_written_after_a_foreign_change_was_seen_is_not_lost(
    tmp_path: Path, expected_log: Any, removed: bool
) -> None:
    expected_log("conflict")
    store = MemoryStore({"f": b"old", "g": b""})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        fh = await fs.open((await walk(fs, "f")).number, writes=True)
        if removed:
            store.drop("f")
        else:
            store.seed("f", b"foreign!")
        fs.tree.expire("")
        assert await names(fs) == (["g"] if removed else ["f", "g"])
        await fs.write(fh, 0, b"ours")
        fs.release(fh)
        assert await sent(mounted) == 0
        keys = list(store.keys())
        bodies = {store.data(key) for key in keys}
        assert bodies == ({b"", b"ours"} if removed else {b"", b"foreign!", b"ours"}), keys


async def test_a_full_disk_leaves_no_bytes_behind_that_no_record_names(tmp_path: Path) -> None:
    async with mounted_files(MemoryStore({"f": b"old"}), tmp_path) as mounted:
        fs, journal = mounted.fs, mounted.journal
        number = (await walk(fs, "f")).number
        fh = await fs.open(number, writes=True)
        commit = journal.commit

        def full(*args: Any, **options: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        journal.commit = full  # type: ignore[method-assign]
        with pytest.raises(OSError, match="No space"):
            await fs.create(fs.tree.root, b"new", {})
        with pytest.raises(OSError, match="No space"):
            await fs.write(fh, 0, b"x")
        journal.commit = commit  # type: ignore[method-assign]
        assert list((tmp_path / "journal/staging").rglob("*-*")) == []
        assert await names(fs) == ["f"]
        assert await read(fs, "f") == b"old"
        await fs.write(fh, 0, b"x")
        fs.release(fh)
        assert await read(fs, "f") == b"xld"
