"""Warming and pinning of one mount, put together: what the daemon builds and runs."""

from collections.abc import Callable

import trio

from mountd.cache_folder import CacheFolder
from mountd.config import MountPlan
from mountd.transfer.asked import Asked, Handler
from mountd.transfer.by_xattr import KeepingByXattr
from mountd.transfer.means import means_of
from mountd.transfer.pins import Pins
from mountd.transfer.warm import Warmings
from mountd.vfs.filesystem import FileSystem
from mountd_cache.block_files import BlockFiles
from mountd_cache.journal import Journal
from mountd_cache.pin_record import PinRecord


class Keeping:
    """Built before the block files are scanned: what was pinned is held from the start."""

    def __init__(
        self,
        plan: MountPlan,
        folder: CacheFolder,
        fs: FileSystem,
        blocks: BlockFiles,
        journal: Journal,
        *,
        max_parallel: int,
    ) -> None:
        means = means_of(
            fs,
            blocks,
            limit_bytes=lambda: folder.limit_bytes,
            staged_bytes=lambda: journal.staged_bytes,
            max_parallel=max_parallel,
        )
        self.pins = Pins(means, PinRecord(folder.path / "pins"), plan.copies)
        self.pins.forget_names = lambda entries: fs.queue_view.invalidate(entries)
        self._means = means
        self._warmings = Warmings(means)
        fs.keeping = KeepingByXattr(fs.tree, self.pins, self._warmings)
        self.pins.load()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._warmings.run)
            await nursery.start(self.pins.run)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._means.stock.is_over = True

    def handlers(self) -> dict[str, Handler]:
        """For the control socket."""
        return Asked(self.pins, self._warmings).handlers()


def room_for_writes(limit_bytes: Callable[[], int], blocks: BlockFiles) -> Callable[[], int]:
    """What may be staged: pinned blocks stay, but for their tenth at least writes have room."""
    return lambda: max(limit_bytes() // 10, limit_bytes() - blocks.pinned_bytes)
