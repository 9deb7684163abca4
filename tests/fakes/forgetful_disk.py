"""A disk that forgets: after a power cut only what was fsynced is sure to be there.

Files are real ones, so that everything can be read as usual, and each call is remembered. `crash`
then makes a folder as a power cut could leave it: of the writes that no fdatasync covered any
subset is there, torn at sectors, maybe with the file's new size and zeros instead; of the names
that no fsync of the directory covered as well. Stricter than file systems are. SQLite writes by
itself and is trusted to keep its word: a transaction is there once it was committed, or isn't.
Directories are always there.
"""

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import Buffer

from mountd_cache.durable_io import DISK, make_private_dir

SECTOR = 512


class PowerCut(Exception):
    """The machine is off."""


@dataclass(eq=False)
class _File:
    """What is on the disk for sure, and what was done since: (offset, bytes), or (size, None)."""

    durable: bytearray
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def settle(self) -> None:
        for offset, data in self.pending:
            _apply(self.durable, offset, data)
        self.pending.clear()

    def after_crash(self, rng: random.Random) -> bytes:
        survives = _survival(rng)
        left = bytearray(self.durable)
        size = len(left)
        for offset, data in self.pending:
            if data is None:
                if survives():
                    _apply(left, offset, None)
                continue
            size = max(size, offset + len(data))
            for start, stop in _sectors(offset, offset + len(data)):
                if survives():
                    _apply(left, start, data[start - offset : stop - offset])
        if rng.random() < 0.25 and len(left) < size:
            left += bytes(size - len(left))  # the size arrived, the data did not
        return bytes(left)


@dataclass(frozen=True)
class _NameChange:
    """`path` leads to `file` now, or nowhere; `source` nowhere."""

    path: Path
    file: _File | None
    source: Path | None = None

    def apply(self, names: dict[Path, _File]) -> None:
        if self.source is not None:
            names.pop(self.source, None)
        if self.file is None:
            names.pop(self.path, None)
        else:
            names[self.path] = self.file

    def is_in(self, folder: Path) -> bool:
        return folder in (self.path.parent, self.source.parent if self.source else None)


class ForgetfulDisk:
    """A `FileIO` for everything below `root`. `cut_after`: how many calls are answered before the
    power goes; every later one raises PowerCut."""

    def __init__(self, root: Path, rng: random.Random, *, cut_after: int | None = None) -> None:
        self._root = root
        self._rng = rng
        self._left = cut_after
        self.is_off = False
        self.calls = 0
        paths = [path for path in root.rglob("*") if path.is_file() and not _is_sqlite(path)]
        self._durable = {path: _File(bytearray(path.read_bytes())) for path in paths}
        self._names = dict(self._durable)
        self._changes: list[_NameChange] = []
        self._open: dict[int, _File] = {}

    def crash(self, target: Path) -> None:
        """Makes `target` what is found when the power is back."""
        make_private_dir(target)
        survives = _survival(self._rng)
        names = dict(self._durable)
        for change in self._changes:
            if survives():
                change.apply(names)
        for folder in [path for path in self._root.rglob("*") if path.is_dir()]:
            make_private_dir(target / folder.relative_to(self._root))
        images = {id(file): file.after_crash(self._rng) for file in names.values()}
        for path, file in names.items():
            (target / path.relative_to(self._root)).write_bytes(images[id(file)])
        for path in self._root.glob("*.db*"):
            shutil.copyfile(path, target / path.name)

    def write_file(self, path: Path, data: Buffer) -> None:
        self._step()
        DISK.write_file(path, data)
        file = self._names[path] = _File(bytearray(data))
        self._changes.append(_NameChange(path, file))
        self.fsync_dir(path.parent)

    def replace(self, source: Path, target: Path) -> None:
        self._step()
        self._names[source].settle()
        self.rename(source, target)
        self.fsync_dir(target.parent)
        self.fsync_dir(source.parent)

    def fsync_dir(self, path: Path) -> None:
        self._step()
        for change in [change for change in self._changes if change.is_in(path)]:
            change.apply(self._durable)
            self._changes.remove(change)

    def open_file(self, path: Path | str, *, create: bool = False) -> int:
        path = Path(path)
        self._step()
        fd = DISK.open_file(path, create=create)
        if create:
            self._names[path] = _File(bytearray())
            self._changes.append(_NameChange(path, self._names[path]))
        self._open[fd] = self._names[path]
        return fd

    def close(self, fd: int, /) -> None:
        del self._open[fd]
        DISK.close(fd)

    def pwrite(self, fd: int, data: Buffer, offset: int, /) -> int:
        pending, whole = self._open[fd].pending, bytes(data)
        part = whole[: self._rng.randrange(len(whole))]
        self._step(lambda: pending.append((offset, part)))
        pending.append((offset, whole))
        return DISK.pwrite(fd, data, offset)

    def pwrite_once(self, fd: int, data: Buffer, offset: int, /) -> int:
        return self.pwrite(fd, data, offset)

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:
        return DISK.pread(fd, length, offset)

    def pread_once(self, fd: int, length: int, offset: int, /) -> bytes | bytearray:
        return DISK.pread_once(fd, length, offset)

    def allocate(self, fd: int, end: int) -> None:
        self._step()

    def truncate(self, fd: int, size: int, /) -> None:
        self._step(lambda: self._open[fd].pending.append((size, None)))
        self._open[fd].pending.append((size, None))
        DISK.truncate(fd, size)

    def rename(self, source: Path, target: Path, /) -> None:
        if source not in self._names:
            raise FileNotFoundError(source)
        change = _NameChange(target, self._names[source], source)
        self._step(lambda: self._changes.append(change))
        DISK.rename(source, target)
        change.apply(self._names)
        self._changes.append(change)

    def unlink(self, path: Path, /) -> None:
        change = _NameChange(path, None)
        self._step(lambda: self._changes.append(change))
        DISK.unlink(path)
        change.apply(self._names)
        self._changes.append(change)

    def fdatasync(self, fd: int, /) -> None:
        self._step()
        self._open[fd].settle()

    def sync_file_system(self, path: Path) -> None:
        self._step()
        for file in self._names.values():
            file.settle()

    def commit(self, connection: sqlite3.Connection) -> None:
        self._step(lambda: DISK.commit(connection))
        DISK.commit(connection)

    def _step(self, half_done: Callable[[], object] | None = None) -> None:
        """Counts a call; the one in which the power goes may have happened or not."""
        self.calls += 1
        if self.is_off:
            raise PowerCut
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self.is_off = True
                if half_done is not None and self._rng.random() < 0.5:
                    half_done()
                raise PowerCut


def _survival(rng: random.Random) -> Callable[[], bool]:
    """Which of some changes survive: all, none, those up to some point, or any."""
    match rng.randrange(4):
        case 0:
            return lambda: True
        case 1:
            return lambda: False
        case 2:
            left = iter(range(rng.randrange(30)))
            return lambda: next(left, None) is not None
    share = rng.choice((0.1, 0.5, 0.9))
    return lambda: rng.random() < share


def _apply(data: bytearray, offset: int, written: bytes | None) -> None:
    if written is None:
        del data[offset:]
        return
    if len(data) < offset:
        data += bytes(offset - len(data))
    data[offset : offset + len(written)] = written


def _sectors(start: int, stop: int) -> Iterator[tuple[int, int]]:
    while start < stop:
        end = min(stop, (start // SECTOR + 1) * SECTOR)
        yield start, end
        start = end


def _is_sqlite(path: Path) -> bool:
    return ".db" in path.name or path.name == "lock"
