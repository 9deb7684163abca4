"""A remote's listing <-> the packed listing that is kept, with inode numbers; pure.

A row that is unchanged keeps its number; a new name, and a file that is another version, gets a
number that was never used (so the kernel may always keep its pages), or the one that stands for
this file in this version, where the remote says which file it is (following.py).

A row's name is the shown one, from which `names.raw_name` gives the remote's; a name that had to
be shortened does not give it back, so there the row's version is followed by a NUL and that name.
Of a link it gives the link's name, which the remote has with a suffix.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from mountd.types import Entry, Kind
from mountd.vfs.names import LINK_SUFFIX, is_shortened, raw_name, shown_names
from mountd.vfs.row_attributes import packed
from mountd_cache.listing import Listing, Row

SEPARATOR = "\0"
FIRST_DERIVED: Final = 1 << 62  # numbers from here on are made by `number_of`
MAX_TIME_NS = (1 << 63) - 1  # the year 2262: remotes do say 9999


def number_of(identity: str, version: str, size: int) -> int:
    """For a file that others have made or changed; the same for ever."""
    text = f"{identity}\0{version}\0{size}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return FIRST_DERIVED | (int.from_bytes(digest, "big") & (FIRST_DERIVED - 1))


def _never(number: int) -> bool:
    return False


def merged(
    entries: Sequence[Entry],
    old: Listing | None,
    new_numbers: Callable[[int], int],
    at_root: bool,
    gone: Collection[str] = (),
    is_taken: Callable[[int], bool] = _never,
) -> Listing:
    """The new listing; `old` itself where nothing changed. `new_numbers(n)` gives the first of n
    unused inode numbers; `gone` are names of what was taken away here; `is_taken`: whether a
    number that is made of a file's identity stands for something else here. Runs in a worker
    thread: 100,000 rows take a while."""
    known = {old.name(i): i for i in range(len(old))} if old is not None else {}
    rows: list[Row] = []
    unnumbered: list[int] = []
    derived: dict[int, int] = {}  # by row
    unchanged = 0
    shown = shown_names(without_replaced(entries, gone), at_root=at_root)
    for entry, name in shown:
        is_dir = entry.kind is Kind.DIRECTORY
        version = entry.version
        if name in shown.shortened:
            version = f"{version}{SEPARATOR}{entry.name}"
        mtime_ns = min(max(entry.mtime_ns, -MAX_TIME_NS), MAX_TIME_NS)
        # A listing that tells attributes tells all of them: those without need no text.
        said = packed(entry.attributes) if entry.attributes else ""
        row = Row(name, is_dir, entry.size, mtime_ns, version, 0, said, name in shown.links)
        at = known.get(name)
        if at is not None and old is not None:
            before = old.row(at)
            # What a listing doesn't say of the same version is what was known of it.
            is_told = entry.attributes is not None
            row = row._replace(ino=before.ino, attributes=said if is_told else before.attributes)
            if row == before:
                unchanged += 1
            elif not _same_thing(row, before):
                row = row._replace(attributes=said, ino=0)
                unnumbered.append(len(rows))
                if entry.identity and not is_dir:
                    number = number_of(entry.identity, version, entry.size)
                    if number != before.ino:
                        derived[len(rows)] = number
            elif not row.is_dir or not mtime_ns:
                # The same version can't be younger: this mtime is the one that was written here,
                # and an object store's listing only knows when the object arrived.
                row = row._replace(mtime_ns=before.mtime_ns or mtime_ns)
                unchanged += row == before
        else:
            unnumbered.append(len(rows))
            if entry.identity and not is_dir:
                derived[len(rows)] = number_of(entry.identity, version, entry.size)
        rows.append(row)
    if old is not None and unchanged == len(rows) == len(old):
        return old
    _number(rows, unnumbered, derived, new_numbers, is_taken)
    return Listing.build(rows)


def _number(
    rows: list[Row],
    unnumbered: Sequence[int],
    derived: Mapping[int, int],
    new_numbers: Callable[[int], int],
    is_taken: Callable[[int], bool],
) -> None:
    """Gives each row that has none a number that no other row has."""
    used = {row.ino for row in rows} if derived else set()
    left: list[int] = []
    for i in unnumbered:
        number = derived.get(i, 0)
        if not number or number in used or is_taken(number):
            left.append(i)
        else:
            used.add(number)
            rows[i] = rows[i]._replace(ino=number)
    number = new_numbers(len(left)) if left else 0
    for offset, i in enumerate(left):
        rows[i] = rows[i]._replace(ino=number + offset)


def without_replaced(entries: Sequence[Entry], gone: Collection[str]) -> Sequence[Entry]:
    """Without the files that were replaced by a link here, and the directories that were replaced
    by a file or a link, and are not gone on the remote yet: what is in their place would be shown
    under another name, as a file beside them, until they are."""
    if not gone:
        return entries
    there = {(entry.name, entry.kind is Kind.DIRECTORY) for entry in entries}
    replaced: set[tuple[str, bool]] = set()
    for each in gone:
        key = name, is_directory = each.removesuffix("/"), each.endswith("/")
        if key not in there:
            continue
        if (name + LINK_SUFFIX, False) in there or (is_directory and (name, False) in there):
            replaced.add(key)
    if not replaced:
        return entries
    return [e for e in entries if (e.name, e.kind is Kind.DIRECTORY) not in replaced]


def raw_segment(listing: Listing, row: int, at_root: bool) -> str:
    """The remote's own name of a row. NameNotAllowed where a spoiled listing has none."""
    shown = listing.name(row)
    if is_shortened(shown):
        _, found, raw = listing.version(row).partition(SEPARATOR)
        if found:
            return raw
    raw = raw_name(shown, at_root=at_root)
    return raw + LINK_SUFFIX if listing.is_link(row) else raw


def row_of(listing: Listing, directory: str, key: str) -> int:
    """The row of a key in its directory's listing, or -1."""
    raw = key.removesuffix("/")[len(directory) :]
    kind = Kind.DIRECTORY if key.endswith("/") else Kind.FILE
    entry = Entry(raw, kind, 0, 0, "")
    ways = [[entry], [entry, Entry(raw, Kind.DIRECTORY, 0, 0, "")]]
    if raw.endswith(LINK_SUFFIX) and kind is Kind.FILE:
        ways.append([replace(entry, size=1)])
    for way in ways:
        names = shown_names(way, at_root=not directory).names
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
    is_same_kind = now.is_link == before.is_link
    return is_same_kind and now.version == before.version and now.size == before.size
