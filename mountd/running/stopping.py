"""How a mount ends: by a signal, or when `mountd umount` says that it will."""

import logging
import math
import signal
from collections.abc import Callable

import trio

from mountd.config import MountPlan
from mountd.errors import StartError
from mountd.fusefs.mount import FuseMount
from mountd.kept import told
from mountd.kept.going_on import GoingOn
from mountd.remotes.stack import RemoteStack
from mountd.running.own_mount import hand_over_dirty_pages
from mountd.running.status import StatusReport
from mountd.running.writeback import WriteBack
from mountd.vfs.filesystem import FileSystem

log = logging.getLogger(__name__)

SYNCFS_WITHIN_S = 60.0
SYNCFS_AT_LEAST_S = 5.0  # however short a stop may be


class Stopping:
    """Of one mount. `tell` is called when the status says that it stops."""

    def __init__(
        self,
        plan: MountPlan,
        fs: FileSystem,
        fuse: FuseMount,
        write_back: WriteBack,
        remote: RemoteStack,
        going_on: GoingOn,
        status: StatusReport,
        tell: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._fs = fs
        self._fuse = fuse
        self._write_back = write_back
        self._remote = remote
        self._going_on = going_on
        self._status = status
        self._tell = tell
        self.is_abandoned = False  # nobody waits for the queue
        self._by_s = math.inf  # on trio's clock; set by the first word
        self._is_told = self._is_mounted = False
        self._due = trio.Event()

    def has_mounted(self) -> None:
        """From here on there is something to unmount."""
        self._is_mounted = True
        self._begin_if_due()

    async def on_signals(
        self,
        everything: trio.CancelScope,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """SIGTERM and SIGINT unmount; where the mount is in use it is detached, and whoever
        holds files open gets ENOTCONN: this process was told to end. The second one doesn't wait
        for anybody; the first is enough while nothing is mounted yet. A successor has a mount
        from its start: it goes on with it, and then unmounts as always."""
        told.listen()  # to what comes when this has ended and other code begins
        with trio.open_signal_receiver(*told.ENDING) as signals:
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop)
                if told.is_so():
                    self._going_on.is_echo(trio.current_time())  # what the keeper says is no other
                    self._first_word("a signal while this process started")
                async for number in signals:
                    self._heard(signal.Signals(number), everything)

    def _heard(self, number: signal.Signals, everything: trio.CancelScope) -> None:
        is_echo = self._going_on.is_echo(trio.current_time())
        if self._going_on.is_upgrading:
            told.note()
        elif self._status.state == "stopping":
            if not is_echo:
                log.warning("%s again: ending at once", number.name)
                everything.cancel()
        elif self._fuse.is_mounted or self._going_on.is_successor:
            self._first_word(number.name)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise StartError(f"{number.name} before {self._plan.source.text} was mounted")

    def _first_word(self, what: str) -> None:
        if not self._is_told:
            log.info("%s: unmounting", what)
            self._is_told = True
            self._begin_if_due()

    def _begin_if_due(self) -> None:
        if self._is_told and self._is_mounted:
            self._status.state = "stopping"
            self._tell()
            self._due.set()

    async def _stop(self) -> None:
        """Drains, unmounts, and what came meanwhile is drained afterwards."""
        await self._due.wait()
        self._going_on.serves()  # as long as that takes
        self._by_s = trio.current_time() + self._plan.settings.stop_timeout_s
        self._fs.last_readers.is_over = True  # readers don't keep the queue from being sent
        await self._hand_over()
        await self.drain()
        self._going_on.let_go()
        if await self._fuse.unmount() is not None:
            reason = await self._fuse.unmount(lazy=True)
            log.warning("the mount was in use and was detached (%s)", reason or "done")
        if not self._write_back.left:
            self._remote.health.close()  # whoever waits for a retry or a slot ends now
        self._fuse.terminate()

    async def _hand_over(self) -> None:
        """Has the kernel give us what programs have written."""
        left_s = max(SYNCFS_AT_LEAST_S, self._by_s - trio.current_time())
        where = self._plan.mountpoint, self._fs.own_threads, min(SYNCFS_WITHIN_S, left_s)
        try:
            await trio.to_thread.run_sync(hand_over_dirty_pages, *where, abandon_on_cancel=True)
        except OSError as exc:
            log.warning("the kernel did not hand over all that was written: %s", exc)

    async def drain(self) -> None:
        """Waits for the queue, as long as this stop may take."""
        if not self.is_abandoned:
            left_s = min(self._by_s - trio.current_time(), self._plan.settings.stop_timeout_s)
            await self._write_back.drain(max(0.0, left_s))

    def will_be_unmounted(self, timeout_s: object, *, abandon: bool) -> None:
        """The caller has waited for the queue as long as it wants to, and unmounts now. What is
        left is still sent while this process lives; with `abandon` it doesn't wait for that."""
        self.is_abandoned = abandon
        if isinstance(timeout_s, int | float):
            self._by_s = trio.current_time() + float(timeout_s)
