"""A directory tree that is not trusted to stay inside itself: from keys to descriptors.

Whatever is opened is opened with O_PATH first, which has no side effects on devices and pipes, and
/proc says where it really is; so a symlink that is swapped between a look and an open leads
nowhere.
"""

import contextlib
import errno
import os
import stat as modes
from collections.abc import Iterator, Sequence

from mountd.errors import (
    ContainerMissing,
    Denied,
    NotFound,
    RemoteError,
    Unreachable,
    VersionChanged,
)
from mountd.remotes.local_modes import attributes_in
from mountd.remotes.local_root import RootDisk
from mountd.remotes.temporary_names import is_temporary
from mountd.types import Entry, Kind

_NO_SUCH_NAME = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)
)
_CAN_BE_NO_SEGMENT = frozenset(("", ".", ".."))


class LocalTree:
    """What is below the directory `root`, by key. Needs /proc."""

    def __init__(self, root: str, disk: RootDisk | None = None) -> None:
        self._root = root
        self._disk = disk or RootDisk(root)

    @contextlib.contextmanager
    def opened(self, key: str) -> Iterator[tuple[int, Sequence[str]]]:
        """An O_PATH descriptor of what `key` leads to, and the real directories on the way: the
        root first, and what was opened last.

        Raises NotFound for what is outside the root or part of an endless tree.
        """
        with self.errors(key):
            root = os.path.realpath(self._root)
            fd = os.open(_path(root, key), os.O_PATH | os.O_CLOEXEC)
        try:
            with self.errors(key):
                self._disk.check()  # after the open: what was found is on it
                if os.fstat(fd).st_nlink == 0:
                    raise NotFound(f"{key!r} was deleted")
                chain = _chain(root, key, os.readlink(f"/proc/self/fd/{fd}"))
            yield fd, chain
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """Makes RemoteErrors of the OSErrors of looks and reads."""
        try:
            yield
        except OSError as error:
            raise self.error(key, error) from error

    def error(self, key: str, error: OSError) -> RemoteError:
        """`ContainerMissing` is the root's own absence: a disk that is not mounted must not look
        like files that were deleted, nor one that is dead."""
        what = f"{key!r}: {error.strerror}"
        if error.errno in _NO_SUCH_NAME or error.errno == errno.ESTALE:
            away = self._away()
            if away is not None:
                return away
        if error.errno in _NO_SUCH_NAME:
            return NotFound(what)
        if error.errno in (errno.EACCES, errno.EPERM):
            return Denied(what)
        if error.errno == errno.ESTALE:
            return VersionChanged(what)
        return Unreachable(what)

    def _away(self) -> RemoteError | None:
        """What is wrong with the root itself."""
        try:
            self._disk.check()
        except RemoteError as error:
            return error
        except OSError as error:
            if error.errno in _NO_SUCH_NAME:
                return ContainerMissing(f"{self._root} is not there: {error.strerror}")
            return Unreachable(f"{self._root}: {error.strerror}")
        if not os.path.isdir(self._root):
            return ContainerMissing(f"{self._root} is no directory")
        return None


def can_be_a_name(segment: str) -> bool:
    """Whether a file system has such names, and the tree shows them."""
    if segment in _CAN_BE_NO_SEGMENT or "\0" in segment or is_temporary(segment):
        return False
    try:
        os.fsencode(segment)
    except UnicodeEncodeError:
        return False
    return True


def status_of(name: os.DirEntry[str], chain: Sequence[str]) -> os.stat_result | None:
    """What a listing shows of `name`; None for a symlink that leads out or in a circle."""
    try:
        if not name.is_symlink():
            return name.stat(follow_symlinks=False)
        real = os.path.realpath(os.path.join(chain[-1], name.name), strict=True)
        if not is_inside(chain[0], real) or real in chain:
            return None
        return os.lstat(real)
    except OSError as error:
        if error.errno in _NO_SUCH_NAME:
            return None
        raise


@contextlib.contextmanager
def scanned(path_fd: int) -> Iterator[Iterator[os.DirEntry[str]]]:
    # By descriptor: each stat is then relative to the directory, which is faster and can't be led
    # astray by a rename.
    fd = os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(fd) as names:
            yield names
    finally:
        os.close(fd)


def entry_of(name: str, status: os.stat_result) -> Entry | None:
    """None for what is neither a file nor a directory."""
    if modes.S_ISDIR(status.st_mode):
        mtime_ns = max(0, status.st_mtime_ns)
        return Entry(name, Kind.DIRECTORY, 0, mtime_ns, "", attributes_in(status))
    if modes.S_ISREG(status.st_mode):
        size, mtime_ns = status.st_size, max(0, status.st_mtime_ns)
        return Entry(name, Kind.FILE, size, mtime_ns, version_of(status), attributes_in(status))
    return None


def version_of(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"


def check_version(key: str, fd: int, version: str) -> None:
    """Raises NotFound where `fd` is no file, and VersionChanged where it is another version."""
    status = os.fstat(fd)
    if not modes.S_ISREG(status.st_mode):
        raise NotFound(f"{key!r} is no file")
    if version and version_of(status) != version:
        raise VersionChanged(f"{key!r} was {version} and is {version_of(status)}")


def is_inside(root: str, path: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _path(root: str, key: str) -> str:
    segments = key.removesuffix("/").split("/") if key else []
    if not all(can_be_a_name(segment) for segment in segments):
        raise NotFound(f"{key!r} can't be a name in a file system")
    return os.path.join(root, *segments)


def _chain(root: str, key: str, real: str) -> Sequence[str]:
    """The real path of the root and of each segment of `key`, the last one being `real`.

    A path that goes through one directory twice would go on for ever.
    """
    segments = key.removesuffix("/").split("/") if key else []
    direct = [root]
    for segment in segments:
        direct.append(os.path.join(direct[-1], segment))
    if real == direct[-1]:
        return direct
    chain = [root, *(os.path.realpath(path) for path in direct[1:-1]), real]
    inside = all(is_inside(root, path) for path in chain)
    if not inside or len(set(chain)) < len(chain):
        raise NotFound(f"{key!r} leads out of the mounted directory or in a circle")
    return chain
