"""What people do by hand with a change that was not sent: try it again at once, or give it up."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace

from mountd.sync.attempts import Doubts
from mountd.sync.base import QueueView, SyncJournal
from mountd.sync.failures import Failures
from mountd_cache.changes import Change, ChangeKind, ChangeState, Rows

log = logging.getLogger(__name__)


class ByHand:
    """Owned by the queue, which is to be woken after each call."""

    def __init__(
        self,
        journal: SyncJournal,
        view: QueueView,
        in_flight: Mapping[str, object],
        failures: Failures,
        doubts: Doubts,
    ) -> None:
        self._journal = journal
        self._ledger = journal.ledger
        self._view = view
        self._in_flight = in_flight
        self._failures = failures
        self._doubts = doubts

    def retry(self, key: str | None = None) -> None:
        """Tries what failed (all of it: None) again, now. KeyError where there is no such unsent
        change; OSError where the journal could not be written, and then nothing has changed."""
        changes = [self._unsent(key)] if key is not None else list(self._ledger.unsent())
        failed = [
            change
            for change in changes
            if change.state is ChangeState.FAILED
            and (not change.content or change.content in self._ledger.contents)
        ]
        if failed:
            again = (replace(c, state=ChangeState.PENDING, reason="") for c in failed)
            self._journal.commit(Rows(changes=tuple(again)), reserve=True)
        for change in changes:
            self._failures.clear(change.key)

    def discard(self, key: str) -> None:
        """Forgets one unsent change with its bytes; the remote keeps what it has. KeyError where
        there is none, ValueError while it is in flight or open, OSError as `retry`. Of a rename the
        other half goes, too: the file stays under its old name."""
        change = self._unsent(key)
        keys = [key, *self._removal_of_source(change)]
        if not self._in_flight.keys().isdisjoint(keys):
            raise ValueError(f"{key} is being sent")
        if not change.is_gone and self._view.is_open_for_writing(change.number):
            raise ValueError(f"{key} is open for writing")
        drop = (change.content,) if change.content in self._ledger.contents else ()
        self._journal.commit(Rows(forget=tuple(keys), drop=drop), reserve=True)
        log.info("%r was discarded", key)
        for each in keys:
            self._failures.clear(each)
            self._doubts.clear(each)
            self._view.foreign(each)

    def _removal_of_source(self, change: Change) -> Iterator[str]:
        """The key that a file was renamed from, if nobody else needs what is there."""
        content = self._ledger.content_of(change)
        base = change.base if content is None else content.base
        if base is None or base.key == change.key:
            return
        gone = self._ledger.changes.get(base.key)
        is_removal = gone is not None and gone.kind is ChangeKind.GONE_FILE and not gone.is_clean
        if is_removal and self._ledger.depends.get(base.key) == {change.key}:
            yield base.key

    def _unsent(self, key: str) -> Change:
        change = self._ledger.changes.get(key)
        if change is None or change.is_clean:
            raise KeyError(key)
        return change
