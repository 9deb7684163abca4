"""Files that others move keep their inode number, where the remote says which file it is.

The number of a file that is new in a listing (or another version there) is then made of its
identity, its version and its size: the same file is found under the same number wherever it is,
also after a restart, and a foreign change gives another one. What is written here keeps its number
(its row does), which from then on is no longer what its version would make: so others may not be
given it (`edited`). Such numbers have their own range: a reserved one never meets them.

Two rows may have one number for a while: what was moved is already listed at its new place, and
still at the old one, whose listing is older. An inode is at one place: in the newer listing. A row
whose number stands for something else by now (a change here of the other name; other bytes, be it
that two files make one number) gets a number of its own before the kernel is told it.
"""

from __future__ import annotations

from collections.abc import Callable

from mountd.vfs.listing_rows import FIRST_DERIVED, SEPARATOR, raw_segment
from mountd.vfs.nodes import Directory, Node
from mountd.vfs.notes import NoNotes, Notes
from mountd_cache.ledger import Ledger
from mountd_cache.listing import Listing
from mountd_cache.metadata_cache import MetadataCache


def mark_of(listing: Listing, row: int) -> int:
    """What tells whether two rows with one number are of one file."""
    return hash((listing.version(row).partition(SEPARATOR)[0], listing.size(row)))


class Following:
    """Of the loop's thread, but for `is_taken`."""

    def __init__(
        self, cache: MetadataCache, ledger: Ledger, new_numbers: Callable[[int], int]
    ) -> None:
        self._cache = cache
        self._ledger = ledger
        self._new_numbers = new_numbers
        self._edited = {number for number in ledger.by_number if number >= FIRST_DERIVED}
        self.former: frozenset[int] = frozenset()  # what a former process had edited
        self.notes: Notes = NoNotes()
        # Called with a file's node when it is elsewhere from now on.
        self.relocated: Callable[[Node], None] = lambda node: None

    def edited(self, number: int) -> None:
        """What this number stands for was changed here."""
        if number >= FIRST_DERIVED and number not in self._edited:
            self._edited.add(number)
            self.notes.edited(number)

    def forgot(self, number: int) -> None:
        """The kernel holds it no more. As at a start, only what the ledger has is ours then; for as
        long as that is so, a look-up makes it one again. How often a former process told the kernel
        of a number isn't known, so what that one had edited stays."""
        if number in self._edited and number not in self.former:
            self._edited.discard(number)
            self.notes.not_edited(number)

    def were_edited(self, numbers: frozenset[int]) -> None:
        """By a former process, and the kernel still has the bytes."""
        self.former = numbers
        self._edited |= numbers

    def is_taken(self, number: int) -> bool:
        """Whether it stands for what only this machine knows. Any thread."""
        return number in self._edited or number in self._ledger.by_number

    def checked(
        self, parent: Directory, listing: Listing, row: int, node: Node | None
    ) -> tuple[Listing, bool]:
        """The row's listing, in which it has a number that the kernel may be told for it; and
        whether that number's inode was elsewhere before."""
        number = listing.ino(row)
        change = self._ledger.by_number.get(number)
        if change is not None:
            key = parent.key + raw_segment(listing, row, not parent.key)
            return (listing if change.key == key else self.renumbered(parent, listing, row)), False
        if node is None or node.is_in(parent):
            return listing, False
        if number in self._edited or node.is_nameless or node.mark != mark_of(listing, row):
            return self.renumbered(parent, listing, row), False
        return listing, self._is_newer(parent, node)

    def renumbered(self, parent: Directory, listing: Listing, row: int) -> Listing:
        """The listing with a number of its own in that row; also in what is kept, so that it stays
        this one."""
        number = self._new_numbers(1)
        kept = self._cache.get(parent.key)
        at = kept.listing.find(listing.name(row)) if kept is not None else -1
        if kept is not None and at >= 0 and kept.listing.ino(at) == listing.ino(row):
            made = kept.listing.renumbered(at, number)
            self._cache.put(parent.key, made, kept.fetched_at, kept.token)
            if kept.listing is listing:
                return made
        return listing.renumbered(row, number)

    def _is_newer(self, parent: Directory, node: Node) -> bool:
        """Whether the listing of `parent` is to be believed, and not that of where the node is."""
        assert node.parent is not None
        before, now = self._cache.get(node.parent.key), self._cache.get(parent.key)
        if before is None or before.listing.find_ino(node.number) < 0:
            return True
        return now is not None and now.fetched_at > before.fetched_at
