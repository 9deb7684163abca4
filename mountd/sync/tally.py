"""The queue in numbers and as a list, for status and people."""

import heapq
import time
from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Final

from mountd.sync.base import ItemState, NumberState, QueueCounts, QueueItem
from mountd.sync.conflict import is_base_gone
from mountd.sync.retry import Trouble
from mountd_cache.changes import Change, ChangeKind, ChangeState
from mountd_cache.ledger import Ledger

KINDS: Final = {
    ChangeKind.FILE: "file",
    ChangeKind.DIRECTORY: "directory",
    ChangeKind.GONE_FILE: "delete",
    ChangeKind.GONE_DIRECTORY: "rmdir",
}
_CHEAP_S: Final = 0.001  # counting that takes longer is not done again at once


class Tally:
    """Of one queue: its ledger, the keys in flight, and what waits after a failure."""

    def __init__(
        self, ledger: Ledger, in_flight: Container[str], troubles: Mapping[str, Trouble]
    ) -> None:
        self._ledger = ledger
        self._in_flight = in_flight
        self._troubles = troubles
        self._counted: tuple[float, QueueCounts] | None = None  # until, counts

    def counts(self, now_ns: int) -> QueueCounts:
        """Cheap: with very many changes it may be some time old, 20 times what counting takes. But
        never says that nothing waits where something does, nor the other way round."""
        now_s = time.perf_counter()
        if self._counted is not None and now_s < self._counted[0]:
            waits = next(self._ledger.unsent(), None) is not None
            found = self._counted[1]
            if waits == bool(found.pending + found.uploading + found.failed):
                return found
        # Of the processor: others may have it meanwhile, and a millisecond would count as a second.
        began_s = time.thread_time()
        found = _counts(self._ledger, self._in_flight, self._troubles, now_ns)
        cost_s = time.thread_time() - began_s
        until_s = now_s + 20 * cost_s if cost_s > _CHEAP_S else 0.0
        self._counted = (until_s, found)
        return found

    def items(self, now_s: float, limit: int | None = None) -> list[QueueItem]:
        """Oldest first; `limit`: at most so many of them."""

        def age(change: Change) -> tuple[int, int]:
            return change.since_ns, change.sequence

        if limit is None:
            unsent = sorted(self._ledger.unsent(), key=age)
        else:
            unsent = heapq.nsmallest(limit, self._ledger.unsent(), key=age)
        return [self._item(change, now_s) for change in unsent]

    def state_of(self, number: int) -> NumberState | None:
        """Of an inode; None where the remote has what is here."""
        change = self._ledger.by_number.get(number)
        if change is None or change.is_clean:
            return None
        state = _item_state(change, self._in_flight, self._troubles)
        return "dirty" if state == "pending" else state

    def _item(self, change: Change, now_s: float) -> QueueItem:
        trouble = self._troubles.get(change.key)
        reason = change.reason or (trouble.reason if trouble is not None else "")
        next_try_s = max(0.0, trouble.until_s - now_s) if trouble is not None else 0.0
        return QueueItem(
            key=change.key,
            kind=KINDS[change.kind],
            state=_item_state(change, self._in_flight, self._troubles),
            size=self._ledger.size_of(change),
            reason=reason,
            attempts=trouble.attempts if trouble is not None else 0,
            next_try_s=next_try_s,
            since_ns=change.since_ns,
            conflict=change.conflict,
        )


def _item_state(
    change: Change, in_flight: Container[str], troubles: Mapping[str, Trouble]
) -> ItemState:
    """Of an unsent change."""
    if change.key in in_flight:
        return "uploading"
    if is_base_gone(change):
        return "conflict"
    trouble = troubles.get(change.key)
    if change.state is ChangeState.FAILED or (trouble is not None and trouble.is_full):
        return "failed"
    return "conflict" if change.conflict else "pending"


def _counts(
    ledger: Ledger, in_flight: Container[str], troubles: Mapping[str, Trouble], now_ns: int
) -> QueueCounts:
    pending = uploading = failed = conflicts = size = removals = 0
    oldest: Change | None = None
    for change in ledger.changes.values():
        if change.conflict or is_base_gone(change):
            conflicts += 1
        if change.is_clean:
            continue
        state = _item_state(change, in_flight, troubles)
        if state == "uploading":
            uploading += 1
        elif state == "failed" or change.state is ChangeState.FAILED:
            failed += 1
        else:
            pending += 1
        if change.content and (content := ledger.contents.get(change.content)) is not None:
            size += content.staged_bytes
        if change.kind >= ChangeKind.GONE_FILE:  # not by the property, for 100,000 of them
            removals += 1
        if oldest is None or change.since_ns < oldest.since_ns:
            oldest = change
    counts = QueueCounts(pending, uploading, failed, conflicts, size, removals=removals)
    if oldest is None:
        return counts
    age_s = max(0.0, (now_ns - oldest.since_ns) / 1e9)
    return replace(counts, oldest_s=age_s, oldest_path=oldest.key)
