"""What arrives on the remote is a state that the file had at one instant."""

import threading
from pathlib import Path

import trio

from mountd.remotes.base import Body, Upload
from mountd.types import Entry
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import mounted_files, walk

BLOCK = 4096
BLOCKS = 16
ROUNDS = 200
AT_LEAST = 5  # uploads; where they are slow, it is written for longer
MOVES_ON_WITHIN_S = 60.0


def stamped(counter: int) -> bytes:
    return counter.to_bytes(8, "big") * (BLOCK * BLOCKS // 8)


def counters_in(data: bytes) -> set[bytes]:
    return {data[at : at + 8] for at in range(0, len(data), 8)}


class Uploads(MemoryStore):
    """Reads a body block by block, and between two blocks waits until the writer has gone on."""

    def __init__(self) -> None:
        super().__init__()
        self.went_on = threading.Semaphore(0)
        self.is_over = threading.Event()
        self.arrived: list[bytes] = []

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        parts = []
        for start in range(0, body.size, BLOCK):
            parts.append(bytes(body.read(start, start + BLOCK)))
            while not self.is_over.is_set() and not self.went_on.acquire(timeout=0.01):
                pass
        self.arrived.append(b"".join(parts))
        return super().put(key, body, expect, upload)


async def test_every_version_on_the_remote_shows_a_single_counter(tmp_path: Path) -> None:
    store = Uploads()
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        queue, fs = mounted.queue, mounted.fs
        assert queue is not None
        handle, made = await fs.create(fs.tree.root, b"f", {})
        await fs.write(handle, 0, stamped(0))

        async def upload_all_the_time() -> None:
            while not store.is_over.is_set():
                await queue.drain("", MOVES_ON_WITHIN_S)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload_all_the_time)
            counter = 0
            while counter < ROUNDS or len(store.arrived) < AT_LEAST:
                counter += 1
                await fs.write(handle, 0, stamped(counter))
                store.went_on.release()
                await trio.sleep(0.001)
            store.is_over.set()
        fs.release(handle)
        assert await queue.drain("", MOVES_ON_WITHIN_S) == 0
        assert (await walk(fs, "f")).number == made.number
    assert len(store.arrived) >= AT_LEAST
    assert [data for data in store.arrived if len(counters_in(data)) != 1] == []
    assert store.data("f") == store.arrived[-1] == stamped(counter)
