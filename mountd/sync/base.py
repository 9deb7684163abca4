"""The doors of the sync queue: the journal below it, the file system above it, what it tells."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from typing_extensions import Buffer

from mountd_cache.changes import Base, Change, Content, Rows
from mountd_cache.ledger import Ledger

THERE: Final = "/"  # `expect` of a directory that is believed to be on the remote


class SyncJournal(Protocol):
    """What the queue needs of `mountd_cache.journal.Journal`. All but `read`, `pin` and `unpin`
    belong to the loop's thread and don't wait. What changes something may raise OSError, and has
    changed nothing then."""

    @property
    def ledger(self) -> Ledger: ...

    @property
    def id(self) -> str: ...

    def commit(self, rows: Rows, *, reserve: bool = False) -> None: ...

    def next_sequence(self) -> int: ...

    def new_content(self, base: Base | None, size: int, mtime_ns: int) -> Content:
        """A content that a commit has to put into the ledger; `discard` it where none does."""
        ...

    def discard(self, content: Content) -> None: ...

    def write(self, content: int, offset: int, data: Buffer, mtime_ns: int) -> None: ...

    def freeze(self, content: int) -> int:
        """How many layers from the bottom are the file as it is, and never change any more."""
        ...

    def release_frozen(
        self, content: int, depth: int, base: Base, changes: tuple[Change, ...]
    ) -> None:
        """In one record: the lowest `depth` layers go, since `base` has their bytes, and changes
        are put. Not where the rest adds nothing."""
        ...

    def rest_adds_nothing(self, content: int, depth: int) -> bool:
        """Whether the file is still what its lowest `depth` layers say."""
        ...

    def is_torn(self, content: int, depth: int | None = None) -> bool:
        """Whether a power cut took bytes of it, or of what its lowest `depth` layers are."""
        ...

    def read_once(self, content: int, layer: int, start: int, end: int) -> bytes | bytearray: ...

    def pin(self, content: int) -> None:
        """Its layers stay readable until `unpin`, whatever happens to the content. Counted."""
        ...

    def unpin(self, content: int) -> None: ...


class QueueView(Protocol):
    """What the queue asks and tells the file system. Nothing here waits."""

    def is_open_for_writing(self, number: int) -> bool: ...

    def sent(self, change: Change) -> None:
        """This change is CLEAN now."""
        ...

    def moved(self, old: Base, new: Base) -> None:
        """The remote has given the version `old` the key of `new`: who reads it reads it there."""
        ...

    def nameless_over(self, base: Base) -> Sequence[Content]:
        """Those of open files without a name that are made from that version."""
        ...

    def foreign(self, key: str) -> None:
        """The remote has something else at `key` than we thought."""
        ...

    def new_number(self) -> int: ...

    def kept(self, base: Base, start: int, end: int) -> Buffer | None:
        """These bytes of a version, if they are in the cache and proved to be its."""
        ...

    def believed(self, key: str, version: str) -> tuple[Mapping[str, str], int] | None:
        """The attributes and the mtime (nanoseconds) of a version as the listing at hand tells
        them; None where it has another, or none, or doesn't tell all of them."""
        ...

    def shown_names(self, directory: str) -> Container[bytes]:
        """The names that are taken in a directory, as far as they are known."""
        ...


ItemState = Literal["pending", "uploading", "failed", "conflict"]
NumberState = Literal["dirty", "uploading", "failed", "conflict"]


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """`pending` leaves out what is uploading or failed. `conflicts`: conflict copies that the
    journal knows of, and files whose base is gone. `bytes`: staged and not sent yet. `oldest_s`:
    since when the remote is behind, `oldest_path`: with what; None where it isn't. `removals`: what
    of all that waits or failed is to be taken away there, and not to be sent."""

    pending: int = 0
    uploading: int = 0
    failed: int = 0
    conflicts: int = 0
    bytes: int = 0
    oldest_s: float | None = None
    oldest_path: str | None = None
    removals: int = 0


@dataclass(frozen=True, slots=True)
class QueueItem:
    """One unsent change. `kind`: file, directory, delete or rmdir. `size` in bytes. `next_try_s`:
    seconds until then, 0 where nothing holds it back. `conflict`: the key it is a copy of."""

    key: str
    kind: str
    state: ItemState
    size: int
    reason: str
    attempts: int
    next_try_s: float
    since_ns: int
    conflict: str
