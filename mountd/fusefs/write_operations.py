"""The handlers that change something. Thin, as operations.py says; every one is one `try`."""

import errno
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Never, Protocol

import pyfuse3

from mountd.errors import NoSpace, NotPermitted, NotPossible, QuotaExceeded, Stale
from mountd.fusefs import set_ids
from mountd.fusefs.directory_times import DirectoryTimes
from mountd.fusefs.errno_table import errno_of
from mountd.fusefs.request_loop import Meanwhile
from mountd.fusefs.requests import RequestCounts
from mountd.vfs.attributes import NewAttributes, kept
from mountd.vfs.filesystem import FileSystem
from mountd.vfs.nodes import Attributes, Directory
from mountd.vfs.virtual_files import FIRST_HANDLE, VirtualFiles

# The kernel has applied the umask already where it makes a file.
PERMISSIONS = 0o7777
WRITING = 0o222
STATFS_BLOCK = 4096
MOST_TOLD = 1024
LINK_MODE = stat.S_IFLNK | 0o777


@dataclass(frozen=True, slots=True)
class Ownership:
    """Who owns everything, and the mode bits of files and directories."""

    uid: int
    gid: int
    file_mode: int
    directory_mode: int

    def mode(self, mode: int | None, *, is_dir: bool, is_read_only: bool = False) -> int:
        """st_mode of what has that mode, of which the permission bits count."""
        usual = self.directory_mode if is_dir else self.file_mode
        found = usual if mode is None else stat.S_IFMT(usual) | (mode & PERMISSIONS)
        return found & ~WRITING if is_read_only else found


class OnRemote(Protocol):
    """`mountd.running.on_remote.OnRemote`."""

    def check(self) -> None: ...

    async def file(self, fh: int) -> None: ...

    async def node(self, number: int) -> None: ...

    async def names(self, *where: tuple[Directory, bytes]) -> None: ...


class WriteOperations(pyfuse3.Operations):
    """What `Operations` is built on; see there."""

    supports_dot_lookup = False
    enable_writeback_cache = True

    def __init__(
        self,
        fs: FileSystem,
        virtual: VirtualFiles,
        owner: Ownership,
        on_remote: OnRemote | None,
    ) -> None:
        super().__init__()
        self.requests = RequestCounts()
        self._calls, self._refusal = self.requests.calls, self.requests.refusal
        self._on_remote = on_remote
        self.meanwhile = Meanwhile()
        self._fs = fs
        self._tree = fs.tree
        self._virtual = virtual
        self._owner = owner
        # For what has no time (prefixes, the root): 1970 would be taken for one. Told once, so
        # that it doesn't change under whoever compares it.
        self._no_mtime_ns = time.time_ns()
        self._directory_times = DirectoryTimes()
        self._told: dict[int, int] = {}  # see `_tell`; oldest first
        self._of_others: set[int] = set()  # handles for writing that root did not open

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        self._calls["write"] += 1
        try:
            if fh in self._of_others:
                self._drop_set_ids(self._fs.files.handle(fh).node.number)
            return await self._fs.write(fh, off, buf)
        except QuotaExceeded as exc:
            # It is told by close or fsync, and of what went wrong while pages were written back the
            # kernel tells close(2) only ENOSPC, and EIO for all else (filemap_check_errors).
            self._fail("write", NoSpace(*exc.args))
        except Exception as exc:
            self._fail("write", exc)

    async def fsync(self, fh: int, datasync: bool) -> None:
        self._calls["fsync"] += 1
        try:
            if fh < FIRST_HANDLE:
                self._come(fh)
                await self._fs.sync(fh)
                if self._on_remote is not None:
                    await self._on_remote.file(fh)
        except Exception as exc:
            self._fail("fsync", exc)

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        self._calls["create"] += 1
        try:
            parent = self._writable(parent_inode)
            attributes = self._attributes_of(mode, ctx, is_directory=False)
            number, made = await self._fs.create(parent, name, attributes)
            self._directory_times.changed(parent_inode, made.mtime_ns)
            self._tell(made.number, made.mtime_ns)
            self.meanwhile.step = partial(self._fs.writes.make_ready, made.number)
            if ctx.uid:
                self._of_others.add(number)
            return pyfuse3.FileInfo(fh=number, keep_cache=True), self._entry(made)
        except Exception as exc:
            self._fail("create", exc)

    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        self._calls["mknod"] += 1
        try:
            if not stat.S_ISREG(mode):
                raise NotPermitted("only files and directories can be made")
            parent = self._changeable(parent_inode)
            attributes = self._attributes_of(mode, ctx, is_directory=False)
            _, made = await self._fs.create(parent, name, attributes, opens=False)
            await self._made_there(made.number, parent, name)
            self._tell(made.number, made.mtime_ns)
            return self._entry(made)
        except Exception as exc:
            self._fail("mknod", exc)

    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        self._calls["mkdir"] += 1
        try:
            parent = self._changeable(parent_inode)
            attributes = self._attributes_of(mode, ctx, is_directory=True)
            made = await self._fs.make_directory(parent, name, attributes)
            await self._made_there(made.number, parent, name)
            return self._entry(made)
        except Exception as exc:
            self._fail("mkdir", exc)

    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._calls["unlink"] += 1
        try:
            parent = self._changeable(parent_inode)
            await self._fs.unlink(parent, name)
            await self._changed((parent, name))
        except Exception as exc:
            self._fail("unlink", exc)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._calls["rmdir"] += 1
        try:
            parent = self._changeable(parent_inode)
            await self._fs.remove_directory(parent, name)
            await self._changed((parent, name))
        except Exception as exc:
            self._fail("rmdir", exc)

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        self._calls["rename"] += 1
        try:
            if flags & ~pyfuse3.RENAME_NOREPLACE:
                raise NotPossible("two names can't be exchanged in one step")
            old, new = self._changeable(parent_inode_old), self._changeable(parent_inode_new)
            await self._fs.rename(old, name_old, new, name_new, replaces=not flags)
            await self._changed((new, name_new), (old, name_old))
        except Exception as exc:
            self._fail("rename", exc)

    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        self._calls["link"] += 1
        raise self._refusal("link", errno.EPERM)

    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        self._calls["symlink"] += 1
        try:
            parent = self._changeable(parent_inode)
            uid, gid = self._owners_of(ctx)
            attributes = kept(None, uid, gid, is_directory=False)
            made = await self._fs.make_link(parent, name, target, attributes)
            await self._made_there(made.number, parent, name)
            return self._entry(made)
        except Exception as exc:
            self._fail("symlink", exc)

    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        self._calls["readlink"] += 1
        try:
            return await self._fs.links.read(inode)
        except Exception as exc:
            self._fail("readlink", exc)

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        self._calls["setattr"] += 1
        try:
            if self._virtual.attributes(inode) is not None:
                raise NotPermitted("the status can't be changed")
            mode = attr.st_mode & PERMISSIONS if fields.update_mode else None
            is_owned_anew = fields.update_uid or fields.update_gid
            if mode is None and (is_owned_anew or (fields.update_size and ctx.uid)):
                mode = self._without_set_ids(inode)
            new = NewAttributes(
                attr.st_size if fields.update_size else None,
                mode,
                attr.st_uid if fields.update_uid else None,
                attr.st_gid if fields.update_gid else None,
                attr.st_mtime_ns if fields.update_mtime else None,
            )
            made = await self._fs.set_attributes(inode, new, fh)
            if made.is_dir and new.mtime_ns is not None:
                self._directory_times.dated(inode)
            entry = self._entry(made)
            if self._on_remote is not None and new.size is not None and fh is None:
                await self._on_remote.node(inode)
            if new.mtime_ns is not None and (fh is not None or inode in self._told):
                self._tell(inode, new.mtime_ns)
            return entry
        except Exception as exc:
            self._fail("setattr", exc)

    def _tell(self, number: int, mtime_ns: int) -> None:
        """Kernel and daemon agree on the mtime of an inode. A WRITE moves ours; the kernel, which
        has its writeback cache, moves its own at write(2) and sends it with SETATTR before RELEASE,
        but none where write(2) was in the very tick that we agreed on."""
        self._told[number] = mtime_ns
        if len(self._told) > MOST_TOLD:
            del self._told[next(iter(self._told))]

    def _come(self, fh: int) -> None:
        """The kernel has brought what it had of a file: what it did not date anew is as agreed."""
        number = self._fs.files.handle(fh).node.number
        if number in self._told:
            self._fs.writes.date(number, self._told[number])

    def _written(self, number: int) -> None:
        """As `_come`, after RELEASE of a handle for writing."""
        mtime_ns = self._told.pop(number, None)
        if mtime_ns is not None:
            self._fs.writes.date(number, mtime_ns)

    def _without_set_ids(self, inode: int) -> int | None:
        """The mode that a file gets (set_ids.py), if it is another one."""
        try:
            found = self._fs.attributes(inode)
        except Stale:
            return None  # without a name and not open: nobody can start it
        return None if found.is_dir or found.is_link else set_ids.without(found.mode)

    def _drop_set_ids(self, inode: int) -> None:
        mode = self._without_set_ids(inode)
        if mode is not None:
            self._fs.attributes_of_files.set(self._tree.node(inode), NewAttributes(mode=mode))

    def _writable(self, inode: int) -> Directory:
        if self._virtual.is_directory(inode):
            raise NotPermitted("nothing can be made in .mountd")
        return self._tree.directory(inode)

    def _changeable(self, inode: int) -> Directory:
        """For whoever waits for the remote once it is done here."""
        if self._on_remote is not None:
            self._on_remote.check()
        return self._writable(inode)

    async def _changed(self, *where: tuple[Directory, bytes]) -> None:
        for directory, _ in where:
            self._directory_times.changed(directory.number)
        if self._on_remote is not None:
            await self._on_remote.names(*where)

    async def _made_there(self, number: int, parent: Directory, name: bytes) -> None:
        """As `_changed`. Where that fails the kernel hears of no inode, and will forget none."""
        try:
            await self._changed((parent, name))
        except BaseException:
            self._tree.forget(number, 1)
            raise

    def _attributes_of(
        self, mode: int, ctx: pyfuse3.RequestContext, *, is_directory: bool
    ) -> Mapping[str, str]:
        """What differs from what every file has here."""
        owner = self._owner
        usual = owner.directory_mode if is_directory else owner.file_mode
        permissions = mode & PERMISSIONS
        return kept(
            permissions if permissions != usual & PERMISSIONS else None,
            *self._owners_of(ctx),
            is_directory=is_directory,
        )

    def _owners_of(self, ctx: pyfuse3.RequestContext) -> tuple[int | None, int | None]:
        """uid and gid where they differ from what every file has here."""
        uid = ctx.uid if ctx.uid != self._owner.uid else None
        return uid, ctx.gid if ctx.gid != self._owner.gid else None

    def _entry(self, attributes: Attributes) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        owner = self._owner
        entry.st_ino = attributes.number
        mode = owner.directory_mode if attributes.is_dir else owner.file_mode
        if attributes.mode is not None or attributes.is_read_only:
            mode = owner.mode(
                attributes.mode, is_dir=attributes.is_dir, is_read_only=attributes.is_read_only
            )
        entry.st_mode = LINK_MODE if attributes.is_link else mode
        entry.st_nlink = 1  # for a directory too: find(1) then does not count on 2 + children
        entry.st_uid = owner.uid if attributes.uid is None else attributes.uid
        entry.st_gid = owner.gid if attributes.gid is None else attributes.gid
        entry.st_size = attributes.size
        entry.st_blksize = STATFS_BLOCK
        entry.st_blocks = (attributes.size + 511) // 512
        mtime_ns = attributes.mtime_ns or self._no_mtime_ns
        if attributes.is_dir:
            mtime_ns = self._directory_times.of(attributes.number, mtime_ns)
        entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = mtime_ns
        entry.entry_timeout = entry.attr_timeout = attributes.ttl_s
        return entry

    def _fail(self, handler: str, error: Exception) -> Never:
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):
            self.requests.disk_failed(error)
        raise self._refusal(handler, errno_of(error, handler)) from error
