"""What the ledger becomes once the remote has done something; pure.

While it was asked, the user may have written, renamed or removed. So nothing here believes that the
ledger still says what was sent: it compares what is wanted now with what the remote has now. A
change keeps its `sequence`, which says when the user asked for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mountd.sync.base import THERE
from mountd_cache.changes import ABSENT, Base, Change, ChangeKind, ChangeState, Content, Rows
from mountd_cache.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Sent:
    """A state of a file that is at `change.key` on the remote, as `version`. `attributes`: what it
    has there now; or those of the change, where nobody has said."""

    change: Change
    mtime_ns: int
    size: int
    version: str
    attributes: Mapping[str, str]


def file_landed(ledger: Ledger, sent: Sent, *, is_all: bool, now_ns: int) -> Rows | Base:
    """The rows; or the new base of a content that has been written meanwhile: see `remainder`.

    `is_all`: nothing was written since it was frozen; True where there is no content.
    """
    change = sent.change
    now = ledger.changes.get(change.key)
    if now is None:
        return Rows(changes=(_tombstone(sent, now_ns),), contents=_moved_contents(ledger, sent))
    if not _is_same_file(now, change):
        return _elsewhere(ledger, now, sent)
    if not is_all:
        return Base(change.key, sent.version, sent.size)
    wanted_mtime_ns = ledger.mtime_ns_of(now)
    as_wanted = now.attributes == change.attributes and wanted_mtime_ns == sent.mtime_ns
    new = replace(
        now,
        state=ChangeState.CLEAN if as_wanted else ChangeState.PENDING,
        expect=sent.version,
        base=None,
        content=0,
        size=sent.size,
        mtime_ns=wanted_mtime_ns,
        reason="",
        since_ns=now.since_ns if as_wanted else now_ns,
        attributes=sent.attributes if as_wanted else now.attributes,
    )
    drop = (now.content,) if now.content else ()
    return _rebased(ledger, sent, Rows(changes=(new,), drop=drop))


def landed_before(now: Change, sent: Sent, ledger: Ledger) -> Rows:
    """What a former try has sent to the key where something else is wanted by `now`; `sent.change`
    has the content that was sent."""
    return _elsewhere(ledger, now, sent)


def remainder(now: Change, base: Base, now_ns: int) -> Change:
    """A file that was written on while it travelled."""
    return replace(
        now,
        expect=base.version,
        base=None,
        state=ChangeState.PENDING,
        reason="",
        since_ns=now_ns,
    )


def file_gone(ledger: Ledger, change: Change) -> Rows:
    """The remote has nothing at the key."""
    now = ledger.changes.get(change.key)
    if now is None:
        return Rows()
    if now.kind is ChangeKind.GONE_FILE:
        return Rows(changes=(_clean(now, ABSENT),))
    return Rows(changes=(replace(now, expect=ABSENT),))


def directory_made(ledger: Ledger, change: Change, *, now_ns: int) -> Rows:
    now = ledger.changes.get(change.key)
    if now is None:
        kind = ChangeKind.GONE_DIRECTORY
        return Rows(changes=(replace(_bare(change, kind, now_ns), expect=THERE),))
    if now.is_directory:
        return Rows(changes=(_clean(now, THERE),))
    return Rows(changes=(replace(now, expect=THERE),))


def directory_gone(ledger: Ledger, change: Change) -> Rows:
    now = ledger.changes.get(change.key)
    if now is None:
        return Rows()
    if now.kind is ChangeKind.GONE_DIRECTORY:
        return Rows(changes=(_clean(now, ABSENT),))
    return Rows(changes=(replace(now, expect=ABSENT, state=ChangeState.PENDING),))


def base_moved(ledger: Ledger, old: Base, new: Base, keys: Sequence[str]) -> Rows:
    """What was built on `old` by changes at `keys` is built on `new`, which has the same bytes
    wherever they are still read from it."""
    changes: list[Change] = []
    contents: list[Content] = []
    for key in keys:
        change = ledger.changes.get(key)
        if change is None:
            continue
        if _is_of(change.base, old):
            changes.append(replace(change, base=new))
        content = ledger.content_of(change)
        if content is not None and _is_of(content.base, old):
            contents.append(with_base(content, new))
    return Rows(changes=tuple(changes), contents=tuple(contents))


def _is_same_file(now: Change, sent: Change) -> bool:
    if now.kind is not ChangeKind.FILE or now.content != sent.content:
        return False
    return bool(sent.content) or now.base == sent.base


def _elsewhere(ledger: Ledger, now: Change, sent: Sent) -> Rows:
    """It was renamed, replaced or removed: what landed is what the change there will meet."""
    state = ChangeState.PENDING if now.is_gone else now.state
    there = replace(now, expect=sent.version, state=state)
    rows = Rows(changes=(there,), contents=_moved_contents(ledger, sent))
    return _rebased(ledger, sent, rows)


def _moved_contents(ledger: Ledger, sent: Sent) -> tuple[Content, ...]:
    """The content that was sent, if what it reads from the remote was replaced by itself.

    An offset that is read from the base now was read from it in every earlier state of the content,
    so what landed has the same bytes there.
    """
    content = ledger.contents.get(sent.change.content)
    if content is None or content.base is None or content.base.key != sent.change.key:
        return ()
    return (with_base(content, Base(sent.change.key, sent.version, sent.size)),)


def _rebased(ledger: Ledger, sent: Sent, rows: Rows) -> Rows:
    """A copy of a file onto itself has the bytes of the version that it replaced."""
    change = sent.change
    if change.content or change.base is not None:
        return rows
    old = Base(change.key, change.expect, sent.size)
    keys = [change.key, *ledger.depends.get(change.key, ())]
    moved = base_moved(ledger, old, Base(change.key, sent.version, sent.size), keys)
    put = {c.key: c for c in (*moved.changes, *rows.changes)}
    return replace(rows, changes=tuple(put.values()), contents=rows.contents + moved.contents)


def _is_of(base: Base | None, old: Base) -> bool:
    return base is not None and (base.key, base.version) == (old.key, old.version)


def with_base(content: Content, base: Base) -> Content:
    made = content.copy()
    made.base = base
    return made


def _clean(now: Change, expect: str) -> Change:
    return replace(now, state=ChangeState.CLEAN, expect=expect, reason="")


def _tombstone(sent: Sent, now_ns: int) -> Change:
    return replace(_bare(sent.change, ChangeKind.GONE_FILE, now_ns), expect=sent.version)


def _bare(change: Change, kind: ChangeKind, now_ns: int) -> Change:
    return Change(
        key=change.key,
        directory=change.directory,
        name=change.name,
        number=change.number,
        kind=kind,
        sequence=change.sequence,
        since_ns=change.since_ns,
        changed_ns=now_ns,
    )
