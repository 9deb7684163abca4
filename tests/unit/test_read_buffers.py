"""Memory that libfuse reads requests into."""

import ctypes
import mmap
import os

import trio

from mountd.fusefs import read_buffers
from mountd.fusefs.read_buffers import ReadBuffers
from mountd.fusefs.request_loop import LowLevel

BUFFER_BYTES = (1 << 20) + mmap.PAGESIZE


async def test_what_malloc_gives_a_new_worker_is_there_before_it_is_read_into() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    ReadBuffers().begin(trio.lowlevel.current_task())
    buffer = libc.malloc(ctypes.c_size_t(BUFFER_BYTES))
    first = -(-buffer // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = (buffer + BUFFER_BYTES - first) // mmap.PAGESIZE
    there = (ctypes.c_ubyte * pages)()
    size = ctypes.c_size_t(pages * mmap.PAGESIZE)
    assert libc.mincore(ctypes.c_void_p(first), size, there) == 0
    assert all(page & 1 for page in there)
    libc.free(ctypes.c_void_p(buffer))
    await trio.testing.wait_all_tasks_blocked()


class Filled:
    """What malloc was told."""

    def __init__(self) -> None:
        self.told: list[bool] = []

    def __call__(self, is_on: bool) -> None:
        self.told.append(is_on)


async def test_each_worker_begins_once_and_malloc_is_as_before_when_the_loop_goes_on() -> None:
    filled = Filled()
    low = LowLevel(buffers=ReadBuffers(filled))
    there, says = os.pipe()
    os.write(says, b"x")

    async def reads(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        before = len(filled.told)
        await low.wait_readable(there)
        assert filled.told[before:] == [True], "it reads now"
        await trio.testing.wait_all_tasks_blocked()
        assert filled.told[before:] == [True, False]
        await low.wait_readable(there)
        assert filled.told[before:] == [True, False]
        task_status.started()

    async with trio.open_nursery() as nursery:
        await nursery.start(reads)
        await nursery.start(reads)
    os.close(there)
    os.close(says)


async def test_no_more_than_a_few_workers_have_theirs_filled() -> None:
    filled = Filled()
    buffers = ReadBuffers(filled)
    async with trio.open_nursery() as nursery:

        async def works() -> None:
            if buffers.is_due(trio.lowlevel.current_task()):
                buffers.begin(trio.lowlevel.current_task())
            await trio.sleep_forever()

        for _ in range(read_buffers.MOST + 3):
            nursery.start_soon(works)
        await trio.testing.wait_all_tasks_blocked()
        assert filled.told.count(True) == filled.told.count(False) == read_buffers.MOST
        nursery.cancel_scope.cancel()
