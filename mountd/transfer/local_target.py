"""A local directory as the target: partial files beside their places, made whole by a rename.

A partial file has a name that mountd shows nowhere, made of the path and the version that it is of:
a later run finds it. Finished ones are brought to the disk together (one syncfs, not hundreds of
fsyncs) and only then renamed, so no power cut leaves half a file under its final name. No
symbolic link on the way is followed, whoever put it there.
"""

import contextlib
import errno
import hashlib
import os
import stat as modes
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from typing_extensions import Buffer

from mountd.errors import NameNotAllowed, VersionChanged
from mountd.remotes.base import ABSENT
from mountd.remotes.local_tree import version_of
from mountd.remotes.temporary_names import temporary_name, temporary_name_of
from mountd.transfer.direct_writes import DirectWrites
from mountd.transfer.items import Item, parents_of
from mountd_cache.durable_io import DISK, FileIO

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PARTIAL: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NO_LINKS: Final = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))
# Bringing a whole disk up to date waits for what others write there, too.
_FEW_DIRECTORIES: Final = 32
_USUAL: Final = 0o666  # of a new file, where the source tells none
_PERMISSIONS: Final = 0o777  # not set-user-id: whoever copies owns it
_READABLE: Final = 0o444
_EXECUTABLE: Final = 0o111
_IN_THE_WAY: Final = frozenset((errno.ENOTDIR, errno.ELOOP))


@dataclass(frozen=True, slots=True)
class Finished:
    """A partial file that has all its bytes and its time. `version`: what the file will have.
    `mode`: the permissions of the source's file, None where they aren't known."""

    path: str
    partial: str
    expect: str
    version: str
    size: int
    mode: int | None = None


class LocalTarget:
    """Any thread. All raise OSError; NameNotAllowed where a file or a link is in the way."""

    def __init__(
        self, root: str, disk: FileIO = DISK, folder_modes: Mapping[str, int | None] | None = None
    ) -> None:
        """`folder_modes`: the permissions of the source's directories, where they are known."""
        self.root = root
        self._disk = disk
        self._made: list[Path] = []
        self._folder_modes = folder_modes or {}
        self._umask = os.umask(0o077)
        os.umask(self._umask)

    def prepare(self) -> None:
        """Makes the root."""
        path = Path(self.root)
        while not path.is_dir():
            self._made.append(path)
            path = path.parent
        os.makedirs(self.root, exist_ok=True)

    def free_bytes(self) -> int:
        """Room for this user, where the root is or will be."""
        path = Path(self.root)
        while not path.exists() and path != path.parent:
            path = path.parent
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def folds(self) -> bool:
        """Whether names that differ only in letter case are one name where the root is or will
        be. Makes a file there."""
        above = self.root
        while not os.path.isdir(above):
            above = os.path.dirname(above)
        name = temporary_name()
        path = os.path.join(above, name)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            return os.path.lexists(os.path.join(above, name.upper()))
        finally:
            os.unlink(path)

    def open_partial(self, item: Item) -> int:
        """The partial file of this version of `item`, old or new; for reading and writing."""
        name = partial_name(item)
        # Nobody reads it meanwhile who may not read what it will replace: `place` gives the mode.
        mode = 0o600
        with self._parent(item.path) as (parent_fd, _):
            try:
                fd = os.open(name, _PARTIAL, mode, dir_fd=parent_fd)
            except PermissionError:  # a killed run has just made it read-only; or it can't be made
                if not os.access(name, os.F_OK, dir_fd=parent_fd, follow_symlinks=False):
                    raise
            else:
                status = os.fstat(fd)
                if modes.S_ISREG(status.st_mode) and status.st_nlink == 1:
                    return fd
                # Another name of somebody's file: that one is not to be written to.
                os.close(fd)
            os.unlink(name, dir_fd=parent_fd)
            return os.open(name, _PARTIAL | os.O_EXCL, mode, dir_fd=parent_fd)

    def drop_partial(self, item: Item) -> None:
        """Removes the partial file, if there is one."""
        with (
            contextlib.suppress(FileNotFoundError, NameNotAllowed),
            self._parent(item.path, make=False) as (parent_fd, _),
        ):
            os.unlink(partial_name(item), dir_fd=parent_fd)

    def write(self, fd: int, data: Buffer, offset: int) -> None:
        """All of `data`."""
        left = memoryview(data).cast("B")
        while left:
            count = self._disk.pwrite(fd, left, offset)
            left, offset = left[count:], offset + count

    def direct_writes(self, item: Item) -> DirectWrites:
        """For a large file."""
        return DirectWrites(self._disk, item.size)

    def sync_file(self, fd: int) -> None:
        """As `sync`, of one file."""
        self._disk.fdatasync(fd)

    def finished(
        self, fd: int, item: Item, mtime_ns: int, expect: str, mode: int | None = None
    ) -> Finished:
        """Gives the partial file its time, and its size."""
        if os.fstat(fd).st_size != item.size:
            self._disk.truncate(fd, item.size)
        if mtime_ns:
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        version = version_of(os.fstat(fd))
        return Finished(item.path, partial_name(item), expect, version, item.size, mode)

    def sync(self) -> None:
        """What was written so far survives a power cut."""
        self._disk.sync_file_system(Path(self.root))

    def sync_names(self, paths: Iterable[str]) -> None:
        """The names of these files survive a power cut, and of the directories that they are in."""
        directories = {"", *(above for path in paths for above in parents_of(path))}
        if len(directories) > _FEW_DIRECTORIES:
            self.sync()
            return
        for directory in sorted(directories, reverse=True):
            with contextlib.suppress(FileNotFoundError):
                self._disk.fsync_dir(Path(self.root, directory))
        for made in self._made:
            with contextlib.suppress(PermissionError):  # who may write there may not list it
                self._disk.fsync_dir(made.parent)

    def place(self, one: Finished) -> None:
        """The partial file under its final name. VersionChanged where something else than
        `expect` is there by now; then nothing changes."""
        with self._parent(one.path) as (parent_fd, name):
            there = _compare(one.path, parent_fd, name, one.expect)
            mode = self._mode(one.mode, there)
            with contextlib.suppress(OSError):
                os.chmod(one.partial, mode, dir_fd=parent_fd)
            _move(one.path, parent_fd, one.partial, name, exclusive=one.expect == ABSENT)

    def _mode(self, wanted: int | None, there: os.stat_result | None) -> int:
        """A new file has that of the source, as far as the umask lets it; one that is replaced
        stays as readable as it was, and is executable if the source is."""
        if there is None or not modes.S_ISREG(there.st_mode):
            return (_USUAL if wanted is None else wanted & _PERMISSIONS) & ~self._umask
        mode = there.st_mode & _PERMISSIONS
        if wanted is None:
            return mode
        if not wanted & _EXECUTABLE:
            return mode & ~_EXECUTABLE
        return mode if mode & _EXECUTABLE else mode | (mode & _READABLE) >> 2

    def make_dir(self, path: str) -> None:
        """A directory and those above it; it may exist already."""
        with self._parent(f"{path}/x"):
            pass

    def remove_dir(self, path: str) -> None:
        """If it is empty; else nothing."""
        with self._parent(path, make=False) as (parent_fd, name):
            try:
                os.rmdir(name, dir_fd=parent_fd)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise

    def make_link(self, item: Item, target: bytes, expect: str) -> str:
        """A symbolic link; its version."""
        with self._parent(item.path) as (parent_fd, name):
            _compare(item.path, parent_fd, name, expect)
            fresh = temporary_name()
            os.symlink(target, fresh, dir_fd=parent_fd)
            try:
                if item.mtime_ns:
                    times = (item.mtime_ns, item.mtime_ns)
                    os.utime(fresh, ns=times, dir_fd=parent_fd, follow_symlinks=False)
                version = version_of(os.lstat(fresh, dir_fd=parent_fd))
                os.rename(fresh, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
            except BaseException:
                os.unlink(fresh, dir_fd=parent_fd)
                raise
            return version

    def delete(self, item: Item) -> None:
        """Only this version; then the directories that are empty by that, and not the source's."""
        with self._parent(item.path, make=False) as (parent_fd, name):
            _compare(item.path, parent_fd, name, item.version)
            os.unlink(name, dir_fd=parent_fd)
        above = item.path
        while "/" in above:
            above = above.rpartition("/")[0]
            if above in self._folder_modes:
                return
            try:
                with self._parent(above, make=False) as (parent_fd, name):
                    os.rmdir(name, dir_fd=parent_fd)
            except OSError:
                return

    @contextlib.contextmanager
    def _parent(self, path: str, *, make: bool = True) -> Iterator[tuple[int, str]]:
        *above, name = path.split("/")
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for at, segment in enumerate(above):
                mode = self._folder_mode(above[: at + 1]) if make else None
                below = _entered(fd, segment, mode)
                os.close(fd)
                fd = below
            yield fd, name
        except OSError as error:
            if error.errno in _IN_THE_WAY:
                raise NameNotAllowed(f"{path}: a file or a link is in the way at DEST") from error
            raise
        finally:
            os.close(fd)

    def _folder_mode(self, segments: Sequence[str]) -> int:
        mode = self._folder_modes.get("/".join(segments)) if self._folder_modes else None
        # (The rest of its files must come in, whatever the source's owner may do there.)
        return 0o777 if mode is None else mode & _PERMISSIONS | 0o700


def partial_name(item: Item) -> str:
    """One for each version of each file, with the form of all temporary names of mountd."""
    what = f"{item.path}\0{item.version}".encode(errors="surrogateescape")
    return temporary_name_of(hashlib.sha256(what).digest()[:8])


def _entered(fd: int, segment: str, mode: int | None) -> int:
    """`mode`: to make it with; None: it is not made."""
    try:
        return os.open(segment, _DIRECTORY, dir_fd=fd)
    except FileNotFoundError:
        if mode is None:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(segment, mode, dir_fd=fd)
    return os.open(segment, _DIRECTORY, dir_fd=fd)


def _compare(path: str, parent_fd: int, name: str, expect: str) -> os.stat_result | None:
    status: os.stat_result | None = None
    now = ABSENT
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(name, dir_fd=parent_fd)
    if status is not None:
        if modes.S_ISDIR(status.st_mode):
            raise NameNotAllowed(f"{path}: a directory is in the way at DEST")
        now = version_of(status)
    if now != expect:
        raise VersionChanged(f"{path} changed at DEST meanwhile")
    return status


def _move(path: str, parent_fd: int, partial: str, name: str, *, exclusive: bool) -> None:
    if exclusive:
        try:
            os.link(partial, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
            os.unlink(partial, dir_fd=parent_fd)
            return
        except FileExistsError as error:
            raise VersionChanged(
                f"{path} came to be at DEST meanwhile, perhaps spelt in another way"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
    os.rename(partial, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
