"""The composition root: builds every room, owns the nursery, signals, start and stop."""

import gc
import json
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import trio

from mountd.allocator import keep_freed_memory
from mountd.cache_folder import CacheFolder
from mountd.control.folder_note import remove_note, write_note
from mountd.control.runtime_dir import ensure_runtime_dir, socket_name
from mountd.control.server import ControlServer, SocketTaken
from mountd.errors import (
    CannotGoOn,
    ExitCode,
    StartError,
)
from mountd.fusefs.kernel import KernelLevers, tune
from mountd.fusefs.mount import FuseMount, mount_options
from mountd.fusefs.operations import Operations, ownership
from mountd.kept import told
from mountd.kept.going_on import GoingOn
from mountd.mount_point import clear_dead_mount, held_by_another
from mountd.remotes.health import HealthState
from mountd.remotes.registry import open_store
from mountd.remotes.stack import RemoteStack
from mountd.running.collector import collect_seldom, collect_what_grows
from mountd.running.descriptor_limit import allow_many_descriptors
from mountd.running.first_look import FirstLook
from mountd.running.keeping import Keeping, room_for_writes
from mountd.running.observing import Observing
from mountd.running.on_remote import OnRemote
from mountd.running.order_keeping import OrderKeeping
from mountd.running.own_mount import answer
from mountd.running.plain_error import plain_error
from mountd.running.room import Room
from mountd.running.set_aside import SetAside
from mountd.running.status import StatusReport
from mountd.running.stopping import Stopping
from mountd.running.upkeep import (
    Prober,
    listen_for_changes,
    moved,
    scan_cache,
    tells_state,
    tidy_memory,
)
from mountd.running.writeback import UP, WriteBack
from mountd.service.supervision import Life, Supervision, last_words, words_of
from mountd.sync.open_moves import OpenMoves
from mountd.sync.unfinished import UnfinishedUploads
from mountd.vfs.filesystem import FileSystem
from mountd.vfs.virtual_files import VirtualFiles
from mountd_cache.block_cache import BlockCache
from mountd_cache.block_files import BlockFiles
from mountd_cache.journal import Journal
from mountd_cache.journal_folder import collector_off
from mountd_cache.metadata_cache import MetadataCache

log = logging.getLogger(__name__)

# One budget for what is fetched ahead and what waits for the disk: with the interpreter and the
# libraries (55 MB) the daemon stays below 400 MB (376 at the most in docs/benchmarks.md).
MEMORY_BYTES = 168 << 20
BACKLOG_BYTES = 148 << 20
PARALLEL_READS = 48
# A block that is not open costs an open and a read of its header before its data.
MAX_OPEN_BLOCKS = 8192
WAIT_GRACE_S = 5.0  # a store ends within request_timeout_s; only a wedged thread takes longer
PATH_ANSWERS_WITHIN_S = 10.0
FLUSH_WITHIN_S = 20.0  # less than the control socket gives a handler


def run(going_on: GoingOn, ready: Callable[[str], None]) -> int:
    """Serves one mount until it is unmounted or the process is told to end.

    `ready` is called once, when the path answers, with what the remote refuses or "". Returns the
    exit code. Raises StartError for what keeps the mount from coming up, and KeyboardInterrupt for
    SIGINT until then; either way nothing is left mounted, but for the mount of a former process.
    What is raised later is a defect and leaves the mount to a successor, or dead. For an upgrade it
    does not return, nor where it can't go on with that mount: this process then runs from its
    start.
    """
    allow_many_descriptors(4 * MAX_OPEN_BLOCKS + 1024)
    keep_freed_memory()
    plan = going_on.plan
    with ExitStack() as stack:
        claim = partial(CacheFolder.claim, plan.source, plan.settings, plan.mountpoint)
        folder = stack.enter_context(going_on.claimed(claim))
        daemon = Daemon(folder, stack, going_on)
        try:
            code = trio.run(daemon.serve, ready)
            error = None
        except BaseExceptionGroup as group:
            error = plain_error(group)
            daemon.supervision.failed(error)
        if not (going_on.is_upgrading or isinstance(error, CannotGoOn)):
            told.listen_no_longer()
        # Out here, so that its own cause stays: `from group` would take its place.
        if error is not None and not isinstance(error, CannotGoOn):
            raise error
    if isinstance(error, CannotGoOn):
        going_on.mount_instead(error)
    if going_on.is_upgrading:
        going_on.begin_anew()
    return code


class Daemon:
    """All rooms of one mount. Made before the loop runs; `serve` is the whole life."""

    def __init__(self, folder: CacheFolder, stack: ExitStack, going_on: GoingOn) -> None:
        self.going_on = going_on
        plan = going_on.plan
        settings = plan.settings
        self._plan = plan
        self._source = plan.source.text
        self._folder = folder
        self._native = open_store(plan.source, settings, folder.path, plan.reach)
        self.remote = RemoteStack(self._native, settings)
        self.remote.health.subscribe(tells_state(self._source))
        self.room = Room(self.remote.store)
        stack.callback(self.remote.store.close)
        # What a large queue is made of would be looked at as soon as the collector goes on, and by
        # each full collection, on the loop: 0.13-0.35 s for 100,000 changes.
        with collector_off():
            self.journal = Journal.open(folder.path / "journal", held=going_on.held)
            stack.callback(self.journal.close)
            gc.freeze()
        self.block_files = BlockFiles(
            folder.path / "blocks",
            block_size=settings.block_size,
            limit_bytes=folder.limit_bytes,
            max_open=MAX_OPEN_BLOCKS,
            taken_bytes=lambda: self.journal.staged_bytes,
        )
        stack.callback(self.block_files.close)
        self.metadata = MetadataCache(folder.path / "metadata")
        stack.callback(self.metadata.close)
        # It is another manifest, perhaps, and asking costs nothing. Or what the journal knew, and
        # the kept listings did not yet, is known no more.
        if self._native.capabilities.lists_for_nothing or self.journal.recovery.quarantined:
            self.metadata.expire("")
        wait_s = settings.request_timeout_s + WAIT_GRACE_S
        self.blocks = BlockCache(
            self.block_files,
            block_size=settings.block_size,
            memory_bytes=MEMORY_BYTES,
            backlog_bytes=BACKLOG_BYTES,
            wait_s=wait_s,
            parallel=PARALLEL_READS,
        )
        self.fs = FileSystem(
            self.remote.store,
            self.metadata,
            self.blocks,
            self.journal,
            ttl_s=settings.metadata_ttl_s,
            wait_s=wait_s,
            url=plan.source.text.rstrip("/"),
            limit_bytes=room_for_writes(lambda: folder.limit_bytes, self.block_files),
            read_only=settings.read_only,
            asks_for_metadata=settings.metadata == "full",
            remote_is_well=lambda: self.remote.health.state is HealthState.OK,
        )
        self.fs.writes.quota.free_bytes = self.room.free_bytes
        self.order = OrderKeeping(folder.path / "opening-order", self.fs.files.epochs)
        self.order.restore()
        max_parallel = self._native.capabilities.max_parallel
        self.keeping = Keeping(
            *(plan, folder, self.fs, self.block_files, self.journal), max_parallel=max_parallel
        )
        unfinished = UnfinishedUploads.load(folder.path / "uploads")
        moves = OpenMoves(folder.path / "moves")
        moves.load()
        self.write_back = WriteBack(self.journal, self.fs, self.remote, settings, unfinished, moves)
        self.prober = Prober(self.remote.health, self.write_back.queue.wake)
        self.write_back.hurry = self.prober.hurry
        self.fuse = FuseMount(plan.mountpoint)
        going_on.restore(self.fs)
        self.first_look = FirstLook(
            self._first_page, self._source, plan.settings.credentials.keys()
        )
        self.levers = KernelLevers()
        self.status = StatusReport(
            plan,
            folder,
            self.remote,
            self.blocks,
            self.block_files,
            self.write_back.counts,
            self.write_back.taking,
            lambda: self.fs.writes.open_files,
        )
        self.status.pins = self.keeping.pins.status
        self.set_aside = SetAside(folder.path)
        self.status.set_aside = lambda: self.set_aside.names
        self.supervision = Supervision.from_environment(self._life, going_on.is_successor)
        self.stopping = Stopping(
            *(plan, self.fs, self.fuse, self.write_back, self.remote, going_on, self.status),
            self.supervision.look,
        )
        self.observing = self._observed(stack)

    def _observed(self, stack: ExitStack) -> Observing | None:
        if self._plan.settings.metrics is None:
            return None
        observing = Observing(
            self._plan.settings.metrics,
            self.status.as_dict,
            self.remote.counting.latencies,
            lambda: self.blocks.counters.wasted_bytes,
        )
        stack.callback(observing.close)
        self.status.metrics = observing.address
        return observing

    async def serve(self, ready: Callable[[str], None]) -> int:
        """Comes up, calls `ready`, serves, and ends when the mount is gone."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.stopping.on_signals, nursery.cancel_scope)
            nursery.start_soon(self.supervision.run)
            await self._listen_to_commands(nursery)
            write_note(self._socket_path(), self._folder.path)
            if self.observing is not None:
                await nursery.start(self.observing.serve)
            nursery.start_soon(self.status.rates.keep)
            nursery.start_soon(self.set_aside.keep)
            await nursery.start(self.blocks.run)
            await nursery.start(self.fs.tree.refreshes.run)
            await nursery.start(self.fs.asking.run)
            await nursery.start(self.write_back.run)
            await nursery.start(self.keeping.run)
            await self._prove_remote(nursery)
            nursery.start_soon(scan_cache, self.block_files.scan)
            # Two fsyncs, which the first new name would have waited for, and all others with it.
            nursery.start_soon(trio.to_thread.run_sync, self.metadata.reserve_inodes, 1)
            nursery.start_soon(tidy_memory, self._moved)
            nursery.start_soon(collect_what_grows)
            nursery.start_soon(self.prober.run)
            nursery.start_soon(self.room.keep)
            nursery.start_soon(self.order.run)
            nursery.start_soon(self.going_on.settle)
            nursery.start_soon(listen_for_changes, self._native, self.fs.tree.changed_elsewhere)
            self._let_kernel_forget(nursery)
            if not self.going_on.is_successor:
                await trio.to_thread.run_sync(self._clear_dead_mount)
            operations, options = self._operations(), self._mount_options()
            self.going_on.mount(self.fuse, self.fs, operations, options)
            self.stopping.has_mounted()
            try:
                nursery.start_soon(self._announce, ready)
                await self.fuse.serve()
            except BaseException:
                if self._is_defect():
                    self.fuse.leave()
                raise
            finally:
                # A service manager that hears of an end would make one of what goes on.
                self.status.state = "starting" if self.fuse.is_left else "stopping"
                self.supervision.look()
                self.fs.last_readers.is_over = True
                self.fuse.close()
                self.going_on.ended(is_left=self.fuse.is_left)
            if self.going_on.is_upgrading:
                nursery.cancel_scope.cancel()
                return ExitCode.OK
            log.info("%s is unmounted", self._plan.mountpoint)
            await self.stopping.drain()
            self.remote.health.close()
            nursery.cancel_scope.cancel()
        self.status.state = "ended"
        self.supervision.look()
        return self._exit_code()

    async def _listen_to_commands(self, nursery: trio.Nursery) -> None:
        control = ControlServer(self._socket_path(), self._handlers())
        try:
            await nursery.start(control.serve)
        except SocketTaken as error:
            held = partial(held_by_another, self._plan.mountpoint)
            raise await trio.to_thread.run_sync(held) from error

    def _let_kernel_forget(self, nursery: trio.Nursery) -> None:
        """Names that turned out to be somebody else's are invalidated in a thread of their own."""

        async def forget(entries: list[tuple[int, bytes]]) -> None:
            try:
                await self.fuse.invalidate(entries)
            except OSError as exc:  # the mount goes just now: it must not take the queue with it
                log.debug("the kernel was not told of %r: %s", entries, exc)

        def invalidate(entries: list[tuple[int, bytes]]) -> None:
            if self.fuse.is_mounted:
                nursery.start_soon(forget, entries)

        self.fs.queue_view.invalidate = invalidate

    def _is_defect(self) -> bool:
        """Whether what ends the session was to end nothing. Then the mount stays, as at a crash: in
        the folder below programs would find everything deleted, or write what nobody sends."""
        state = self.status.state
        return state == "ready" or (state == "starting" and self.going_on.is_successor)

    # -- coming up

    async def _prove_remote(self, nursery: trio.Nursery) -> None:
        """One request, unless this SOURCE was listed or written to here before: then the mount
        comes up whether the remote answers or not, and says so in its status."""
        is_known = self.metadata.get("") is not None or self.journal.ledger.changes
        if is_known or self.going_on.is_successor:
            nursery.start_soon(self.first_look.look)
        else:
            await self.first_look.prove()

    def _first_page(self) -> object:
        return next(iter(self.remote.store.list("")), None)

    def _clear_dead_mount(self) -> None:
        clear_dead_mount(self._plan.mountpoint, on_volume=self._plan.on_volume)

    def _operations(self) -> Operations:
        settings = self._plan.settings
        owner = ownership(
            os.getuid() if settings.uid is None else settings.uid,
            os.getgid() if settings.gid is None else settings.gid,
            settings.umask,
        )
        virtual = VirtualFiles(lambda: json.dumps(self.status.as_dict(), indent=1).encode())
        operations = self.going_on.kind(
            self.fs,
            virtual,
            owner,
            xattrs=settings.xattrs,
            on_remote=self._on_remote(),
            room=self.room.now,
        )
        self.status.disk_error = lambda: operations.requests.disk_error
        if self.observing is not None:
            self.observing.requests = operations.requests
        return operations

    def _on_remote(self) -> OnRemote | None:
        if self._plan.settings.durability != "remote":
            return None
        self.fs.subtree.only_whole = True
        return OnRemote(
            *(self.journal, self.write_back.queue, self.fs),
            wait_s=self._plan.settings.request_timeout_s,
            remote_is_up=lambda: self.remote.health.state in UP,
        )

    def _mount_options(self) -> set[str]:
        settings = self._plan.settings
        return mount_options(
            self._source, read_only=settings.read_only, allow_other=settings.allow_other
        )

    async def _announce(self, ready: Callable[[str], None]) -> None:
        """Sees that the path answers, tunes the kernel, and says so."""
        # In this order: the answer to FUSE_INIT sets read_ahead_kb too, and would undo the tuning.
        mountpoint = self._plan.mountpoint
        try:
            await trio.to_thread.run_sync(
                answer, mountpoint, PATH_ANSWERS_WITHIN_S, abandon_on_cancel=True
            )
        except OSError as exc:
            if self.status.state == "stopping":
                return
            raise StartError(f"{mountpoint} was mounted but does not answer: {exc}") from exc
        self.levers = await trio.to_thread.run_sync(tune, mountpoint)
        if self.status.state == "stopping":
            return
        warning = self.levers.warning()
        if warning:
            # A unit has root set them as soon as it hears that we are ready: `_on_tune`.
            log.log(logging.DEBUG if self.supervision.is_heard else logging.WARNING, "%s", warning)
        collect_seldom()
        self.status.state = "ready"
        log.info("%s serves %s", mountpoint, self._source)
        self.going_on.serves()
        self.supervision.look()
        ready(await self.first_look.refusal())

    def _life(self) -> Life:
        state = self.status.state
        if state == "ended":
            size = self.write_back.queue.counts().bytes
            where, set_aside = str(self._folder.path), bool(self.set_aside.names)
            said = last_words(self.write_back.left, size, where, set_aside=set_aside)
            return Life("stopping", said)
        return Life(state, words_of(self.status.as_dict()))

    def _moved(self) -> int:
        return moved(self.blocks.counters, self.remote.counting.counts)

    # -- going down

    def _exit_code(self) -> ExitCode:
        left = self.write_back.left
        if not left:
            remove_note(self._socket_path())
        if not left or self.stopping.is_abandoned:
            return ExitCode.OK
        log.warning(
            "%d changes are not on the remote; they are kept in %s and sent by the next mount",
            *(left, self._folder.path),
        )
        return ExitCode.LEFT_IN_QUEUE

    # -- what is asked through the control socket

    def _socket_path(self) -> Path:
        return ensure_runtime_dir() / socket_name(os.fspath(self._plan.mountpoint))

    def _handlers(self) -> dict[str, Any]:
        return {
            "status": self._on_status,
            "refresh": self._on_refresh,
            "umount": self._on_umount,
            "tune": self._on_tune,
            "upgrade": self._on_upgrade,
            "flush": self.write_back.on_flush,
            "queue": self.write_back.on_queue,
            "retry": self.write_back.on_retry,
            "discard": self.write_back.on_discard,
            **self.keeping.handlers(),
        }

    async def _on_status(self, request: dict[str, Any]) -> dict[str, Any]:
        return self.status.as_dict() | {
            "kernel": self.levers.as_dict(),
            "stop_timeout_s": self._plan.settings.stop_timeout_s,
        }

    async def _on_tune(self, request: dict[str, Any]) -> dict[str, Any]:
        """Root has set the kernel's levers for us."""
        self.levers = await trio.to_thread.run_sync(tune, self._plan.mountpoint)
        if warning := self.levers.warning():
            log.warning("%s", warning)
        return self.levers.as_dict()

    async def _on_upgrade(self, request: dict[str, Any]) -> dict[str, Any]:
        if not request.get("only_look"):
            await self.going_on.look_at_new_code()
        return await self.going_on.upgrade(request, self.fuse, lambda: self.status.state)

    async def _on_refresh(self, request: dict[str, Any]) -> dict[str, Any]:
        path = request.get("path")
        if not isinstance(path, str):
            raise StartError('refresh needs a "path"')
        await self.fuse.invalidate(self.fs.refresh(os.fsencode(path)))
        # Else a crash would bring the old listings back as fresh ones.
        if not await trio.to_thread.run_sync(
            self.metadata.flush, FLUSH_WITHIN_S, abandon_on_cancel=True
        ):
            log.warning("the refresh of %s is not on the cache's disk yet", path)
        return {}

    async def _on_umount(self, request: dict[str, Any]) -> dict[str, Any]:
        self.stopping.will_be_unmounted(
            request.get("timeout_s"), abandon=bool(request.get("abandon"))
        )
        return {"left": self.write_back.left}
