"""The file system over a fake remote and real caches, without a kernel: what vfs tests drive."""

import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from mountd.remotes.base import RemoteStore
from mountd.sync.open_moves import OpenMoves
from mountd.sync.queue import SyncQueue
from mountd.sync.unfinished import UnfinishedUploads
from mountd.vfs.filesystem import FileSystem
from mountd.vfs.nodes import Directory, Node
from mountd_cache.block_cache import BlockCache
from mountd_cache.block_files import BlockFiles
from mountd_cache.durable_io import DISK, FileIO
from mountd_cache.journal import Journal
from mountd_cache.metadata_cache import MetadataCache
from tests.fakes.slow_metadata import SlowMetadata

BLOCK = 1 << 16


class Clock:
    """Wall-clock seconds that only move when told to."""

    def __init__(self, now_s: float = 1_800_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@dataclass(eq=False)
class MountedFiles:
    """A running FileSystem and what is below it. With `crashes` its end is what SIGKILL leaves:
    nothing that waits is written."""

    fs: FileSystem
    journal: Journal
    metadata: MetadataCache
    queue: SyncQueue | None
    blocks: BlockFiles
    crashes: bool = False


@asynccontextmanager
async def mounted_files(
    store: RemoteStore,
    folder: Path,
    *,
    ttl_s: float = 60.0,
    wait_s: float = 10.0,
    cache_bytes: int = 64 << 20,
    clock: Callable[[], float] | None = None,
    remote_is_well: Callable[[], bool] = lambda: True,
    queue: bool = False,
    slow_metadata: bool = False,
    asks_for_metadata: bool = False,
    held: Collection[int] = (),
    disk: FileIO = DISK,
    boot_id: str | None = None,
) -> AsyncIterator[MountedFiles]:
    """A FileSystem whose caches live in `folder`; use the same folder for a remount. With `queue`
    it sends what is written; folding and checkpoints are the caller's to run. `held`,
    `disk`, `boot_id`: of the journal."""
    files = BlockFiles(folder / "blocks", block_size=BLOCK, limit_bytes=cache_bytes)
    files.scan()
    kind = SlowMetadata if slow_metadata else MetadataCache
    metadata = kind(folder / "metadata", wall_clock=clock or time.time)
    blocks = BlockCache(
        files,
        block_size=BLOCK,
        memory_bytes=64 * BLOCK,
        backlog_bytes=32 * BLOCK,
        wait_s=wait_s,
        parallel=8,
    )
    journal = Journal.open(folder / "journal", held=held, disk=disk, boot_id=boot_id)
    wall_clock_ns = time.time_ns if clock is None else _in_ns(clock)
    fs = FileSystem(
        store,
        metadata,
        blocks,
        journal,
        ttl_s=ttl_s,
        wait_s=wait_s,
        url="memory://",
        limit_bytes=lambda: cache_bytes,
        asks_for_metadata=asks_for_metadata,
        remote_is_well=remote_is_well,
        wall_clock=clock or time.time,
        wall_clock_ns=wall_clock_ns,
    )
    mounted = MountedFiles(fs, journal, metadata, None, files)
    if queue:
        moves = OpenMoves(folder / "moves")
        moves.load()
        mounted.queue = SyncQueue(
            journal,
            store,
            fs.queue_view,
            write_back_s=1.0,
            max_transfers=4,
            wall_clock=wall_clock_ns,
            remote_is_well=remote_is_well,
            host="host",
            jitter=lambda: 0.5,
            spare=fs.last_readers.spare,
            unfinished=UnfinishedUploads.load(folder / "uploads"),
            open_moves=moves,
        )
        fs.writes.queue = mounted.queue
        fs.state_of = mounted.queue.state_of
        fs.folding.take_up()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(blocks.run)
            await nursery.start(fs.tree.refreshes.run)
            await nursery.start(fs.asking.run)
            if mounted.queue is not None:
                await nursery.start(mounted.queue.run)
            yield mounted
            nursery.cancel_scope.cancel()
    finally:
        if mounted.crashes:
            journal.abandon()
            metadata.abandon()
        else:
            journal.close()
            metadata.close()
        files.close()


@asynccontextmanager
async def file_system(
    store: RemoteStore,
    folder: Path,
    *,
    ttl_s: float = 60.0,
    wait_s: float = 10.0,
    cache_bytes: int = 64 << 20,
    clock: Callable[[], float] | None = None,
    remote_is_well: Callable[[], bool] = lambda: True,
    queue: bool = False,
) -> AsyncIterator[FileSystem]:
    """As `mounted_files`, for who needs no more than the file system."""
    async with mounted_files(
        store,
        folder,
        ttl_s=ttl_s,
        wait_s=wait_s,
        cache_bytes=cache_bytes,
        clock=clock,
        remote_is_well=remote_is_well,
        queue=queue,
    ) as mounted:
        yield mounted.fs


def _in_ns(clock: Callable[[], float]) -> Callable[[], int]:
    return lambda: round(clock() * 1e9)


async def walk(fs: FileSystem, path: str) -> Node:
    """The node at a shown path, looked up part by part as the kernel does."""
    node: Node = fs.tree.root
    for name in filter(None, path.split("/")):
        assert isinstance(node, Directory)
        found = await fs.tree.lookup(node, name.encode())
        node = fs.tree.node(found.number)
    return node


async def names(fs: FileSystem, path: str = "") -> list[str]:
    """What readdir would give."""
    directory = await walk(fs, path)
    assert isinstance(directory, Directory)
    listing = (await fs.read_directory(directory)).listing
    return [listing.name(row).decode() for row in range(len(listing))]


async def content(fs: FileSystem, path: str, piece: int = 1 << 20) -> bytes:
    """A whole file, read from its start in pieces."""
    number = await fs.files.open(await walk(fs, path))
    try:
        handle = fs.files.handle(number)
        parts: list[bytes] = []
        while part := bytes(memoryview(await fs.files.read(handle, sum(map(len, parts)), piece))):
            parts.append(part)
        return b"".join(parts)
    finally:
        fs.files.release(number)
