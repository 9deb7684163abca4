"""A file that is replaced by rename, and a power cut: the old one or the new one, never neither."""

import random
from pathlib import Path

import pytest

from tests.conftest import ExpectedLog
from tests.fakes.faulty_disk import FaultyDisk, io_error
from tests.fakes.forgetful_disk import ForgetfulDisk
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import mounted_files
from tests.unit.test_folding import drained
from tests.unit.test_writing import read

OLD, NEW = b"old" * 5_000, b"newer" * 5_000


@pytest.mark.parametrize("seed", range(12))
async def test_what_has_replaced_another_is_whole_after_a_power_cut_though_nobody_synced_it(
    tmp_path: Path, seed: int, expected_log: ExpectedLog
) -> None:
    if not seed % 2:
        expected_log("files were set aside")  # bytes whose record the log lost
    store = MemoryStore({"f": OLD})
    (tmp_path / "before" / "journal").mkdir(parents=True, mode=0o700)
    disk = ForgetfulDisk(tmp_path / "before" / "journal", random.Random(seed))
    async with mounted_files(store, tmp_path / "before", disk=disk, boot_id="one") as mounted:
        fs = mounted.fs
        handle, _ = await fs.create(fs.tree.root, b"f.tmp", {})
        await fs.write(handle, 0, NEW)
        fs.release(handle)
        await fs.rename(fs.tree.root, b"f.tmp", fs.tree.root, b"f")
        if seed % 2:
            await fs.writes.sync(None)  # the names are there then, as after five seconds
        mounted.crashes = True
    (tmp_path / "after").mkdir()
    disk.crash(tmp_path / "after" / "journal")
    async with mounted_files(store, tmp_path / "after", boot_id="two") as mounted:
        found = await read(mounted.fs, "f")
        assert found == NEW if seed % 2 else found in (OLD, NEW)


async def test_a_file_that_the_disk_refuses_replaces_the_other_all_the_same_and_fsync_tells(
    tmp_path: Path,
) -> None:
    store, disk = MemoryStore({"f": OLD}), FaultyDisk()
    async with mounted_files(store, tmp_path, disk=disk, queue=True) as mounted:
        fs = mounted.fs
        handle, _ = await fs.create(fs.tree.root, b"f.tmp", {})
        await fs.write(handle, 0, NEW)
        disk.fail("fdatasync", ".data", io_error)
        await fs.rename(fs.tree.root, b"f.tmp", fs.tree.root, b"f")
        disk.heal()
        assert await read(fs, "f") == NEW
        with pytest.raises(OSError, match="can't be written"):
            await fs.sync(handle)
        fs.release(handle)
        await drained(mounted)
        assert store.data("f") == NEW
