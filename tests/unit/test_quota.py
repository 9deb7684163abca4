"""Writers hear that the remote is full while what they write can still go elsewhere."""

from pathlib import Path
from typing import Any

import pytest
import trio

from mountd.errors import NameNotAllowed, QuotaExceeded
from mountd.vfs.attributes import NewAttributes
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import mounted_files, walk
from tests.unit.test_folding import drained
from tests.unit.test_writing import edit


async def test_what_waits_counts_and_what_was_sent_does_not(
    tmp_path: Path, expected_log: Any
) -> None:
    expected_log("writers get EDQUOT: the remote has 100 bytes left, and 60 wait")
    async with mounted_files(MemoryStore({"f": b"1"}), tmp_path, queue=True) as mounted:
        fs = mounted.fs
        fs.writes.quota.free_bytes = lambda: 100
        await edit(fs, "f", 0, bytes(60))
        for _ in range(2):
            with pytest.raises(QuotaExceeded):
                await edit(fs, "f", 60, bytes(60))
        number = (await walk(fs, "f")).number
        with pytest.raises(QuotaExceeded):
            await fs.set_attributes(number, NewAttributes(size=200), None)
        await fs.set_attributes(number, NewAttributes(size=50), None)
        await drained(mounted)
        await edit(fs, "f", 0, bytes(60))
        await drained(mounted)


@pytest.mark.parametrize("ends", ["retry", "unlink", "unlink, and another has failed"])
async def test_after_a_refusal_nothing_is_added_until_one_is_taken_or_nothing_waits(
    tmp_path: Path, expected_log: Any, ends: str
) -> None:
    expected_log("writers get EDQUOT: the remote has refused a file")
    expected_log("the remote has no room for what is written: 507; .* on this machine")
    store = MemoryStore({"f": b"1", "g": b"2", "h": b"3"})
    faults = FaultStore(store)
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        fs, queue = mounted.fs, mounted.queue
        assert queue is not None
        await walk(fs, "f")
        failed = int(ends.endswith("has failed"))
        if failed:
            expected_log("'h' was refused by the remote")
            faults.add("put", NameNotAllowed("h"), key="h")
            await edit(fs, "h", 0, b"X")
            assert await queue.drain("", 5.0) == 1
        await edit(fs, "f", 0, b"X")
        store.fail_always(QuotaExceeded("507"))
        assert await queue.drain("", 5.0) == 1 + failed
        assert queue.full
        with pytest.raises(QuotaExceeded):
            await edit(fs, "g", 0, b"Y")
        with pytest.raises(QuotaExceeded):
            await fs.create(fs.tree.root, b"new", {})
        store.fail_always(None)
        if ends == "retry":
            queue.retry()
            await drained(mounted)
        else:
            await fs.unlink(fs.tree.root, b"f")
            with trio.fail_after(10):
                await queue.drain()
        assert not queue.full
        await edit(fs, "g", 0, b"Y")
        with trio.fail_after(10):
            await queue.drain()
        assert store.data("g") == b"Y"
