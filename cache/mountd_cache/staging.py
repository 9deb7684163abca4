"""Data files: the bytes of staged contents, one sparse file for each layer.

A file holds a sidecar page and then the data, at its offset + PAGE. It is made by the first write,
or right before it: few layers that a freeze adds ever get one. Files go by `unlink` or `retire`
only. Descriptors are kept in an LRU; those of pinned contents stay open, so that what they read
outlives its name.

`write` belongs to one thread; everything else may be called by any.
"""

import errno
import os
import re
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from typing_extensions import Buffer

from mountd_cache.durable_io import FileIO
from mountd_cache.large_writes import FROM_BYTES, LargeWrites
from mountd_cache.sidecar import PAGE

FileKey = tuple[int, int]  # id of the content, number of the layer
_Pread = Callable[[int, int, int], bytes | bytearray]

_MOST_OPEN: Final = 1024
_MANY: Final = 64  # fdatasyncs that one syncfs is cheaper than
# ext4 looks at each inode that was deleted in the last seconds before it makes a new one: after
# 5,000 unlinks an open with O_CREAT took 0.5 ms, and the two renames of a spare take 0.03.
_MOST_SPARES: Final = 4096
_AT_ONCE: Final = 64 << 10  # first bytes up to this size go with the first page, in one write
RECYCLE_FROM: Final = 16  # files that go at once; for fewer it is not worth the fdatasyncs
SPARE: Final = "spare-"
_NAME: Final = re.compile(r"(\d+)-(\d+)\.data")


def data_name(key: FileKey) -> str:
    return f"{key[0]}-{key[1]}.data"


def spare_number(name: str) -> int | None:
    """Of a spare; None for the name of something else."""
    digits = name.removeprefix(SPARE)
    return int(digits) if digits != name and digits.isascii() and digits.isdigit() else None


def parse_data_name(name: str) -> FileKey | None:
    """The opposite of `data_name`; None for the name of something else."""
    found = _NAME.fullmatch(name)
    key = (int(found[1]), int(found[2])) if found else None
    return key if key and data_name(key) == name else None


@dataclass(eq=False, slots=True)
class _OpenFile:
    key: FileKey
    fd: int
    users: int = 0
    closing: bool = False
    sidecar: Callable[[], bytes] | None = None  # to be written before anything else


class Staging:
    """The data files in a folder."""

    def __init__(
        self,
        folder: Path,
        *,
        disk: FileIO,
        most_open: int | None = None,
        recycle_from: int = RECYCLE_FROM,
        spares: Collection[Path] = (),
    ) -> None:
        """`most_open`: descriptors that may stay open besides pinned ones. `recycle_from`: how many
        files must go at once for some of them to become others. `spares`: those of a former
        process that are empty."""
        self._folder = folder
        self._prefix = os.path.join(folder, "")
        self._disk = disk
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_open = most_open or max(16, min(_MOST_OPEN, soft // 2))
        self._lock = threading.Lock()
        self._open: OrderedDict[FileKey, _OpenFile] = OrderedDict()
        self._names_lost = 0  # so many times a name here went, and may be another file's now
        self._left: list[int] = []  # descriptors that nobody has any more
        self._pins: dict[int, int] = {}
        self._unlinked: dict[int, list[_OpenFile]] = {}  # by pinned content
        self._failed: set[FileKey] = set()  # the kernel may have lost some of it
        self._created = 1  # counts files; the folder may hold names of a former process
        self._named = 0  # those whose name survives a power cut
        self._recycle_from = recycle_from
        self._spares: list[Path] = []  # empty, and that and their names are on the disk
        self._spares_made = max((spare_number(spare.name) or 0 for spare in spares), default=0)
        if spares:
            with suppress(OSError):  # then none of them is taken
                disk.fsync_dir(folder)
                self._spares += spares
        self._hot: _OpenFile | None = None  # the file written last: `write` needs no lock for it
        self._large = LargeWrites(disk)  # to that one

    def write(
        self,
        key: FileKey,
        offset: int,
        data: bytes | memoryview,
        sidecar: Callable[[], bytes] | None = None,
    ) -> int:
        """How many bytes were written: fewer when the disk is full. Raises OSError if none.

        `sidecar`: of a layer that has no bytes yet: its file is made where there is none.
        """
        hot = self._hot
        if hot is None or hot.key != key or hot.closing:
            self._cool()
            hot = self._hot = self._acquire(key, sidecar)
        if hot.sidecar is not None:
            done = self._begin(hot, sidecar or hot.sidecar, b"" if offset else data)
            if done:
                return done
        if len(data) >= FROM_BYTES:
            return self._large.write(hot.fd, self._path(key), data, offset + PAGE)
        return self._disk.pwrite(hot.fd, data, offset + PAGE)

    def make_ready(self, key: FileKey, sidecar: Callable[[], bytes]) -> bool:
        """A step towards a file to which the first `write` has nothing to do but that; whether
        there is another. Of the thread that writes. Raises OSError."""
        if self._hot is None or self._hot.key != key:
            self._cool()
            self._hot = self._acquire(key, sidecar)
            return self._hot.sidecar is not None
        if self._hot.sidecar is not None:
            self._begin(self._hot, sidecar)
        return False

    def _begin(self, file: _OpenFile, sidecar: Callable[[], bytes], data: Buffer = b"") -> int:
        """Writes the first page, and `data`, the first bytes, in the same step where they are few;
        how many of those were written. Raises OSError, and then there is no file."""
        page = sidecar()
        first = page + data if len(memoryview(data)) <= _AT_ONCE else page
        try:
            done = self._disk.pwrite(file.fd, first, 0)
            if done < len(page):
                raise OSError(errno.ENOSPC, "no room for a data file", str(self._path(file.key)))
        except OSError:
            self._unmake(file)
            raise
        file.sidecar = None
        return done - len(page)

    def _unmake(self, file: _OpenFile) -> None:
        """The hot file, which has no bytes, is not there any more: pinned or not, what is written
        to that layer next goes to a new one."""
        self._hot = None
        with self._lock:
            del self._open[file.key]
            self._disk.close(file.fd)
            self._names_lost += 1
            self._disk.unlink(self._path(file.key))

    def read(self, key: FileKey, start: int, end: int) -> bytes:
        """The bytes [start, end). Raises OSError: EIO where the file has fewer or isn't there."""
        return bytes(self._read(key, start, end, self._disk.pread))  # no copy: they are bytes

    def read_once(self, key: FileKey, start: int, end: int) -> bytes | bytearray:
        """As `read`, of what is only sent."""
        return self._read(key, start, end, self._disk.pread_once)

    def _read(self, key: FileKey, start: int, end: int, pread: _Pread) -> bytes | bytearray:
        with self._using(key) as fd:
            found = pread(fd, end - start, start + PAGE)
            while 0 < len(found) < end - start:
                more = pread(fd, end - start - len(found), start + len(found) + PAGE)
                if not more:
                    break
                found += more
        if len(found) != end - start:
            raise OSError(errno.EIO, "a staged file is shorter than it was", str(self._path(key)))
        return found

    def pin(self, content: int, layers: Iterable[int]) -> None:
        """The files of a content, those it gets later as well, can be read until `unpin`, whether
        they are unlinked or not. Pins are counted. Raises OSError, and then it is not pinned."""
        with self._lock:
            self._pins[content] = self._pins.get(content, 0) + 1
        try:
            for number in layers:
                self._release(self._acquire((content, number)))
        except OSError:
            self.unpin(content)
            raise

    def unpin(self, content: int) -> None:
        with self._lock:
            left = self._pins[content] - 1
            if left:
                self._pins[content] = left
                return
            del self._pins[content]
            # Only what was unlinked while it was pinned is closed; the rest is the LRU's.
            for file in self._unlinked.pop(content, ()):
                self._close_if_idle(file)
            self._close_some()
        self._close_left()

    def sync(self, files: Mapping[FileKey, bytes], needed: Callable[[FileKey], bool]) -> None:
        """The data of these files is on the disk, and the names of all that exist.

        `files`: with the sidecar of each. A file that is not there is left out if it isn't
        `needed` any more. Raises OSError, and does so for ever for a file that the kernel could
        not write: it may report success for pages that it has lost.
        """
        for key, sidecar in files.items():
            if key in self._failed:
                raise OSError(errno.EIO, "a staged file can't be written", str(self._path(key)))
            with self._unless_unlinked(key, needed), self._using(key) as fd:
                self._disk.pwrite(fd, sidecar, 0)
        if len(files) <= _MANY or not self._sync_file_system():
            for key in files:
                with self._unless_unlinked(key, needed), self._using(key) as fd:
                    self._sync_one(key, fd)
        created = self._created
        if self._named < created:
            self._disk.fsync_dir(self._folder)
            self._named = max(self._named, created)

    def unlink(self, keys: Iterable[FileKey]) -> None:
        """The names go; the bytes when nobody reads them any more. Raises OSError."""
        for key in keys:
            self._disk.unlink(self._path(key))
            with self._lock:
                self._names_lost += 1
                file = self._open.get(key)
                if file is not None:
                    file.closing = True
                    if key[0] in self._pins:
                        self._unlinked.setdefault(key[0], []).append(file)
                    self._close_if_idle(file)
            self._close_left()

    def retire(self, keys: Collection[FileKey]) -> None:
        """As `unlink`, and neither these nor what was unlinked before come back after a power cut.
        Some of many stay as spares, for new files. Raises OSError.

        A spare was empty on the disk before it got that name, and had the name on the disk before
        it is taken: bytes in a file are those of its layer, whatever a power cut leaves of it.
        """
        emptied = self._emptied(keys) if len(keys) >= self._recycle_from else []
        spares = [spare for key in emptied if (spare := self._as_spare(key)) is not None]
        self.unlink(keys)  # most are not there any more
        self._disk.fsync_dir(self._folder)
        with self._lock:
            self._spares += spares

    def _emptied(self, keys: Iterable[FileKey]) -> list[FileKey]:
        """Files that nobody reads and that have nothing any more, on the disk."""
        room = _MOST_SPARES - len(self._spares)
        emptied = [key for key in islice(keys, room) if self._empty(key)]
        if len(emptied) > _MANY:
            return emptied if self._sync_file_system() else []
        try:
            for key in emptied:
                with self._using(key) as fd:
                    self._disk.fdatasync(fd)
        except OSError:
            return []
        return emptied

    def _empty(self, key: FileKey) -> bool:
        try:
            with self._using(key) as fd:
                with self._lock:
                    if self._open[key].users > 1 or key[0] in self._pins or key in self._failed:
                        return False
                # Without the lock: with many files it takes the disk half a second, and the loop
                # waited. Who comes from here on finds what he would find right after it.
                self._disk.truncate(fd, 0)
                return True
        except OSError:
            return False

    def _as_spare(self, key: FileKey) -> Path | None:
        with self._lock:
            file = self._open.get(key)
            if key[0] in self._pins or (file is not None and file.users):
                return None  # somebody came all the same
            if file is not None:
                del self._open[key]
                self._disk.close(file.fd)
            self._spares_made += 1
            self._names_lost += 1
            spare = self._folder / f"{SPARE}{self._spares_made}"
            try:
                self._disk.rename(self._path(key), spare)
            except OSError:
                return None
            return spare

    def close(self) -> None:
        """All descriptors, pinned or not. One that somebody reads from just now goes when that has
        ended: its number may be another file's at once, and what is read is sent."""
        self._cool()
        with self._lock:
            for file in list(self._open.values()):
                if not file.users:
                    del self._open[file.key]
                    self._disk.close(file.fd)
                    continue
                file.closing = True
                if file.key[0] in self._pins:
                    self._unlinked.setdefault(file.key[0], []).append(file)
        self._close_left()

    def _path(self, key: FileKey) -> Path:
        return self._folder / data_name(key)

    def _cool(self) -> None:
        hot, self._hot = self._hot, None
        if hot is not None:
            self._large.cool()
            self._release(hot)

    def cool(self, content: int) -> None:
        """The content is not written to in this state any more; of the thread that writes."""
        if self._hot is not None and self._hot.key[0] == content:
            self._cool()

    @contextmanager
    def _using(self, key: FileKey) -> Iterator[int]:
        file = self._acquire(key)
        try:
            yield file.fd
        finally:
            self._release(file)

    def _acquire(self, key: FileKey, sidecar: Callable[[], bytes] | None = None) -> _OpenFile:
        """The open file, which stays open until `_release`. `sidecar`: see `write`."""
        with self._lock:
            file, lost = self._taken(key), self._names_lost
            if file is None and sidecar is not None:
                file = self._take(self._opened(key, sidecar))
        if file is None:
            file = self._opened_beside(key, lost)
        if self._left:
            self._close_left()
        return file

    def _opened_beside(self, key: FileKey, lost: int) -> _OpenFile:
        """Without the lock: whoever wanted it waited for the disk, and for the interpreter, of 64
        threads that send files 1.6 ms each time."""
        made = self._opened(key, None)
        with self._lock:
            file = self._taken(key)
            if file is None and self._names_lost == lost:
                return self._take(made)
        self._disk.close(made.fd)  # perhaps that of another file, which had that name before
        if file is not None:
            return file
        with self._lock:
            return self._taken(key) or self._take(self._opened(key, None))

    def _taken(self, key: FileKey) -> _OpenFile | None:
        """With the lock held: one that is open."""
        file = self._open.get(key)
        if file is not None:
            self._open.move_to_end(key)
            file.users += 1
        return file

    def _take(self, file: _OpenFile) -> _OpenFile:
        """With the lock held: one that was opened now."""
        self._open[file.key] = file
        file.users += 1
        if len(self._open) > self._most_open:
            self._close_some()
        return file

    def _opened(self, key: FileKey, sidecar: Callable[[], bytes] | None) -> _OpenFile:
        path = self._prefix + data_name(key)  # a Path costs 7 us
        if sidecar is not None and not self._spares:  # nearly always there is none yet
            with suppress(FileExistsError):
                return self._create(key, path, sidecar)
        try:
            fd = self._disk.open_file(path)
            is_begun = sidecar is None or os.fstat(fd).st_size >= PAGE
            return _OpenFile(key, fd, sidecar=None if is_begun else sidecar)
        except FileNotFoundError as error:
            if sidecar is None:
                raise OSError(errno.EIO, "a staged file is not there", path) from error
        return self._create(key, path, sidecar)

    def _create(self, key: FileKey, path: str, sidecar: Callable[[], bytes]) -> _OpenFile:
        """A new data file. Raises OSError, and then there is none."""
        fd = self._from_spare(Path(path)) if self._spares else None
        if fd is None:
            fd = self._disk.open_file(path, create=True)
        self._created += 1
        return _OpenFile(key, fd, sidecar=sidecar)

    def _from_spare(self, path: Path) -> int | None:
        try:
            self._disk.rename(self._spares.pop(), path)
            return self._disk.open_file(path)
        except OSError:
            self._disk.unlink(path)
            return None

    def _release(self, file: _OpenFile) -> None:
        with self._lock:
            file.users -= 1
            if file.closing:
                self._close_if_idle(file)
        if self._left:
            self._close_left()

    def _close_if_idle(self, file: _OpenFile) -> None:
        """With the lock held: closes it if it was unlinked and nobody needs it."""
        idle = file.closing and not file.users and file.key[0] not in self._pins
        if idle and self._open.get(file.key) is file:
            del self._open[file.key]
            self._left.append(file.fd)

    def _close_left(self) -> None:
        """Without the lock, which others wait for meanwhile."""
        while self._left:
            with suppress(IndexError):  # somebody else has just closed the last one
                self._disk.close(self._left.pop())

    def _close_some(self) -> None:
        """With the lock held: keeps the LRU at its size, as far as files are not in use."""
        for _ in range(len(self._open) - self._most_open - len(self._pins)):
            key, file = next(iter(self._open.items()))
            if file.users or key[0] in self._pins:
                self._open.move_to_end(key)
                continue
            del self._open[key]
            self._left.append(file.fd)

    @contextmanager
    def _unless_unlinked(self, key: FileKey, needed: Callable[[FileKey], bool]) -> Iterator[None]:
        try:
            yield
        except OSError:
            if needed(key) or self._path(key).exists():
                raise

    def _sync_one(self, key: FileKey, fd: int) -> None:
        try:
            self._disk.fdatasync(fd)
        except OSError:
            self._failed.add(key)
            raise

    def _sync_file_system(self) -> bool:
        """False where it failed, maybe because of a file that isn't ours: each tells by itself."""
        try:
            self._disk.sync_file_system(self._folder)
        except OSError:
            return False
        return True
