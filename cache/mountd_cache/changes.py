"""What differs between the tree that the user sees and the remote: changes and staged contents.

A `Change` says what is at one key: a file, a directory, or nothing any more; what the remote is
believed to have there (`expect`); and whether the remote still has to be told. It is a state, not
an operation: writing twice, renaming a file that was never sent, or creating and deleting one
leaves one state or none, so the queue collapses by itself, and sending a state twice does no harm.

A `Content` is the bytes of a file that were written here, over the remote version that they were
written on (`base`). It has layers, each with a sparse data file: the top one takes the writes,
those below are frozen while they travel. A byte is looked for from the top: in the layer's extents,
else below if it is before the layer's `floor_end`, else it is zero. Below the lowest is the base.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from mountd_cache.extent_map import ExtentMap

ABSENT: Final = ""  # as `expect`: nothing is there

_NO_ATTRIBUTES: Final[Mapping[str, str]] = MappingProxyType({})


class ChangeKind(IntEnum):
    """What is at the key. The numbers are on disk: never change one."""

    FILE = 0
    DIRECTORY = 1
    GONE_FILE = 2
    GONE_DIRECTORY = 3

    @property
    def is_gone(self) -> bool:
        return self >= ChangeKind.GONE_FILE


class ChangeState(IntEnum):
    """PENDING: the remote has to be told. FAILED: it refused, and is asked again only on demand.
    CLEAN: it was told, and the directory's listing does not say so yet (or can't: attributes)."""

    PENDING = 0
    FAILED = 1
    CLEAN = 2


@dataclass(frozen=True, slots=True)
class Base:
    """A version on the remote that bytes come from; `size` in bytes."""

    key: str
    version: str
    size: int


@dataclass(slots=True)
class Change:
    """See the module. Never changes; the ledger replaces it by another with a new `sequence`.

    `key`: the remote's spelling, a directory's with its slash. `directory`: the key of the
    directory that it is in, and `name`: how it is shown there. `number`: its inode. `content`: the
    id of its staged content, 0 for none: then its bytes are those of `base`, or where that is
    None, of `expect` at its own key. `size` and `mtime_ns` hold where there is no content; else
    the content says. `since_ns`: when the remote first fell behind, `changed_ns`: the last change;
    nanoseconds since the epoch. `reason`: why it FAILED. `conflict`: the key that this is a
    conflict copy of, else "". `attributes`: `mode` and the like.

    Not `frozen`, which mypy would see no better than Final: making one would take 2 us more.
    """

    key: Final[str]
    directory: Final[str]
    name: Final[bytes]
    number: Final[int]
    kind: Final[ChangeKind]
    expect: Final[str] = ABSENT
    base: Final[Base | None] = None
    content: Final[int] = 0
    size: Final[int] = 0
    mtime_ns: Final[int] = 0
    sequence: Final[int] = 0
    since_ns: Final[int] = 0
    changed_ns: Final[int] = 0
    state: Final[ChangeState] = ChangeState.PENDING
    reason: Final[str] = ""
    conflict: Final[str] = ""
    attributes: Final[Mapping[str, str]] = field(default_factory=lambda: _NO_ATTRIBUTES)

    @property
    def is_gone(self) -> bool:
        return self.kind.is_gone

    @property
    def is_directory(self) -> bool:
        return self.kind is ChangeKind.DIRECTORY

    @property
    def is_clean(self) -> bool:
        return self.state is ChangeState.CLEAN


@dataclass(eq=False, slots=True)
class Layer:
    """One data file: `extents` are in it, [0, floor_end) that is not comes from below."""

    number: int
    size: int
    floor_end: int
    extents: ExtentMap = field(default_factory=ExtentMap)

    def write(self, start: int, end: int) -> None:
        self.extents.add(start, end)
        self.size = max(self.size, end)

    def truncate(self, size: int) -> None:
        self.extents.cut(size)
        self.floor_end = min(self.floor_end, size)
        self.size = size

    def adds_nothing(self, below: int) -> bool:
        """Whether the file is what it was below, which has `below` bytes."""
        return not self.extents and self.size == self.floor_end == below

    def copy(self) -> "Layer":
        return Layer(self.number, self.size, self.floor_end, self.extents.copy())


@dataclass(frozen=True, slots=True)
class Piece:
    """[start, end) of a file. `layer`: number of the layer whose data file has it at that offset;
    BASE: the base has it at that offset; ZERO: it is zeros."""

    start: int
    end: int
    layer: int


BASE: Final = -1
ZERO: Final = -2


@dataclass(eq=False, slots=True)
class Content:
    """Staged bytes. Mutable; the journal alone changes it, after the change is in the log."""

    id: int
    base: Base | None
    layers: list[Layer]
    mtime_ns: int = 0
    changed_ns: int = 0

    @property
    def top(self) -> Layer:
        return self.layers[-1]

    @property
    def size(self) -> int:
        return self.layers[-1].size

    def pieces(self, start: int, end: int, depth: int | None = None) -> Iterator[Piece]:
        """Where the bytes [start, end) are, in order; end <= size. `depth`: as seen with only that
        many layers from the bottom (a frozen state)."""
        depth = len(self.layers) if depth is None else depth
        if depth == 0:
            known = self.base.size if self.base else 0
            if start < min(end, known):
                yield Piece(start, min(end, known), BASE)
            if max(start, known) < end:
                yield Piece(max(start, known), end, ZERO)
            return
        layer = self.layers[depth - 1]
        for at, stop, inside in layer.extents.pieces(start, end):
            if inside:
                yield Piece(at, stop, layer.number)
                continue
            below = min(stop, layer.floor_end)
            if at < below:
                yield from self.pieces(at, below, depth - 1)
            if max(at, below) < stop:
                yield Piece(max(at, below), stop, ZERO)

    @property
    def staged_bytes(self) -> int:
        """Bytes in data files."""
        total = 0
        for layer in self.layers:
            total += layer.extents.total
        return total

    def freeze(self, number: int) -> None:
        """What is there now does not change any more: writes go to a new layer on top."""
        self.layers.append(Layer(number, self.size, self.size))

    def released(self, depth: int, base: Base) -> "Content":
        """As it is once its lowest `depth` layers are on the remote, as `base`."""
        return Content(self.id, base, self.layers[depth:], self.mtime_ns, self.changed_ns)

    def rest_adds_nothing(self, depth: int) -> bool:
        """Whether the file is what it was with the lowest `depth` layers alone."""
        known = self.base.size if self.base else 0
        below = self.layers[depth - 1].size if depth else known
        return all(layer.adds_nothing(below) for layer in self.layers[depth:])

    def copy(self) -> "Content":
        layers = [layer.copy() for layer in self.layers]
        return Content(self.id, self.base, layers, self.mtime_ns, self.changed_ns)


@dataclass(slots=True)
class Rows:
    """One atomic step: after a crash all of it is there, or nothing.

    `changes` are put in the place of those with the same key; `forget` are keys without a change
    from now on; `contents` in the place of those with the same id; `drop` are ids of contents that
    nobody needs any more: their data files go once that is durable. Not `frozen`: see Change.
    """

    changes: Final[tuple[Change, ...]] = ()
    forget: Final[tuple[str, ...]] = ()
    contents: Final[tuple[Content, ...]] = ()
    drop: Final[tuple[int, ...]] = ()
