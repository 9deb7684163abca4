"""The real file system, journal and queue over a remote that fails, whose lives begin and end: what
model tests drive, in the place of the kernel."""

import logging
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path as FolderPath
from typing import Literal, TypeVar

import trio

from mountd.errors import NoEntry, Throttled, Unreachable
from mountd.vfs.nodes import ROOT, Attributes
from mountd.vfs.nodes import Directory as KnownDirectory
from mountd.vfs.nodes import Node as KnownNode
from mountd_cache.ledger import Ledger
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, mounted_files
from tests.model.loop import Loop
from tests.model.reference import Path
from tests.model.wire import Wire

_T = TypeVar("_T")

TTL_S = 60.0
WALL_S = 1_800_000_000.0
_FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None  # SIGKILL needs no disk
_LOGGERS = ("mountd", "mountd_cache")
Operation = Literal[
    "put",
    "delete",
    "copy",
    "identify",
    "read",
    "make_dir",
    "remove_dir",
    "move_dir",
    "move_file",
    "remove_tree",
]


class Warnings(logging.Handler):
    """What mountd complains of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        self.found.append((record.levelno, text))


class Daemon:
    """See the module. It has a folder, a loop and a log of its own; `close` ends it. Methods belong
    to the thread that made it."""

    def __init__(self, store: MemoryStore) -> None:
        self.faults = FaultStore(store)
        self.is_well = True  # what health says
        self.reads_fail = False
        self._holds: list[threading.Event] = []
        self._wires: list[Wire] = []
        self._lookups: Counter[int] = Counter()
        self._folder = FolderPath(tempfile.mkdtemp(prefix="mountd-model-", dir=_FAST))
        self.warnings = Warnings()
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(self.warnings)
            logging.getLogger(name).propagate = False  # they are looked at here
        self._is_up = False
        self.loop = Loop(self._is_quiet)
        self._boot()

    def close(self) -> None:
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self.warnings)
            logging.getLogger(name).propagate = True
        self.release_holds()
        try:
            self.loop.call(self._end)
        finally:
            for wire in self._wires:
                wire.is_dead = True
            self.loop.close()
            shutil.rmtree(self._folder)

    @property
    def ledger(self) -> Ledger:
        return self.mounted.journal.ledger

    @property
    def is_down(self) -> bool:
        return self._wires[-1].is_down

    # -- the daemon

    def _boot(self) -> None:
        self._wires.append(Wire(self.faults))
        self._lookups.clear()
        self.mounted: MountedFiles = self.loop.call(self._begin)
        self.fs = self.mounted.fs
        self._is_up = True

    async def _begin(self) -> MountedFiles:
        async def serve(task_status: trio.TaskStatus[MountedFiles]) -> None:
            async with mounted_files(
                self._wires[-1],
                self._folder,
                ttl_s=TTL_S,
                wait_s=10.0,
                clock=lambda: WALL_S + trio.current_time(),
                remote_is_well=lambda: self.is_well,
                queue=True,
                slow_metadata=True,
            ) as mounted:
                self._stop = trio.Event()
                task_status.started(mounted)
                await self._stop.wait()
            self._stopped.set()

        self._stopped = trio.Event()
        found: MountedFiles = await self.loop.nursery.start(serve)
        return found

    async def _end(self) -> None:
        self._is_up = False
        self._stop.set()
        await self._stopped.wait()

    def crash(self) -> None:
        """SIGKILL, and a new daemon in the same folder. No handle is open any more. What was on the
        wire lands in between. (What landed even later, after the new queue has asked for it and
        found nothing, would stay: no upload can be called back.)"""
        self.mounted.crashes = True
        was_down = self.is_down
        self._wires[-1].is_dead = True
        self.loop.call(self._end)
        self.release_holds()
        self.loop.call(self.loop.settle)
        self._boot()
        self._wires[-1].is_down = was_down

    def restart(self) -> None:
        """umount, which leaves what is not sent, and a new daemon. Close all handles before."""
        was_down = self.is_down
        self.loop.call(self._end)
        self._wires[-1].is_dead = True
        self.release_holds()
        self.loop.call(self.loop.settle)
        self._boot()
        self._wires[-1].is_down = was_down

    def advance(self, seconds: float) -> None:
        self.loop.call(self.loop.advance, seconds)

    def fold(self) -> None:
        self.do(self.fs.folding.fold_waiting)

    def checkpoint(self) -> None:
        self.loop.do(self._checkpoint)

    def _checkpoint(self) -> None:
        journal = self.mounted.journal
        checkpoint = journal.begin_checkpoint()
        if checkpoint is not None:
            journal.write_checkpoint(checkpoint)
            journal.end_checkpoint(checkpoint)

    def expire(self) -> None:
        """As `mountd refresh`."""
        self.loop.do(self.fs.refresh, b"")

    def drain(self) -> int:
        queue = self.mounted.queue
        assert queue is not None
        return self.do(lambda: queue.drain("", 60.0), patience_s=0.0)

    # -- the remote

    def outage(self, *, noticed: bool) -> None:
        self._wires[-1].is_down = True
        self.is_well = not noticed

    def heal(self) -> None:
        self._wires[-1].is_down = False
        self.is_well = True
        queue = self.mounted.queue
        assert queue is not None
        self.loop.do(queue.wake)

    def fault(self, operation: Operation, kind: str) -> None:
        # A directory is moved while its caller waits.
        self.reads_fail |= operation in ("read", "move_dir")
        match kind:
            case "before":
                self.faults.add(operation, Unreachable("refused"), calls=[1, 2])
            case "after":
                self.faults.add(operation, Unreachable("reset"), after_effect=True, calls=[1])
            case "slow down":
                self.faults.add(operation, Throttled("slow down", 2.0), calls=[1])
            case _:
                hang = threading.Event()
                error = Unreachable("cut") if kind == "cut" else None
                self.faults.add(
                    operation, error, hang=hang, calls=[1], after_effect=kind == "answer held"
                )
                self._holds.append(hang)

    def release_holds(self) -> None:
        for hang in self._holds:
            hang.set()
        self._holds.clear()

    def _is_quiet(self, waiting: int) -> bool:
        """Whether nothing is under way but what is held. `waiting`: how many tasks wait for a
        thread; a call goes on when its task is cancelled, so what is on a wire counts, too."""
        held = self.faults.hanging
        is_kept = not self._is_up or self.fs.blocks.backlog_room == self.fs.blocks.backlog_limit
        return is_kept and max(waiting, sum(wire.active for wire in self._wires)) <= held

    def remote_is_well(self) -> None:
        """From now on nothing goes wrong, and nothing hangs."""
        self.faults.remove()
        self.release_holds()
        self.reads_fail = False
        self.heal()

    def check_log(self, *allowed: str) -> None:
        """AssertionError where mountd complained of anything but what begins like that."""
        found = [
            text
            for level, text in self.warnings.found
            if level >= logging.WARNING and not text.startswith(allowed)
        ]
        assert not found, found

    # -- as the kernel

    def do(self, work: Callable[[], Awaitable[_T]], patience_s: float = 0.5) -> _T:
        """Runs one request to its end, however long it waits."""

        async def finish() -> _T:
            return await self.loop.finish(work, self.release_holds, patience_s)

        return self.loop.call(finish)

    async def walk(self, path: Path) -> KnownNode:
        """As the kernel does, which remembers what it has looked up; links lead nowhere."""
        node: KnownNode = self.fs.tree.root
        is_link = False
        for name in path:
            if is_link:
                raise NoEntry(name)
            is_link = (await self.look_up(node, name)).is_link
            node = self.fs.tree.node(self._found)
        return node

    async def look_up(self, parent: KnownNode, name: str) -> Attributes:
        directory = self.fs.tree.directory(parent.number)
        found = await self.fs.tree.lookup(directory, name.encode())
        self._lookups[found.number] += 1
        self._found = found.number
        return found

    async def directory_of(self, path: Path) -> KnownDirectory:
        node = await self.walk(path)
        if self.fs.attributes(node.number).is_link:
            raise NoEntry(path)
        return self.fs.tree.directory(node.number)

    def forget(self, opened: Iterable[int]) -> None:
        """The kernel drops what nobody uses; `opened`: inodes that somebody does."""
        held = set(opened)
        for number in [*held]:
            node = self.fs.tree.node(number)
            while node.parent is not None:
                node = node.parent
                held.add(node.number)
        for number, count in list(self._lookups.items()):
            if number not in held and number != ROOT:
                self.loop.do(self.fs.tree.forget, number, count)
                del self._lookups[number]

    def created(self, number: int) -> None:
        """A reply counted as a look-up."""
        self._lookups[number] += 1
