"""Fetching across files and directories, when somebody goes through a tree.

A reader that opens the files of a directory in listing order (tar, cp -r, a data loader without
shuffling) gets the next small files fetched ahead, in a window that doubles while the order holds.
Several may do so in one directory, as the workers of a loader do, of which each has a batch of its
own. Somebody who opens many files of a directory in no order (the first epoch of a training) gets
the others brought into the cache. A walker (`ls -R`, find) gets the listings of the directories
that come next. Only evidence starts any of it: two files in order, some 30 in no order, or a
directory that is read right after its parent was.
"""

from contextlib import suppress
from typing import TYPE_CHECKING

from mountd.errors import NameNotAllowed
from mountd.vfs.fill_ahead import FillAhead, Found
from mountd.vfs.nodes import Directory, Node, Openings, Walk
from mountd.vfs.tree import Tree
from mountd_cache.listing import Listing

if TYPE_CHECKING:
    from mountd.vfs.files import OpenFiles

GAP = 4  # files that may be left out and still be "in order"
WALKS = 8  # in one directory at once
# Who is alone is in order after two files. Where others read the same directory two are next to
# each other by chance: 8 walks of 4 rows each were continued by every second of 130 shuffled files.
SURE_ALONE, SURE_AMONG = 1, 2
SMALL_BYTES = 1 << 20
MAX_FILES_AHEAD = 64
MAX_BYTES_AHEAD = 32 << 20
DIRECTORY_GAP = 8
MAX_LISTINGS_AHEAD = 24
CHILDREN_AHEAD = 4

# In no order: after so many files, together with the directories beside it (the classes of a set of
# pictures); of a small directory after a quarter of them. Then as many as were opened are fetched
# ahead, and this many for each where more than a 32nd was: who stops earlier has fetched twice as
# much as was read at the most.
SCATTERED, SCATTERED_SMALL, SCATTERED_SHARE = 32, 8, 4
MANY_AHEAD, MANY_SHARE = 4, 32
LOOKED_AT = 64  # rows, at each open

OPENED, AHEAD = 1, 2  # marks of a row


class WalkAhead:
    """Watches opens and listings; starts fetches that nobody waits for yet. Never waits."""

    def __init__(self, tree: Tree, files: "OpenFiles", fill: FillAhead) -> None:
        self._tree = tree
        self._files = files
        self._fill_ahead = fill

    def opened(self, node: Node, *, missed: bool) -> None:
        """A file was opened and is read; `node.row` is its row in its parent's current listing.
        `missed`: somebody waits for it now."""
        parent = node.parent
        assert parent is not None
        known = self._tree.cache.get(parent.key)
        if known is None:
            return
        openings, row = _openings(parent, known.listing), node.row
        if not 0 <= row < len(openings.marks):
            return
        was_ahead = openings.marks[row] == AHEAD
        if was_ahead:
            openings.ahead -= 1
        openings.marks[row] = OPENED
        walk = _continued(openings, row)
        if walk is not None:
            if walk.length < (SURE_ALONE if len(openings.walks) == 1 else SURE_AMONG):
                return
            window = min(MAX_FILES_AHEAD, 2 << min(walk.length, 6))
            self._fetch_files(parent, openings, row, window)
            return
        if missed or was_ahead:
            openings.scattered += 1
            if parent.parent is not None:
                parent.parent.scattered_below += 1
        if openings.scattered >= SCATTERED_SMALL and self._tree.remote_is_well():
            self._fill(parent, openings)

    def listing(self, directory: Directory) -> None:
        """A directory is about to be read; its next siblings may be next."""
        parent = directory.parent
        directory.directories = Walk()
        if parent is None or parent.directories is None:
            return  # somebody went straight here: no walk
        known = self._tree.cache.get(parent.key)
        if known is None:
            return
        walk, row = parent.directories, directory.row
        in_order = row in _directories(known.listing, walk.last_row + 1, DIRECTORY_GAP + 1)
        walk.length = walk.length + 1 if in_order else 0
        walk.last_row = row
        if in_order:
            window = min(MAX_LISTINGS_AHEAD, 2 << min(walk.length, 6))
            self._list(parent, known.listing, row + 1, window)

    def listed(self, directory: Directory, listing: Listing) -> None:
        """It was read; a walker that goes through siblings may want its children."""
        parent = directory.parent
        if parent is not None and parent.directories and parent.directories.length > 1:
            self._list(directory, listing, 0, CHILDREN_AHEAD)

    def _fetch_files(self, parent: Directory, openings: Openings, row: int, window: int) -> None:
        listing, marks = openings.listing, openings.marks
        room = MAX_BYTES_AHEAD
        for ahead in range(row + 1, min(len(listing), row + 1 + window)):
            if marks[ahead] == AHEAD:
                continue
            size = listing.size(ahead)
            if listing.is_dir(ahead) or not 0 < size <= SMALL_BYTES:
                continue
            room -= size
            if room < 0:
                return
            with suppress(NameNotAllowed):  # a sibling's spoilt name is no reason to fail this
                if not self._files.fetch_ahead(parent, listing, ahead):
                    return  # memory is short: try this row again at the next open
            marks[ahead] = AHEAD
            openings.ahead += 1

    def _fill(self, parent: Directory, openings: Openings) -> None:
        """Goes on bringing what is next in the listing, as far as the evidence reaches."""
        listing, marks, scattered = openings.listing, openings.marks, openings.scattered
        around = parent.parent.scattered_below if parent.parent is not None else scattered
        if around < min(SCATTERED, max(SCATTERED_SMALL, len(listing) // SCATTERED_SHARE)):
            return
        most = scattered * (MANY_AHEAD if scattered * MANY_SHARE > len(listing) else 1)
        for row in range(openings.fill_row, min(len(listing), openings.fill_row + LOOKED_AT)):
            if openings.ahead >= most:
                return
            if not marks[row] and not listing.is_dir(row) and 0 < listing.size(row) <= SMALL_BYTES:
                found = Found.HERE
                with suppress(NameNotAllowed):
                    found = self._fill_ahead.begin(self._files.file_of_row(parent, listing, row))
                if found is Found.NO_ROOM:
                    return
                if found is Found.BEGUN:
                    marks[row] = AHEAD
                    openings.ahead += 1
            openings.fill_row = row + 1

    def _list(self, parent: Directory, listing: Listing, row: int, most: int) -> None:
        changes = self._tree.ledger.changes
        for ahead in _directories(listing, row, most):
            with suppress(NameNotAllowed):
                directory = self._tree.subdirectory(parent, listing, ahead)
                change = changes.get(directory.key)
                if change is not None and (change.is_gone or not change.is_clean):
                    # Removed, renamed or made here: its listing would be kept at a key that means
                    # nothing any more, and taken for another directory's after a crash.
                    continue
                if self._tree.fresh(directory) is None:
                    self._tree.refreshes.start(directory.key, ahead=True)


def _openings(parent: Directory, listing: Listing) -> Openings:
    """The directory's; what was marked is void where the listing is another by now."""
    before = parent.openings
    if before is not None:
        if before.listing is listing:
            return before
        if before.listing.to_bytes() == listing.to_bytes():
            before.listing = listing
            return before
    openings = parent.openings = Openings(listing)
    if before is not None:
        openings.scattered = before.scattered
    return openings


def _continued(openings: Openings, row: int) -> Walk | None:
    """The walk that this row continues; a new one begins where there is none. Only the latest may
    have left rows out."""
    walks = openings.walks
    for i, walk in enumerate(walks):
        if 0 < row - walk.last_row <= (1 if i else GAP):
            walk.last_row = row
            walk.length += 1
            if i:
                walks.insert(0, walks.pop(i))
            return walk
    walks.insert(0, Walk(row))
    del walks[WALKS:]
    return None


def _directories(listing: Listing, row: int, most: int) -> list[int]:
    """The next `most` rows that are directories; looks no further than 4,096 rows."""
    found: list[int] = []
    for ahead in range(row, min(len(listing), row + 4096)):
        if listing.is_dir(ahead):
            found.append(ahead)
            if len(found) == most:
                break
    return found
