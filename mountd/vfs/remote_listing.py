"""One LIST of a directory: the call, and what it must know. refreshing.py says when."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from mountd.errors import NotFound
from mountd.remotes.base import RemoteStore
from mountd.remotes.call import prefetching
from mountd.types import Entry, Kind
from mountd.vfs.listing_rows import merged, without_replaced
from mountd_cache.listing import Listing


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a LIST must know of a directory. `waiting`: see `waiting_below`; what is in those
    directories may be on the remote later than what was in them is gone. `gone`: see `still_going`.
    `ahead`: nobody waits for it yet."""

    key: str
    old: Listing | None
    waiting: Collection[str] | None
    gone: Collection[str]
    ahead: bool


@dataclass(frozen=True, slots=True)
class Listed:
    """`is_theirs`: it is what the remote has, with nothing in it because of what waits here.
    `replaced`: names of files in the old one, and their numbers, that are others' now, or gone."""

    listing: Listing
    is_theirs: bool
    replaced: Sequence[tuple[bytes, int]]


def list_now(
    store: RemoteStore,
    wanted: Wanted,
    new_numbers: Callable[[int], int],
    is_taken: Callable[[int], bool],
) -> Listed:
    """Blocks; in a worker thread. Raises RemoteError."""
    prefetching.set(wanted.ahead)  # in this call's own copy of the context
    is_theirs = True
    try:
        entries = [entry for page in store.list(wanted.key) for entry in page]
    except NotFound:
        if wanted.waiting is None:
            raise
        entries, is_theirs = [], False
    there = {entry.name for entry in entries if entry.kind is Kind.DIRECTORY}
    missing = [name for name in wanted.waiting or () if name not in there]
    entries += [Entry(name, Kind.DIRECTORY, 0, 0, "") for name in missing]
    is_theirs = is_theirs and not missing
    is_theirs = is_theirs and without_replaced(entries, wanted.gone) is entries
    listing = merged(entries, wanted.old, new_numbers, not wanted.key, wanted.gone, is_taken)
    return Listed(listing, is_theirs, _replaced(wanted.old, listing))


def _replaced(old: Listing | None, new: Listing) -> Sequence[tuple[bytes, int]]:
    if old is None or new is old:
        return ()
    there = {new.name(row): new.ino(row) for row in range(len(new))}
    files = ((old.name(row), old.ino(row)) for row in range(len(old)) if not old.is_dir(row))
    return [(name, number) for name, number in files if there.get(name) != number]
