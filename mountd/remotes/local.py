"""file://: a local directory, by system calls and not through fsspec.

Symlinks are shown as what they point to while that is inside the root and makes no endless tree;
others, and pipes, sockets and devices, are left out, in listings and in `stat` alike.

A version is size, mtime in nanoseconds and inode number. The kernel's clock for mtimes ticks every
1-10 ms, so two writes of one size within a tick may share a version. What `put` and `delete`
expect is looked at right before the change, by `local_writes`: nothing enforces it.
"""

import os
import stat as modes
from collections.abc import Iterator, Sequence
from pathlib import Path

from mountd.config import Settings
from mountd.config.source import Source
from mountd.errors import NotFound, Unreachable, Unsupported
from mountd.remotes.base import Body, Capabilities, Identity, Upload
from mountd.remotes.local_root import RootDisk
from mountd.remotes.local_tree import (
    LocalTree,
    check_version,
    entry_of,
    scanned,
    status_of,
)
from mountd.remotes.local_writes import LocalWrites, upload_id_of
from mountd.remotes.temporary_names import is_temporary
from mountd.types import Entry, Kind

_PAGE_ENTRIES = 1000


def open_local(source: Source, settings: Settings, folder: Path | None = None) -> "LocalStore":
    """The store for file://; nothing is opened yet. `folder`: the cache folder, where there is one:
    it is remembered there whether the directory was a mount point."""
    root = "/" + source.prefix
    mark = folder / "root-was-mounted" if folder is not None else None
    return LocalStore(root, settings.max_transfers, RootDisk(root, mark))


class LocalStore:
    """A RemoteStore over the directory `root`. Needs /proc.

    `ContainerMissing` is the root's own absence: a disk that is not mounted must not look like
    files that were deleted (`local_root`). System calls on a dead network mount below `root` can't
    be given a time limit here.
    """

    def __init__(self, root: str, max_parallel: int = 16, disk: RootDisk | None = None) -> None:
        self._tree = LocalTree(root, disk)
        self._writes = LocalWrites(self._tree)
        self._capabilities = Capabilities(
            strong_version=False,
            conditional_read=False,
            real_directories=True,
            max_parallel=max_parallel,
            server_copy=True,
            keeps_mtime=True,
            keeps_modes=True,
            lists_attributes=True,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def stat(self, key: str) -> Entry:
        with self._tree.opened(key) as (fd, _):
            return _entry(key, fd)

    def identify(self, key: str) -> Identity:
        """The upload id is kept where the file system has extended attributes."""
        with self._tree.opened(key) as (fd, _):
            return Identity(_entry(key, fd), upload_id_of(fd))

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        page: list[Entry] = []
        with self._tree.opened(directory) as (fd, chain):
            if not modes.S_ISDIR(os.fstat(fd).st_mode):
                raise NotFound(f"{directory!r} is a file")
            with self._tree.errors(directory), scanned(fd) as names:
                for name in names:
                    if is_temporary(name.name):
                        continue
                    status = status_of(name, chain)
                    entry = entry_of(name.name, status) if status else None
                    if entry is not None:
                        page.append(entry)
                    if len(page) >= _PAGE_ENTRIES:
                        yield page
                        page = []
        yield page

    def read(self, key: str, start: int, end: int, version: str) -> bytes:
        """One pread between two looks at the file's version."""
        with self._tree.opened(key) as (path_fd, _), self._tree.errors(key):
            check_version(key, path_fd, version)
            fd = os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = _pread(fd, start, end)
                check_version(key, fd, version)
            finally:
                os.close(fd)
        if len(data) < end - start:
            raise Unreachable(f"{key!r} ends {end - start - len(data)} bytes early")
        return data

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        """A walk. A directory that is removed meanwhile is left out."""
        waiting = [directory]
        while waiting:
            below = waiting.pop()
            try:
                for page in self.list(below):
                    rows = [(_key(below, entry), entry) for entry in page]
                    waiting.extend(key for key, entry in rows if entry.kind is Kind.DIRECTORY)
                    yield rows
            except NotFound:
                if below == directory:
                    raise

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        return self._writes.put(key, body, expect, upload)

    def put_delta(
        self,
        key: str,
        body: Body,
        expect: str | None,
        upload: Upload,
        source: str,
        version: str,
        same: Sequence[tuple[int, int]],
    ) -> Entry:
        raise Unsupported("here every file is sent whole")

    def abandon(self, key: str, token: str) -> None:
        """Nothing: no upload outlives its call here."""

    def delete(self, key: str, expect: str | None) -> None:
        self._writes.delete(key, expect)

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        return self._writes.copy(source, version, key, expect, upload)

    def make_dir(self, key: str) -> None:
        self._writes.make_dir(key)

    def remove_dir(self, key: str) -> None:
        self._writes.remove_dir(key)

    def close(self) -> None:
        pass


def _entry(key: str, fd: int) -> Entry:
    entry = entry_of(key.removesuffix("/").rpartition("/")[2], os.fstat(fd))
    wanted = Kind.DIRECTORY if not key or key.endswith("/") else Kind.FILE
    if entry is None or entry.kind is not wanted:
        raise NotFound(f"{key!r} is not of that kind")
    return entry


def _key(directory: str, entry: Entry) -> str:
    return directory + entry.name + ("/" if entry.kind is Kind.DIRECTORY else "")


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
