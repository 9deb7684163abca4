"""Fetching ahead of an epoch of one set of files that goes as the one before (epochs.py).

In the same order: what comes next waits in memory. The same files in another order: what is missing
of them is brought into the cache beside the readers, while nothing has to leave for it.

As long as nobody has to wait, everything is here and nothing is looked for: a warm epoch costs the
record and no more.
"""

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from mountd.errors import NameNotAllowed
from mountd.vfs.epochs import Epochs
from mountd.vfs.fill_ahead import FillAhead, Found
from mountd.vfs.nodes import Directory
from mountd.vfs.tree import Tree

if TYPE_CHECKING:
    from mountd.vfs.files import OpenFiles, RemoteFile

FILES_AHEAD = 64
BYTES_AHEAD = 32 << 20
LARGE_BYTES, START_BYTES = 8 << 20, 4 << 20  # of a larger file the start; its reader does the rest
LOOKS = 512  # at files that turn out to be here, after somebody had to wait
LOOKED_AT = 16  # at each open, for the set
MANY_AHEAD = 4  # files of the set that are begun, for each that was opened


class EpochAhead:
    """One set: watches opens; starts fetches that nobody waits for yet. Never waits.

    `root`: its directory. `is_whole`: it has all below that, but for what other sets have.
    `beside`: so many sets are being read, this one among them; they share what may be ahead.
    """

    def __init__(
        self, root: str, is_whole: bool, tree: Tree, files: "OpenFiles", fill: FillAhead
    ) -> None:
        self.root = root
        self.is_whole = is_whole
        self.record = Epochs()
        self.beside = 1
        self._tree = tree
        self._files = files
        self._fill_ahead = fill
        self._turns = 0
        self._looks = 0
        self._next = 0  # positions of the epoch before: begun up to here, in order
        self._coming: deque[tuple[int, int]] = deque()  # of those, which and how many bytes
        self._fill_next = 0  # and looked at up to here, for the set
        self._filled = 0

    def opened(self, number: int, directory: str, row: int, size: int) -> None:
        """A file of this set is opened to be read."""
        record = self.record
        record.opened(number, directory, row, size)
        if record.turns != self._turns:
            self._turns = record.turns
            self._next = self._fill_next = self._filled = 0
            self._coming.clear()
        if self._looks > 0 and record.is_repeated and self._tree.remote_is_well():
            if record.is_in_order:
                self._follow()
            else:
                self._fill()

    def missed(self) -> None:
        """Somebody waits for what is not here."""
        self._looks = LOOKS

    def _follow(self) -> None:
        """Fetches what comes next in the order of the epoch before."""
        record, coming = self.record, self._coming
        while coming and coming[0][0] <= record.front:
            coming.popleft()
        self._next = max(self._next, record.front + 1)
        room = BYTES_AHEAD // self.beside - sum(size for _, size in coming)
        end = min(len(record.before), record.front + 1 + FILES_AHEAD // self.beside)
        while self._next < end and self._looks > 0:
            file = self._file(self._next)
            if file is not None:
                size = file.size if file.size <= LARGE_BYTES else START_BYTES
                if size > room or not self._fetch(file, size):
                    return  # the next open goes on here
                room -= size
                coming.append((self._next, size))
            self._next += 1

    def _fetch(self, file: "RemoteFile", size: int) -> bool:
        """Whether its first bytes are here or on their way."""
        cached = self._files.cached(file)
        try:
            if not cached.lacks(0, size):
                self._looks -= 1
                return True
            self._looks = LOOKS
            return cached.begin(0, size, urgent=False) >= size
        finally:
            cached.close()

    def _fill(self) -> None:
        """Goes on bringing the set here, whatever its order."""
        record = self.record
        most = MANY_AHEAD * len(record.now)
        end = min(len(record.before), self._fill_next + LOOKED_AT)
        while self._fill_next < end and self._filled < most and self._looks > 0:
            file = self._file(self._fill_next)
            found = Found.HERE
            if file is not None and file.size <= LARGE_BYTES:
                found = self._fill_ahead.begin(file)
            if found is Found.NO_ROOM:
                return
            if found is Found.BEGUN:
                self._filled += 1
            else:
                self._looks -= 1
            self._fill_next += 1

    def _file(self, position: int) -> "RemoteFile | None":
        """Of the epoch before; None where it was opened in this one, or is no longer that file."""
        number, key, row = self.record.before[position]
        if self.record.opened_in_this(number) or number in self._tree.ledger.by_number:
            return None
        known = self._tree.cache.get(key)
        if known is None:
            return None
        listing = known.listing
        if row >= len(listing) or listing.ino(row) != number:
            row = listing.find_ino(number)
        if row < 0 or listing.is_dir(row) or not listing.size(row):
            return None
        parent = self._tree.held_directory(key) or Directory(0, None, -1, key)
        with suppress(NameNotAllowed):
            return self._files.file_of_row(parent, listing, row)
        return None
