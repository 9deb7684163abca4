"""file://: a local directory, by system calls and not through fsspec.

The tree is not trusted to stay inside itself. Whatever is opened is opened with O_PATH first, which
has no side effects on devices and pipes, and /proc says where it really is; so a symlink that is
swapped between a look and an open leads nowhere. Symlinks are shown as what they point to while
that is inside the root and makes no endless tree; others, and pipes, sockets and devices, are left
out, in listings and in `stat` alike.

A version is size, mtime in nanoseconds and inode number. The kernel's clock for mtimes ticks every
1-10 ms, so two writes of one size within a tick may share a version.
"""

import contextlib
import errno
import os
import stat as modes
from collections.abc import Iterator, Sequence

from mountd.config import Settings
from mountd.errors import (
    ContainerMissing,
    Denied,
    NotFound,
    RemoteError,
    Unreachable,
    VersionChanged,
)
from mountd.remotes.base import Capabilities
from mountd.source import Source
from mountd.types import Entry, Kind

_PAGE_ENTRIES = 1000
_NO_SUCH_NAME = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)
)
_CAN_BE_NO_SEGMENT = frozenset(("", ".", ".."))


def open_local(source: Source, settings: Settings) -> "LocalStore":
    """The store for file://; nothing is opened yet."""
    return LocalStore("/" + source.prefix, settings.max_transfers)


class LocalStore:
    """A RemoteStore over the directory `root`. Needs /proc.

    `ContainerMissing` is the root's own absence: a disk that is not mounted must not look like
    files that were deleted. System calls on a dead network mount below `root` can't be given a
    time limit here.
    """

    def __init__(self, root: str, max_parallel: int = 16) -> None:
        self._root = root
        self._capabilities = Capabilities(
            strong_version=False,
            conditional_read=False,
            real_directories=True,
            max_parallel=max_parallel,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def stat(self, key: str) -> Entry:
        with self._opened(key) as (fd, _):
            status = os.fstat(fd)
        entry = _entry(key.removesuffix("/").rpartition("/")[2], status)
        wanted = Kind.DIRECTORY if not key or key.endswith("/") else Kind.FILE
        if entry is None or entry.kind is not wanted:
            raise NotFound(f"{key!r} is not of that kind")
        return entry

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        page: list[Entry] = []
        with self._opened(directory) as (fd, chain):
            if not modes.S_ISDIR(os.fstat(fd).st_mode):
                raise NotFound(f"{directory!r} is a file")
            with self._errors(directory), _scanned(fd) as names:
                for name in names:
                    status = self._status(name, chain)
                    entry = _entry(name.name, status) if status else None
                    if entry is not None:
                        page.append(entry)
                    if len(page) >= _PAGE_ENTRIES:
                        yield page
                        page = []
        yield page

    def read(self, key: str, start: int, end: int, version: str) -> bytes:
        """One pread between two looks at the file's version."""
        with self._opened(key) as (path_fd, _), self._errors(key):
            self._check(key, path_fd, version)
            fd = os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = _pread(fd, start, end)
                self._check(key, fd, version)
            finally:
                os.close(fd)
        if len(data) < end - start:
            raise Unreachable(f"{key!r} ends {end - start - len(data)} bytes early")
        return data

    def close(self) -> None:
        pass

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, Sequence[str]]]:
        """An O_PATH descriptor of what `key` leads to, and the real directories on the way.

        Raises NotFound for what is outside the root or part of an endless tree.
        """
        with self._errors(key):
            root = os.path.realpath(self._root)
            fd = os.open(self._path(root, key), os.O_PATH | os.O_CLOEXEC)
        try:
            with self._errors(key):
                if os.fstat(fd).st_nlink == 0:
                    raise NotFound(f"{key!r} was deleted")
                chain = self._chain(root, key, os.readlink(f"/proc/self/fd/{fd}"))
            yield fd, chain
        finally:
            os.close(fd)

    @staticmethod
    def _path(root: str, key: str) -> str:
        segments = key.removesuffix("/").split("/") if key else []
        if not _CAN_BE_NO_SEGMENT.isdisjoint(segments) or "\0" in key:
            raise NotFound(f"{key!r} can't be a name in a file system")
        return os.path.join(root, *segments)

    @staticmethod
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
        inside = all(_is_inside(root, path) for path in chain)
        if not inside or len(set(chain)) < len(chain):
            raise NotFound(f"{key!r} leads out of the mounted directory or in a circle")
        return chain

    @staticmethod
    def _status(name: os.DirEntry[str], chain: Sequence[str]) -> os.stat_result | None:
        """What a listing shows of `name`; None for a symlink that leads out or in a circle."""
        try:
            if not name.is_symlink():
                return name.stat(follow_symlinks=False)
            real = os.path.realpath(os.path.join(chain[-1], name.name), strict=True)
            if not _is_inside(chain[0], real) or real in chain:
                return None
            return os.lstat(real)
        except OSError as error:
            if error.errno in _NO_SUCH_NAME:
                return None
            raise

    @staticmethod
    def _check(key: str, fd: int, version: str) -> None:
        status = os.fstat(fd)
        if not modes.S_ISREG(status.st_mode):
            raise NotFound(f"{key!r} is no file")
        if version and _version(status) != version:
            raise VersionChanged(f"{key!r} was {version} and is {_version(status)}")

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(key, error) from error

    def _error(self, key: str, error: OSError) -> RemoteError:
        what = f"{key!r}: {error.strerror}"
        if error.errno in _NO_SUCH_NAME:
            if not os.path.isdir(self._root):
                return ContainerMissing(f"{self._root} is not there: {error.strerror}")
            return NotFound(what)
        if error.errno in (errno.EACCES, errno.EPERM):
            return Denied(what)
        if error.errno == errno.ESTALE:
            return VersionChanged(what)
        return Unreachable(what)


@contextlib.contextmanager
def _scanned(path_fd: int) -> Iterator[Iterator[os.DirEntry[str]]]:
    # By descriptor: each stat is then relative to the directory, which is faster and can't be led
    # astray by a rename.
    fd = os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(fd) as names:
            yield names
    finally:
        os.close(fd)


def _entry(name: str, status: os.stat_result) -> Entry | None:
    if modes.S_ISDIR(status.st_mode):
        return Entry(name, Kind.DIRECTORY, 0, max(0, status.st_mtime_ns), "")
    if modes.S_ISREG(status.st_mode):
        size = status.st_size
        return Entry(name, Kind.FILE, size, max(0, status.st_mtime_ns), _version(status))
    return None


def _version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"


def _is_inside(root: str, path: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _pread(fd: int, start: int, end: int) -> bytes:
    data = os.pread(fd, end - start, start)
    if len(data) == end - start:
        return data
    # The end of the file, a signal, or the kernel's limit of 2 GiB per call.
    parts = [data]
    while data:
        start += len(data)
        data = os.pread(fd, end - start, start)
        parts.append(data)
    return b"".join(parts)
