"""Fetching across files and directories, when somebody walks through a tree in order.

A reader that opens the files of a directory in listing order (tar, cp -r, a data loader without
shuffling) gets the next small files fetched ahead, in a window that doubles while the order holds;
a walker (`ls -R`, find) gets the listings of the directories that come next. Only evidence starts
either: two files in order, or a directory that is read right after its parent was.
"""

from contextlib import suppress
from typing import TYPE_CHECKING

from mountd.errors import NameNotAllowed
from mountd.vfs.nodes import Directory, Node, Walk
from mountd.vfs.tree import Tree
from mountd_cache.listing import Listing

if TYPE_CHECKING:
    from mountd.vfs.files import OpenFiles

GAP = 4  # files that may be left out and still be "in order"
SMALL_BYTES = 1 << 20
MAX_FILES_AHEAD = 64
MAX_BYTES_AHEAD = 32 << 20
DIRECTORY_GAP = 8
MAX_LISTINGS_AHEAD = 24
CHILDREN_AHEAD = 4


class WalkAhead:
    """Watches opens and listings; starts fetches that nobody waits for yet. Never waits."""

    def __init__(self, tree: Tree, files: "OpenFiles") -> None:
        self._tree = tree
        self._files = files

    def opened(self, node: Node) -> None:
        """A file was opened; `node.row` is its row in its parent's current listing."""
        parent = node.parent
        assert parent is not None
        walk, row = parent.files, node.row
        in_order = 0 < row - walk.last_row <= GAP and walk.last_row >= 0
        walk.length = walk.length + 1 if in_order else 0
        walk.last_row = row
        if not in_order:
            walk.ahead_row = row + 1
            return
        known = self._tree.cache.get(parent.key)
        if known is not None:
            window = min(MAX_FILES_AHEAD, 2 << min(walk.length, 6))
            self._fetch_files(parent, known.listing, row, window)

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

    def _fetch_files(self, parent: Directory, listing: Listing, row: int, window: int) -> None:
        walk = parent.files
        room = MAX_BYTES_AHEAD
        for ahead in range(row + 1, min(len(listing), row + 1 + window)):
            size = listing.size(ahead)
            if listing.is_dir(ahead) or not 0 < size <= SMALL_BYTES:
                continue
            room -= size
            if room < 0:
                return
            if ahead < walk.ahead_row:
                continue
            with suppress(NameNotAllowed):  # a sibling's spoilt name is no reason to fail this
                if not self._files.fetch_ahead(parent, listing, ahead):
                    return  # memory is short: try this row again at the next open
            walk.ahead_row = ahead + 1

    def _list(self, parent: Directory, listing: Listing, row: int, most: int) -> None:
        for ahead in _directories(listing, row, most):
            with suppress(NameNotAllowed):
                directory = self._tree.subdirectory(parent, listing, ahead)
                if self._tree.fresh(directory) is None:
                    self._tree.refreshes.start(directory.key, ahead=True)


def _directories(listing: Listing, row: int, most: int) -> list[int]:
    """The next `most` rows that are directories; looks no further than 4,096 rows."""
    found: list[int] = []
    for ahead in range(row, min(len(listing), row + 4096)):
        if listing.is_dir(ahead):
            found.append(ahead)
            if len(found) == most:
                break
    return found
