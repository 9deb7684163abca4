"""Local changes over a remote's listing: what the user sees, and what the listing becomes; pure.

A change hides the row with its key, and one that is there is shown in its place. Folding puts what
the remote has taken (CLEAN changes) into the kept listing, with their inode numbers, so that the
next LIST finds them unchanged.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping

from mountd.vfs.listing_rows import SEPARATOR, raw_segment, row_of, version_in
from mountd.vfs.names import LINK_SUFFIX, is_link, is_shortened
from mountd.vfs.row_attributes import packed, with_denied
from mountd_cache.changes import Change
from mountd_cache.ledger import Ledger
from mountd_cache.listing import Listing, Row


def key_of_row(directory: str, listing: Listing, row: int) -> str:
    """The remote's key of a row, a directory's with its slash."""
    key = directory + raw_segment(listing, row, not directory)
    return key + "/" if listing.is_dir(row) else key


def is_change_of_link(change: Change) -> bool:
    """Whether what a change has put at its key is shown as a link."""
    if change.is_directory or not change.key.endswith(LINK_SUFFIX):
        return False
    raw = change.key[len(change.directory) :]
    return is_link(raw, change.name, at_root=not change.directory)


def still_going(ledger: Ledger, directory: str) -> list[str]:
    """The remote's names, of directories with a slash, of what was taken away here in `directory`
    and may still be there. What is there after the remote has removed ours is somebody else's."""
    gone = ledger.gone.get(directory, {}).values()
    return [change.key[len(directory) :] for change in gone if not change.is_clean]


def is_hidden(ledger: Ledger, directory: str, listing: Listing, row: int) -> bool:
    """Whether a change stands in the place of a row, or took it away."""
    return key_of_row(directory, listing, row) in ledger.changes


def is_changed(ledger: Ledger, directory: str) -> bool:
    """Whether there are changes of names in `directory`."""
    return directory in ledger.shown or directory in ledger.gone


def seen(ledger: Ledger, directory: str, listing: Listing) -> Listing:
    """The listing as the user sees it."""
    shown = ledger.shown.get(directory, {})
    rows = [_row(ledger, change) for change in shown.values()]
    rows += _kept(directory, listing, ledger.changes, shown)
    return Listing.build(rows)


def folded(
    ledger: Ledger,
    directory: str,
    listing: Listing,
    clean: Collection[Change],
    *,
    tells_none: bool = False,
) -> Listing:
    """The listing with what the remote has taken by now. `tells_none`: a row says that there are
    no attributes; else that is what a row without any means."""
    here = [change for change in clean if not change.is_gone]
    rows = [_as_denied(listing, _row(ledger, change, tells_none)) for change in here]
    rows += _kept(
        directory, listing, {change.key for change in clean}, {change.name for change in here}
    )
    return Listing.build(rows)


def is_empty(
    ledger: Ledger, directory: str, listing: Listing, without: Collection[str] = ()
) -> bool:
    """Whether the user sees no name in the directory once the keys `without` are gone."""
    shown = ledger.shown.get(directory, {})
    # Counting first: where thousands are removed one by one, each look must stay cheap.
    if len(shown) > len(without) or any(c.key not in without for c in shown.values()):
        return False
    if len(listing) > len(ledger.gone.get(directory, ())) + len(without):
        return False
    keys = (key_of_row(directory, listing, row) for row in range(len(listing)))
    return all(key in without or key in ledger.changes for key in keys)


def _kept(
    directory: str,
    listing: Listing,
    keys: Collection[str] | Mapping[str, Change],
    names: Collection[bytes] | Mapping[bytes, Change],
) -> Iterator[Row]:
    # A foreign object may have come under a name that ours has taken: ours is the one that is seen.
    for row in range(len(listing)):
        if listing.name(row) not in names and key_of_row(directory, listing, row) not in keys:
            yield listing.row(row)


def _as_denied(listing: Listing, row: Row) -> Row:
    """A file that was changed here is denied what it was: only a LIST tells anew."""
    at = listing.find(row.name)
    if at < 0 or listing.ino(at) != row.ino or not (text := listing.attributes(at)):
        return row
    return row._replace(attributes=with_denied(row.attributes, text))


def _row(ledger: Ledger, change: Change, tells_none: bool = False) -> Row:
    is_told = not change.is_directory and (tells_none or bool(change.attributes))
    version = change.expect
    if is_shortened(change.name):
        segment = change.key.removesuffix("/")[len(change.directory) :]
        version = f"{version}{SEPARATOR}{segment}"
    return Row(
        change.name,
        change.is_directory,
        ledger.size_of(change),
        ledger.mtime_ns_of(change),
        version,
        change.number,
        packed(change.attributes) if is_told else "",
        is_change_of_link(change),
    )


def clean_changes(ledger: Ledger, directory: str) -> list[Change]:
    """The changes in `directory` that the remote has taken."""
    found: Iterable[Change] = (
        *ledger.shown.get(directory, {}).values(),
        *ledger.gone.get(directory, {}).values(),
    )
    return [change for change in found if change.is_clean]


def agrees(listing: Listing, change: Change) -> bool:
    """Whether the listing of a change's directory says the same as the change."""
    row = listing.find(change.name)
    is_other = row >= 0 and key_of_row(change.directory, listing, row) != change.key
    if change.is_gone:
        if is_other or (row < 0 and change.key.endswith(LINK_SUFFIX)):
            row = row_of(listing, change.directory, change.key)  # shown otherwise, beside others
        return row < 0
    if is_other or row < 0:
        return False
    return change.is_directory or version_in(listing.version(row)) == change.expect


def waiting_below(ledger: Ledger, directory: str) -> set[str] | None:
    """The directories in `directory`, by the remote's names, in or below which something waits to
    be sent; None where nothing waits in itself either."""
    found: set[str] = set()
    is_itself = False
    for other, changes in ledger.shown.items():
        if other.startswith(directory) and any(not change.is_clean for change in changes.values()):
            is_itself = is_itself or other == directory
            found.add(other[len(directory) :].partition("/")[0])
    found.discard("")
    return found if found or is_itself else None
