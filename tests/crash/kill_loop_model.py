"""What a tree may look like after the daemon was killed: what was acknowledged, and what was under
way.

A call is noted before it begins and again when it has returned. One call at most is under way in a
worker; bytes that were written and neither synced nor closed are under way, too: each of them may
be there or not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

DIRTY_MTIME = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A change of a file's bytes that is not certain: a write, or where `size` is not -1 a
    truncation to it."""

    start: int
    data: bytes = b""
    size: int = -1

    @property
    def end(self) -> int:
        return self.start + len(self.data)


@dataclass(slots=True, eq=False)
class File:
    """`data` was acknowledged; `steps` came later. `number`: its inode, 0 where nobody has seen it
    yet. `mtime_ns`: as it was set, DIRTY_MTIME where it was written since. `mode` and `xattr`: as
    they were set, 0 and b"" where nobody did. `spoilt`: a call failed, so that nothing is certain
    until the file was seen again after a kill."""

    data: bytearray = field(default_factory=bytearray)
    number: int = 0
    steps: list[Step] = field(default_factory=list)
    mtime_ns: int = DIRTY_MTIME
    mode: int = 0
    xattr: bytes = b""
    spoilt: bool = False

    def begin(self, step: Step) -> None:
        self.steps.append(step)
        self.mtime_ns = DIRTY_MTIME

    def settle(self) -> None:
        """What was written is certain: fsync or close has returned."""
        if not self.spoilt:
            self._play(self.data)
            self.steps.clear()

    @property
    def size(self) -> int:
        size = len(self.data)
        for step in self.steps:
            size = step.size if step.size >= 0 else max(size, step.end)
        return size

    def current(self) -> bytearray:
        """As a program sees it as long as the daemon lives."""
        data = bytearray(self.data)
        self._play(data)
        return data

    def _play(self, data: bytearray) -> None:
        for step in self.steps:
            if step.size >= 0:
                del data[step.size :]
                data += bytes(step.size - len(data))
            else:
                data += bytes(max(0, step.start - len(data)))
                data[step.start : step.end] = step.data

    def adopt(self, seen: bytes) -> None:
        """What was seen after a kill is certain from now on."""
        self.data = bytearray(seen)
        self.steps.clear()
        self.spoilt = False

    def difference(self, seen: bytes) -> str:
        """Why this can't be what is left of it, "" where it can."""
        if not self.steps:
            return _first_difference(self.data, seen)
        sizes = list(self._sizes())
        if not min(sizes) <= len(seen) <= max(sizes):
            return f"{len(seen)} bytes, neither of {min(sizes)} to {max(sizes)}"
        bounds = {0, len(seen), *sizes}
        bounds.update(at for step in self.steps for at in (step.start, step.end))
        marks = sorted(at for at in bounds if at <= len(seen))
        for start, end in pairwise(marks):
            where = self._wrong_at(seen, start, end, min(sizes))
            if where >= 0:
                return f"byte {where} of {len(seen)} is none that was ever written there"
        return ""

    def _sizes(self) -> Iterator[int]:
        size = len(self.data)
        yield size
        for step in self.steps:
            size = step.size if step.size >= 0 else max(size, step.end)
            yield size

    def _wrong_at(self, seen: bytes, start: int, end: int, least: int) -> int:
        """Of a range in which no step begins or ends; -1 where it is right."""
        choices = [
            step.data[start - step.start : end - step.start]
            for step in self.steps
            if step.size < 0 and step.start <= start and end <= step.end
        ]
        if end <= len(self.data):
            choices.append(bytes(self.data[start:end]))
        if start >= least:
            choices.append(bytes(end - start))
        part = seen[start:end]
        if part in choices:
            return -1
        for at, byte in enumerate(part):
            if all(choice[at] != byte for choice in choices):
                return start + at
        return -1


def _first_difference(wanted: bytes | bytearray, seen: bytes) -> str:
    if wanted == seen:
        return ""
    if len(wanted) != len(seen):
        return f"{len(seen)} bytes instead of {len(wanted)}"
    low, high = 0, len(wanted)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if wanted[low:middle] != seen[low:middle] else (middle, high)
    zeros = " (a zero)" if not seen[low] else ""
    return f"byte {low} of {len(wanted)} is another{zeros}"


@dataclass(slots=True, eq=False)
class Folder:
    number: int = 0


@dataclass(slots=True, eq=False)
class Link:
    target: str
    number: int = 0


Node = File | Folder | Link
Nodes = dict[str, Node]


@dataclass(frozen=True, slots=True)
class Naming:
    """A change of names that is under way. `node`: what `make` puts at `path`."""

    kind: Literal["make", "remove", "move"]
    path: str
    to: str = ""
    node: Node | None = None


def after(nodes: Nodes, naming: Naming) -> Nodes:
    """The tree once it has happened."""
    if naming.kind == "make":
        assert naming.node is not None
        return {**nodes, naming.path: naming.node}
    if naming.kind == "remove":
        return {path: node for path, node in nodes.items() if path != naming.path}
    moved: Nodes = {}
    for path, node in nodes.items():
        if path == naming.path or path.startswith(naming.path + "/"):
            moved[naming.to + path[len(naming.path) :]] = node
    kept = {p: n for p, n in nodes.items() if p not in moved and not _is_at(p, naming.path)}
    return kept | moved


def _is_at(path: str, top: str) -> bool:
    return path == top or path.startswith(top + "/")


class Tree:
    """The names below one worker's directory, by path. `under_way`: the change of names that has
    begun and not returned."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.nodes: Nodes = {}
        self.under_way: Naming | None = None
        for path, data in files.items():
            at = path.find("/")
            while at >= 0:
                self.nodes.setdefault(path[:at], Folder())
                at = path.find("/", at + 1)
            self.nodes[path] = File(bytearray(data))

    def begin(self, naming: Naming) -> None:
        self.under_way = naming

    def done(self) -> None:
        assert self.under_way is not None
        self.nodes = after(self.nodes, self.under_way)
        self.under_way = None

    def failed(self) -> None:
        """The call returned an error: nothing has changed."""
        self.under_way = None

    def forget_numbers(self) -> None:
        """Of what was being moved when the mount died: if it has been, they may be others."""
        if self.under_way is not None and self.under_way.kind == "move":
            for path, node in self.nodes.items():
                if _is_at(path, self.under_way.path):
                    node.number = 0

    def possible(self) -> list[Nodes]:
        if self.under_way is None:
            return [self.nodes]
        return [self.nodes, after(self.nodes, self.under_way)]

    def files(self) -> dict[str, File]:
        return {path: node for path, node in self.nodes.items() if isinstance(node, File)}

    def folders(self) -> list[str]:
        """With the top, which is ""."""
        return ["", *(path for path, node in self.nodes.items() if isinstance(node, Folder))]

    def inside(self, folder: str) -> list[str]:
        """The paths directly in a folder."""
        prefix = folder + "/" if folder else ""
        below = [path for path in self.nodes if path.startswith(prefix)]
        return [path for path in below if "/" not in path[len(prefix) :]]
