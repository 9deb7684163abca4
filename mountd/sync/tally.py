"""The queue in numbers and as a list, for status and people."""

from collections.abc import Container, Mapping
from typing import Final

from mountd.sync.base import ItemState, QueueCounts, QueueItem
from mountd.sync.conflict import is_base_gone
from mountd.sync.retry import Trouble
from mountd_cache.changes import Change, ChangeKind, ChangeState
from mountd_cache.ledger import Ledger

_KINDS: Final = {
    ChangeKind.FILE: "file",
    ChangeKind.DIRECTORY: "directory",
    ChangeKind.GONE_FILE: "delete",
    ChangeKind.GONE_DIRECTORY: "rmdir",
}


def item_state(
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


def counts(
    ledger: Ledger, in_flight: Container[str], troubles: Mapping[str, Trouble], now_ns: int
) -> QueueCounts:
    pending = uploading = failed = conflicts = size = 0
    oldest_ns: int | None = None
    for change in ledger.changes.values():
        if change.conflict or is_base_gone(change):
            conflicts += 1
        if change.is_clean:
            continue
        state = item_state(change, in_flight, troubles)
        if state == "uploading":
            uploading += 1
        elif state == "failed" or change.state is ChangeState.FAILED:
            failed += 1
        else:
            pending += 1
        if change.content and (content := ledger.contents.get(change.content)) is not None:
            size += content.staged_bytes
        if oldest_ns is None or change.since_ns < oldest_ns:
            oldest_ns = change.since_ns
    oldest_s = None if oldest_ns is None else max(0.0, (now_ns - oldest_ns) / 1e9)
    return QueueCounts(pending, uploading, failed, conflicts, size, oldest_s)


def items(
    ledger: Ledger, in_flight: Container[str], troubles: Mapping[str, Trouble], now_s: float
) -> list[QueueItem]:
    """Oldest first."""
    unsent = sorted(ledger.unsent(), key=lambda change: (change.since_ns, change.sequence))
    found: list[QueueItem] = []
    for change in unsent:
        trouble = troubles.get(change.key)
        reason = change.reason or (trouble.reason if trouble is not None else "")
        next_try_s = max(0.0, trouble.until_s - now_s) if trouble is not None else 0.0
        found.append(
            QueueItem(
                key=change.key,
                kind=_KINDS[change.kind],
                state=item_state(change, in_flight, troubles),
                size=ledger.size_of(change),
                reason=reason,
                attempts=trouble.attempts if trouble is not None else 0,
                next_try_s=next_try_s,
                since_ns=change.since_ns,
                conflict=change.conflict,
            )
        )
    return found
