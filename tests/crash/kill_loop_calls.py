"""Calls on the mount, each noted before it begins and again when it has returned."""

import errno
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from tests.crash.kill_loop_model import File, Folder, Link, Naming, Step, Tree

XATTR = "user.crash"

_T = TypeVar("_T")


class DaemonGone(Exception):
    """The mount is dead, or is no mount any more."""


class Failed(Exception):
    """A call was answered with an error, `name`. EINTR and EIO may be the keeper's, who knows of no
    more than that the daemon is dead."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


class Mount:
    """A mount point, and whether the daemon behind it still lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._device = -1

    def arrive(self) -> None:
        """It was just mounted."""
        self._device = os.stat(self.path).st_dev

    def is_gone(self) -> bool:
        try:
            os.statvfs(self.path)
            return os.stat(self.path).st_dev != self._device
        except OSError:
            return True

    def is_dead(self) -> bool:
        """Whether nobody answers there any more, and nobody ever will. It asks the daemon."""
        try:
            os.statvfs(self.path)
            return os.stat(self.path).st_dev != self._device
        except OSError as error:
            return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)


class Diary:
    """What was begun (>), what has returned (<) and what failed (!), outside the mount."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, text: str) -> None:
        os.write(self._fd, f"{time.monotonic():.6f} {text}\n".encode())


class Calls:
    """The calls of one worker below its directory. All raise DaemonGone and Failed."""

    def __init__(self, mount: Mount, top: Path, tree: Tree, diary: Diary) -> None:
        self.top = top
        self.tree = tree
        self.acknowledged: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.problems: list[str] = []
        self.happened: list[str] = []  # changes of names that were answered with an error
        self.longest_s = 0.0  # that one took, also if it failed
        self._mount = mount
        self._diary = diary

    # -- names

    def make_folder(self, path: str) -> None:
        folder = Folder()
        self._name(Naming("make", path, node=folder), os.mkdir, self.top / path)
        folder.number = self.call(f"stat {path}", os.stat, self.top / path).st_ino

    def make_link(self, path: str, target: str) -> None:
        link = Link(target)
        self._name(Naming("make", path, node=link), os.symlink, target, self.top / path)
        link.number = self.call(f"lstat {path}", os.lstat, self.top / path).st_ino

    def remove(self, path: str) -> None:
        is_folder = isinstance(self.tree.nodes[path], Folder)
        function = os.rmdir if is_folder else os.unlink
        self._name(Naming("remove", path), function, self.top / path)

    def move(self, path: str, to: str) -> None:
        self._name(Naming("move", path, to), os.rename, self.top / path, self.top / to)

    def _name(self, naming: Naming, function: Callable[..., _T], *arguments: object) -> _T:
        self.tree.begin(naming)
        text = f"{naming.kind} {naming.path}" + (f" to {naming.to}" if naming.to else "")
        try:
            result = self.call(text, function, *arguments)
        except Failed as failed:
            if failed.name in ("EINTR", "EIO") and self._has_happened(naming):
                self.happened.append(f"{text} {failed.name}")
                self.tree.done()
            else:
                self.tree.failed()
            raise
        self.tree.done()
        return result

    def _has_happened(self, naming: Naming) -> bool:
        try:
            os.lstat(self.top / naming.path)
        except FileNotFoundError:
            return naming.kind != "make"
        except OSError as error:
            if self._mount.is_gone():
                raise DaemonGone from error
            return False
        if isinstance(naming.node, File):
            naming.node.spoilt = True
        return naming.kind == "make"

    # -- bytes

    @contextmanager
    def made(self, path: str) -> Iterator[tuple[int, File]]:
        """A new file, open until the block ends, and acknowledged then."""
        file = File()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        fd = self._name(Naming("make", path, node=file), os.open, self.top / path, flags)
        with self._closing(fd, file):
            file.number = self.call(f"fstat {path}", os.fstat, fd).st_ino
            yield fd, file

    @contextmanager
    def opened(self, path: str, flags: int) -> Iterator[tuple[int, File]]:
        """A file that is there; what is done with it is acknowledged when the block ends."""
        file = self.tree.nodes[path]
        assert isinstance(file, File)
        if flags & os.O_TRUNC:
            file.begin(Step(0, size=0))
        fd = self._change(file, f"open {path} {flags:o}", os.open, self.top / path, flags)
        with self._closing(fd, file):
            yield fd, file

    @contextmanager
    def _closing(self, fd: int, file: File) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with suppress(OSError):
                os.close(fd)
            raise
        self._change(file, "close", os.close, fd)
        if file.steps:
            self.check_alive()
        file.settle()

    def check_alive(self) -> None:
        """After a close that returned 0. Of a mount that died the kernel forgets what it had not
        handed over yet, and such a close may well return 0. Who answers now has answered then."""
        if self._mount.is_dead():
            raise DaemonGone

    def write(self, fd: int, file: File, start: int, data: bytes) -> None:
        file.begin(Step(start, data))
        text = f"write {len(data)} at {start}"
        if self._change(file, text, os.pwrite, fd, data, start) != len(data):
            self._short(file, text)

    def store(
        self, function: Callable[[int, bytes], int], file: File, start: int, data: bytes
    ) -> None:
        """A write into mapped memory, by `function`."""
        file.begin(Step(start, data))
        text = f"store {len(data)} at {start}"
        if self._change(file, text, function, start, data) != len(data):
            self._short(file, text)

    def sync_mapped(self, flush: Callable[[], None], file: File) -> None:
        """msync of the whole file."""
        self._change(file, "msync", flush)
        file.settle()

    def append(self, fd: int, file: File, data: bytes) -> None:
        file.begin(Step(file.size, data))
        text = f"append {len(data)}"
        if self._change(file, text, os.write, fd, data) != len(data):
            self._short(file, text)

    def _short(self, file: File, text: str) -> None:
        """A write that needed a page of the file when the daemon died ends before that page."""
        file.spoilt = True
        if self._mount.is_gone():
            raise DaemonGone
        self.problems.append(f"{text}: short")

    def cut(self, where: int | Path, file: File, size: int) -> None:
        """truncate(2) of an open file, or of a closed one: then it is acknowledged."""
        file.begin(Step(0, size=size))
        self._change(file, f"truncate to {size}", os.truncate, where, size)
        if isinstance(where, Path):
            file.settle()

    def sync(self, fd: int, file: File) -> None:
        self._change(file, "fsync", os.fsync, fd)
        file.settle()

    def set_mtime(self, path: str, mtime_ns: int) -> None:
        file = self.tree.nodes[path]
        assert isinstance(file, File)
        file.mtime_ns = 0
        self.call(f"utime {path}", os.utime, self.top / path, ns=(mtime_ns, mtime_ns))
        file.mtime_ns = mtime_ns

    def set_mode(self, path: str, mode: int) -> None:
        file = self.tree.nodes[path]
        assert isinstance(file, File)
        file.mode = 0
        self.call(f"chmod {path} {mode:o}", os.chmod, self.top / path, mode)
        file.mode = mode

    def set_xattr(self, path: str, data: bytes) -> None:
        file = self.tree.nodes[path]
        assert isinstance(file, File)
        file.xattr = b""
        self.call(f"setxattr {path}", os.setxattr, self.top / path, XATTR, data)
        file.xattr = data

    def _change(self, file: File, text: str, function: Callable[..., _T], *arguments: object) -> _T:
        try:
            return self.call(text, function, *arguments)
        except Failed:
            file.spoilt = True
            raise

    # -- any

    def call(self, text: str, function: Callable[..., _T], *args: object, **named: object) -> _T:
        self._diary.note("> " + text)
        began_s = time.monotonic()
        try:
            try:
                result = function(*args, **named)
            finally:
                self.longest_s = max(self.longest_s, time.monotonic() - began_s)
        except OSError as error:
            self._diary.note(f"! {text}: {error}")
            if self._mount.is_gone():
                raise DaemonGone from error
            name = errno.errorcode.get(error.errno or 0, "?")
            self.errors[f"{text.split()[0]} {name}"] += 1
            raise Failed(text, name) from error
        self._diary.note("< " + text)
        self.acknowledged[text.split()[0]] += 1
        return result
