"""What a POSIX file system does, in memory: the reference of the model tests.

It knows nothing of remotes, queues or crashes. Paths are tuples of names. Errors are OSError with
the errno that Linux gives. Links lead nowhere.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

Path = tuple[str, ...]


@dataclass(eq=False, slots=True)
class File:
    """`mtime_ns` and `number` are what was seen last, None where they may be anything."""

    data: bytearray = field(default_factory=bytearray)
    mode: int | None = None
    mtime_ns: int | None = None
    number: int | None = None

    def write(self, offset: int, data: bytes) -> None:
        if len(self.data) < offset:
            self.data.extend(bytes(offset - len(self.data)))
        self.data[offset : offset + len(data)] = data
        self.mtime_ns = None

    def truncate(self, size: int) -> None:
        if size != len(self.data):
            self.mtime_ns = None
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))


@dataclass(eq=False, slots=True)
class Directory:
    """As `File`."""

    entries: "dict[str, File | Directory | Link]" = field(default_factory=dict)
    mode: int | None = None
    number: int | None = None


@dataclass(eq=False, slots=True)
class Link:
    """As `File`."""

    target: bytes
    mtime_ns: int | None = None
    number: int | None = None


Node = File | Directory | Link


class Reference:
    """The tree. A file that somebody has open lives on without a name, as the object that it is."""

    def __init__(self) -> None:
        self.root = Directory()

    def find(self, path: Path) -> Node:
        node: Node = self.root
        for name in path:
            if isinstance(node, Link):
                fail(errno.ENOENT)
            if not isinstance(node, Directory):
                fail(errno.ENOTDIR)
            if name not in node.entries:
                fail(errno.ENOENT)
            node = node.entries[name]
        return node

    def parent(self, path: Path) -> Directory:
        found = self.find(path[:-1])
        if isinstance(found, Link):
            fail(errno.ENOENT)
        if not isinstance(found, Directory):
            fail(errno.ENOTDIR)
        return found

    def file(self, path: Path) -> File:
        found = self.find(path)
        if isinstance(found, Link):
            fail(errno.ENOENT)
        if not isinstance(found, File):
            fail(errno.EISDIR)
        return found

    def link(self, path: Path) -> Link:
        found = self.find(path)
        if not isinstance(found, Link):
            fail(errno.EINVAL)
        return found

    def make_link(self, path: Path, target: bytes) -> Link:
        parent = self.parent(path)
        if path[-1] in parent.entries:
            fail(errno.EEXIST)
        made = parent.entries[path[-1]] = Link(target)
        return made

    def create(self, path: Path) -> File:
        parent = self.parent(path)
        if path[-1] in parent.entries:
            fail(errno.EEXIST)
        made = parent.entries[path[-1]] = File()
        return made

    def make_directory(self, path: Path) -> Directory:
        parent = self.parent(path)
        if path[-1] in parent.entries:
            fail(errno.EEXIST)
        made = parent.entries[path[-1]] = Directory()
        return made

    def unlink(self, path: Path) -> None:
        self.parent(path)
        if isinstance(self.find(path), Directory):
            fail(errno.EISDIR)
        del self.parent(path).entries[path[-1]]

    def remove_directory(self, path: Path) -> None:
        self.parent(path)
        found = self.find(path)
        if not isinstance(found, Directory):
            fail(errno.ENOTDIR)
        if found.entries:
            fail(errno.ENOTEMPTY)
        del self.parent(path).entries[path[-1]]

    def rename(self, old: Path, new: Path, *, replaces: bool = True) -> None:
        """renameat2(2), without RENAME_EXCHANGE."""
        from_parent, to_parent = self.parent(old), self.parent(new)
        source = self.find(old)
        target = to_parent.entries.get(new[-1])
        if target is not None and not replaces:
            fail(errno.EEXIST)
        if isinstance(source, Directory) and new[: len(old)] == old and new != old:
            fail(errno.EINVAL)
        if old[: len(new)] == new and new != old:
            fail(errno.ENOTEMPTY)
        if target is source:
            return
        if isinstance(target, Directory):
            if not isinstance(source, Directory):
                fail(errno.EISDIR)
            if target.entries:
                fail(errno.ENOTEMPTY)
        elif target is not None and isinstance(source, Directory):
            fail(errno.ENOTDIR)
        del from_parent.entries[old[-1]]
        to_parent.entries[new[-1]] = source

    def walk(self) -> Iterator[tuple[Path, Node]]:
        """Everything but the root, parents first."""
        waiting: list[tuple[Path, Directory]] = [((), self.root)]
        while waiting:
            path, directory = waiting.pop()
            for name, node in sorted(directory.entries.items()):
                yield (*path, name), node
                if isinstance(node, Directory):
                    waiting.append(((*path, name), node))

    def files(self) -> dict[Path, File]:
        return {path: node for path, node in self.walk() if isinstance(node, File)}

    def links(self) -> dict[Path, Link]:
        return {path: node for path, node in self.walk() if isinstance(node, Link)}


def fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))
