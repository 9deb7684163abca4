"""What is pinned: recorded, held, filled, and followed when the remote changes.

Each pin has a task that looks, fills, and waits for a reason to look again: a listing at or below
its path that became another (whoever asked for it), a settled directory that is believed no more,
or the time for asking the remote behind everybody's back.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from mountd.config import CopiedSubtree
from mountd.errors import (
    FileSystemError,
    NoEntry,
    NoSpace,
    NotADirectory,
    NotPermitted,
    RemoteError,
)
from mountd.transfer.means import Means
from mountd.transfer.pinned_tree import PinnedTree, PinState
from mountd.vfs.nodes import Directory
from mountd_cache.listing import Listing
from mountd_cache.pin_record import HELD, MAX_PINS, PinRecord, Wanted, clean_path

log = logging.getLogger(__name__)

RECHECK_S: Final = 300.0
_GATHER_S: Final = 0.5  # changes that come together are looked at together
_AGAIN_S: Final = 30.0  # after a failure
_SENT_S: Final = 5.0
_MOST_OF_TIME: Final = 20  # a look waits so many times as long as the last one took


@dataclass(eq=False)
class _Task:
    tree: PinnedTree
    recheck_s: float
    scope: trio.CancelScope
    wake: trio.Event
    ended: trio.Event
    is_known: bool = False  # a first look was whole
    was_complete: bool = False
    warned: bool = False
    is_cut: bool = False  # it was filled for as long as others are believed, and goes on
    took_s: float = 0.0
    asks_at_s: float = 0.0  # on trio's clock


class _PinnedMeanwhile(Exception):
    pass


class Pins:
    """Of the loop. `load` comes before the block files are scanned and before anything is read."""

    def __init__(
        self,
        means: Means,
        record: PinRecord,
        copies: Sequence[CopiedSubtree] = (),
        *,
        forget_names: Callable[[list[tuple[int, bytes]]], None] = lambda entries: None,
    ) -> None:
        """`forget_names` is told (directory inode, name) pairs that the kernel must forget."""
        self.forget_names = forget_names
        self._means = means
        self._tree = means.fs.tree
        self._record = record
        self._copies = {_clean(copy.path.encode()): copy for copy in copies}
        self._tasks: dict[bytes, _Task] = {}
        self._provisional: list[tuple[bytes, int]] = []
        self._kept_written: frozenset[bytes] = frozenset()
        self._to_tell: dict[str, list[bytes]] = {}
        self._changed: set[str] = set()
        self._writing = trio.Lock()
        self._nursery: trio.Nursery | None = None

    # -- coming up

    def load(self) -> None:
        """What a former process has left: held at once, looked at by `run`. Never raises."""
        wanted = self._record.read_wanted()
        paths = dict.fromkeys([*self._copies, *wanted.paths])
        for path in paths:
            task = self._tasks[path] = self._task(path)
            task.was_complete = path in wanted.complete
            if task.tree.is_copy and task.was_complete:
                self._believe(path)
        if paths:
            self._provisional = list(self._record.read_kept())
            for file_id, size in self._provisional:
                self._means.holds.hold(file_id, size, always=True)

    def _believe(self, path: bytes) -> None:
        key = self._means.fs.key_of_path(path) if path else ""
        if path and not key.endswith("/"):
            return
        self._tree.settled.add_subtree(key)
        parts = path.split(b"/") if path else []
        for i, name in enumerate(parts):
            above = self._means.fs.key_of_path(b"/".join(parts[:i])) if i else ""
            self._tree.settled.add_way(above, name)

    def _task(self, path: bytes) -> _Task:
        copy = self._copies.get(path)
        tree = PinnedTree(self._means, path, copy is not None)
        recheck_s = copy.recheck_s if copy else max(RECHECK_S, self._tree.ttl_s)
        return _Task(tree, recheck_s, trio.CancelScope(), trio.Event(), trio.Event())

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. A defect costs a pin, and never the mount."""
        token = trio.lowlevel.current_trio_token()

        def listed(key: str) -> None:  # in any thread
            if self._tasks:
                try:
                    token.run_sync_soon(self._listed, key, idempotent=True)
                except trio.RunFinishedError:
                    return

        self._tree.cache.listed = listed
        self._tree.settled.admits = self._admits
        self._tree.settled.unsettled = self._unsettled
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for task in self._tasks.values():
                nursery.start_soon(self._keep, task)
            task_status.started()
            await trio.sleep_forever()

    # -- asked for

    async def pin(self, path: bytes, *, wait_s: float | None = None) -> PinnedTree:
        """Pins what is at `path`, which is recorded when this returns; it is filled afterwards.

        Raises NoEntry, NoSpace where it doesn't fit, NotPermitted for what is no path, OSError
        where the record can't be written, and what listing raises; then nothing is pinned. After
        `wait_s` it is pinned without having been counted."""
        path = _clean(path)
        task = self._tasks.get(path)
        if task is not None:
            task.wake.set()
            return task.tree
        if len(self._tasks) >= MAX_PINS:
            raise NoSpace(f"{MAX_PINS} paths are pinned already")
        task = self._task(path)
        try:
            with trio.move_on_after(wait_s if wait_s is not None else float("inf")):
                task.is_known = await task.tree.look()
            self._check_fits(task.tree)
            async with self._writing:
                if path in self._tasks:  # somebody else was faster
                    raise _PinnedMeanwhile
                await self._write_wanted([*self._tasks, path])
                self._tasks[path] = task
        except _PinnedMeanwhile:
            await task.tree.release()
            return self._tasks[path].tree
        except BaseException:
            with trio.CancelScope(shield=True):
                await task.tree.release()
            raise
        assert self._nursery is not None
        self._nursery.start_soon(self._keep, task)
        return task.tree

    def _check_fits(self, tree: PinnedTree) -> None:
        lacking = tree.totals.no_room_bytes
        if lacking:
            holds = self._means.holds
            others = max(0, holds.held_bytes - _disk_bytes(tree, self._means))
            raise NoSpace(
                f"{tree.totals.size_bytes} bytes do not fit, {lacking} are too many: all that is "
                f"pinned or being warmed may take {holds.most_bytes} bytes (nine tenths of "
                f"cache_size), and {others} of them are taken"
            )

    async def unpin(self, path: bytes) -> None:
        """Raises NoEntry where it is not pinned by itself, NotPermitted where the config file has
        it, OSError where the record can't be written: then it stays pinned."""
        path = _clean(path)
        task = self._tasks.get(path)
        if task is None:
            above = self.above(path)
            if above is not None:
                raise NoEntry(f"it is pinned with {_shown(above.path)}")
            raise NoEntry("it is not pinned")
        if task.tree.is_copy:
            raise NotPermitted('the config file has it with mode = "copy"')
        async with self._writing:
            await self._write_wanted([other for other in self._tasks if other != path])
            del self._tasks[path]
        await self._end(task)

    def at(self, path: bytes) -> PinnedTree | None:
        """The pin of that very path."""
        task = self._tasks.get(_clean(path))
        return task.tree if task is not None else None

    def above(self, path: bytes) -> PinnedTree | None:
        """The nearest pin that `path` is in or at."""
        path = _clean(path)
        while True:
            task = self._tasks.get(path)
            if task is not None or not path:
                return task.tree if task is not None else None
            path = path.rpartition(b"/")[0]

    def status(self) -> list[dict[str, Any]]:
        """JSON-ready; never waits."""
        return [described(task.tree) for task in self._tasks.values()]

    # -- a pin's life

    async def _keep(self, task: _Task) -> None:
        with task.scope:
            is_first, asks = not task.is_known, False
            while True:
                try:
                    is_well = await self._round(task, asks=asks, is_first=is_first)
                    is_first = is_first and not is_well
                except (NoEntry, NotADirectory):
                    if await self._is_gone(task):
                        break
                    is_well = False
                except (RemoteError, FileSystemError, OSError, TimeoutError) as error:
                    task.tree.state, task.tree.reason = PinState.WAITING, str(error)
                    is_well = False
                except Exception:
                    log.exception("the pin of %s failed in an unforeseen way", _name(task.tree))
                    is_well = False
                if asks or is_first or not is_well or not task.asks_at_s:
                    asks_in_s = task.recheck_s if is_well else min(_AGAIN_S, task.recheck_s)
                    if task.is_cut:
                        asks_in_s = 0.0
                    task.asks_at_s = trio.current_time() + asks_in_s
                asks = await self._wait(task)
        task.ended.set()

    async def _round(self, task: _Task, *, asks: bool, is_first: bool) -> bool:
        """Whether all is as it should be."""
        tree = task.tree
        began_s = time.monotonic()
        task.is_cut = False
        is_whole = await tree.look(asks=asks, believes=is_first and task.was_complete)
        task.took_s = time.monotonic() - began_s
        self._tell_of_room(task)
        await self._first_look_is_over(task, is_whole)
        if tree.totals.missing_bytes > tree.totals.no_room_bytes:
            await self._fill(task)
        is_here = is_whole and not tree.totals.missing_bytes
        if tree.is_copy:
            self._lead_to(tree)
            is_here = await tree.settle() and is_here
            if tree.place is not None and tree.place.only is None:
                self._tree.settled.end_subtree(tree.place.directory.key)
        if tree.progress.gave_up or tree.progress.failures:
            tree.reason = tree.progress.gave_up or next(iter(tree.progress.failures.values()))
        await self._write_down(task, is_here)
        tree.state = PinState.HERE if is_here else PinState.WAITING
        if task.is_cut:
            tree.state = PinState.FILLING
        if tree.totals.no_room_bytes:
            tree.state = PinState.NO_ROOM
        return is_here or tree.state is PinState.NO_ROOM

    async def _fill(self, task: _Task) -> None:
        """Where listings are believed meanwhile only as long as they would be without it: it may
        wait for room for ever."""
        tree = task.tree
        tree.state = PinState.FILLING
        within_s = task.recheck_s if tree.is_believed else math.inf
        with trio.move_on_after(within_s) as scope:
            await tree.fill()
        task.is_cut = scope.cancelled_caught

    async def _first_look_is_over(self, task: _Task, is_whole: bool) -> None:
        """What was held for pins of which nothing else is known is released when all are known."""
        task.is_known = task.is_known or is_whole
        if self._provisional and all(other.is_known for other in self._tasks.values()):
            held, self._provisional = self._provisional, []
            await self._means.let_go(b"".join(HELD.pack(*each) for each in held))

    def _lead_to(self, tree: PinnedTree) -> None:
        if tree.place is not None:
            for key, name in tree.place.way:
                self._tree.settled.add_way(key, name)

    def _tell_of_room(self, task: _Task) -> None:
        lacking = task.tree.totals.no_room_bytes
        if lacking and not task.warned:
            log.warning(
                "%d bytes of %s do not fit and are not kept here: nine tenths of cache_size are "
                "for what is pinned (mountd status tells more)",
                *(lacking, _name(task.tree)),
            )
        task.warned = bool(lacking)

    async def _wait(self, task: _Task) -> bool:
        """For a reason to look; whether the remote is to be asked now."""
        until_s = task.asks_at_s
        if task.tree.is_changed_here:  # that it was sent does not always change a listing
            until_s = min(until_s, trio.current_time() + _SENT_S)
        with trio.move_on_at(until_s):
            await task.wake.wait()
        await trio.sleep(max(_GATHER_S, min(_AGAIN_S, _MOST_OF_TIME * task.took_s)))
        task.wake = trio.Event()
        return trio.current_time() >= task.asks_at_s and self._tree.remote_is_well()

    async def _is_gone(self, task: _Task) -> bool:
        """A path that was removed is not pinned any more; one of the config file may come back."""
        tree = task.tree
        if not self._tree.remote_is_well():
            tree.state, tree.reason = PinState.WAITING, "the remote does not answer"
            return False
        await self._let_go(tree)
        tree.place = None
        task.is_known = True
        await self._first_look_is_over(task, True)
        tree.state = PinState.NOT_THERE
        if tree.is_copy:
            return False
        log.info("%s was removed, and is not pinned any more", _name(tree))
        async with self._writing:
            if self._tasks.get(tree.path) is task:
                del self._tasks[tree.path]
                try:
                    await self._write_wanted(list(self._tasks))
                except OSError as error:
                    log.warning("what is pinned could not be written down: %s", error)
        return True

    async def _end(self, task: _Task) -> None:
        task.scope.cancel()
        await task.ended.wait()
        await self._let_go(task.tree)

    async def _let_go(self, tree: PinnedTree) -> None:
        if tree.place is not None and tree.is_copy:
            self._tree.settled.discard_below(tree.place.directory.key)
            for key, name in tree.place.way:
                self._tree.settled.drop_way(key, name)
        await tree.release()

    # -- the record

    async def _write_wanted(self, paths: list[bytes]) -> None:
        tasks = self._tasks
        complete = tuple(p for p in paths if p in tasks and tasks[p].was_complete)
        wanted = Wanted(tuple(p for p in paths if p not in self._copies), complete)
        await trio.to_thread.run_sync(self._record.write_wanted, wanted)

    async def _write_down(self, task: _Task, is_here: bool) -> None:
        """What is held, so that a start protects it; it may be older than what is."""
        held = frozenset(piece for other in self._tasks.values() for piece in other.tree.held())
        try:
            async with self._writing:
                if held != self._kept_written and not self._provisional:
                    await trio.to_thread.run_sync(self._record.write_kept, held)
                    self._kept_written = held
                if task.was_complete != is_here:
                    task.was_complete = is_here
                    await self._write_wanted(list(self._tasks))
        except OSError as error:
            log.warning("what is pinned could not be written down: %s", error)

    # -- what others tell

    def _listed(self, key: str) -> None:
        for task in self._tasks.values():
            if task.tree.watches(key):
                task.wake.set()
        names = self._to_tell.pop(key, None)
        directory = self._tree.held_directory(key)
        if names and directory is not None:
            self.forget_names([(directory.number, name) for name in names])

    def _unsettled(self, key: str) -> None:
        """The kernel was told to believe the listing for long."""
        directory, cached = self._tree.held_directory(key), self._tree.cache.get(key)
        if directory is not None:
            entries = self._own_entry(directory)
            if cached is not None:
                listing = cached.listing
                rows = (row for row in range(len(listing)) if self._tree.holds(listing.ino(row)))
                entries = [*((directory.number, listing.name(row)) for row in rows), *entries]
            self.forget_names(entries)
        self._listed(key)

    def _own_entry(self, directory: Directory) -> list[tuple[int, bytes]]:
        """With it the kernel forgets which names are not in the directory."""
        if directory.parent is None:
            return self._means.fs.absent_in_root()
        cached = self._tree.cache.get(directory.parent.key)
        row = cached.listing.find_ino(directory.number) if cached is not None else -1
        if cached is None or row < 0:
            return []
        return [(directory.parent.number, cached.listing.name(row))]

    async def _admits(self, key: str, listing: Listing) -> bool:
        for task in self._tasks.values():
            tree = task.tree
            if tree.is_copy and tree.watches(key):
                before = self._tree.cache.get(key)
                if before is not None and before.listing is listing:
                    if tree.waiting.pop(key, None) is not None:  # it is as it was before that
                        task.wake.set()
                    continue
                if not await tree.admits(key, listing):
                    task.wake.set()
                    return False
                if before is not None:
                    self._to_tell[key] = _differing(before.listing, listing)
        return True


def described(tree: PinnedTree) -> dict[str, Any]:
    """A pin in the status and in answers."""
    totals = tree.totals
    return {
        "path": _shown(tree.path),
        "mode": "copy" if tree.is_copy else "pin",
        "state": tree.state.value,
        "files": totals.files,
        "bytes": totals.size_bytes,
        "missing_bytes": tree.missing_bytes,
        "no_room_bytes": totals.no_room_bytes,
        "failed": tree.progress.failed,
        "reason": tree.reason or None,
    }


def _differing(old: Listing, new: Listing) -> list[bytes]:
    """The names that mean something else from now on, or did not mean anything."""
    rows = {old.name(row): old.row(row) for row in range(len(old))}
    differing = []
    for row in range(len(new)):
        now = new.row(row)
        if rows.pop(now.name, None) != now:
            differing.append(now.name)
    return [*differing, *rows]


def _disk_bytes(tree: PinnedTree, means: Means) -> int:
    packed = (HELD.iter_unpack(piece) for piece in tree.held())
    return sum(means.holds.disk_bytes(size) for piece in packed for _, size in piece)


def _clean(path: bytes) -> bytes:
    clean = clean_path(path)
    if clean is None:
        raise NotPermitted(f"{path!r} is no path below the mount")
    return clean


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _name(tree: PinnedTree) -> str:
    return repr(_shown(tree.path)) if tree.path else "the whole mount"
