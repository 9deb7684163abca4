"""open(2) with O_TRUNC that is refused: the file is as it was, its mode too."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pyfuse3
import pytest

from mountd.errors import Denied
from mountd.vfs.attributes import NewAttributes
from tests.conftest import ExpectedLog
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import mounted_files, walk
from tests.unit.test_operations import operations
from tests.unit.test_writing import edit, read

SOMEBODY = cast(pyfuse3.RequestContext, SimpleNamespace(uid=1000, gid=1000))
SET_IDS = 0o6777


async def test_a_truncation_that_is_refused_leaves_set_id_bits_and_one_that_is_not_takes_them(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("403")
    faults = FaultStore(MemoryStore({"f": b"bytes", "other": b"1"}))
    async with mounted_files(faults, tmp_path, queue=True) as mounted:
        fs, ops = mounted.fs, operations(mounted.fs)
        assert mounted.queue is not None
        number = (await walk(fs, "f")).number
        await fs.set_attributes(number, NewAttributes(mode=SET_IDS), None)
        assert await mounted.queue.drain("", 10) == 0
        faults.add("put", Denied("403"))
        await edit(fs, "other", 0, b"2")
        assert await mounted.queue.drain("", 10) == 1
        with pytest.raises(pyfuse3.FUSEError) as refused:
            await ops.open(number, os.O_WRONLY | os.O_TRUNC, SOMEBODY)
        assert refused.value.errno == errno.EACCES
        assert (fs.attributes(number).mode or 0) & 0o7777 == SET_IDS
        assert await read(fs, "f") == b"bytes"
        faults.remove()
        mounted.queue.retry()
        assert await mounted.queue.drain("", 10) == 0
        opened = await ops.open(number, os.O_WRONLY | os.O_TRUNC, SOMEBODY)
        await ops.release(opened.fh)
        assert (fs.attributes(number).mode or 0) & 0o7777 == 0o777
        assert await read(fs, "f") == b""
