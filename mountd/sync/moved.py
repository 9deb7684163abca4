"""What the ledger becomes once the remote has moved a file; pure.

Meanwhile the user may have renamed it on or back, written to it, removed it, or made another file
at the old name. Whatever was built on the version at the old key is built on it at the new one, and
nothing is left at the old.
"""

from dataclasses import replace

from mountd.sync.landing import base_moved
from mountd.sync.open_moves import Move
from mountd.vfs.row_attributes import MTIME_TOO, PARTIAL
from mountd_cache.changes import ABSENT, Base, Change, ChangeKind, ChangeState, Rows
from mountd_cache.ledger import Ledger

_SECOND_NS = 1_000_000_000


def moved_there(ledger: Ledger, move: Move, version: str, now_ns: int) -> Rows:
    """`version`: of what was moved, where it is now."""
    new = Base(move.key, version, move.size)
    users = [move.source, *ledger.depends.get(move.source, ())]
    based = base_moved(ledger, move.base, new, users)
    rows = {change.key: change for change in based.changes}
    rows[move.key] = _at_target(ledger, move, version, now_ns)
    left = _at_source(ledger, move, new, rows.get(move.source), now_ns)
    if left is not None:
        rows[move.source] = left
    return Rows(changes=tuple(rows.values()), contents=based.contents)


def _at_target(ledger: Ledger, move: Move, version: str, now_ns: int) -> Change:
    now = ledger.changes.get(move.key)
    if now is None:
        directory, _, name = move.key.rpartition("/")
        return Change(
            key=move.key,
            directory=directory + "/" if directory else "",
            name=name.encode("utf-8", "surrogateescape"),
            number=move.number,
            kind=ChangeKind.GONE_FILE,
            expect=version,
            mtime_ns=move.mtime_ns,
            attributes=move.attributes,
            since_ns=now_ns,
            changed_ns=now_ns,
        )
    if now.kind is not ChangeKind.FILE or now.content or now.base != move.base:
        if not now.is_gone:
            return replace(now, expect=version)
        there = replace(now, mtime_ns=move.mtime_ns, attributes=move.attributes)
        return replace(there, expect=version, state=ChangeState.PENDING)
    as_wanted = _has_time(now, move) and now.attributes == move.attributes
    return replace(
        now,
        state=ChangeState.CLEAN if as_wanted else ChangeState.PENDING,
        expect=version,
        base=None,
        size=move.size,
        reason="",
        since_ns=now.since_ns if as_wanted else now_ns,
    )


def _has_time(now: Change, move: Move) -> bool:
    """Whether the remote has the time that is wanted, which it has in whole seconds."""
    if now.attributes.get(PARTIAL) == MTIME_TOO:
        return True
    return now.mtime_ns // _SECOND_NS == move.mtime_ns // _SECOND_NS


def _at_source(
    ledger: Ledger, move: Move, new: Base, rebased: Change | None, now_ns: int
) -> Change | None:
    now = ledger.changes.get(move.source)
    if now is None:
        # It was renamed back, and a listing took it in; or the rename was discarded.
        return None if move.number in ledger.by_number else _back(move, new, now_ns)
    if now.kind is ChangeKind.GONE_FILE:
        return replace(now, state=ChangeState.CLEAN, expect=ABSENT, reason="")
    if now.kind is not ChangeKind.FILE or now.expect != move.version:
        return rebased
    if now.content or now.base is not None:
        return replace(rebased or now, expect=ABSENT)
    return replace(
        now, base=new, expect=ABSENT, state=ChangeState.PENDING, reason="", since_ns=now_ns
    )


def _back(move: Move, new: Base, now_ns: int) -> Change:
    return Change(
        key=move.source,
        directory=move.directory,
        name=move.name.encode("utf-8", "surrogateescape"),
        number=move.number,
        kind=ChangeKind.FILE,
        base=new,
        size=move.size,
        mtime_ns=move.mtime_ns,
        attributes=move.attributes,
        since_ns=now_ns,
        changed_ns=now_ns,
    )
