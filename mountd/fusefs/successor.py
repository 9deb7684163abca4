"""The handlers of a daemon that goes on for a dead one: requests that are sent again, and open
directories that it did not open.

The dead one may have done what it did not answer. A name that was to be made and is there, or was
to go and is gone, is what was asked for: the kernel looked before it sent the request.
"""

import errno
import logging
import os
import stat
from collections.abc import Mapping
from contextlib import suppress

import pyfuse3

from mountd.errors import FileSystemError, RemoteError, Stale
from mountd.fusefs.operations import OpenDirectory, Operations
from mountd.fusefs.takeover import Successor
from mountd.vfs.nodes import Attributes
from mountd.vfs.notes import NotedDirectory, NotedFile, NotedListing

log = logging.getLogger(__name__)


class SuccessorOperations(Operations):
    """`Operations` behind `Successor`. Both are set before anything is served."""

    successor: Successor
    former_listings: Mapping[int, NotedListing] = {}
    former_directories: Mapping[int, NotedDirectory] = {}

    def took_over(self, files: Mapping[int, NotedFile]) -> None:
        """Open files by handle. What was made or dated last has the kernel's mtime (`_tell`). A
        WRITE has ours: where no SETATTR follows that one stays, at most as late as that WRITE was.
        Who opened them nobody knows any more: set-user-ID bits go as if it was not root."""
        self._of_others.update(handle for handle, file in files.items() if file.writes)
        for file in files.values():
            content = self._fs.writes.content_of(file.number) if file.writes else None
            if content is not None and (
                content.mtime_ns != content.changed_ns or not content.top.extents
            ):
                self._tell(file.number, content.mtime_ns)

    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        again = self.successor.resent
        try:
            return await super().mkdir(parent_inode, name, mode, ctx)
        except pyfuse3.FUSEError as error:
            _unless(again, error, errno.EEXIST)
            entry = await self._made(error, parent_inode, name, ctx)
            await self._wait_for("mkdir", (parent_inode, name))
            return entry

    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        again = self.successor.resent
        try:
            return await super().mknod(parent_inode, name, mode, rdev, ctx)
        except pyfuse3.FUSEError as error:
            _unless(again, error, errno.EEXIST)
            entry = await self._made(error, parent_inode, name, ctx)
            await self._wait_for("mknod", (parent_inode, name))
            return entry

    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        again = self.successor.resent
        try:
            return await super().symlink(parent_inode, name, target, ctx)
        except pyfuse3.FUSEError as error:
            _unless(again, error, errno.EEXIST)
            entry = await self._made(error, parent_inode, name, ctx)
            await self._wait_for("symlink", (parent_inode, name))
            return entry

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        again = self.successor.resent
        try:
            return await super().create(parent_inode, name, mode, flags, ctx)
        except pyfuse3.FUSEError as error:
            _unless(again, error, errno.EEXIST)
            if flags & os.O_EXCL:
                entry = await self._made(error, parent_inode, name, ctx)
            else:
                entry = await self.lookup(parent_inode, name, ctx)
            return await self.open(entry.st_ino, flags, ctx), entry

    async def _made(
        self, error: pyfuse3.FUSEError, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """What is there, if the dead one has made it. Else somebody else has, perhaps as a lock:
        then raises `error`, which is the truth."""
        entry = await self.lookup(parent_inode, name, ctx)
        number = entry.st_ino
        # What was sent and folded since is in no ledger any more, but its handle or key is noted.
        is_noted = number in self.former_directories or self._files.is_open(number)
        if is_noted or number in self._tree.ledger.by_number:
            return entry
        raise error

    async def _wait_for(self, handler: str, *where: tuple[int, bytes]) -> None:
        """What the dead one has done may not be on the remote yet."""
        try:
            await self._changed(*((self._tree.directory(inode), name) for inode, name in where))
        except Exception as error:
            self._fail(handler, error)

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """The kernel brings times that it changed itself (a rename, an unlink) late, of a file that
        may be gone since. ESTALE as the answer is what the next syncfs of the mount says, although
        nothing is lost; to utimensat(2), which sets the time of access too, it makes it look the
        path up again."""
        is_late = self.notes.is_late(inode) and _are_only_times(fields)
        if is_late and fh is None and not self._is_found(inode):
            self._calls["setattr"] += 1
            log.debug("times of inode %d came late: no file has it any more", inode)
            self.notes.brought_times(inode)
            return self._entry(Attributes(inode, False, 0, attr.st_mtime_ns, "", 0.0))
        return await super().setattr(inode, attr, fields, fh, ctx)

    def _is_found(self, inode: int) -> bool:
        try:
            self._tree.node(inode)
        except Stale:
            return False
        return True

    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        again = self.successor.resent
        try:
            await super().unlink(parent_inode, name, ctx)
        except pyfuse3.FUSEError as error:
            _unless(again, error, errno.ENOENT)
            await self._wait_for("unlink", (parent_inode, name))

    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        again = self.successor.resent
        try:
            await super().rmdir(parent_inode, name, ctx)
        except pyfuse3.FUSEError as error:
            _unless(again, error, errno.ENOENT)
            await self._wait_for("rmdir", (parent_inode, name))

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        again = self.successor.resent
        where = parent_inode_old, name_old, parent_inode_new, name_new
        try:
            await self._rename(again, where, flags, ctx)
        except pyfuse3.FUSEError as error:
            _unless(again, error, errno.ENOENT)
            found = await self.lookup(parent_inode_new, name_new, ctx)
            number = found.st_ino
            is_moved = number in self._tree.ledger.by_number or self.notes.is_late(number)
            if not number or not (is_moved or stat.S_ISDIR(found.st_mode)):
                raise  # others have taken the source away, and the target is what was there
            try:
                await self._move_along(number, *where)
            except (FileSystemError, RemoteError, OSError) as error:
                log.info("%r was moved, and its inodes are new: %s", name_new, error)
            await self._wait_for(
                "rename", (parent_inode_new, name_new), (parent_inode_old, name_old)
            )

    async def _rename(
        self,
        again: bool,
        where: tuple[int, bytes, int, bytes],
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        if again:
            self._look_anew(*where)
        try:
            await super().rename(*where, flags, ctx)
        except pyfuse3.FUSEError as error:
            _unless(again, error, errno.ENOTEMPTY, errno.EEXIST)
            # The remote was still at it when the old place was listed, and no longer for the new.
            self._look_anew(*where)
            await super().rename(*where, flags, ctx)

    def _look_anew(self, parent_old: int, name: bytes, parent_new: int, _: bytes) -> None:
        """The dead one may have had the remote move a directory. Where one end was listed before
        and one after that, it would be at both, or at none."""
        if not self._tree.store.capabilities.native_move:
            return
        with suppress(FileSystemError):
            ends = [self._tree.directory(number) for number in (parent_old, parent_new)]
            cached = self._tree.cache.get(ends[0].key)
            found = self._fs.names.find(ends[0], cached, name) if cached is not None else None
            if found is None or found.is_directory:
                for end in ends:
                    self._tree.expire(end.key)

    async def _move_along(
        self, there: int, parent_old: int, name_old: bytes, parent_new: int, name_new: bytes
    ) -> None:
        """The kernel holds the directory that the remote has moved by its former number."""
        from_parent, to_parent = map(self._tree.directory, (parent_old, parent_new))
        key = from_parent.key + os.fsdecode(name_old) + "/"
        noted = self.former_directories.items()
        number = next((number for number, found in noted if found.key == key), 0)
        if not number or number == there or self._tree.directory(number).key != key:
            return
        self._tree.forget(there, 1)  # of our own look at it
        await self._fs.subtree.was_done(number, key, from_parent, name_new, to_parent)

    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        again = self.successor.resent
        try:
            await super().removexattr(inode, name, ctx)
        except pyfuse3.FUSEError as error:
            _unless(again, error, errno.ENODATA)

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        if fh and fh not in self._directories:
            try:
                self._directories[fh] = await self._former_directory(fh, start_id)
            except FileSystemError as error:
                self._fail("readdir", error)
        await super().readdir(fh, start_id, token)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Needs no listing, and of a directory that is gone nothing but the log, which has all
        names of the mount."""
        if not fh or fh in self._directories:
            await super().fsyncdir(fh, datasync)
            return
        self._calls["fsyncdir"] += 1
        noted = self.former_listings.get(fh)
        try:
            directory = self._tree.directory(noted.number) if noted else self._tree.root
        except FileSystemError:
            directory = self._tree.root
        try:
            await self._fs.links.sync_directory(directory)
        except Exception as error:
            self._fail("fsyncdir", error)

    async def _former_directory(self, fh: int, start_id: int) -> OpenDirectory:
        """Positions count names: where these are not the same any more, it can't be gone on."""
        noted = self.former_listings.get(fh)
        if noted is None:
            raise Stale(f"directory handle {fh} is not known")
        directory = self._tree.directory(noted.number)
        cached = self._tree.cache.get(directory.key)
        if cached is not None:
            cached = self._tree.seen(directory, cached)
        if cached is None or (len(cached.listing), cached.listing.names_crc()) != (
            noted.names,
            noted.crc,
        ):
            cached = await self._fs.read_directory(directory)
        same = (len(cached.listing), cached.listing.names_crc()) == (noted.names, noted.crc)
        if start_id and not same:
            raise Stale(f"{directory.key!r} was changed while it was being read")
        return OpenDirectory(directory, cached)


def _are_only_times(fields: pyfuse3.SetattrFields) -> bool:
    of_others = fields.update_size, fields.update_mode, fields.update_uid, fields.update_gid
    return fields.update_mtime and not fields.update_atime and not any(of_others)


def _unless(again: bool, error: pyfuse3.FUSEError, *done: int) -> None:
    if not again or error.errno not in done:
        raise error
