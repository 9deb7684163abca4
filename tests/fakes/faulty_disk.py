"""A disk that fails on demand: full, or unable to write."""

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from typing_extensions import Buffer

from mountd_cache.durable_io import DISK


def _nothing(call: str, path: str) -> None:
    pass


def no_room() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def io_error() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))


class FaultyDisk:
    """A `FileIO`. `before(call, path)` is called before each call and may raise, or wait: any
    thread. `most_written`: how many bytes a pwrite takes at most. `calls`: how often each call was
    made."""

    def __init__(self) -> None:
        self.before: Callable[[str, str], object] = _nothing
        self.most_written: int | None = None
        self.calls: dict[str, int] = {}

    def fail(self, call: str, name: str, error: Callable[[], OSError]) -> None:
        """From now on `call` raises for files whose path ends so; "" for all."""

        def before(made: str, path: str) -> None:
            if made == call and path.endswith(name):
                raise error()

        self.before = before

    def heal(self) -> None:
        """Everything works again."""
        self.before = _nothing
        self.most_written = None

    def write_file(self, path: Path, data: Buffer) -> None:
        self._note("write_file", path)
        DISK.write_file(path, data)

    def replace(self, source: Path, target: Path) -> None:
        self._note("replace", source)
        DISK.replace(source, target)

    def fsync_dir(self, path: Path) -> None:
        self._note("fsync_dir", path)
        DISK.fsync_dir(path)

    def open_file(self, path: Path | str, *, create: bool = False) -> int:
        path = Path(path)
        self._note("create" if create else "open", path)
        return DISK.open_file(path, create=create)

    def close(self, fd: int, /) -> None:
        self._note("close", fd)
        DISK.close(fd)

    def pwrite(self, fd: int, data: Buffer, offset: int, /) -> int:
        self._note("pwrite", fd)
        view = memoryview(data)
        if self.most_written is not None:
            view = view[: self.most_written]
        return DISK.pwrite(fd, view, offset)

    def pwrite_once(self, fd: int, data: Buffer, offset: int, /) -> int:
        return self.pwrite(fd, data, offset)

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:
        self._note("pread", fd)
        return DISK.pread(fd, length, offset)

    def pread_once(self, fd: int, length: int, offset: int, /) -> bytes | bytearray:
        self._note("pread", fd)
        return DISK.pread_once(fd, length, offset)

    def allocate(self, fd: int, end: int) -> None:
        self._note("allocate", fd)
        DISK.allocate(fd, end)

    def truncate(self, fd: int, size: int, /) -> None:
        self._note("truncate", fd)
        DISK.truncate(fd, size)

    def rename(self, source: Path, target: Path, /) -> None:
        self._note("rename", source)
        DISK.rename(source, target)

    def unlink(self, path: Path, /) -> None:
        self._note("unlink", path)
        DISK.unlink(path)

    def fdatasync(self, fd: int, /) -> None:
        self._note("fdatasync", fd)
        DISK.fdatasync(fd)

    def sync_file_system(self, path: Path) -> None:
        self._note("sync_file_system", path)
        DISK.sync_file_system(path)

    def commit(self, connection: sqlite3.Connection) -> None:
        self._note("commit", "")
        DISK.commit(connection)

    def _note(self, call: str, file: int | Path | str) -> None:
        self.calls[call] = self.calls.get(call, 0) + 1
        path = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else os.fspath(file)
        self.before(call, path)
