"""Fetching across directories, when somebody goes through them by name and in the order of their
numbers: 0, 1, 2, ... 10.

So is an array read whose chunks are files below a directory each (Zarr: c/0/0, c/1/0, ...). Nobody
reads these directories as such: names are looked up in one after the other, and each would be a
LIST that is waited for, and often one for the directory in it. Evidence are three in order; then
the listings of those that come next are fetched, with the first ones below them, in a window that
doubles, and the small files there where files were read so far. Of each directory no more than a
few times what was wanted of those before: who reads one file in each pays for no others.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mountd.errors import NameNotAllowed
from mountd.vfs.nodes import Directory, Steps
from mountd.vfs.overlay import is_hidden
from mountd.vfs.tree import Tree

if TYPE_CHECKING:
    from mountd.vfs.files import OpenFiles

GAP = 8  # directories that may be left out, or come later, and still be "in order"
SURE = 2
MOST_AHEAD = 24  # directories
CHILDREN, DEPTH = 4, 4  # below each of them: this many, so many levels
# Of these at once: looked at, some 10 ms; listed, which others wait behind. A tree of four in each
# directory had 2,900 LISTs begun, and 230 ms gone, for one look-up.
MOST_LOOKS, MOST_LISTS = 400, 64
LEAST, TIMES = 4, 2  # of each so many listings, or as many times what was wanted of one so far
LEAST_FILES, TIMES_FILES = 2, 4  # and so many files of each listing
SMALL_BYTES = 1 << 20
MOST_BYTES = 32 << 20
MOST_NAMES = 1 << 14  # in a directory, to be put in order: some 30 ms once
MOST_NUMBERS = 8  # in a name that count: with 120 of them the same took 1.1 s
MOST_MARKS = 1 << 12
MOST_PARENTS = 64  # of whose directories the order is kept, and with it their listing

_DIGITS = re.compile(rb"(\d+)")


@dataclass(slots=True)
class Most:
    """What may be begun of one directory and below: `files` of each listing, `room` in bytes."""

    listings: int
    files: int
    room: int


class StepsAhead:
    """Watches look-ups that wait for a listing, or find one that was fetched ahead. Never waits."""

    def __init__(self, tree: Tree, files: "OpenFiles") -> None:
        self._tree = tree
        self._files = files
        self._parents: dict[Directory, None] = {}  # that have `steps`; last used, last
        self._looks = self._lists = 0  # that are left of what one look-up may begin
        tree.entered = self.entered

    def entered(self, directory: Directory) -> None:
        """Somebody looks up a name in a directory that has no listing, or one fetched ahead."""
        ahead, parent = self._tree.ahead, directory.parent
        ahead.discard(directory.key)
        steps = self._steps(parent) if parent is not None else None
        if parent is None or steps is None or not self._tree.remote_is_well():
            return
        if self._tree.fresh(directory) is None:
            self._tree.refreshes.start(directory.key)  # before those that nobody waits for
        listing, row = steps.listing, directory.row
        if not (0 <= row < len(listing) and listing.ino(row) == directory.number):
            row = listing.find_ino(directory.number)
        self._count(parent)
        rank = steps.ranks.get(row, -1)
        if rank >= 0 and _is_next(steps, rank) and steps.length >= SURE:
            self._go_on(parent, steps)

    def opened(self, directory: Directory) -> None:
        """A file in it is read: who goes through those beside it wants theirs, too."""
        above = directory.parent
        while above is not None and above.steps is not None:
            above.steps.read += 1
            above = above.parent

    def _count(self, parent: Directory) -> None:
        above: Directory | None = parent
        while above is not None and above.steps is not None:
            above.steps.entered += 1
            above = above.parent

    def _steps(self, parent: Directory) -> Steps | None:
        known = self._tree.cache.get(parent.key)
        if known is None or len(known.listing) > MOST_NAMES:
            return None
        listing, steps = known.listing, parent.steps
        if steps is not None and steps.listing is not listing:
            if steps.listing.to_bytes() == listing.to_bytes():
                steps.listing = listing
            else:
                steps = None
        if steps is None:
            rows = [row for row in range(len(listing)) if listing.is_dir(row)]
            rows.sort(key=lambda row: by_numbers(listing.name(row)))
            steps = parent.steps = Steps(listing, rows, {row: i for i, row in enumerate(rows)})
        self._keep(parent)
        return steps

    def _keep(self, parent: Directory) -> None:
        self._parents.pop(parent, None)
        self._parents[parent] = None
        if len(self._parents) > MOST_PARENTS:
            oldest = next(iter(self._parents))
            del self._parents[oldest]
            oldest.steps = None

    def _go_on(self, parent: Directory, steps: Steps) -> None:
        if len(self._tree.ahead) > MOST_MARKS:
            self._tree.ahead.clear()
        end = min(len(steps.rows), steps.last + 1 + min(MOST_AHEAD, 2 << min(steps.length, 6)))
        steps.done = max(steps.done, steps.last)
        self._looks, self._lists = MOST_LOOKS, MOST_LISTS
        each = max(LEAST, TIMES * steps.entered // max(1, steps.stepped))
        files = max(LEAST_FILES, TIMES_FILES * steps.read // max(1, steps.entered))
        most = Most(each, files if steps.read else 0, MOST_BYTES)
        is_done = True
        for rank in range(steps.done + 1, end):
            row = steps.rows[rank]
            with suppress(NameNotAllowed):
                if is_hidden(self._tree.ledger, parent.key, steps.listing, row):
                    continue
                directory = self._tree.subdirectory(parent, steps.listing, row)
                most.listings = each
                is_done &= self._fetch(directory, most, DEPTH)
            if most.room <= 0 or self._looks <= 0 or self._lists <= 0:
                return
            if is_done:
                steps.done = rank

    def _fetch(self, directory: Directory, most: "Most", depth: int) -> bool:
        """Begins what is there to begin. False: a listing is to come."""
        if self._looks <= 0 or self._lists <= 0:
            return False
        self._looks -= 1
        most.listings -= 1
        self._tree.ahead.add(directory.key)
        cached = self._tree.fresh(directory)
        if cached is None:
            self._lists -= 1
            self._tree.refreshes.start(directory.key, ahead=True)
            return False
        listing, below, files, is_done = cached.listing, 0, 0, True
        for row in range(min(len(listing), 2 * MOST_AHEAD)):
            if is_hidden(self._tree.ledger, directory.key, listing, row):
                continue
            if listing.is_dir(row):
                below += 1
                if depth and below <= CHILDREN and most.listings > 0:
                    child = self._tree.subdirectory(directory, listing, row)
                    is_done &= self._fetch(child, most, depth - 1)
            elif files < most.files and 0 < (size := listing.size(row)) <= SMALL_BYTES:
                if size > most.room or not self._files.fetch_ahead(directory, listing, row):
                    most.room = 0
                    return True
                files += 1
                most.room -= size
        return is_done


def _is_next(steps: Steps, rank: int) -> bool:
    """Whether one is reached that was to come."""
    far = rank - steps.last
    if -GAP <= far <= 0:
        return False  # another of several who go through it
    steps.stepped += 1
    steps.length = steps.length + 1 if 0 < far <= GAP else 0
    steps.last = rank
    if not steps.length:
        steps.done = rank
    return True


def by_numbers(name: bytes) -> tuple[tuple[bytes, int], ...]:
    """What names are put in order by: the texts and numbers in one, the last may have digits."""
    parts = _DIGITS.split(name, MOST_NUMBERS)
    numbers = (*map(int, parts[1::2]), -1)
    return tuple(zip(parts[::2], numbers, strict=True))
