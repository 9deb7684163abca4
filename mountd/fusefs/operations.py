"""FUSE requests -> calls of the vfs -> replies. The only user of pyfuse3, and nothing but a thin
layer: each handler decodes, calls and encodes.

Handlers of known things don't await anything that waits: a warm read, getattr and a look-up inside
the TTL run through without a thread hop, a lock or a log line.

Whatever goes wrong, the answer is an errno: pyfuse3 ends the whole mount on any exception but
FUSEError. That is why every handler is one `try` from its first line on.
"""

import errno
import logging
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyfuse3
from typing_extensions import Buffer

from mountd.errors import (
    NameNotAllowed,
    NameTooLong,
    NoAttribute,
    NoEntry,
    NotPermitted,
)
from mountd.fusefs.write_operations import (
    LINK_MODE,
    STATFS_BLOCK,
    OnRemote,
    Ownership,
    WriteOperations,
)
from mountd.remotes.base import Quota
from mountd.vfs.filesystem import FileSystem
from mountd.vfs.listing_rows import FIRST_DERIVED
from mountd.vfs.names import NAME_MAX_BYTES
from mountd.vfs.nodes import ROOT, Attributes, Directory
from mountd.vfs.notes import NoNotes, NotedListing, Notes
from mountd.vfs.row_attributes import shown_in
from mountd.vfs.user_xattrs import is_users
from mountd.vfs.virtual_files import FIRST_HANDLE, VirtualFiles
from mountd_cache.listing import Listing, Row
from mountd_cache.metadata_cache import CachedListing

log = logging.getLogger(__name__)

DOT, DOT_DOT, FIRST_ROW = 1, 2, 3  # readdir positions: what comes after them is start_id
WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND
STATFS_BLOCKS = 1 << 38  # 1 PiB: object stores have no size, and 0 makes programs refuse


@dataclass(slots=True)
class OpenDirectory:
    """One opendir(3): the listing it began with, so that positions stay true."""

    directory: Directory
    cached: CachedListing
    used: bool = False


class Operations(WriteOperations):
    """See the module. Every handler answers within the vfs's bounds or raises FUSEError."""

    def __init__(
        self,
        fs: FileSystem,
        virtual: VirtualFiles,
        owner: Ownership,
        *,
        xattrs: bool,
        on_remote: OnRemote | None = None,
        room: Callable[[], Quota | None] = lambda: None,
    ) -> None:
        """`on_remote` is what close(2) and changes of names wait for; None: nothing hangs on it.
        `room` is what is known of the remote's, at once."""
        super().__init__(fs, virtual, owner, on_remote)
        self._files = fs.files
        self._xattrs = xattrs
        self._asking = fs.asking if fs.asking.is_wanted else None
        self._room = room
        self._directories: dict[int, OpenDirectory] = {}
        self.notes: Notes = NoNotes()
        self.next_directory = 1

    # -- names and attributes

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        self._calls["lookup"] += 1
        try:
            virtual = self._virtual.lookup(parent_inode, name)
            if virtual is not None:
                return self._entry(virtual)
            if self._virtual.is_directory(parent_inode):
                return _absent(0.0)
            parent = self._tree.directory(parent_inode)
            cached = None
            if self._asking is not None and self._asking.is_on:
                cached = await self._asking.name(parent, name)
            try:
                return self._entry(await self._tree.lookup(parent, name, cached))
            except NoEntry:
                if len(name) > NAME_MAX_BYTES:  # the kernel itself takes 1024
                    raise NameTooLong(name) from None
                timeout_s = self._tree.negative_timeout_s(parent)
                self._fs.answered_absent(parent, name)
                return _absent(timeout_s)
        except Exception as exc:
            self._fail("lookup", exc)

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        self._calls["getattr"] += 1
        try:
            virtual = self._virtual.attributes(inode)
            if virtual is not None:
                return self._entry(virtual)
            return self._entry(self._fs.attributes(inode))
        except Exception as exc:
            self._fail("getattr", exc)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        self._calls["forget"] += 1
        forget = self._tree.forget
        for inode, lookups in inode_list:
            try:
                forget(inode, lookups)
            except Exception:
                log.exception("inode %d could not be forgotten", inode)

    # -- directories

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        self._calls["opendir"] += 1
        try:
            if self._virtual.is_directory(inode):
                return 0
            if ctx.pid in self._fs.own_threads:
                return 0  # it only wants the kernel's pages handed over, and no LIST
            directory = self._tree.directory(inode)
            cached = await self._fs.read_directory(directory)
        except Exception as exc:
            self._fail("opendir", exc)
        number = self.next_directory
        self.next_directory += 1
        self._directories[number] = OpenDirectory(directory, cached)
        self._note_listing(number, directory, cached.listing)
        return number

    def _note_listing(self, fh: int, directory: Directory, listing: Listing) -> None:
        noted = NotedListing(directory.number, len(listing), listing.names_crc())
        self.notes.opened_listing(fh, noted)

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        self._calls["readdir"] += 1
        if not fh:
            return  # .mountd is not listed
        try:
            opened = self._directories[fh]
            if not start_id and opened.used:  # rewinddir(3) shows what is new
                opened.cached = await self._fs.read_directory(opened.directory)
                self._note_listing(fh, opened.directory, opened.cached.listing)
            opened.used = True
            if start_id >= FIRST_ROW or self._dots(opened.directory, start_id, token):
                first, length = max(0, start_id - DOT_DOT), len(opened.cached.listing)
                is_told = False  # an answer without a name ends the directory
                while first < length and not is_told:
                    end = length
                    if self._asking is not None and self._asking.is_on:
                        end = await self._asking.rows(opened.directory, opened.cached, first)
                    is_told = self._rows(opened, first, end, token)
                    first = end
        except Exception as exc:
            self._fail("readdir", exc)

    def _dots(self, directory: Directory, start_id: int, token: pyfuse3.ReaddirToken) -> bool:
        parent = directory.parent or directory
        for position, name, number in (
            (DOT, b".", directory.number),
            (DOT_DOT, b"..", parent.number),
        ):
            if start_id < position:
                entry = self._entry(Attributes(number, True, 0, 0, "", 0.0))
                if not pyfuse3.readdir_reply(token, name, entry, position):
                    return False
        return True

    def _rows(
        self, opened: OpenDirectory, first: int, end: int, token: pyfuse3.ReaddirToken
    ) -> bool:
        """Fills the reply with rows before `end`; whether there was any to be told. One
        EntryAttributes serves for all of them: readdir_reply copies it."""
        listing, directory = opened.cached.listing, opened.directory
        entry = pyfuse3.EntryAttributes()
        entry.st_nlink = 1
        entry.st_blksize = STATFS_BLOCK
        entry.entry_timeout = entry.attr_timeout = self._tree.timeout_s(
            opened.cached, directory.key
        )
        remember, reply = self._tree.remember, pyfuse3.readdir_reply
        owner = self._owner
        file_mode, directory_mode = owner.file_mode, owner.directory_mode
        no_mtime_ns, times = self._no_mtime_ns, self._directory_times
        changed = self._tree.ledger.by_number
        current = self._fs.changed_since(directory, opened.cached)
        told = self._tree.known.told
        is_told = False
        for position in range(first, end):
            row, source = position, listing
            if current is not None:
                now = self._now(directory, current, listing, row)
                if now is None:
                    continue
                source, row = now
            name, is_dir, size, mtime_ns, _, number, attributes, is_link = source.row(row)
            if number >= FIRST_DERIVED:
                source = self._tree.checked(directory, source, row)
                number = source.ino(row)
            if number in changed:
                own = self._entry(self._tree.change_attributes(changed[number]))
                self._tree.remember_change(directory, changed[number])
                if not reply(token, name, own, position + FIRST_ROW):
                    self._tree.forget(number, 1)
                    return True
                is_told = True
                continue
            # Before the reply: what can't be remembered must not be told to the kernel.
            try:
                remember(directory, source, row)
            except NameNotAllowed as exc:
                log.warning("%r in %r is left out: %s", name, directory.key, exc)
                continue
            if is_dir:
                mtime_ns = times.of(number, mtime_ns or no_mtime_ns)
            if told and number in told:
                attributes = told[number].text
                mtime_ns = told[number].mtime_ns or mtime_ns
            if attributes:
                mode, uid, gid, is_read_only = shown_in(attributes)
                entry.st_uid = owner.uid if uid is None else uid
                entry.st_gid = owner.gid if gid is None else gid
                mode = owner.mode(mode, is_dir=is_dir, is_read_only=is_read_only)
            else:
                entry.st_uid, entry.st_gid = owner.uid, owner.gid
                mode = directory_mode if is_dir else file_mode
            entry.st_ino = number
            entry.st_mode = LINK_MODE if is_link else mode
            entry.st_size = size
            entry.st_blocks = (size + 511) // 512
            entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = mtime_ns or no_mtime_ns
            if not reply(token, name, entry, position + FIRST_ROW):
                self._tree.forget(number, 1)
                return True
            is_told = True
        return is_told

    def _now(
        self, directory: Directory, current: CachedListing, listing: Listing, row: int
    ) -> tuple[Listing, int] | None:
        """Where a row is told as it is now; None where its name is gone: the kernel would take it
        for one that is there."""
        name = listing.name(row)
        try:
            found = self._fs.names.find(directory, current, name)
        except NameNotAllowed:
            return listing, row
        if found is None:
            return None
        if found.change is None:  # the current row knows more, if it is the same file
            return current.listing, current.listing.find(name)
        if found.number == listing.ino(row):
            return listing, row
        made = Row(name, found.is_directory, found.size, 0, found.version, found.number)
        return Listing.build([made]), 0

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        self._calls["fsyncdir"] += 1
        try:
            if fh:
                await self._fs.links.sync_directory(self._directories[fh].directory)
        except Exception as exc:
            self._fail("fsyncdir", exc)

    async def releasedir(self, fh: int) -> None:
        self._calls["releasedir"] += 1
        self._directories.pop(fh, None)
        self.notes.released_listing(fh)

    # -- files

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        self._calls["open"] += 1
        try:
            if flags & WRITING and self._virtual.attributes(inode) is not None:
                raise NotPermitted("the status can't be changed")
            virtual = self._virtual.open(inode)
            if virtual is not None:
                return pyfuse3.FileInfo(fh=virtual, direct_io=True)
            truncates = bool(flags & os.O_TRUNC)
            mode = self._without_set_ids(inode) if truncates and ctx.uid else None
            number = await self._fs.open(
                inode, writes=bool(flags & WRITING), truncates=truncates, mode=mode
            )
            if flags & WRITING and ctx.uid:
                self._of_others.add(number)
        except Exception as exc:
            self._fail("open", exc)
        # A foreign change gives a new inode, so pages of this one are right for ever.
        return pyfuse3.FileInfo(fh=number, keep_cache=True)

    # Any buffer is copied from; the library's type says bytes.
    async def read(self, fh: int, off: int, size: int) -> Buffer:  # type: ignore[override]
        self._calls["read"] += 1
        try:
            if fh >= FIRST_HANDLE:
                return self._virtual.read(fh, off, size)
            return await self._fs.read(fh, off, size)
        except Exception as exc:
            self._fail("read", exc)

    async def release(self, fh: int) -> None:
        self._calls["release"] += 1
        try:
            if fh >= FIRST_HANDLE:
                self._virtual.release(fh)
            else:
                self._of_others.discard(fh)
                self._written(self._fs.release(fh))
        except Exception:
            log.exception("handle %d could not be released", fh)

    async def flush(self, fh: int) -> None:
        self._calls["flush"] += 1
        # With durability = "local" nothing hangs on FLUSH: all that came is in the journal. ENOSYS
        # makes the kernel stop asking, for the whole mount.
        if self._on_remote is None:
            raise self._refusal("flush", errno.ENOSYS)
        try:
            if fh < FIRST_HANDLE:
                self._come(fh)
                await self._on_remote.file(fh)
        except Exception as exc:
            self._fail("flush", exc)

    # -- the whole

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        self._calls["statfs"] += 1
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = STATFS_BLOCK
        data.f_blocks = data.f_bfree = data.f_bavail = STATFS_BLOCKS
        room = self._room()
        if room is not None and room.free_bytes is not None:
            data.f_bfree = data.f_bavail = room.free_bytes // STATFS_BLOCK
            data.f_blocks = data.f_bfree + -(-room.used_bytes // STATFS_BLOCK)
        data.f_files = data.f_ffree = data.f_favail = 1 << 32
        data.f_namemax = NAME_MAX_BYTES
        return data

    # -- extended attributes

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        self._calls["getxattr"] += 1
        if not self._xattrs:
            raise self._refusal("getxattr", errno.ENOSYS)
        # Labels and ACLs. "Not supported", because "no data" makes `ls -l` ask again for each
        # file: 10,101 requests and 0.7 of its 1.05 s in a tree of 10,000 files.
        if name.startswith((b"security.", b"system.")):
            raise self._refusal("getxattr", errno.EOPNOTSUPP)
        try:
            if self._virtual.attributes(inode) is not None:
                raise NoAttribute(name)
            if is_users(name):
                return await self._fs.user_xattrs.get(inode, name)
            return self._fs.xattr(inode, name)
        except Exception as exc:
            self._fail("getxattr", exc)

    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        self._calls["listxattr"] += 1
        if not self._xattrs:
            raise self._refusal("listxattr", errno.ENOSYS)
        try:
            if self._virtual.attributes(inode) is not None:
                return []
            return [*self._fs.xattr_names(inode), *self._fs.user_xattrs.names(inode)]
        except Exception as exc:
            self._fail("listxattr", exc)

    # pyfuse3 looks after XATTR_CREATE and XATTR_REPLACE, with getxattr.
    async def setxattr(
        self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        self._calls["setxattr"] += 1
        self._check_xattr("setxattr", inode)
        try:
            await self._fs.set_xattr(inode, name, value)
        except Exception as exc:
            self._fail("setxattr", exc)

    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._calls["removexattr"] += 1
        self._check_xattr("removexattr", inode)
        try:
            await self._fs.set_xattr(inode, name, None)
        except Exception as exc:
            self._fail("removexattr", exc)

    def _check_xattr(self, handler: str, inode: int) -> None:
        """FUSEError unless somebody may change some."""
        if not self._xattrs:
            raise self._refusal(handler, errno.ENOSYS)
        try:
            if self._virtual.attributes(inode) is not None:
                raise NotPermitted("the status can't be changed")
        except Exception as exc:
            self._fail(handler, exc)


def ownership(uid: int, gid: int, umask: int) -> Ownership:
    """Mode bits from a umask; what is executable says so itself."""
    return Ownership(uid, gid, stat.S_IFREG | (0o666 & ~umask), stat.S_IFDIR | (0o777 & ~umask))


def _absent(timeout_s: float) -> pyfuse3.EntryAttributes:
    """A negative entry, which the kernel keeps that long."""
    absent = pyfuse3.EntryAttributes()
    absent.st_ino = 0
    absent.entry_timeout = timeout_s
    return absent


assert ROOT == pyfuse3.ROOT_INODE
