"""Pins and warmings over a file system without a kernel."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from mountd.config import CopiedSubtree
from mountd.remotes.base import RemoteStore
from mountd.transfer.by_xattr import KeepingByXattr
from mountd.transfer.means import Means, means_of
from mountd.transfer.pins import Pins
from mountd.transfer.warm import Warmings
from mountd.vfs.filesystem import FileSystem
from mountd_cache.block_files import BlockFiles
from mountd_cache.pin_record import PinRecord
from tests.fakes.mounted import mounted_files


@dataclass(frozen=True, slots=True)
class Kept:
    """What a test drives. `forgotten`: what the kernel was told to forget."""

    fs: FileSystem
    blocks: BlockFiles
    means: Means
    pins: Pins
    warmings: Warmings
    forgotten: list[tuple[int, bytes]]


@asynccontextmanager
async def kept_files(
    store: RemoteStore,
    folder: Path,
    *,
    copies: Sequence[CopiedSubtree] = (),
    cache_bytes: int = 64 << 20,
    staged_bytes: Callable[[], int] = lambda: 0,
    clock: Callable[[], float] | None = None,
    remote_is_well: Callable[[], bool] = lambda: True,
) -> AsyncIterator[Kept]:
    """A running file system with its pins; the same folder again is a restart."""
    async with mounted_files(
        store,
        folder,
        cache_bytes=cache_bytes,
        clock=clock,
        remote_is_well=remote_is_well,
        ttl_s=60.0,
        queue=True,
    ) as mounted:
        blocks = mounted.blocks
        means = means_of(
            mounted.fs,
            blocks,
            limit_bytes=lambda: cache_bytes,
            staged_bytes=staged_bytes,
            max_parallel=8,
        )
        forgotten: list[tuple[int, bytes]] = []
        pins = Pins(means, PinRecord(folder / "pins"), copies, forget_names=forgotten.extend)
        warmings = Warmings(means)
        mounted.fs.keeping = KeepingByXattr(mounted.fs.tree, pins, warmings)
        pins.load()
        async with trio.open_nursery() as nursery:
            await nursery.start(warmings.run)
            await nursery.start(pins.run)
            yield Kept(mounted.fs, blocks, means, pins, warmings, forgotten)
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object], within_s: float = 30.0) -> None:
    """Waits for what threads and other tasks bring about."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - no event is at hand
            await trio.sleep(0.005)
