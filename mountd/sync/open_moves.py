"""Files that the remote is moving, or perhaps has moved: known until what became of it is known.

The ledger doesn't say that a MOVE was sent; as long as nobody renames or writes meanwhile, a look
at both names says it. So these are noted for who is killed meanwhile, and settled first by the
next process. What a power cut takes is the note alone, or that it was settled.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from mountd.sync.note_lines import NoteLines, read_notes
from mountd_cache.changes import Base, Change

_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Move:
    """That version of the file at `source` goes to `key`. `directory`, `name`, `mtime_ns` and
    `attributes`: as it was at `source`."""

    number: int
    source: str
    version: str
    size: int
    key: str
    directory: str
    name: str
    mtime_ns: int = 0
    attributes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, change: Change, base: Base, gone: Change) -> Self:
        return cls(
            *(change.number, base.key, base.version, base.size, change.key),
            *(gone.directory, gone.name.decode("utf-8", "surrogateescape")),
            *(gone.mtime_ns, dict(gone.attributes)),
        )

    @property
    def base(self) -> Base:
        return Base(self.source, self.version, self.size)


class OpenMoves:
    """By inode, at most one for each. `put` and `close` don't wait for the disk."""

    def __init__(self, path: Path | None = None) -> None:
        """In memory alone where `path` is None."""
        self._path = path
        self._notes = NoteLines(path)
        self._open: dict[int, Move] = {}

    def load(self) -> None:
        """What a former process has left. Blocks."""
        if self._path is None:
            return
        try:
            found = read_notes(self._path)
        except OSError:
            return
        for number, value in list(found.items())[:_MOST]:
            move = _move_of(number, value)
            if move is not None:
                self._open[number] = move
        self._notes.hold({number: asdict(move) for number, move in self._open.items()})

    def all(self) -> list[Move]:
        return list(self._open.values())

    def is_open(self, move: Move) -> bool:
        return self._open.get(move.number) is move

    def put(self, move: Move) -> None:
        self._open[move.number] = move
        self._notes.put(move.number, asdict(move))

    def close(self, move: Move) -> None:
        if self._open.get(move.number) is move:
            del self._open[move.number]
            self._notes.drop(move.number)


def _move_of(number: int, value: Mapping[str, Any]) -> Move | None:
    """None for what an other release has written."""
    try:
        move = Move(**value)
    except TypeError:
        return None
    texts = move.source, move.version, move.key, move.directory, move.name
    numbers = move.number, move.size, move.mtime_ns
    is_sound = all(isinstance(t, str) for t in texts) and all(type(n) is int for n in numbers)
    is_sound = is_sound and isinstance(move.attributes, dict) and move.number == number
    return move if is_sound and move.source and move.key else None
