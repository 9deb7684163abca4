"""A bounded table of bytes on disk: diskcache, without what makes it dangerous.

diskcache unpickles what it finds (CVE-2025-69872); `_RawDisk` stores and returns bytes only, all
of them inside SQLite. The table holds clean data: one that is damaged is deleted and begun anew.
"""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

import diskcache

from mountd_cache.durable_io import make_private_dir, make_private_file

# The disk's or another process's doing: the data may be fine, so they stay. SQLite result codes.
_NOT_DAMAGE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOMEM,
    }
)
# What diskcache lets out: SQLite's errors; Timeout when a transaction can't begin; and ValueError
# or TypeError when a damaged table answers with other rows or types than it expects.
_FAILURES: Final = (sqlite3.Error, diskcache.Timeout, OSError, ValueError, TypeError)
# SQLite stores its index of the log (32 KiB, more with 16 MiB of log) by way of mapped memory, for
# which it has a byte written in each 4 KiB. Where a file system's blocks are smaller, or are copied
# when written, a store that finds no room is SIGBUS, the end of this process (seen on ext4 with
# 1 KiB blocks). EXCLUSIVE would need none, but readers would wait for the writer's fsync.
_LEAST_FREE_BYTES: Final = 256 << 10


class _RawDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Bytes in, bytes out, and nothing else. Refusals are ValueErrors."""

    def put(self, key: Any) -> tuple[bytes, bool]:
        if type(key) is not bytes:
            _refuse(key)
        return key, True

    def get(self, key: Any, raw: Any) -> bytes:
        if type(key) is not bytes or not raw:
            _refuse(key)
        return key

    def store(
        self, value: Any, read: Any, key: Any = diskcache.UNKNOWN
    ) -> tuple[int, int, None, bytes]:
        if type(value) is not bytes or read:
            _refuse(value)
        return 0, diskcache.core.MODE_RAW, None, value

    def fetch(self, mode: Any, filename: Any, value: Any, read: Any) -> bytes:
        if mode != diskcache.core.MODE_RAW or type(value) is not bytes or filename or read:
            _refuse(value)
        return value


def _refuse(found: object) -> NoReturn:
    raise ValueError(f"only bytes are kept here, not {type(found).__name__}")


def _free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


class MetadataStore:
    """Keys and values are bytes. Any thread reads; one thread writes.

    `limit_bytes` bounds the database; the values stored longest ago go first.
    Nothing here raises for the disk or for damage: `last_error` says what happened.
    On a disk that is nearly full by `free_bytes` nothing is opened or written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit_bytes: int,
        free_bytes: Callable[[Path], int] = _free_bytes,
    ) -> None:
        make_private_dir(folder)
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._free_bytes = free_bytes
        self._cache: Any = None
        self._damaged = False
        self.errors = 0
        self.last_error: str | None = None
        self._cache = self._opened()
        if self._cache is None:
            self._cache = self._begun_anew()

    def get(self, key: bytes) -> bytes | None:
        """The value, or None: not there, or can't be read. 50 us for 100 KB."""
        if self._cache is None:
            return None
        try:
            value: bytes | None = self._cache.get(key)
        except _FAILURES as error:
            self._failed(error)
            return None
        return value

    def keys(self) -> Iterator[bytes]:
        """All keys, 2 us each; ends early when they can't be read."""
        if self._cache is None:
            return
        try:
            yield from self._cache.iterkeys()
        except _FAILURES as error:
            self._failed(error)

    def write(self, items: Sequence[tuple[bytes, bytes | None]]) -> bool:
        """Sets or (None) deletes, all or nothing. False: nothing was changed.

        The place where a damaged database is begun anew.
        """
        if self._damaged or self._cache is None:
            self._cache = self._begun_anew()
            if self._cache is None:
                return False
        try:
            self._expect_room(sum(len(value or b"") for _, value in items))
            with self._cache.transact():
                for key, value in items:
                    if value is None:
                        self._cache.delete(key)
                    else:
                        self._cache.set(key, value)
            self._cache.cull()
        except _FAILURES as error:
            self._failed(error)
            return False
        return True

    def close(self) -> None:
        """Closes the calling thread's connection; every thread that used this should call it."""
        if self._cache is not None:
            with suppress(sqlite3.Error):
                self._cache.close()

    def _opened(self) -> Any:
        try:
            self._expect_room(0)
            make_private_file(self._folder / "cache.db")
            return diskcache.Cache(
                str(self._folder),
                timeout=5,
                disk=_RawDisk,
                eviction_policy="least-recently-stored",
                size_limit=self._limit_bytes,
                # Else each value that is set drops ten, and the size only falls when the
                # transaction ends: a large one dropped what it had just put.
                cull_limit=0,
                statistics=0,
                tag_index=0,
                # Per thread and connection; diskcache's defaults are 32 MB and a 64 MB map.
                sqlite_cache_size=512,
                sqlite_mmap_size=0,
            )
        except _FAILURES as error:
            self._failed(error)
            return None

    def _expect_room(self, size_bytes: int) -> None:
        if self._free_bytes(self._folder) < _LEAST_FREE_BYTES + size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))

    def _begun_anew(self) -> Any:
        """An empty database in the place of one that can't be used; None when the disk refuses."""
        self.close()
        try:
            if self._damaged:
                for path in self._folder.glob("cache.db*"):
                    path.unlink()
        except OSError as error:
            self._failed(error)
            return None
        cache = self._opened()
        if cache is not None:
            self._damaged = False
        return cache

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        self.last_error = f"{type(error).__name__}: {error}"
        if isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            self._damaged |= code not in _NOT_DAMAGE
        elif not isinstance(error, (diskcache.Timeout, OSError)):
            self._damaged = True
