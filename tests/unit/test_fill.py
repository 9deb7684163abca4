"""Filling the cache behind readers: how many at once, what fails, what ends it."""

import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import trio

from mountd.errors import Unreachable
from mountd.transfer.fill import Missing, Progress
from mountd.vfs.files import RemoteFile
from mountd.vfs.nodes import Directory
from tests.fakes.keeping import Kept, kept_files, until
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import BLOCK, content, names


class ManyAtOnce(MemoryStore):
    """Counts reads that are under way at once."""

    now = most = 0

    def read(self, key: str, start: int, end: int, version: str) -> bytes:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return super().read(key, start, end, version)
        finally:
            self.now -= 1


async def all_files(kept: Kept, path: str) -> AsyncGenerator[Missing]:
    directory: Directory = kept.fs.tree.root
    listing = (await kept.fs.tree.listing(directory)).listing
    for row in range(len(listing)):
        file: RemoteFile = kept.fs.files.file_of_row(directory, listing, row)
        yield Missing(file, [(0, file.size)])


async def test_many_files_and_ranges_of_one_are_under_way_at_once(tmp_path: Path) -> None:
    store = ManyAtOnce({"a": b"a" * 9 * BLOCK, **{f"s{i}": b"s" * 100 for i in range(20)}})
    async with kept_files(store, tmp_path) as kept:
        await names(kept.fs)
        store.gate = threading.Event()
        progress = Progress()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept.means.filler.fill, all_files(kept, ""), progress)
            await until(lambda: store.now == 6)  # of the eight that the remote bears
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert store.most == 6
            store.gate.set()
        assert (progress.files, progress.bytes) == (21, 9 * BLOCK + 2000)
        store.calls.clear()
        assert await content(kept.fs, "a") == b"a" * 9 * BLOCK
        assert store.calls["read"] == 0
        assert kept.fs.blocks.used_bytes == 0


async def test_beside_a_reader_a_quarter_goes_on(tmp_path: Path) -> None:
    store = ManyAtOnce({f"s{i:02}": b"s" * 100 for i in range(20)})
    async with kept_files(store, tmp_path) as kept:
        await names(kept.fs)
        assert await content(kept.fs, "s00") == b"s" * 100
        store.most, store.gate = 0, threading.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept.means.filler.fill, all_files(kept, ""), Progress())
            await until(lambda: store.now == 1)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert store.most == 1
            store.gate.set()


async def test_a_file_that_fails_is_named_and_the_others_come(tmp_path: Path) -> None:
    store = MemoryStore({f"s{i:02}": b"s" * 100 for i in range(20)})
    async with kept_files(store, tmp_path) as kept:
        await names(kept.fs)
        store.drop("s05")
        progress = Progress()
        await kept.means.filler.fill(all_files(kept, ""), progress)
        assert progress.files == 19
        assert list(progress.failures) == ["s05"] == progress.changed
        assert progress.failed == 1


async def test_a_remote_that_is_gone_ends_it(tmp_path: Path) -> None:
    store = MemoryStore({f"s{i:03}": b"s" * 100 for i in range(200)})
    async with kept_files(store, tmp_path) as kept:
        await names(kept.fs)
        store.fail_always(Unreachable("no route"))
        progress = Progress()
        await kept.means.filler.fill(all_files(kept, ""), progress)
        assert "no route" in progress.gave_up
        assert progress.failed < 20


async def test_cancelled_it_begins_nothing_more(tmp_path: Path) -> None:
    store = ManyAtOnce({f"s{i:03}": b"s" * 100 for i in range(50)})
    async with kept_files(store, tmp_path) as kept:
        await names(kept.fs)
        store.gate = threading.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept.means.filler.fill, all_files(kept, ""), Progress())
            await until(lambda: store.now == 6)
            nursery.cancel_scope.cancel()
        store.gate.set()
        await until(lambda: store.now == 0)
        assert store.calls["read"] == 6
