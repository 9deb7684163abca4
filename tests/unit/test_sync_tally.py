"""The queue in numbers: that something waits is never told late."""

import time
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


def test_on_a_busy_machine_what_is_under_way_is_told_as_soon_as_on_an_idle_one() -> None:
    class Interrupted(set[str]):
        """Whoever looks loses the processor for a while."""

        def __contains__(self, key: object) -> bool:
            time.sleep(0.05)
            return super().__contains__(key)

    ledger = Ledger()
    change = Change("a", "", b"a", 100, ChangeKind.FILE, "v", state=ChangeState.PENDING)
    ledger.load(Rows(changes=(change,)))
    in_flight = Interrupted()
    tally = Tally(ledger, in_flight, {})
    assert tally.counts(0).uploading == 0
    in_flight.add("a")
    assert tally.counts(0).uploading == 1
