"""Sends what is no file's content: removals, and directories made."""

import logging
from collections.abc import Callable, Iterable, Sequence

from mountd.errors import DirectoryNotEmpty, NotFound, Unreachable, VersionChanged
from mountd.sync.attempts import Asker, Attempt, Owner, with_another_time
from mountd.sync.base import QueueView, SyncJournal
from mountd.sync.landing import directory_gone, directory_made, file_gone
from mountd.sync.lost_race import LostRaces
from mountd.sync.upload_id import UploadId
from mountd_cache.changes import ABSENT, Change, ChangeKind, Rows

log = logging.getLogger(__name__)

_ROUNDS = 4


class NamespaceSender:
    """Raises RemoteErrors, and OSError from the local disk. What is done twice does no harm, so
    nothing here has to know whether an answer was lost; but what landed late must go too."""

    def __init__(
        self,
        journal: SyncJournal,
        asker: Asker,
        view: QueueView,
        lost: LostRaces,
        *,
        wall_clock: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._asker = asker
        self._store = asker.store
        self._doubts = asker.doubts
        self._view = view
        self._lost = lost
        self._wall_clock = wall_clock
        self._made: set[str] = set()  # directories that this process has asked for

    async def send(self, change: Change) -> None:
        if change.kind is ChangeKind.GONE_FILE:
            await self._delete(change)
        elif change.kind is ChangeKind.DIRECTORY:
            await self._make_directory(change)
        else:
            await self._remove_directory(change)

    async def _delete(self, change: Change) -> None:
        key, expect = change.key, change.expect
        if expect == ABSENT:
            found = await self._landed_late(change)
            if found is None:
                self._never_there(change, file_gone(self._journal.ledger, change))
                return
            expect = found
        for _ in range(_ROUNDS):
            try:
                await self._asker.call(self._store.delete, key, expect)
                break
            except NotFound:
                break
            except VersionChanged:
                whose = await self._asker.whose(key, change.since_ns, None, *self._dated(change))
                if whose.owner is Owner.NOBODY or whose.entry is None:
                    break
                if whose.owner is Owner.FOREIGN:
                    self._lost.give_up(change, "it changed on the remote, and is not removed")
                    self._doubts.clear(key)
                    return
                expect = whose.entry.version
        else:
            raise Unreachable(f"{key} changed {_ROUNDS} times while it was removed")
        self._settle(change, file_gone(self._journal.ledger, change))
        self._doubts.clear(key)

    def _dated(self, change: Change) -> list[Attempt]:
        """What a former process may have made of it by a new time alone."""
        if not self._doubts.may_be_there(change):
            return []
        now_ns, sequence = self._wall_clock(), change.sequence
        id_ = UploadId.of(self._journal.id, change.key, now_ns, sequence)
        return with_another_time(self._store, id_, change.expect)

    async def _landed_late(self, change: Change) -> str | None:
        """The version of ours that has come to a key where nothing was before."""
        if not self._doubts.may_be_there(change):
            return None
        found = await self._asker.whose(change.key, change.since_ns)
        if found.owner is Owner.FOREIGN:
            self._view.foreign(change.key)
            return None
        return found.entry.version if found.entry is not None else None

    async def _make_directory(self, change: Change) -> None:
        self._made.add(change.key)
        try:
            await self._asker.call(self._store.make_dir, change.key)
        except NotFound:
            # A parent is missing that nobody here has removed.
            at = change.key.find("/")
            while at >= 0:
                await self._asker.call(self._store.make_dir, change.key[: at + 1])
                at = change.key.find("/", at + 1)
        self._settle(
            change, directory_made(self._journal.ledger, change, now_ns=self._wall_clock())
        )

    async def _remove_directory(self, change: Change) -> None:
        key = change.key
        never_made = key not in self._made and not self._doubts.may_be_there(change)
        if change.expect == ABSENT and never_made:
            self._never_there(change, directory_gone(self._journal.ledger, change))
            return
        try:
            await self._asker.call(self._store.remove_dir, key)
        except NotFound:
            pass
        except DirectoryNotEmpty:
            self._lost.give_up(
                change, "there is something in it on the remote, and it is not removed"
            )
            return
        self._settle(change, directory_gone(self._journal.ledger, change))
        self._made.discard(key)
        self._doubts.clear(key)

    def gone_whole(self, top: Change, below: Sequence[Change]) -> None:
        """A directory is gone, with all that was removed below it."""
        ledger = self._journal.ledger
        together = (*below, top)
        rows: list[Change] = []
        for each in together:
            gone = file_gone if each.kind is ChangeKind.GONE_FILE else directory_gone
            rows += gone(ledger, each).changes
        self._commit(Rows(changes=tuple(rows)), [each.key for each in together])
        for each in together:
            self._made.discard(each.key)
            self._doubts.clear(each.key)

    def _never_there(self, change: Change, rows: Rows) -> None:
        """It was made and removed before the remote heard of it. Not forgotten at once: the kept
        listing may have a row of what had that name before, which only folding takes away."""
        self._settle(change, rows)
        self._doubts.clear(change.key)

    def _settle(self, change: Change, rows: Rows) -> None:
        self._commit(rows, [change.key])

    def _commit(self, rows: Rows, keys: Iterable[str]) -> None:
        if rows == Rows():
            return
        self._journal.commit(rows, reserve=True)
        for key in keys:
            now = self._journal.ledger.changes.get(key)
            if now is not None and now.is_clean:
                self._view.sent(now)
