"""One user at the real file system, with a journal, a queue and a remote that fails, beside a
reference that is told the same. Every answer is compared."""

import errno
import logging
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path as FolderPath
from typing import Literal, TypeVar

import trio

from mountd.errors import (
    FileSystemError,
    RemoteError,
    Throttled,
    Unreachable,
)
from mountd.fusefs.errno_table import errno_of
from mountd.vfs.attributes import NewAttributes
from mountd.vfs.nodes import ROOT, Attributes
from mountd.vfs.nodes import Directory as KnownDirectory
from mountd.vfs.nodes import Node as KnownNode
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, mounted_files
from tests.model.loop import Loop
from tests.model.reference import Directory, File, Node, Path, Reference
from tests.model.wire import Wire

_T = TypeVar("_T")
_R = TypeVar("_R")

TTL_S = 60.0
_FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None  # SIGKILL needs no disk
WALL_S = 1_800_000_000.0
Kind = Literal["objects", "loose", "files", "ids"]
Operation = Literal["put", "delete", "copy", "identify", "read", "make_dir", "remove_dir"]


@dataclass(eq=False, slots=True)
class Open:
    """A handle, here and in the reference."""

    fh: int
    number: int
    file: File
    writes: bool


class Warnings(logging.Handler):
    """What mountd complains of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        self.found.append(text)


class World:
    """See the module. A context of its own folder, loop and log; `close` ends it."""

    def __init__(self, store: MemoryStore) -> None:
        self.memory = store
        self.faults = FaultStore(store)
        self.model = Reference()
        self.handles: list[Open] = []
        self.holds: list[tuple[threading.Event, Callable[[], int]]] = []
        self.wires: list[Wire] = []
        self.is_well = True  # what health says
        self.reads_fail = False
        self._numbered: set[Node] = set()  # whose inode numbers were in the journal once
        self._lookups: Counter[int] = Counter()
        self._folder = FolderPath(tempfile.mkdtemp(prefix="mountd-model-", dir=_FAST))
        self.warnings = Warnings()
        for name in ("mountd", "mountd_cache"):
            logging.getLogger(name).addHandler(self.warnings)
            logging.getLogger(name).propagate = False  # they are looked at here
        self.loop = Loop(self._is_quiet)
        self._boot()

    def close(self) -> None:
        for name in ("mountd", "mountd_cache"):
            logging.getLogger(name).removeHandler(self.warnings)
            logging.getLogger(name).propagate = True
        self.release_holds()
        try:
            self.loop.call(self._end)
        finally:
            for wire in self.wires:
                wire.is_dead = True
            self.loop.close()
            shutil.rmtree(self._folder)

    @property
    def is_down(self) -> bool:
        return self.wires[-1].is_down

    # -- the daemon

    def _boot(self) -> None:
        self.wires.append(Wire(self.faults))
        self._lookups.clear()
        self.mounted: MountedFiles = self.loop.call(self._begin)
        self.fs = self.mounted.fs

    async def _begin(self) -> MountedFiles:
        async def serve(task_status: trio.TaskStatus[MountedFiles]) -> None:
            async with mounted_files(
                self.wires[-1],
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
        self._stop.set()
        await self._stopped.wait()

    def crash(self) -> None:
        """SIGKILL, and a new daemon in the same folder."""
        ledger = self.mounted.journal.ledger
        for _, node in self.model.walk():
            if node.number in ledger.by_number:
                self._numbered.add(node)
            if node not in self._numbered:
                node.number = None  # only a listing had it that may not be on disk
        self.mounted.crashes = True
        was_down = self.is_down
        self.wires[-1].is_dead = True
        self.loop.call(self._end)
        self.handles.clear()
        self._boot()
        self.wires[-1].is_down = was_down

    def restart(self) -> None:
        """umount, which leaves what is not sent, and a new daemon."""
        while self.handles:
            self.close_handle(self.handles[0])
        was_down = self.is_down
        self.loop.call(self._end)
        self.wires[-1].is_dead = True
        self._boot()
        self.wires[-1].is_down = was_down

    def advance(self, seconds: float) -> None:
        self.loop.call(self.loop.advance, seconds)

    def fold(self) -> None:
        self._do(self.fs.folding.fold_waiting)

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
        return self._do(lambda: queue.drain("", 60.0), patience_s=0.0)

    # -- the remote

    def outage(self, *, noticed: bool) -> None:
        self.wires[-1].is_down = True
        self.is_well = not noticed

    def heal(self) -> None:
        self.wires[-1].is_down = False
        self.is_well = True
        queue = self.mounted.queue
        assert queue is not None
        self.loop.do(queue.wake)

    def fault(self, operation: Operation, kind: str) -> None:
        self.reads_fail |= operation == "read"
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
                fault = self.faults.add(
                    operation, error, hang=hang, calls=[1], after_effect=kind == "answer held"
                )
                self.holds.append((hang, lambda: fault.hits))

    def release_holds(self) -> None:
        for hang, _ in self.holds:
            hang.set()
        self.holds.clear()

    def _is_quiet(self) -> bool:
        held = sum(hits() for hang, hits in self.holds if not hang.is_set())
        return sum(wire.active for wire in self.wires) <= held

    # -- comparing

    def _do(self, work: Callable[[], Awaitable[_T]], patience_s: float = 0.5) -> _T:

        async def finish() -> _T:
            return await self.loop.finish(work, self.release_holds, patience_s)

        return self.loop.call(finish)

    def both(
        self, ours: Callable[[], _T], theirs: Callable[[], Awaitable[_R]], *allowed: int
    ) -> tuple[_T, _R] | None:
        """The file system's answer, then the reference's; None where both said the same error, or
        where the remote could not be asked. `allowed`: errnos that may stand for each other."""
        failure = answer = None
        try:
            answer = (self._do(theirs),)
        except (RemoteError, TimeoutError, FileSystemError) as error:
            failure = error
        if answer is not None:
            return ours(), answer[0]
        assert failure is not None
        if isinstance(failure, (Unreachable, Throttled, TimeoutError)):
            assert self.is_down or self.reads_fail, repr(failure)
            return None
        number, expected = errno_of(failure), _errno(ours)
        assert number == expected or {number, expected} <= {*allowed}, (
            f"{errno.errorcode[number]} instead of {errno.errorcode.get(expected)}: {failure!r}"
        )
        return None

    async def _walk(self, path: Path) -> KnownNode:
        """As the kernel does, which remembers what it has looked up."""
        node: KnownNode = self.fs.tree.root
        for name in path:
            await self._look_up(node, name)
            node = self.fs.tree.node(self._found)
        return node

    async def _look_up(self, parent: KnownNode, name: str) -> Attributes:
        directory = self.fs.tree.directory(parent.number)
        found = await self.fs.tree.lookup(directory, name.encode())
        self._lookups[found.number] += 1
        self._found = found.number
        return found

    async def _directory(self, path: Path) -> KnownDirectory:
        return self.fs.tree.directory((await self._walk(path)).number)

    # -- what the user does

    def create(self, path: Path, data: bytes) -> Open | None:
        async def theirs() -> tuple[int, int]:
            fh, made = await self.fs.create(await self._directory(path[:-1]), path[-1].encode(), {})
            self._lookups[made.number] += 1
            return fh, made.number

        answer = self.both(lambda: self.model.create(path), theirs)
        if answer is None:
            return None
        file, (fh, file.number) = answer[0], answer[1]
        handle = Open(fh, answer[1][1], file, writes=True)
        self.handles.append(handle)
        if data:
            self.write(handle, 0, data)
        return handle

    def open(self, path: Path, *, writes: bool, truncates: bool = False) -> Open | None:
        async def theirs() -> tuple[int, int]:
            number = (await self._walk(path)).number
            return await self.fs.open(number, writes=writes, truncates=truncates), number

        answer = self.both(lambda: self.model.file(path), theirs)
        if answer is None:
            return None
        file, (fh, number) = answer
        self._see_number(path, file, number)
        if truncates:
            file.truncate(0)
        handle = Open(fh, number, file, writes)
        self.handles.append(handle)
        return handle

    def write(self, handle: Open, offset: int, data: bytes) -> None:
        answer = self.both(lambda: None, lambda: self.fs.write(handle.fh, offset, data))
        if answer is not None:
            assert answer[1] == len(data)
            handle.file.write(offset, data)

    def read(self, handle: Open, offset: int = 0, size: int = 1 << 20) -> None:
        async def theirs() -> bytes:
            return bytes(memoryview(await self.fs.read(handle.fh, offset, size)))

        answer = self.both(lambda: bytes(handle.file.data[offset : offset + size]), theirs)
        if answer is not None:
            _same_bytes(answer[1], answer[0])

    def close_handle(self, handle: Open) -> None:
        async def theirs() -> None:
            self.fs.release(handle.fh)

        self._do(theirs)
        self.handles.remove(handle)

    def sync(self, handle: Open) -> None:
        self.both(lambda: None, lambda: self.fs.sync(handle.fh))

    def truncate(self, path: Path, size: int) -> None:
        async def theirs() -> Attributes:
            number = (await self._walk(path)).number
            return await self.fs.set_attributes(number, NewAttributes(size=size), None)

        answer = self.both(lambda: self.model.file(path), theirs)
        if answer is not None:
            answer[0].truncate(size)
            assert answer[1].size == size

    def truncate_open(self, handle: Open, size: int) -> None:
        new = NewAttributes(size=size)
        answer = self.both(
            lambda: None, lambda: self.fs.set_attributes(handle.number, new, handle.fh)
        )
        if answer is not None:
            handle.file.truncate(size)
            assert answer[1].size == size

    def set_mode(self, path: Path, mode: int) -> None:
        async def theirs() -> Attributes:
            number = (await self._walk(path)).number
            return await self.fs.set_attributes(number, NewAttributes(mode=mode), None)

        answer = self.both(lambda: self.model.find(path), theirs)
        if answer is not None:
            answer[0].mode = mode
            assert answer[1].mode == mode

    def set_time(self, path: Path, mtime_ns: int) -> None:
        async def theirs() -> Attributes:
            number = (await self._walk(path)).number
            return await self.fs.set_attributes(number, NewAttributes(mtime_ns=mtime_ns), None)

        answer = self.both(lambda: self.model.find(path), theirs)
        if answer is not None:
            assert answer[1].mtime_ns == mtime_ns
            if isinstance(answer[0], File):
                answer[0].mtime_ns = mtime_ns

    def make_directory(self, path: Path) -> None:
        async def theirs() -> int:
            parent = await self._directory(path[:-1])
            made = await self.fs.make_directory(parent, path[-1].encode(), {})
            self._lookups[made.number] += 1
            return made.number

        answer = self.both(lambda: self.model.make_directory(path), theirs)
        if answer is not None:
            answer[0].number = answer[1]

    def unlink(self, path: Path) -> None:
        async def theirs() -> None:
            await self.fs.unlink(await self._directory(path[:-1]), path[-1].encode())

        self.both(lambda: self.model.unlink(path), theirs)

    def remove_directory(self, path: Path) -> None:
        async def theirs() -> None:
            await self.fs.remove_directory(await self._directory(path[:-1]), path[-1].encode())

        self.both(lambda: self.model.remove_directory(path), theirs)

    def rename(self, old: Path, new: Path, *, replaces: bool = True) -> None:
        async def theirs() -> None:
            one, two = await self._directory(old[:-1]), await self._directory(new[:-1])
            await self.fs.rename(one, old[-1].encode(), two, new[-1].encode(), replaces=replaces)

        if old == new and not replaces:
            return  # the kernel itself says that it exists
        # Which of several reasons is told is the kernel's choice, before we are asked.
        several = (errno.ENOTEMPTY, errno.EISDIR, errno.EEXIST, errno.ENOTDIR, errno.EINVAL)
        allowed = several if old[: len(new)] == new or new[: len(old)] == old else ()
        self.both(lambda: self.model.rename(old, new, replaces=replaces), theirs, *allowed)

    def forget(self) -> None:
        """The kernel drops what nobody uses."""
        held = {handle.number for handle in self.handles}
        for number in [*held]:
            node = self.fs.tree.node(number)
            while node.parent is not None:
                node = node.parent
                held.add(node.number)
        for number, count in list(self._lookups.items()):
            if number not in held and number != ROOT:
                self.loop.do(self.fs.tree.forget, number, count)
                del self._lookups[number]

    # -- what he sees

    def look(self) -> None:
        """The whole tree, and what fstat says of open files."""
        self._look_below((), self.model.root)
        for handle in self.handles:
            found = self.loop.do(self.fs.attributes, handle.number)
            assert found.size == len(handle.file.data)

    def _look_below(self, path: Path, directory: Directory) -> None:
        rows = self._rows(path)
        if rows is None:
            return
        assert sorted(rows) == sorted(directory.entries), f"in {path}"
        for name, node in sorted(directory.entries.items()):
            found = rows[name]
            assert found.is_dir == isinstance(node, Directory)
            self._see_number((*path, name), node, found.number)
            assert node.mode is None or found.mode == node.mode, (*path, name)
            if isinstance(node, File):
                assert found.size == len(node.data), (*path, name)
                if node.mtime_ns is None:
                    node.mtime_ns = found.mtime_ns
                assert found.mtime_ns == node.mtime_ns, (*path, name)
            else:
                self._look_below((*path, name), node)

    def _rows(self, path: Path) -> dict[str, Attributes] | None:
        """readdir and a look-up of each name."""

        async def theirs() -> dict[str, Attributes]:
            directory = await self._directory(path)
            listing = (await self.fs.read_directory(directory)).listing
            rows: dict[str, Attributes] = {}
            for row in range(len(listing)):
                name, is_dir, size, mtime_ns, _, number = listing.row(row)
                found = rows[name.decode()] = await self._look_up(directory, name.decode())
                told = (found.is_dir, found.size, found.mtime_ns, found.number)
                assert told == (is_dir, size, mtime_ns, number), f"{name!r} in {path}"
                assert self.fs.attributes(number).size == size
            assert len(rows) == len(listing)
            return rows

        answer = self.both(lambda: None, theirs)
        return answer[1] if answer is not None else None

    def _see_number(self, path: Path, node: Node, number: int) -> None:
        assert node.number in (None, number), f"{path} has another inode"
        node.number = number
        if number in self.mounted.journal.ledger.by_number:
            self._numbered.add(node)

    def read_all(self) -> None:
        for path in self.model.files():
            handle = self.open(path, writes=False)
            if handle is not None:
                self.read(handle)
                self.close_handle(handle)
        for handle in self.handles:
            self.read(handle)

    def check_log(self, *allowed: str) -> None:
        found = [text for text in self.warnings.found if not text.startswith(allowed)]
        assert not found, found

    # -- the end

    def nothing_stays(self) -> None:
        """What the remote has taken leaves the journal, but for what only we know."""
        self.look()
        self.fold()
        self.fold()
        ledger = self.mounted.journal.ledger
        left = [c for c in ledger.changes.values() if not c.attributes]
        assert not left, left

    def finish(self) -> None:
        """The remote is well, everything is closed and sent: all three are the same."""
        self.faults.remove()
        self.release_holds()
        self.reads_fail = False
        self.heal()
        self.look()
        self.read_all()
        while self.handles:
            self.close_handle(self.handles[0])
        for _ in range(20):
            if not self.drain():
                break
        queue, journal = self.mounted.queue, self.mounted.journal
        assert queue is not None
        assert not [c for c in journal.ledger.changes.values() if not c.is_clean], queue.items()
        assert not journal.ledger.contents, journal.ledger.contents


def _errno(call: Callable[[], object]) -> int:
    """How it fails; 0 where it doesn't."""
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


def _same_bytes(found: bytes, wanted: bytes) -> None:
    if found == wanted:
        return
    at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), -1)
    raise AssertionError(
        f"{len(found)} bytes instead of {len(wanted)}, which differ at {at}: "
        f"{found[at : at + 20]!r} instead of {wanted[at : at + 20]!r}"
    )
