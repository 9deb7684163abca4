"""Files that are whole after a power cut: the only place that knows how.

`DurableIO` is the door: everything that must survive goes through an instance of it, so that a
test can hand in one that forgets what was not fsynced. `FileIO` adds what the journal needs, which
writes parts of files. `DISK` is the real one of both.
"""

import ctypes
import errno
import os
import sqlite3
import stat
import tempfile
from pathlib import Path
from typing import Final, Protocol

from typing_extensions import Buffer

from mountd_cache.apart import make_dir_apart
from mountd_cache.past_page_cache import ReadOnce, pwrite_once

TEMP_PREFIX: Final = ".tmp-"

_KEEP_SIZE: Final = 1  # FALLOC_FL_KEEP_SIZE
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate64.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class DirectoryNotPrivate(Exception):
    """A directory that must be ours alone is not; the message names the path and the fix."""


class DurableIO(Protocol):
    """What makes a change to the disk survive a power cut."""

    def write_file(self, path: Path, data: Buffer) -> None:
        """`path` holds `data`, whole, when this returns; before that its old content, whole.

        Mode 0600. Raises OSError, and then leaves the old content and no temporary file (a
        SIGKILL can leave one, its name starts with `TEMP_PREFIX`).
        """
        ...

    def replace(self, source: Path, target: Path) -> None:
        """Renames `source`, whose content is fsynced first, over `target`; survives a power cut."""
        ...

    def fsync_dir(self, path: Path) -> None:
        """The names in the directory `path` survive a power cut once this returned."""
        ...


class FileIO(DurableIO, Protocol):
    """Files that are written in parts: the calls of `os`, and what makes them survive.

    All raise OSError. Nothing survives a power cut but what the calls of the second half say.
    """

    def open_file(self, path: Path | str, *, create: bool = False) -> int:
        """A descriptor for reading and writing. `create`: it must not be there yet; mode 0600."""
        ...

    def close(self, fd: int, /) -> None: ...

    def pwrite(self, fd: int, data: Buffer, offset: int, /) -> int: ...

    def pwrite_once(self, fd: int, data: Buffer, offset: int, /) -> int:
        """As `pwrite`, for what is not soon read. OSError of `past_page_cache.NOT_HERE` where there
        is no such way."""
        ...

    def pread(self, fd: int, length: int, offset: int, /) -> bytes: ...

    def pread_once(self, fd: int, length: int, offset: int, /) -> bytes | bytearray:
        """As `pread`; leaves nothing in the page cache that was not there, where it can."""
        ...

    def allocate(self, fd: int, end: int) -> None:
        """Keeps room on the disk for [0, end) without changing the size; does nothing where the
        file system can't."""
        ...

    def truncate(self, fd: int, size: int, /) -> None: ...

    def rename(self, source: Path, target: Path, /) -> None: ...

    def unlink(self, path: Path, /) -> None:
        """Does nothing where it isn't there."""
        ...

    def fdatasync(self, fd: int, /) -> None:
        """All bytes written to the file, and its size, survive a power cut once this returned."""
        ...

    def sync_file_system(self, path: Path) -> None:
        """As fdatasync of every file on the file system that the directory `path` is on. An error
        may be that of somebody else's file."""
        ...

    def commit(self, connection: sqlite3.Connection) -> None:
        """Ends a transaction of a database with `synchronous=FULL`: it survives. sqlite3.Error."""
        ...


class _Disk:
    """`FileIO` on a real file system."""

    close = staticmethod(os.close)
    pwrite = staticmethod(os.pwrite)
    pwrite_once = staticmethod(pwrite_once)
    pread = staticmethod(os.pread)
    pread_once = ReadOnce()
    truncate = staticmethod(os.ftruncate)
    rename = staticmethod(os.rename)
    fdatasync = staticmethod(os.fdatasync)

    def open_file(self, path: Path | str, *, create: bool = False) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags | os.O_CREAT | os.O_EXCL if create else flags, 0o600)

    def allocate(self, fd: int, end: int) -> None:
        if _LIBC.fallocate64(fd, _KEEP_SIZE, 0, end):
            error = ctypes.get_errno()
            if error not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise OSError(error, os.strerror(error))

    def unlink(self, path: Path, /) -> None:
        path.unlink(missing_ok=True)

    def sync_file_system(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _LIBC.syncfs(fd):
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error), os.fspath(path))
        finally:
            os.close(fd)

    def commit(self, connection: sqlite3.Connection) -> None:
        connection.execute("COMMIT")

    def write_file(self, path: Path, data: Buffer) -> None:
        fd, temp_name = tempfile.mkstemp(prefix=TEMP_PREFIX, dir=path.parent)
        temp = Path(temp_name)
        try:
            with open(fd, "wb", buffering=0) as file:
                left = memoryview(data).cast("B")
                while left:
                    left = left[file.write(left) :]
                os.fsync(fd)
            os.rename(temp, path)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        self.fsync_dir(path.parent)

    def replace(self, source: Path, target: Path) -> None:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(source, target)
        self.fsync_dir(target.parent)
        if source.parent != target.parent:
            self.fsync_dir(source.parent)

    def fsync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


DISK: Final[FileIO] = _Disk()


def make_private_file(path: Path) -> None:
    """`path` is a file that only we may open, for a library that would make it by the umask.
    Raises OSError, also for a link."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.fstat(fd).st_mode & 0o077:
            os.fchmod(fd, 0o600)
    finally:
        os.close(fd)


def make_private_dir(path: Path, *, apart: bool = False) -> None:
    """`path` is a directory of ours with mode 0700; missing parents are made too. `apart`: files
    come and go there, see `make_dir_apart`.

    Raises DirectoryNotPrivate when it is a symlink or no directory, belongs to somebody else, or
    others may enter it: what lies there is trusted (names, sizes) and may be secret, and a
    directory that was open may have been filled by others. Raises OSError when it can't be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        make_dir_apart(path) if apart else os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    else:
        os.chmod(path, 0o700)  # a umask may have taken bits away
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise DirectoryNotPrivate(f"{path} is not a directory: remove it or name another")
    if found.st_uid != os.geteuid():
        raise DirectoryNotPrivate(
            f"{path} belongs to uid {found.st_uid}, not to you (uid {os.geteuid()}): name another"
        )
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise DirectoryNotPrivate(
            f"{path} is open to other users (mode {mode:04o}): chmod 700 {path}"
        )
