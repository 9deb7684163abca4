"""Open files: the walk of a read from a handle to the block cache and the remote.

A handle is pinned to the version that its inode had: every fetch carries it, so a reader gets that
version's bytes or Stale, never a mix. Only our own upload moves a handle to another version, the
one that was sent. What is staged here is read in writes.py and not here.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import trio
from typing_extensions import Buffer

from mountd.errors import NotFound, Stale, VersionChanged
from mountd.remotes.base import Body, RemoteStore
from mountd.remotes.call import prefetching
from mountd.remotes.optional_doors import keeps_version_in
from mountd.vfs.epoch_sets import EpochSets
from mountd.vfs.file_id import file_id
from mountd.vfs.fill_ahead import FillAhead
from mountd.vfs.listing_rows import version_in
from mountd.vfs.nodes import Directory, Node
from mountd.vfs.notes import NoNotes, NotedFile, Notes
from mountd.vfs.prefetch import (
    MAX_RANGE,
    MAX_WINDOW,
    Plan,
    Prefetcher,
    Sweep,
)
from mountd.vfs.tree import Tree, key_of
from mountd.vfs.walk_ahead import WalkAhead
from mountd_cache.block_cache import BlockCache
from mountd_cache.cached_file import CachedFile, FetchFn
from mountd_cache.changes import Base, Change
from mountd_cache.listing import Listing

EMPTY = b""
# A memory share below this is no window at all: one range ahead always gets its chance.
LEAST_SHARE = 1 << 20
MAX_KNOWN = 1 << 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One version of one file on the remote."""

    key: str
    size: int
    version: str
    mtime_ns: int
    digest: bytes  # names this version's blocks; the block folder belongs to one identity


class Stream:
    """What reading through a handle needs; made at the first read that reaches us."""

    __slots__ = ("cached", "prefetch")

    def __init__(self, cached: CachedFile, prefetch: Prefetcher) -> None:
        self.cached = cached
        self.prefetch = prefetch


class Handle:
    """One open(2). Closed by `OpenFiles.release`. A file whose pages the kernel still has is
    opened and closed without a read, so nothing is made before there is one."""

    __slots__ = ("file", "node", "stream", "writes")

    def __init__(self, node: Node, file: RemoteFile, writes: bool) -> None:
        self.node = node
        self.file = file
        self.stream: Stream | None = None
        self.writes = writes


class OpenFiles:
    """All handles. Reads raise RemoteError, Stale or TimeoutError; cancelling a read leaves its
    fetch running for whoever asks next."""

    def __init__(self, store: RemoteStore, tree: Tree, blocks: BlockCache) -> None:
        self.fill = FillAhead(self.cached, blocks)
        self.walk = WalkAhead(tree, self, self.fill)
        self.epochs = EpochSets(tree, self, self.fill, blocks)
        self._store = store
        self._tree = tree
        self._blocks = blocks
        self._handles: dict[int, Handle] = {}
        self._by_inode: dict[int, list[Handle]] = {}
        self._by_key: dict[str, list[Handle]] = {}
        self._remote = store.capabilities
        self._is_global = self._remote.is_global
        self.notes: Notes = NoNotes()
        self.next_handle = 1
        # What was opened before, oldest first. An inode number stands for one version for ever,
        # so opening it again needs no look at its listing.
        self._known: dict[int, RemoteFile] = {}
        self._rebound = 0  # how often `rebind` was called

    def handle(self, number: int) -> Handle:
        try:
            return self._handles[number]
        except KeyError:
            raise Stale(f"handle {number} is not known") from None

    def has(self, number: int) -> bool:
        """Whether there is such a handle."""
        return number in self._handles

    async def open(self, node: Node, *, writes: bool = False) -> int:
        """A handle's number. Raises Stale where a small file turns out to be another version by
        now: its bytes are wanted at once anyway, so they are fetched here, and the kernel
        answers Stale to open(2) with a new look-up instead of telling the program."""
        change = self._tree.ledger.by_number.get(node.number)
        known = self._known.get(node.number) if change is None else None
        handle = Handle(node, known or self.remote_file_of(node), writes)
        if change is None or not change.content:
            if not writes:
                self.epochs.opened(node, handle.file.size)
            await self._prove_newest(handle)
        if known is None and node.number not in self._tree.ledger.by_number:
            self._know(node.number, handle.file)
        return self._opened(handle)

    def _opened(self, handle: Handle) -> int:
        number = self.next_handle
        self.next_handle += 1
        self.put(number, handle)
        # With all that a successor needs: its listing may not be on the disk yet.
        note = self.notes.described if handle.writes else self.notes.opened
        note(number, _noted(handle))
        return number

    def put(self, number: int, handle: Handle) -> None:
        """The handle has that number."""
        self._handles[number] = handle
        self._by_inode.setdefault(handle.node.number, []).append(handle)
        self._by_key.setdefault(handle.file.key, []).append(handle)

    def describe(self, number: int) -> None:
        """Notes what that handle reads."""
        self.notes.described(number, _noted(self._handles[number]))

    def note(self, inode: int) -> None:
        """What its handles read, or what it is called, is something else now."""
        if isinstance(self.notes, NoNotes) or inode not in self._by_inode:
            return
        for number, handle in self._handles.items():
            if handle.node.number == inode:
                self.describe(number)

    def release(self, number: int) -> bool:
        """Whether it was the last handle of its inode."""
        handle = self._handles.pop(number)
        self.notes.released(number)
        if handle.stream is not None:
            handle.stream.cached.close()
        of_inode = self._by_inode[handle.node.number]
        of_inode.remove(handle)
        if not of_inode:
            del self._by_inode[handle.node.number]
        self._leave_key(handle)
        return not of_inode

    def _leave_key(self, handle: Handle) -> None:
        of_key = self._by_key[handle.file.key]
        of_key.remove(handle)
        if not of_key:
            del self._by_key[handle.file.key]

    def rebind(self, number: int, file: RemoteFile) -> None:
        """The inode stands for this version from now on: it is the one that was sent."""
        self._rebound += 1
        self._known.pop(number, None)
        for handle in self._by_inode.get(number, ()):
            self._leave_key(handle)
            _rebind(handle, file)
            self._by_key.setdefault(file.key, []).append(handle)
        self.note(number)

    def relocated(self, node: Node) -> None:
        """Others have moved the file, and its inode is at its new place now."""
        self.rebind(node.number, self.remote_file_of(node))

    def followed(self, old: Base, new: Base) -> None:
        """That version is at another key now: who reads it there goes on."""
        self._rebound += 1
        for handle in list(self._by_key.get(old.key, ())):
            if handle.file.version == old.version:
                self._leave_key(handle)
                file = self.file_at(new.key, new.version, new.size, handle.file.mtime_ns)
                _rebind(handle, file)
                self._by_key.setdefault(new.key, []).append(handle)
                self.note(handle.node.number)

    def moved(self, old: str, new: str) -> None:
        """All that was below a directory is below another now."""
        self._rebound += 1
        self._known = {n: f for n, f in self._known.items() if not f.key.startswith(old)}
        for key in [key for key in self._by_key if key.startswith(old)]:
            for handle in self._by_key.pop(key):
                file = handle.file
                there = new + key[len(old) :]
                moved = self.file_at(there, file.version, file.size, file.mtime_ns)
                _rebind(handle, moved)
                self._by_key.setdefault(there, []).append(handle)
                self.note(handle.node.number)

    async def read(self, handle: Handle, offset: int, size: int) -> Buffer:
        """Up to `size` bytes at `offset`; fewer only at the end of the file."""
        end = min(offset + size, handle.file.size)
        if offset >= end:
            return EMPTY
        stream = handle.stream
        is_first = stream is None
        if stream is None:
            stream = self._stream(handle)
        cached = stream.cached
        data = cached.read_now(offset, end)
        if data is not None:
            if is_first:
                self.walk.opened(handle.node, missed=False)
            self._blocks.counters.hits += 1
            plan = stream.prefetch.hit(offset, end, MAX_WINDOW)
            if plan is not None:
                self._fetch_ahead(cached, plan)
            return data
        self._missed(handle)
        plan = stream.prefetch.miss(offset, end, self._share)
        # The reader's own range first: it is what somebody waits for.
        cached.begin(*plan.demand, urgent=True)
        self._fetch_ahead(cached, plan)
        if is_first:
            self.walk.opened(handle.node, missed=True)
        return await self._or_stale(handle, cached.read(offset, end, plan.demand))

    def _parallel(self) -> tuple[int, int]:
        now, soon = self._remote.first_parallel, self._remote.parallel_soon
        return now, soon() if soon is not None else now

    def _missed(self, handle: Handle) -> None:
        self._blocks.counters.misses += 1
        self.epochs.missed(handle.node)

    def _stream(self, handle: Handle) -> Stream:
        file = handle.file
        prefetch = Prefetcher(file.size, self._blocks.block_size, self._parallel)
        handle.stream = Stream(self.cached(file), prefetch)
        return handle.stream

    async def _prove_newest(self, handle: Handle) -> None:
        """As `_prove`, of the version that was sent meanwhile, if one was."""
        while True:
            rebound, error = self._rebound, None
            try:
                await self._prove(handle)
            except Stale as exc:
                error = exc
            if rebound == self._rebound or not self._moved(handle):
                if error is not None:
                    raise error
                return

    def _moved(self, handle: Handle) -> bool:
        """Whether its inode stands for another version by now; then the handle does, too."""
        try:
            file = self.remote_file_of(handle.node)
        except Stale:
            return False  # it was removed: who opens it still gets what it was
        if (file.key, file.digest) == (handle.file.key, handle.file.digest):
            return False
        _rebind(handle, file)
        return True

    async def _prove(self, handle: Handle) -> None:
        """Has a small file's bytes here, and so knows that its version is still there."""
        file, size = handle.file, handle.file.size
        if not 0 < size <= self._blocks.block_size:
            return
        if self._blocks.blocks.present(file.digest, 0, 0, size):
            return
        cached = self._stream(handle).cached
        is_here = cached.here(0, size)
        self.walk.opened(handle.node, missed=not is_here)
        if is_here:
            return
        self._missed(handle)
        try:
            await self._or_stale(handle, cached.ensure(0, size))
        except BaseException:
            handle.stream = None
            cached.close()
            raise

    def _know(self, number: int, file: RemoteFile) -> None:
        self._known[number] = file
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def cached(self, file: RemoteFile) -> CachedFile:
        """The shared cache state of one version; the caller closes it."""
        fetch = self._fetcher(file)
        cached = self._blocks.file(file.digest, file.size, fetch)
        cached.fetch = fetch  # others may have found the same bytes under a name that is gone
        return cached

    def fetch_ahead(self, parent: Directory, listing: Listing, row: int) -> bool:
        """Starts fetching a whole small file that nobody has opened yet; False: no memory."""
        file = self.file_of_row(parent, listing, row)
        cached = self.cached(file)
        reached = cached.begin(0, file.size, urgent=False)
        cached.close()
        return reached == file.size

    def keep_sent(self, file: RemoteFile, body: Body, held: bytes | None = None) -> None:
        """Puts what was just sent into the cache, as far as memory and the disk's backlog allow.

        `held`: all of its bytes, where they are at hand. `body` may be gone by the time that it is
        read: then it comes from the remote.
        """
        remote = self._fetcher(file)

        def fetch(start: int, end: int, urgent: bool) -> Buffer:
            try:
                return body.read(start, end)
            except OSError:
                return remote(start, end, urgent)

        room = min(file.size, self._blocks.backlog_room)
        cached = self._blocks.file(file.digest, file.size, fetch)
        if held is not None and room == file.size == len(held):
            cached.keep_data(held)
        else:
            cached.keep(0, room)
        cached.close()

    def opened(self, node: Node) -> RemoteFile | None:
        """The version that somebody holds open under this inode."""
        handles = self._by_inode.get(node.number)
        return handles[0].file if handles else None

    def handles_at(self, key: str) -> Sequence[Handle]:
        """Those that read a version of that key."""
        return self._by_key.get(key, ())

    def handles_of(self, number: int) -> Sequence[Handle]:
        """Those of an inode."""
        return self._by_inode.get(number, ())

    def is_open(self, number: int) -> bool:
        return number in self._by_inode

    def remote_file_of(self, node: Node) -> RemoteFile:
        """The version that this inode stands for; for a file that is staged, what is below it.
        Stale where its row is gone."""
        change = self._tree.ledger.by_number.get(node.number)
        if change is not None:
            return self._file_of_change(change)
        cached, row = self._tree.locate(node)
        assert node.parent is not None
        return self.file_of_row(node.parent, cached.listing, row)

    def file_of_row(self, parent: Directory, listing: Listing, row: int) -> RemoteFile:
        """The file that a row of its parent's listing names."""
        found = listing.row(row)
        key, version = key_of(parent, listing, row), version_in(found.version)
        return self.file_at(key, version, found.size, found.mtime_ns)

    def file_at(self, key: str, version: str, size: int, mtime_ns: int) -> RemoteFile:
        """That version of that key."""
        digest = file_id(key, version, size, self._is_global)
        return RemoteFile(key, size, version, mtime_ns, digest)

    def _file_of_change(self, change: Change) -> RemoteFile:
        content = self._tree.ledger.content_of(change)
        if content is not None:
            base = content.base or Base(change.key, "", 0)
        else:
            base = change.base or Base(change.key, change.expect, change.size)
        return self.file_at(base.key, base.version, base.size, change.mtime_ns)

    async def read_remote(self, node: Node, file: RemoteFile, start: int, end: int) -> Buffer:
        """[start, end) of a version on the remote, for what is staged over it."""
        cached = self.cached(file)
        try:
            data = cached.read_now(start, end)
            if data is not None:
                return data
            cached.begin(start, end, urgent=True)
            return await self._or_stale(
                Handle(node, file, False), cached.read(start, end, (start, end))
            )
        finally:
            cached.close()

    async def read_version(self, node: Node, base: Base, start: int, end: int) -> Buffer:
        """As `read_remote`, of a version that bytes are staged over."""
        file = self.file_at(base.key, base.version, base.size, 0)
        return await self.read_remote(node, file, start, end)

    async def keeps(self, base: Base) -> bool:
        """Whether the remote will have that version when it was replaced. Raises RemoteErrors."""
        key, version = base.key, base.version
        return await trio.to_thread.run_sync(
            keeps_version_in, self._store, key, version, abandon_on_cancel=True
        )

    def _fetcher(self, file: RemoteFile) -> FetchFn:
        store = self._store

        def fetch(start: int, end: int, urgent: bool) -> Buffer:
            prefetching.set(not urgent)  # in this call's own copy of the context
            return store.read(file.key, start, end, file.version)

        return fetch

    def _fetch_ahead(self, cached: CachedFile, plan: Plan) -> None:
        if plan.sweep is not None:
            self._sweep(cached, plan.sweep)
        if plan.ahead_end <= plan.ahead_start or plan.cursor is None:
            return
        begin, end, most = plan.ahead_start, plan.ahead_end, plan.range_bytes
        is_stream = plan.is_stream
        reached = cached.begin(begin, end, urgent=False, most=most, streamed=is_stream)
        cached.advise(begin, reached)
        plan.cursor.ahead = max(plan.cursor.ahead, reached)

    def _sweep(self, cached: CachedFile, sweep: Sweep) -> None:
        """Goes on bringing the whole file here, as far as memory and the disk's backlog allow."""
        room = min(sweep.window - cached.running_bytes, self._blocks.backlog_room)
        if room >= MAX_RANGE and sweep.position < cached.size:
            end = min(cached.size, sweep.position + room)
            sweep.position = cached.begin(sweep.position, end, urgent=False)

    def _share(self) -> int:
        """One handle's part of the memory, so that eight readers get eight windows."""
        streams = (handle.stream for handle in self._handles.values())
        reading = sum(1 for stream in streams if stream and stream.prefetch.windows_bytes)
        return max(LEAST_SHARE, self._blocks.memory_bytes // max(1, reading))

    async def _or_stale(self, handle: Handle, work: Awaitable[T]) -> T:
        try:
            return await work
        except (VersionChanged, NotFound) as exc:
            assert handle.node.parent is not None
            self._tree.expire(handle.node.parent.key)
            raise Stale(f"{handle.file.key!r} changed on the remote: {exc}") from exc


def _noted(handle: Handle) -> NotedFile:
    node, file = handle.node, handle.file
    parent = node.parent.number if node.parent is not None else 0
    return NotedFile(
        node.number,
        parent,
        handle.writes,
        node.is_nameless,
        file.size,
        file.mtime_ns,
        file.key,
        file.version,
    )


def _rebind(handle: Handle, file: RemoteFile) -> None:
    stream, handle.stream = handle.stream, None
    if stream is not None:
        stream.cached.close()
    handle.file = file
