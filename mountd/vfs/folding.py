"""What the remote has taken goes into the kept listings, and leaves the journal.

Until a listing on disk shows a CLEAN change, the journal keeps it: a crash in between must not hide
a file until the next LIST. Changes that say what no listing can (a directory's attributes, that a
file is a conflict copy) stay as long as the remote has that version.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from mountd.vfs.overlay import agrees, clean_changes, folded
from mountd.vfs.tree import Tree
from mountd_cache.changes import Change, Rows
from mountd_cache.journal import Journal
from mountd_cache.listing import Listing
from mountd_cache.metadata_cache import MetadataCache

log = logging.getLogger(__name__)

EVERY_S = 1.0
# Times as long as folding took: it goes through all rows of a directory (20 us for each), and while
# 3,000 files were sent into one it had a tenth of the loop's time.
_REST = 50.0
_LONGEST_REST_S = 60.0
FLUSH_WITHIN_S = 10.0


def rest_s(cost_s: float) -> float:
    """Until it is folded again, after that took so long."""
    return max(EVERY_S, min(_REST * cost_s, _LONGEST_REST_S))


class Folding:
    """Owned by the file system; runs on the loop but for the flush of the metadata."""

    def __init__(self, journal: Journal, tree: Tree, metadata: MetadataCache) -> None:
        self._journal = journal
        self._ledger = journal.ledger
        self._tree = tree
        self._metadata = metadata
        self._held: list[str] = []
        self._cost_s = 0.0
        self._waiting: set[str] = set()  # directories with changes that are not folded yet
        tree.refreshes.before_list = self.fold
        tree.refreshes.after_list = self._listed

    def sent(self, directory: str) -> None:
        """There may be a clean change in that directory now."""
        self._waiting.add(directory)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        self.take_up()
        task_status.started()
        while True:
            await trio.sleep(rest_s(self._cost_s))
            await self.fold_waiting()

    def take_up(self) -> None:
        """What a former process has left waits, too."""
        self._waiting |= {c.directory for c in self._ledger.changes.values() if c.is_clean}

    async def fold_waiting(self) -> None:
        """Folds what waits, and forgets it once the listings are on disk."""
        directories, self._waiting = self._waiting, set()
        done: list[Change] = []
        began_s = time.perf_counter()
        for directory in directories:
            if self._tree.refreshes.is_listing(directory):
                self._waiting.add(directory)  # the LIST under way does it
            elif self._metadata.get(directory) is not None:
                done += self.fold(directory)
            else:  # no listing shows what these hide, nor will once that is on disk
                done += [c for c in clean_changes(self._ledger, directory) if c.is_gone]
        self._cost_s = time.perf_counter() - began_s
        if not done:
            return
        flushed = await trio.to_thread.run_sync(
            self._metadata.flush, FLUSH_WITHIN_S, abandon_on_cancel=True
        )
        if flushed:
            self._forget(done)
        else:
            self._waiting |= directories

    def fold(self, directory: str) -> list[Change]:
        """Puts the clean changes into the kept listing, where there is one; returns them."""
        clean = clean_changes(self._ledger, directory)
        cached = self._metadata.get(directory)
        if clean and cached is not None:
            tells_none = self._tree.known.must_be_asked
            listing = folded(self._ledger, directory, cached.listing, clean, tells_none=tells_none)
            if listing.to_bytes() != cached.listing.to_bytes():
                # Where others have put something there meanwhile, it is hidden from now on: what
                # proved that this is what the remote has does so no more.
                is_same = all(agrees(cached.listing, change) for change in clean)
                token = cached.token if is_same else ""
                self._metadata.put(directory, listing, cached.fetched_at, token)
        return clean

    def _listed(self, directory: str, clean: list[Change], listing: Listing) -> None:
        """A LIST that began after these changes were taken knows better than they do. Those that
        it agrees with stay until it is on disk, too."""
        other = [change for change in clean if not agrees(listing, change)]
        if len(other) < len(clean):
            self._waiting.add(directory)
        gone = [c for c in other if c.is_gone or listing.find_ino(c.number) < 0]
        self._forget(other)
        self._forget(gone, whatever=True)

    @contextmanager
    def holding(self, below: str) -> Iterator[None]:
        """Forgets no change below that key meanwhile: somebody puts together from a listing and
        the ledger what is there, and must find each file in one of the two."""
        self._held.append(below)
        try:
            yield
        finally:
            self._held.remove(below)

    def _forget(self, changes: list[Change], *, whatever: bool = False) -> None:
        """Takes changes out of the journal unless they became others meanwhile."""
        same = [change for change in changes if self._ledger.changes.get(change.key) is change]
        if self._held:
            below = tuple(self._held)
            self._waiting |= {c.directory for c in same if c.key.startswith(below)}
            same = [change for change in same if not change.key.startswith(below)]
        keys = tuple(c.key for c in same if whatever or not self._says_more(c))
        if not keys:
            return
        try:
            self._journal.commit(Rows(forget=keys), reserve=True)
        except OSError as error:
            log.warning("%d sent changes stay in the journal: %s", len(keys), error)
            self._waiting |= {change.directory for change in same}

    def _says_more(self, change: Change) -> bool:
        """Than a row can. What the remote doesn't keep is nowhere else: a listing may be evicted,
        and remotes have no place for a directory's attributes."""
        is_only_here = change.is_directory or not self._tree.known.are_kept
        return bool(change.conflict) or (is_only_here and bool(change.attributes))
