"""What warming and pinning work with: one of each for a mount."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import trio

from mountd.transfer.fill import Filler
from mountd.transfer.holds import Holds
from mountd.transfer.stock import Stocktaking
from mountd.vfs.filesystem import FileSystem
from mountd_cache.block_files import BlockFiles

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Means:
    """`in_turn`: one thread at a time takes stock, holds and releases."""

    fs: FileSystem
    blocks: BlockFiles
    holds: Holds
    stock: Stocktaking
    filler: Filler
    in_turn: trio.CapacityLimiter

    async def run(self, call: Callable[..., T], *args: object) -> T:
        """In a thread. Not cancelled once it is begun: what it holds must be known."""
        return await trio.to_thread.run_sync(call, *args, limiter=self.in_turn)

    async def let_go(self, held: bytes) -> None:
        """Of what nobody knows any more, packed as `pin_record.HELD`: also where this is cancelled,
        else it would be held for ever."""
        with trio.CancelScope(shield=True):
            await self.run(self.holds.release_packed, held)


def means_of(
    fs: FileSystem,
    blocks: BlockFiles,
    *,
    limit_bytes: Callable[[], int],
    staged_bytes: Callable[[], int],
    max_parallel: int,
) -> Means:
    """`limit_bytes`: cache_size. `staged_bytes`: what of it is taken by what was written here."""
    holds = Holds(blocks, block_size=fs.blocks.block_size, limit_bytes=limit_bytes)
    filler = Filler(
        fs.files,
        fs.blocks,
        max_parallel=max_parallel,
        room_bytes=lambda: limit_bytes() - staged_bytes() - blocks.pinned_bytes,
        reason=lambda: blocks.health.last_reason,
    )
    stock = Stocktaking(fs.files, blocks, fs.tree.ledger, holds, fs.blocks.block_size)
    return Means(fs, blocks, holds, stock, filler, trio.CapacityLimiter(1))
