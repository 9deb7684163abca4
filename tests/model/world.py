"""One user at the real file system, with a journal, a queue and a remote that fails, beside a
reference that is told the same. Every answer is compared."""

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from stat import S_IMODE
from typing import TypeVar

from mountd.errors import FileSystemError, NotPossible, RemoteError, Throttled, Unreachable
from mountd.fusefs.errno_table import errno_of
from mountd.vfs.attributes import NewAttributes
from mountd.vfs.filesystem import FileSystem
from mountd.vfs.nodes import Attributes
from tests.fakes.memory_store import MemoryStore
from tests.model.daemon import Daemon
from tests.model.reference import Directory, File, Link, Node, Path, Reference

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(eq=False, slots=True)
class Open:
    """A handle, here and in the reference."""

    fh: int
    number: int
    file: File
    writes: bool


class World:
    """See the module."""

    def __init__(self, store: MemoryStore) -> None:
        self.memory = store
        self.model = Reference()
        self.handles: list[Open] = []
        self.daemon = Daemon(store)
        self._numbered: set[Node] = set()  # whose inode numbers were in the journal once

    @property
    def fs(self) -> FileSystem:
        return self.daemon.fs

    def crash(self) -> None:
        for _, node in self.model.walk():
            if node.number in self.daemon.ledger.by_number:
                self._numbered.add(node)
            if node not in self._numbered:
                node.number = None  # only a listing had it that may not be on disk
        self.handles.clear()
        self.daemon.crash()

    def restart(self) -> None:
        while self.handles:
            self.close_handle(self.handles[0])
        self.daemon.restart()

    def forget(self) -> None:
        self.daemon.forget(handle.number for handle in self.handles)

    # -- comparing

    def both(
        self, ours: Callable[[], _T], theirs: Callable[[], Awaitable[_R]], *allowed: int
    ) -> tuple[_T, _R] | None:
        """The file system's answer, then the reference's; None where both said the same error, or
        where the remote could not be asked. `allowed`: errnos that may stand for each other."""
        failure = answer = None
        try:
            answer = (self.daemon.do(theirs),)
        except (RemoteError, TimeoutError, FileSystemError) as error:
            failure = error
        if answer is not None:
            return ours(), answer[0]
        assert failure is not None
        if isinstance(failure, (Unreachable, Throttled, TimeoutError)):
            assert self.daemon.is_down or self.daemon.reads_fail, repr(failure)
            return None
        number, expected = errno_of(failure), _errno(ours)
        assert number == expected or {number, expected} <= {*allowed}, (
            f"{errno.errorcode[number]} instead of {errno.errorcode.get(expected)}: {failure!r}"
        )
        return None

    # -- what the user does

    def create(self, path: Path, data: bytes) -> Open | None:
        async def theirs() -> tuple[int, int]:
            fh, made = await self.fs.create(
                await self.daemon.directory_of(path[:-1]), path[-1].encode(), {}
            )
            self.daemon.created(made.number)
            return fh, made.number

        answer = self.both(lambda: self.model.create(path), theirs)
        if answer is None:
            return None
        file, (fh, file.number) = answer[0], answer[1]
        handle = Open(fh, answer[1][1], file, writes=True)
        self.handles.append(handle)
        if data:
            self.write(handle, 0, data)
        return handle

    def open(self, path: Path, *, writes: bool, truncates: bool = False) -> Open | None:
        if self.is_link(path):
            return None

        async def theirs() -> tuple[int, int]:
            number = (await self.daemon.walk(path)).number
            return await self.fs.open(number, writes=writes, truncates=truncates), number

        answer = self.both(lambda: self.model.file(path), theirs)
        if answer is None:
            return None
        file, (fh, number) = answer
        self._see_number(path, file, number)
        if truncates:
            file.truncate(0)
        handle = Open(fh, number, file, writes)
        self.handles.append(handle)
        return handle

    def is_link(self, path: Path) -> bool:
        """Whether the kernel would try to follow what is there, and ask nobody."""
        try:
            return isinstance(self.model.find(path), Link)
        except OSError:
            return False

    def make_link(self, path: Path, target: bytes) -> None:
        async def theirs() -> Attributes:
            parent = await self.daemon.directory_of(path[:-1])
            made = await self.fs.make_link(parent, path[-1].encode(), target, {})
            self.daemon.created(made.number)
            return made

        answer = self.both(lambda: self.model.make_link(path, target), theirs)
        if answer is not None:
            link, made = answer
            link.number, link.mtime_ns = made.number, made.mtime_ns
            assert made.is_link
            assert made.size == len(target)

    def read_link(self, path: Path) -> None:
        async def theirs() -> bytes:
            node = await self.daemon.walk(path)
            if not self.fs.attributes(node.number).is_link:
                raise NotPossible("the kernel says so itself")
            return await self.fs.links.read(node.number)

        answer = self.both(lambda: self.model.link(path).target, theirs)
        if answer is not None:
            _same_bytes(answer[1], answer[0])

    def write(self, handle: Open, offset: int, data: bytes) -> None:
        answer = self.both(lambda: None, lambda: self.fs.write(handle.fh, offset, data))
        if answer is not None:
            assert answer[1] == len(data)
            handle.file.write(offset, data)

    def read(self, handle: Open, offset: int = 0, size: int = 1 << 20) -> None:
        async def theirs() -> bytes:
            return bytes(memoryview(await self.fs.read(handle.fh, offset, size)))

        answer = self.both(lambda: bytes(handle.file.data[offset : offset + size]), theirs)
        if answer is not None:
            _same_bytes(answer[1], answer[0])

    def close_handle(self, handle: Open) -> None:
        async def theirs() -> None:
            self.fs.release(handle.fh)

        self.daemon.do(theirs)
        self.handles.remove(handle)

    def sync(self, handle: Open) -> None:
        self.both(lambda: None, lambda: self.fs.sync(handle.fh))

    def truncate(self, path: Path, size: int) -> None:
        if self.is_link(path):
            return

        async def theirs() -> Attributes:
            number = (await self.daemon.walk(path)).number
            return await self.fs.set_attributes(number, NewAttributes(size=size), None)

        answer = self.both(lambda: self.model.file(path), theirs)
        if answer is not None:
            answer[0].truncate(size)
            assert answer[1].size == size

    def truncate_open(self, handle: Open, size: int) -> None:
        new = NewAttributes(size=size)
        answer = self.both(
            lambda: None, lambda: self.fs.set_attributes(handle.number, new, handle.fh)
        )
        if answer is not None:
            handle.file.truncate(size)
            assert answer[1].size == size

    def set_mode(self, path: Path, mode: int) -> None:
        if self.is_link(path):
            return

        async def theirs() -> Attributes:
            number = (await self.daemon.walk(path)).number
            return await self.fs.set_attributes(number, NewAttributes(mode=mode), None)

        answer = self.both(lambda: self.model.find(path), theirs)
        if answer is not None:
            assert not isinstance(answer[0], Link)
            answer[0].mode = mode
            assert S_IMODE(answer[1].mode or 0) == mode

    def set_time(self, path: Path, mtime_ns: int) -> None:
        async def theirs() -> Attributes:
            number = (await self.daemon.walk(path)).number
            return await self.fs.set_attributes(number, NewAttributes(mtime_ns=mtime_ns), None)

        answer = self.both(lambda: self.model.find(path), theirs)
        if answer is not None:
            assert answer[1].mtime_ns == mtime_ns
            if not isinstance(answer[0], Directory):
                answer[0].mtime_ns = mtime_ns

    def make_directory(self, path: Path) -> None:
        async def theirs() -> int:
            parent = await self.daemon.directory_of(path[:-1])
            made = await self.fs.make_directory(parent, path[-1].encode(), {})
            self.daemon.created(made.number)
            return made.number

        answer = self.both(lambda: self.model.make_directory(path), theirs)
        if answer is not None:
            answer[0].number = answer[1]

    def unlink(self, path: Path) -> None:
        async def theirs() -> None:
            await self.fs.unlink(await self.daemon.directory_of(path[:-1]), path[-1].encode())

        self.both(lambda: self.model.unlink(path), theirs)

    def remove_directory(self, path: Path) -> None:
        async def theirs() -> None:
            await self.fs.remove_directory(
                await self.daemon.directory_of(path[:-1]), path[-1].encode()
            )

        self.both(lambda: self.model.remove_directory(path), theirs)

    def rename(self, old: Path, new: Path, *, replaces: bool = True) -> None:
        async def theirs() -> None:
            one, two = (
                await self.daemon.directory_of(old[:-1]),
                await self.daemon.directory_of(new[:-1]),
            )
            await self.fs.rename(one, old[-1].encode(), two, new[-1].encode(), replaces=replaces)

        if old == new and not replaces:
            return  # the kernel itself says that it exists
        # Which of several reasons is told is the kernel's choice, before we are asked.
        several = (errno.ENOTEMPTY, errno.EISDIR, errno.EEXIST, errno.ENOTDIR, errno.EINVAL)
        allowed = several if old[: len(new)] == new or new[: len(old)] == old else ()
        self.both(lambda: self.model.rename(old, new, replaces=replaces), theirs, *allowed)

    # -- what he sees

    def look(self) -> None:
        """The whole tree, and what fstat says of open files."""
        self._look_below((), self.model.root)
        for handle in self.handles:
            found = self.daemon.loop.do(self.fs.attributes, handle.number)
            assert found.size == len(handle.file.data)

    def _look_below(self, path: Path, directory: Directory) -> None:
        rows = self._rows(path)
        if rows is None:
            return
        assert sorted(rows) == sorted(directory.entries), f"in {path}"
        for name, node in sorted(directory.entries.items()):
            found = rows[name]
            assert found.is_dir == isinstance(node, Directory)
            self._see_number((*path, name), node, found.number)
            assert found.is_link == isinstance(node, Link)
            if not isinstance(node, Link):
                mode = None if found.mode is None else S_IMODE(found.mode)
                assert node.mode is None or mode == node.mode, (*path, name)
            if isinstance(node, Directory):
                self._look_below((*path, name), node)
                continue
            size = len(node.data if isinstance(node, File) else node.target)
            assert found.size == size, (*path, name)
            if node.mtime_ns is None:
                node.mtime_ns = found.mtime_ns
            assert found.mtime_ns == node.mtime_ns, (*path, name)

    def _rows(self, path: Path) -> dict[str, Attributes] | None:
        """readdir and a look-up of each name."""

        async def theirs() -> dict[str, Attributes]:
            directory = await self.daemon.directory_of(path)
            listing = (await self.fs.read_directory(directory)).listing
            rows: dict[str, Attributes] = {}
            for row in range(len(listing)):
                name, is_dir, size, mtime_ns, _, number, _, is_link = listing.row(row)
                found = rows[name.decode()] = await self.daemon.look_up(directory, name.decode())
                told = (found.is_dir, found.is_link, found.size, found.mtime_ns, found.number)
                said = (is_dir, is_link, size, mtime_ns, number)
                assert told == said, f"{name!r} in {path}"
                assert self.fs.attributes(number).size == size
            assert len(rows) == len(listing)
            return rows

        answer = self.both(lambda: None, theirs)
        return answer[1] if answer is not None else None

    def _see_number(self, path: Path, node: Node, number: int) -> None:
        assert node.number in (None, number), f"{path} has another inode"
        node.number = number
        if number in self.daemon.ledger.by_number:
            self._numbered.add(node)

    def read_all(self) -> None:
        for path in self.model.files():
            handle = self.open(path, writes=False)
            if handle is not None:
                self.read(handle)
                self.close_handle(handle)
        for path in self.model.links():
            self.read_link(path)
        for handle in self.handles:
            self.read(handle)

    # -- the end

    def nothing_stays(self) -> None:
        """What the remote has taken leaves the journal, but for what only we know."""
        self.look()
        self.daemon.fold()
        self.daemon.fold()
        ledger = self.daemon.ledger
        left = [c for c in ledger.changes.values() if not c.attributes]
        assert not left, left

    def finish(self) -> None:
        """The remote is well, everything is closed and sent: all three are the same."""
        self.daemon.remote_is_well()
        self.look()
        self.read_all()
        while self.handles:
            self.close_handle(self.handles[0])
        for _ in range(20):
            if not self.daemon.drain():
                break
        ledger = self.daemon.ledger
        assert not list(ledger.unsent())
        assert not ledger.contents, ledger.contents


def _errno(call: Callable[[], object]) -> int:
    """How it fails; 0 where it doesn't."""
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


def _same_bytes(found: bytes, wanted: bytes) -> None:
    if found == wanted:
        return
    at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), -1)
    raise AssertionError(
        f"{len(found)} bytes instead of {len(wanted)}, which differ at {at}: "
        f"{found[at : at + 20]!r} instead of {wanted[at : at + 20]!r}"
    )
