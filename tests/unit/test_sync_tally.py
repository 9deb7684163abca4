"""The queue in numbers: that something waits is never told late."""

from dataclasses import replace

from mountd.sync.tally import Tally
from mountd_cache.changes import Change, ChangeKind, ChangeState, Rows
from mountd_cache.ledger import Ledger

MANY = 50_000  # counting them takes longer than what is done again at once


def test_with_very_many_changes_a_new_one_is_told_at_once() -> None:
    ledger = Ledger()
    clean = [
        Change(f"d/{n}", "d/", b"%d" % n, 100 + n, ChangeKind.FILE, "v", state=ChangeState.CLEAN)
        for n in range(MANY)
    ]
    ledger.load(Rows(changes=tuple(clean)))
    tally = Tally(ledger, {}, {})
    assert tally.counts(0).pending == 0
    ledger.apply(Rows(changes=(replace(clean[0], state=ChangeState.PENDING),)))
    assert tally.counts(0).pending == 1
    ledger.apply(Rows(changes=(clean[0],)))
    assert tally.counts(0).pending == 0
