"""The file system over a fake remote and real caches, without a kernel: what vfs tests drive."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from mountd.remotes.base import RemoteStore
from mountd.vfs.filesystem import FileSystem
from mountd.vfs.nodes import Directory, Node
from mountd_cache.block_cache import BlockCache
from mountd_cache.block_files import BlockFiles
from mountd_cache.journal import Journal
from mountd_cache.metadata_cache import MetadataCache

BLOCK = 1 << 16


class Clock:
    """Wall-clock seconds that only move when told to."""

    def __init__(self, now_s: float = 1_800_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


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
) -> AsyncIterator[FileSystem]:
    """A running FileSystem whose caches live in `folder`; use the same folder for a remount."""
    files = BlockFiles(folder / "blocks", block_size=BLOCK, limit_bytes=cache_bytes)
    files.scan()
    metadata = MetadataCache(folder / "metadata", wall_clock=clock or time.time)
    blocks = BlockCache(
        files,
        block_size=BLOCK,
        memory_bytes=64 * BLOCK,
        backlog_bytes=32 * BLOCK,
        wait_s=wait_s,
        parallel=8,
    )
    journal = Journal.open(folder / "journal")
    fs = FileSystem(
        store,
        metadata,
        blocks,
        journal,
        ttl_s=ttl_s,
        wait_s=wait_s,
        url="memory://",
        limit_bytes=lambda: cache_bytes,
        remote_is_well=remote_is_well,
        wall_clock=clock or time.time,
    )
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(blocks.run)
            await nursery.start(fs.tree.run)
            yield fs
            nursery.cancel_scope.cancel()
    finally:
        journal.close()
        metadata.close()
        files.close()


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
