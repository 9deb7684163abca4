"""A remote's listing <-> the packed listing that is kept, with inode numbers; pure.

A row that is unchanged keeps its number; a new name, and a file that is another version, gets a
number that was never used (design.md: KEEP_CACHE can then always be on).

A row's name is the shown one, from which `names.raw_name` gives the remote's; a name that had to
be shortened does not give it back, so there the row's version is followed by a NUL and that name.
"""

from collections.abc import Callable, Sequence

from mountd.types import Entry, Kind
from mountd.vfs.names import is_shortened, raw_name, shown_names
from mountd.vfs.row_attributes import packed
from mountd_cache.listing import Listing, Row

SEPARATOR = "\0"
MAX_TIME_NS = (1 << 63) - 1  # the year 2262: remotes do say 9999


def merged(
    entries: Sequence[Entry],
    old: Listing | None,
    new_numbers: Callable[[int], int],
    at_root: bool,
) -> Listing:
    """The new listing; `old` itself where nothing changed. `new_numbers(n)` gives the first of n
    unused inode numbers. Runs in a worker thread: 100,000 rows take a while."""
    known = {old.name(i): i for i in range(len(old))} if old is not None else {}
    rows: list[Row] = []
    unnumbered: list[int] = []
    unchanged = 0
    shown = shown_names(entries, at_root=at_root)
    for entry, name in shown:
        is_dir = entry.kind is Kind.DIRECTORY
        version = entry.version
        if name in shown.shortened:
            version = f"{version}{SEPARATOR}{entry.name}"
        mtime_ns = min(max(entry.mtime_ns, -MAX_TIME_NS), MAX_TIME_NS)
        row = Row(name, is_dir, entry.size, mtime_ns, version, 0, packed(entry.attributes))
        at = known.get(name)
        if at is not None and old is not None:
            before = old.row(at)
            # What a listing doesn't say of the same version is what was known of it.
            said = row.attributes
            row = row._replace(ino=before.ino, attributes=said or before.attributes)
            if row == before:
                unchanged += 1
            elif not _same_thing(row, before):
                row = row._replace(attributes=said)
                unnumbered.append(len(rows))
            elif not row.is_dir or not mtime_ns:
                # The same version can't be younger: this mtime is the one that was written here,
                # and an object store's listing only knows when the object arrived.
                row = row._replace(mtime_ns=before.mtime_ns or mtime_ns)
                unchanged += row == before
        else:
            unnumbered.append(len(rows))
        rows.append(row)
    if old is not None and unchanged == len(rows) == len(old):
        return old
    if unnumbered:
        number = new_numbers(len(unnumbered))
        for offset, i in enumerate(unnumbered):
            rows[i] = rows[i]._replace(ino=number + offset)
    return Listing.build(rows)


def raw_segment(listing: Listing, row: int, at_root: bool) -> str:
    """The remote's own name of a row. NameNotAllowed where a spoiled listing has none."""
    shown = listing.name(row)
    if is_shortened(shown):
        _, found, raw = listing.version(row).partition(SEPARATOR)
        if found:
            return raw
    return raw_name(shown, at_root=at_root)


def row_of(listing: Listing, directory: str, key: str) -> int:
    """The row of a key in its directory's listing, or -1."""
    raw = key.removesuffix("/")[len(directory) :]
    kind = Kind.DIRECTORY if key.endswith("/") else Kind.FILE
    entry = Entry(raw, kind, 0, 0, "")
    for beside in ((), (Entry(raw, Kind.DIRECTORY, 0, 0, ""),)):
        names = shown_names([entry, *beside], at_root=not directory).names
        row = listing.find(names[0]) if names else -1
        is_kind = row >= 0 and listing.is_dir(row) == (kind is Kind.DIRECTORY)
        if is_kind and raw_segment(listing, row, not directory) == raw:
            return row
    return -1


def version_in(field: str) -> str:
    """The remote's version in a row's version field."""
    return field.partition(SEPARATOR)[0]


def _same_thing(now: Row, before: Row) -> bool:
    """A directory is known by its name; a file by its content's version."""
    if now.is_dir or before.is_dir:
        return now.is_dir and before.is_dir
    return now.version == before.version and now.size == before.size
