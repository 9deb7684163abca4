"""Kept listings of directories that were renamed just before a crash.

A rename is in the journal when it returns; the listings that went along are on disk a little later.
Until they are (folding.py flushes before it forgets), the journal has the directory's old key with
the number that the new one has: that tells where what the disk still has belongs.
"""

import logging
from collections.abc import Mapping

from mountd.vfs.listing_rows import row_of
from mountd_cache.changes import Change, ChangeKind
from mountd_cache.ledger import Ledger
from mountd_cache.metadata_cache import MetadataCache

log = logging.getLogger(__name__)


def take_along(ledger: Ledger, cache: MetadataCache) -> None:
    """Once, before anything is listed. What was moved is to be asked for again: it is there for its
    inode numbers. Costs nothing where no directory was renamed that the disk doesn't know of."""
    there = {n: c.key for n, c in ledger.by_number.items() if c.is_directory}
    gone = [
        change
        for change in ledger.changes.values()
        if change.kind is ChangeKind.GONE_DIRECTORY and change.is_clean and change.number in there
    ]
    if not gone:
        return
    at: dict[str, str | None] = {key: key for key in cache.on_disk()}  # None: nowhere any more
    # A key is as its parents are called now: what they were called before comes first.
    for change in sorted(gone, key=lambda change: change.key.count("/")):
        old, new = change.key, there[change.number]
        below = [key for key, now in at.items() if now is not None and now.startswith(old)]
        if not below or new.startswith(old) or not _is_of(change, ledger, cache, at):
            continue
        log.info("%r was renamed just before a crash: %d listings go along", old, len(below))
        at.update({key: None for key, now in at.items() if now == key and key.startswith(new)})
        at.update({key: new + (at[key] or "")[len(old) :] for key in below})
    moved = {now: cache.get(key) for key, now in at.items() if now is not None and now != key}
    for key, cached in moved.items():
        if cached is not None:
            cache.put(key, cached.listing, 0.0)
    for key, now in at.items():
        if now != key and key not in moved:
            cache.forget(key)


def _is_of(
    change: Change, ledger: Ledger, cache: MetadataCache, at: Mapping[str, str | None]
) -> bool:
    """Whether the disk has the listings of this directory at its old key, not those of one that was
    there before. One that was renamed file by file leaves changes below it."""
    if any(ledger.below(change.key)):
        return False
    if _number(change.directory, change.key, cache, at) not in (None, change.number):
        return False
    now = ledger.by_number[change.number]
    is_there = at.get(now.key) == now.key  # and its own, if the listing above says so already
    return not is_there or _number(now.directory, now.key, cache, at) != change.number


def _number(
    directory: str, key: str, cache: MetadataCache, at: Mapping[str, str | None]
) -> int | None:
    """What the disk knows `key` as, if it does."""
    above = next((cache.get(kept) for kept, now in at.items() if now == directory), None)
    row = row_of(above.listing, directory, key) if above is not None else -1
    return above.listing.ino(row) if above is not None and row >= 0 else None
