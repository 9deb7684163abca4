"""The write half of file://: a temporary file in the same directory, fsync, rename.

Every change is made relative to the descriptor of a directory that was found to be inside the
root, so a symlink that is swapped meanwhile leads nowhere. A symlink to a file inside is written
through and stays; deleting it removes the link. One that is not shown, because it leads out, is in
the way: NameNotAllowed.

What is there is compared with `expect` before the bytes are written and again right before the
rename. That isn't one step, except for ABSENT where the file system has hard links: `link` refuses
an existing name.
"""

import contextlib
import errno
import fcntl
import os
import stat as modes
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from mountd.errors import (
    Corrupt,
    Denied,
    DirectoryNotEmpty,
    NameNotAllowed,
    NotFound,
    QuotaExceeded,
    RemoteError,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.base import ABSENT, Body, Upload
from mountd.remotes.local_modes import attributes_in, set_attributes
from mountd.remotes.local_tree import (
    LocalTree,
    can_be_a_name,
    check_version,
    entry_of,
    is_inside,
    scanned,
    version_of,
)
from mountd.remotes.temporary_names import LEFTOVER_S, is_temporary, temporary_name
from mountd.types import Entry

PIECE_BYTES = 1 << 20
# The version that it was written as goes first: a program that changes the file in place keeps
# the attribute.
_UPLOAD_ID = "user.mountd-upload"
_DENIED = frozenset((errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY))
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT))
_NO_NAME = frozenset((errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EISDIR))
_NO_LINKS = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))
_NO_COPY = frozenset((errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP))

Fill = Callable[[int], None]  # writes the content to a descriptor


class LocalWrites:
    """Changes files and directories of one tree. Any thread."""

    def __init__(self, tree: LocalTree) -> None:
        self._tree = tree

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        def fill(fd: int) -> None:
            for start in range(0, body.size, PIECE_BYTES):
                end = min(start + PIECE_BYTES, body.size)
                # What the body raises is not ours, not even an OSError.
                piece = memoryview(body.read(start, end)).cast("B")
                if len(piece) != end - start:
                    raise Corrupt(f"{key!r}: the body gave {len(piece)} bytes for {start}-{end}")
                with self._errors(key):
                    while piece:
                        piece = piece[os.write(fd, piece) :]

        return self._write(key, fill, expect, upload)

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        if source == key:
            return self._change(key, version, expect, upload)
        with self._tree.opened(source) as (path_fd, _):
            check_version(source, path_fd, version)
            given = attributes_in(os.fstat(path_fd)) | dict(upload.attributes)
            upload = replace(upload, attributes=given)
            with self._tree.errors(source):
                source_fd = os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_CLOEXEC)
            try:

                def fill(fd: int) -> None:
                    with self._errors(key):
                        _copy_all(source_fd, fd)
                    check_version(source, source_fd, version)

                return self._write(key, fill, expect, upload)
            finally:
                os.close(source_fd)

    def _change(self, key: str, version: str, expect: str | None, upload: Upload) -> Entry:
        """A copy onto itself: the bytes stay where they are."""
        with self._tree.opened(key) as (path_fd, _):
            check_version(key, path_fd, version)
            if expect not in (None, version):
                raise VersionChanged(f"{key!r} was to be {expect!r} and is {version!r}")
            path = f"/proc/self/fd/{path_fd}"
            with self._errors(key):
                status = _tell(path, upload)
                with contextlib.suppress(PermissionError):  # we may not read it
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                    try:
                        os.fsync(fd)
                    finally:
                        os.close(fd)
        return _entry(key, status)

    def delete(self, key: str, expect: str | None) -> None:
        with self._tree.opened(key) as (fd, _):
            check_version(key, fd, expect or "")
            if expect == ABSENT:
                raise VersionChanged(f"{key!r} is there")
        with self._parent(key) as (parent_fd, name), self._errors(key):
            os.unlink(name, dir_fd=parent_fd)
            _sync_directory(parent_fd)

    def make_dir(self, key: str) -> None:
        with self._parent(key) as (parent_fd, name), self._errors(key):
            try:
                os.mkdir(name, dir_fd=parent_fd)
            except FileExistsError:
                with self._tree.opened(key) as (fd, _):
                    if not modes.S_ISDIR(os.fstat(fd).st_mode):
                        raise NameNotAllowed(f"{key!r}: there is a file") from None
            _sync_directory(parent_fd)

    def remove_dir(self, key: str) -> None:
        with self._tree.opened(key) as (fd, _), self._tree.errors(key):
            if not modes.S_ISDIR(os.fstat(fd).st_mode):
                raise NotFound(f"{key!r} is no directory")
            _check_empty(key, fd)
            with self._parent(key) as (parent_fd, name), self._errors(key):
                status = os.lstat(name, dir_fd=parent_fd)
                if modes.S_ISLNK(status.st_mode):
                    os.unlink(name, dir_fd=parent_fd)
                else:
                    os.rmdir(name, dir_fd=parent_fd)
                _sync_directory(parent_fd)

    def _write(self, key: str, fill: Fill, expect: str | None, upload: Upload) -> Entry:
        with self._place(key) as (parent_fd, name):
            before = _look(key, parent_fd, name)
            _compare(key, before, expect)
            with self._temporary(key, parent_fd) as (temporary, fd):
                if before is not None:
                    _take_over(fd, before)
                fill(fd)
                with self._errors(key):
                    status = _finish(fd, upload)
                    _compare(key, _look(key, parent_fd, name), expect)
                    _move(key, parent_fd, temporary, name, exclusive=expect == ABSENT)
                    _sync_directory(parent_fd)
        return _entry(key, status)

    @contextlib.contextmanager
    def _parent(self, key: str) -> Iterator[tuple[int, str]]:
        """The directory that `key` is or will be in, O_PATH, and its name there."""
        parent, _, name = key.removesuffix("/").rpartition("/")
        segments = key.removesuffix("/").split("/")
        if not all(can_be_a_name(segment) for segment in segments):
            raise NameNotAllowed(f"{key!r} can't be a name in a file system")
        with self._tree.opened(f"{parent}/" if parent else "") as (fd, _):
            if not modes.S_ISDIR(os.fstat(fd).st_mode):
                raise NotFound(f"{parent!r} is no directory")
            yield fd, name

    @contextlib.contextmanager
    def _place(self, key: str) -> Iterator[tuple[int, str]]:
        """As `_parent`; for a symlink the place of the file that it is shown as."""
        with self._parent(key) as (parent_fd, name):
            with self._errors(key):
                status = _lstat(parent_fd, name)
            if status is None or not modes.S_ISLNK(status.st_mode):
                yield parent_fd, name
                return
        try:
            with self._tree.opened(key) as (_, chain):
                root, real = chain[0], chain[-1]
        except NotFound as error:
            raise NameNotAllowed(f"{key!r}: there is a link that isn't followed") from error
        assert is_inside(root, real)
        with self._parent(os.path.relpath(real, root)) as place:
            yield place

    @contextlib.contextmanager
    def _temporary(self, key: str, parent_fd: int) -> Iterator[tuple[str, int]]:
        with self._errors(key):
            name, fd = _locked(parent_fd)
        try:
            yield name, fd
        finally:
            os.close(fd)
            with contextlib.suppress(OSError):  # it was moved, as a rule
                os.unlink(name, dir_fd=parent_fd)

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(key, error) from error

    def _error(self, key: str, error: OSError) -> RemoteError:
        what = f"{key!r}: {error.strerror}"
        if error.errno in _NO_ROOM:
            return QuotaExceeded(what)
        if error.errno in _DENIED:
            return Denied(what)
        if error.errno in _NO_NAME:
            return NameNotAllowed(what)
        if error.errno == errno.EFBIG:
            return Unsupported(what)
        if error.errno == errno.ENOTEMPTY:
            return DirectoryNotEmpty(what)
        return self._tree.error(key, error)


def upload_id_of(path_fd: int) -> str:
    """The upload that wrote a file, "" if it was another or the file system has no attributes."""
    try:
        kept = os.getxattr(f"/proc/self/fd/{path_fd}", _UPLOAD_ID)
    except OSError:
        return ""
    version, _, upload_id = kept.decode("utf-8", "replace").partition(" ")
    return upload_id if version == version_of(os.fstat(path_fd)) else ""


def _lstat(parent_fd: int, name: str) -> os.stat_result | None:
    try:
        return os.lstat(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return None


def _look(key: str, parent_fd: int, name: str) -> os.stat_result | None:
    status = _lstat(parent_fd, name)
    if status is not None and not modes.S_ISREG(status.st_mode):
        raise NameNotAllowed(f"{key!r}: something that is no file is there")
    return status


def _compare(key: str, status: os.stat_result | None, expect: str | None) -> None:
    now = ABSENT if status is None else version_of(status)
    if expect is not None and expect != now:
        raise VersionChanged(f"{key!r} was to be {expect!r} and is {now!r}")


def _take_over(fd: int, before: os.stat_result) -> None:
    """Owner and mode of the file that is replaced, as far as we may."""
    with contextlib.suppress(OSError):
        os.fchown(fd, before.st_uid, before.st_gid)
    with contextlib.suppress(OSError):
        os.fchmod(fd, modes.S_IMODE(before.st_mode))


def _finish(fd: int, upload: Upload) -> os.stat_result:
    status = _tell(fd, upload)
    os.fsync(fd)
    return status


def _tell(file: int | str, upload: Upload) -> os.stat_result:
    """What goes with the bytes, to a file by its descriptor or a path that leads to it."""
    if upload.mtime_ns:
        os.utime(file, ns=(time.time_ns(), upload.mtime_ns))
    status = os.stat(file)
    if upload.upload_id:
        kept = f"{version_of(status)} {upload.upload_id}".encode()
        with contextlib.suppress(OSError):  # this file system has none
            os.setxattr(file, _UPLOAD_ID, kept)
    set_attributes(file, upload.attributes)  # last: it may take away that we may write
    return os.stat(file)


def _entry(key: str, status: os.stat_result) -> Entry:
    entry = entry_of(key.rpartition("/")[2], status)
    assert entry is not None
    return entry


def _move(key: str, parent_fd: int, temporary: str, name: str, exclusive: bool) -> None:
    if exclusive:
        try:
            os.link(temporary, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
            os.unlink(temporary, dir_fd=parent_fd)
            return
        except FileExistsError as error:
            raise VersionChanged(f"{key!r} is there by now") from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
    os.rename(temporary, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)


def _sync_directory(path_fd: int) -> None:
    fd = os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _check_empty(key: str, path_fd: int) -> None:
    """Removes what crashes left; raises DirectoryNotEmpty where there is anything else."""
    with scanned(path_fd) as names:
        for name in names:
            with contextlib.ExitStack() as stack:
                if not _is_leftover(name, stack, path_fd):
                    raise DirectoryNotEmpty(f"{key!r}: {name.name!r} is in it")
                os.unlink(name.name, dir_fd=path_fd)


def _locked(parent_fd: int) -> tuple[str, int]:
    """A new temporary file, locked as long as it is written: so it is nobody's leftover."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        name = temporary_name()
        fd = os.open(name, flags, 0o666, dir_fd=parent_fd)
        try:
            if _lock(fd) is not False and os.fstat(fd).st_nlink:
                return name, fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # who removes its directory was quicker


def _lock(fd: int) -> bool | None:
    """Whether it is ours now; None where the file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_leftover(name: os.DirEntry[str], stack: contextlib.ExitStack, path_fd: int) -> bool:
    """Of a daemon that was killed, or a day old. Nobody sees it, so nobody else can remove it for
    the directory to go. It stays locked by us as long as `stack` does."""
    if not is_temporary(name.name):
        return False
    with contextlib.suppress(OSError):  # somebody is about to finish it, or we may not look
        if name.stat(follow_symlinks=False).st_ctime < time.time() - LEFTOVER_S:
            return True
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name.name, flags, dir_fd=path_fd)
        stack.callback(os.close, fd)
        return _lock(fd) is True
    return False


def _copy_all(source_fd: int, fd: int) -> None:
    """In the kernel; where the file system can, the blocks are shared."""
    size, done, copy = os.fstat(source_fd).st_size, 0, os.copy_file_range
    while done < size:
        try:
            count = copy(source_fd, fd, size - done, done)
        except OSError as error:
            if error.errno not in _NO_COPY or done:
                raise
            count = os.sendfile(fd, source_fd, done, size - done)
        if not count:  # it was cut off: the version has changed
            return
        done += count
