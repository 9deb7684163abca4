"""The file system without FUSE: tree, open files, writes and names together, as fusefs calls them
and as tests do without a kernel."""

import time
from collections.abc import Callable, Mapping

import trio
from typing_extensions import Buffer

from mountd.errors import NoAttribute, ReadOnly, Stale
from mountd.remotes.base import RemoteStore
from mountd.vfs.asking import Asking
from mountd.vfs.attributes import NewAttributes, SetAttributes
from mountd.vfs.file_clock import file_time_ns
from mountd.vfs.files import Handle, OpenFiles, RemoteFile
from mountd.vfs.folding import Folding
from mountd.vfs.keeping import NAMES, Keeping, NothingKept
from mountd.vfs.last_readers import LastReaders
from mountd.vfs.links import Links
from mountd.vfs.moved_before import take_along
from mountd.vfs.names import raw_name
from mountd.vfs.namespace import Namespace
from mountd.vfs.nodes import Attributes, Directory, Node
from mountd.vfs.overlay import is_changed
from mountd.vfs.queue_view import QueueView
from mountd.vfs.replaced_by_us import ReplacedByUs
from mountd.vfs.subtree import Subtree
from mountd.vfs.tree import Tree
from mountd.vfs.user_xattrs import UserXattrs, check_name
from mountd.vfs.whole_move import WholeMoves
from mountd.vfs.writes import Writes
from mountd_cache.block_cache import BlockCache
from mountd_cache.block_folder import FULL_ERRNOS
from mountd_cache.changes import Content
from mountd_cache.journal import Journal
from mountd_cache.metadata_cache import CachedListing, MetadataCache

STATE, ETAG, URL = b"user.mountd.state", b"user.mountd.etag", b"user.mountd.url"
# A state of more blocks than this is told from this many, evenly spread: a 5 TB file has 5 million.
STATE_SAMPLES = 1024
# Names of the root that the kernel was told are not there. Beyond it the oldest is forgotten, and
# lives on in the kernel for what is left of its time.
ABSENT_NAMES = 4096
# What blocks have left others may take first: writes that have not met the full disk yet, blocks.
FULL_TRIES = 4


class FileSystem:
    """See the module. Coroutines raise what `Tree` and `OpenFiles` raise."""

    def __init__(
        self,
        store: RemoteStore,
        metadata: MetadataCache,
        blocks: BlockCache,
        journal: Journal,
        *,
        ttl_s: float,
        wait_s: float,
        url: str,
        limit_bytes: Callable[[], int],
        read_only: bool = False,
        asks_for_metadata: bool = False,
        remote_is_well: Callable[[], bool] = lambda: True,
        wall_clock: Callable[[], float] = time.time,
        wall_clock_ns: Callable[[], int] = file_time_ns,
    ) -> None:
        self.tree = Tree(
            store,
            metadata,
            ttl_s=ttl_s,
            wait_s=wait_s,
            remote_is_well=remote_is_well,
            wall_clock=wall_clock,
            ledger=journal.ledger,
        )
        self.blocks = blocks
        self._disk_is_full = trio.Lock()
        self.files = OpenFiles(store, self.tree, blocks)
        self.tree.following.relocated = self.files.relocated
        self.writes = Writes(
            journal,
            self.tree,
            self.files,
            limit_bytes=limit_bytes,
            wait_s=wait_s,
            wall_clock_ns=wall_clock_ns,
        )
        self.names = Namespace(
            self.tree,
            self.files,
            self.writes,
            keeps_empty_directories=store.capabilities.real_directories,
            name_rules=lambda: store.capabilities.name_rules,
            key_limit=store.capabilities.key_limit,
            wall_clock_ns=wall_clock_ns,
        )
        take_along(journal.ledger, metadata)
        whole = WholeMoves(self.names, self.files, wait_s=wait_s)
        self.subtree = Subtree(self.names, whole, wait_s=wait_s)
        self.links = Links(self.names, self._read_start)
        self.attributes_of_files = SetAttributes(
            self.tree, self.files, self.writes, wall_clock_ns=wall_clock_ns
        )
        self.folding = Folding(journal, self.tree, metadata)
        self.asking = Asking(self.tree, wait_s=wait_s, is_wanted=asks_for_metadata)
        self.user_xattrs = UserXattrs(self.tree, journal, self.asking, self.attributes_of_files)
        self._replaced_by_us = ReplacedByUs(self.tree, self.files, self.writes)
        self.last_readers = LastReaders(self.files, self.writes, keeps=self.files.keeps)
        self.queue_view = QueueView(self.tree, self.files, self.writes, self.names, self.folding)
        self.keeping: Keeping = NothingKept()
        self.state_of: Callable[[int], str | None] = lambda number: None
        # Of this process: one that opens a directory reads nothing in it.
        self.own_threads: set[int] = set()
        self._read_only = read_only
        self._url = url
        self._absent: dict[bytes, None] = {}  # in the order of the answers

    # -- reading and writing files

    async def open(
        self, number: int, *, writes: bool = False, truncates: bool = False, mode: int | None = None
    ) -> int:
        """A handle's number; see `OpenFiles.open`. `mode`: what a file gets that is truncated."""
        node = self.tree.file(number)
        if writes:
            self.check_writable()
            self.names.rights.check_write(node)
            self.writes.opened(number)
        try:
            if truncates:
                self.writes.truncate(node, 0)
            if mode is not None:
                self.attributes_of_files.set(node, NewAttributes(mode=mode))
            try:
                return await self.files.open(node, writes=writes)
            except Stale:
                if not await self._has_other_key(node) and not await self._replaced_by_us.found(
                    number
                ):
                    raise
                return await self.files.open(node, writes=writes)
        except BaseException:
            if writes:
                self.writes.released(number)
            raise

    async def read(self, fh: int, offset: int, size: int) -> Buffer:
        handle = self.files.handle(fh)
        number = handle.node.number
        while True:
            content, file = self.writes.content_to_read(number), handle.file
            try:
                if content is not None:
                    return await self.writes.read(handle.node, content, offset, size)
                return await self.files.read(handle, offset, size)
            except Stale:
                # It may have been our own upload that replaced what was being read.
                if self._has_moved(handle, file, content):
                    continue
                await self._has_other_key(handle.node) or await self._replaced_by_us.found(number)
                if not self._has_moved(handle, file, content):
                    raise

    def _has_moved(self, handle: Handle, file: RemoteFile, content: Content | None) -> bool:
        """Whether a handle's bytes come from elsewhere than from that file or content's base."""
        now = self.writes.content_of(handle.node.number)
        return handle.file is not file or (now and now.base) != (content and content.base)

    async def _has_other_key(self, node: Node) -> bool:
        """Whether the remote was moving a directory that it is in; waits for the end of that."""
        return node.parent is not None and await self.tree.moving.over(node.parent.key)

    async def _read_start(self, number: int, size: int) -> bytes:
        """The first bytes of a file."""
        fh = await self.open(number)
        try:
            return bytes(await self.read(fh, 0, size))
        finally:
            self.release(fh)

    async def write(self, fh: int, offset: int, data: Buffer) -> int:
        handle = self.files.handle(fh)
        size = memoryview(data).nbytes
        await self.writes.room.wait_for(size)
        try:
            self.writes.write(handle, offset, data)
        except OSError as error:  # and nothing has changed
            if error.errno not in FULL_ERRNOS:
                raise
            await self._write_to_full_disk(handle, offset, data)
        return size

    async def _write_to_full_disk(self, handle: Handle, offset: int, data: Buffer) -> None:
        """What was sent, and clean blocks, give way to what is written."""
        for tries_left in reversed(range(FULL_TRIES)):
            async with self._disk_is_full:  # or they take it from each other
                await self.writes.room.give_back()
                await self.blocks.give_way(memoryview(data).nbytes)
                try:
                    self.writes.write(handle, offset, data)
                    return
                except OSError as error:
                    if error.errno not in FULL_ERRNOS or not tries_left:
                        raise

    def release(self, fh: int) -> int:
        """The inode where the handle was for writing, else 0."""
        if self.tree.former is not None and not self.files.has(fh):
            return 0  # its release was answered for by a daemon that died before it could say so
        handle = self.files.handle(fh)
        number = handle.node.number
        is_last = self.files.release(fh)
        if handle.writes:
            self.writes.released(number)
        if is_last:
            self.writes.last_release(number)
        return number if handle.writes else 0

    async def sync(self, fh: int) -> None:
        """fsync(2)."""
        await self.writes.sync(self.files.handle(fh).node.number)

    async def set_attributes(self, number: int, new: NewAttributes, fh: int | None) -> Attributes:
        node = self.tree.node(number)
        self.check_writable()
        if fh is None and (new.size is not None or new.mtime_ns is not None):
            self.names.rights.check_write(node)
        if new.size is not None:
            opened = self.files.handle(fh).file if fh is not None else None
            self._check_growth(number, new.size)
            self.writes.truncate(self.tree.file(number), new.size, opened)
        self.attributes_of_files.set(node, new)
        if new.mtime_ns is not None:
            self.tree.notes.brought_times(number)
        if node.parent is not None:
            self.folding.sent(node.parent.key)
        try:
            return self.attributes(number)
        except Stale:  # without a name and not open: nobody looks at the answer
            is_dir = isinstance(node, Directory)
            return Attributes(number, is_dir, new.size or 0, new.mtime_ns or 0, "", 0.0)

    def _check_growth(self, number: int, size: int) -> None:
        try:
            growth = size - self.attributes(number).size
        except Stale:
            return  # it has no name, and is never sent
        if growth > 0:
            self.writes.quota.check(growth)

    # -- names

    def check_writable(self) -> None:
        if self._read_only:
            raise ReadOnly("the mount is read-only")

    async def create(
        self, parent: Directory, name: bytes, attributes: Mapping[str, str], *, opens: bool = True
    ) -> tuple[int, Attributes]:
        """A new file and a handle for writing it (0: it was not to be opened)."""
        self.check_writable()
        self.writes.check_allowed()
        self.writes.quota.check(0)
        try:
            node, change = await self.names.create(parent, name, attributes)
        except OSError as error:  # and nothing has changed
            if error.errno not in FULL_ERRNOS:
                raise
            await self.writes.room.give_back()
            node, change = await self.names.create(parent, name, attributes)
        handle = await self.open(node.number, writes=True) if opens else 0
        return handle, self.tree.change_attributes(change)

    async def make_link(
        self, parent: Directory, name: bytes, target: bytes, attributes: Mapping[str, str]
    ) -> Attributes:
        """symlink(2)."""
        self.check_writable()
        self.writes.check_allowed()
        change = await self.links.make(parent, name, target, attributes)
        return self.tree.change_attributes(change)

    async def make_directory(
        self, parent: Directory, name: bytes, attributes: Mapping[str, str]
    ) -> Attributes:
        self.check_writable()
        _, change = await self.names.make_directory(parent, name, attributes)
        return self.tree.change_attributes(change)

    async def unlink(self, parent: Directory, name: bytes) -> None:
        self.check_writable()
        await self.names.unlink(parent, name)

    async def remove_directory(self, parent: Directory, name: bytes) -> None:
        self.check_writable()
        await self.names.remove_directory(parent, name)

    async def rename(
        self,
        from_parent: Directory,
        from_name: bytes,
        to_parent: Directory,
        to_name: bytes,
        *,
        replaces: bool = True,
    ) -> None:
        self.check_writable()
        told = self.names.told(to_parent, to_name)
        cached = await self.names.listing(from_parent)
        source = self.names.find(from_parent, cached, from_name)
        if source is not None and source.is_directory:
            # All of it: while this one waits for another, its directory may get another key.
            with self.folding.holding(""):
                await self.subtree.rename(
                    from_parent, from_name, to_parent, to_name, replaces=replaces
                )
            self.folding.take_up()  # what was sent of it waits in other directories now
        else:
            if source is not None and replaces:
                there = await self.names.listing(to_parent)
                if self.names.find(to_parent, there, to_name) is not None:
                    await self.writes.settle(source.number)
            where = (from_parent, from_name, to_parent, to_name)
            await self.names.rename(*where, replaces=replaces, told=told)
        self.folding.sent(to_parent.key)

    async def read_directory(self, directory: Directory) -> CachedListing:
        """A directory's rows, for somebody who reads them all."""
        self.files.walk.listing(directory)  # the next listings travel beside this one
        cached = self.tree.fresh(directory) or await self.tree.listing(directory)
        self.files.walk.listed(directory, cached.listing)
        return self.tree.seen(directory, cached)

    def changed_since(self, directory: Directory, read: CachedListing) -> CachedListing | None:
        """The listing by which names are to be found now; None where nothing has changed since
        that one was read, or nothing is known any more."""
        cached = self.tree.cache.get(directory.key)
        if cached is None or (
            cached.tag == read.tag and not is_changed(self.tree.ledger, directory.key)
        ):
            return None
        return cached

    def attributes(self, number: int) -> Attributes:
        """Never waits. An inode whose row is gone answers while a handle holds it open."""
        node = self.tree.node(number)
        unlinked = self.writes.unlinked(number)
        if unlinked is not None:
            return Attributes(number, False, unlinked.size, unlinked.mtime_ns, "", 0.0)
        try:
            return self.tree.attributes(node)
        except Stale:
            opened = self.files.opened(node)
            if opened is None:
                raise
            return Attributes(number, False, opened.size, opened.mtime_ns, opened.version, 1.0)

    def answered_absent(self, directory: Directory, name: bytes) -> None:
        """Notes that the kernel keeps that `name` is not in `directory`, so that `refresh` can
        name it: a name that is not there has no inode to be found by. Only for the root: another
        directory's entry is invalidated with all that is below it."""
        if directory is self.tree.root:
            self._absent[name] = None
            if len(self._absent) > ABSENT_NAMES:
                del self._absent[next(iter(self._absent))]

    def refresh(self, path: bytes) -> list[tuple[int, bytes]]:
        """Forgets that `path` (as shown below the mount) and what is below it is fresh; returns
        the (parent inode, name) pairs that the kernel has to forget. Never waits: what is not
        known here has nothing to forget."""
        directory = self.tree.root
        itself: list[tuple[int, bytes]] = []
        for name in filter(None, path.split(b"/")):
            itself = [(directory.number, name)]
            cached = self.tree.cache.get(directory.key)
            row = cached.listing.find(name) if cached is not None else -1
            if cached is None or row < 0 or not cached.listing.is_dir(row):
                self.tree.expire(directory.key)
                return itself
            directory = self.tree.subdirectory(directory, cached.listing, row)
        self.tree.expire_below(directory.key)
        if directory is self.tree.root:
            itself = self.absent_in_root()
        cached = self.tree.cache.get(directory.key)
        if cached is None:
            return itself
        held = self.tree.holds
        listing = cached.listing
        rows = (row for row in range(len(listing)) if held(listing.ino(row)))
        # The directory after its rows: with it the kernel forgets which names were not there.
        return [(directory.number, listing.name(row)) for row in rows] + itself

    def absent_in_root(self) -> list[tuple[int, bytes]]:
        """Those that `answered_absent` noted, which the kernel is about to forget."""
        absent, self._absent = self._absent, {}
        return [(self.tree.root.number, name) for name in absent]

    def key_of_path(self, path: bytes) -> str:
        """The remote's key of a path as shown below the mount; a directory's with its slash where
        it is known to be one. Never waits. Raises NameNotAllowed."""
        directory, key = self.tree.root, ""
        names = [name for name in path.split(b"/") if name]
        for i, name in enumerate(names):
            cached = self.tree.cache.get(directory.key)
            found = self.names.find(directory, cached, name) if cached is not None else None
            if found is None:
                change = self.tree.ledger.shown.get(directory.key, {}).get(name)
                found = self.names.found(change) if change is not None else None
            if found is None or (not found.is_directory and i + 1 < len(names)):
                return directory.key + "/".join(raw_name(part) for part in names[i:])
            key = found.key
            if found.is_directory:
                directory = Directory(found.number, directory, -1, key)
        return key

    def xattr_names(self, number: int) -> list[bytes]:
        attributes = self.attributes(number)
        return [URL] if attributes.is_dir else [STATE, ETAG, URL]

    def xattr(self, number: int, name: bytes) -> bytes:
        """`user.mountd.state` and its like. NoAttribute for any other name."""
        node = self.tree.node(number)
        if name in NAMES:
            return self.keeping.get(node, name)
        if isinstance(node, Directory):
            if name == URL:
                return f"{self._url}/{node.key}".encode("utf-8", "surrogatepass")
            raise NoAttribute(name)
        change = self.tree.ledger.by_number.get(number)
        file = self.files.opened(node) or self.files.remote_file_of(node)
        if name == STATE:
            known = self.state_of(number)
            return known.encode() if known else self._state(file.digest, file.size)
        if name == ETAG:
            version = change.expect if change is not None else file.version
            return version.encode("utf-8", "surrogatepass")
        if name == URL:
            key = change.key if change is not None else file.key
            return f"{self._url}/{key}".encode("utf-8", "surrogatepass")
        raise NoAttribute(name)

    async def set_xattr(self, number: int, name: bytes, value: bytes | None) -> None:
        """None: without it. What the mount says itself stays as it is: programs that copy a file
        with its attributes bring it along, or take it away, and would fail."""
        self.tree.notes.owes_times(number)
        if name in (STATE, ETAG, URL):
            self.check_writable()
            return
        if name in NAMES:
            node = self.tree.node(number)
            if value is None:
                await self.keeping.remove(node, name)
            else:
                await self.keeping.set(node, name, value)
            return
        self.check_writable()
        check_name(name)
        if value is None:
            await self.user_xattrs.remove(number, name)
        else:
            await self.user_xattrs.set(number, name, value)

    def _state(self, digest: bytes, size: int) -> bytes:
        block_size, blocks = self.blocks.block_size, self.blocks.blocks
        count = -(-size // block_size)
        step = max(1, count // STATE_SAMPLES)
        sampled = range(0, count, step)
        here = sum(
            blocks.present(digest, i, 0, min(block_size, size - i * block_size)) for i in sampled
        )
        if here == len(sampled):
            return b"cached"
        return b"partly-cached" if here else b"remote"
