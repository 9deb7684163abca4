"""What the kernel holds: inodes and the directories among them; and what stat(2) needs of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mountd_cache.listing import Listing

ROOT = 1


class Node:
    """An inode that the kernel holds `lookups` times. `is_nameless`: its name was taken away here;
    one that vanished on the remote is still somebody's file. `mark`: see following.py."""

    __slots__ = ("is_nameless", "lookups", "mark", "number", "parent", "row")

    def __init__(self, number: int, parent: Directory | None, row: int) -> None:
        self.number = number
        self.parent = parent
        self.row = row
        self.lookups = 0
        self.is_nameless = False
        self.mark = 0

    def is_in(self, directory: Directory) -> bool:
        """Whether that is its directory, which may have been forgotten and found again since."""
        return self.parent is not None and self.parent.key == directory.key


@dataclass(eq=False, slots=True)
class Walk:
    """How a directory's children are being gone through; walk_ahead.py decides by it."""

    last_row: int = -1
    length: int = 0  # how many came in order


class Openings:
    """How the files of a directory are being opened. `marks` has a byte for each row of `listing`:
    what became of that file here."""

    __slots__ = ("ahead", "fill_row", "listing", "marks", "scattered", "walks")

    def __init__(self, listing: Listing) -> None:
        self.walks: list[Walk] = []  # those who go through it in order, the latest first
        self.listing = listing
        self.marks = bytearray(len(listing))
        self.ahead = 0  # files that are marked as fetched ahead
        self.scattered = 0  # files that somebody waited for, or had been fetched ahead, in no order
        self.fill_row = 0  # rows before it were looked at


class Directory(Node):
    """A directory, with its key on the remote and what its readers are doing."""

    __slots__ = ("directories", "key", "openings", "scattered_below")

    def __init__(self, number: int, parent: Directory | None, row: int, key: str) -> None:
        super().__init__(number, parent, row)
        self.key = key
        self.openings: Openings | None = None  # until a file was opened
        self.scattered_below = 0  # `Openings.scattered` of its directories together
        self.directories: Walk | None = None  # None: never read as a directory


@dataclass(slots=True)
class Attributes:
    """What stat(2) needs. `ttl_s` is how long the kernel may keep it, in seconds. `mode` (of
    which the permission bits count), `uid` and `gid` are None where the mount's own hold. A link
    has no mode. `is_read_only`: whatever the mode says, the remote takes no change.

    Not `frozen`, which mypy would see no better than Final: a getattr would take 1.3 us more, of 5.
    """

    number: Final[int]
    is_dir: Final[bool]
    size: Final[int]
    mtime_ns: Final[int]
    version: Final[str]
    ttl_s: Final[float]
    mode: Final[int | None] = None
    uid: Final[int | None] = None
    gid: Final[int | None] = None
    is_read_only: Final[bool] = False
    is_link: Final[bool] = False
