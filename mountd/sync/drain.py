"""Somebody waits until everything at or below a key is on the remote, as it was when he asked."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import trio

from mountd.sync.schedule import Schedule
from mountd_cache.changes import Change, ChangeState
from mountd_cache.ledger import Ledger


@dataclass(eq=False, slots=True)
class Drain:
    """`began`: the sequence at which it was asked for; what is newer doesn't count, so that a log
    that is written all the time doesn't keep anybody waiting. `sent`: by content, the sequence
    after which its latest state on the remote was frozen."""

    below: str
    began: int
    sent: Mapping[int, int]
    is_done: trio.Event = field(default_factory=trio.Event)

    def wants(self, change: Change) -> bool:
        """Whether this change is waited for."""
        if change.is_clean or not self._is_at_or_below(change.key):
            return False
        if self.sent.get(change.content, 0) > self.began:
            return False
        # A rename that came later may move what was there; ids of contents are sequences too.
        return change.sequence <= self.began or 0 < change.content <= self.began

    def left(self, ledger: Ledger) -> list[Change]:
        return [change for change in ledger.unsent() if self.wants(change)]

    def look(self, ledger: Ledger, schedule: Schedule) -> Collection[str]:
        """Ends the wait where nothing that is left will go by itself. Returns the keys that must
        go before what is waited for."""
        asked = {key for key in schedule.waits_for if self._wants_key(key, ledger)}
        seen, waiting = set(asked), list(asked)
        while waiting:
            for key in schedule.waits_for.get(waiting.pop(), ()):
                if key not in seen:
                    seen.add(key)
                    waiting.append(key)
        moves = (_may_move(ledger.changes.get(key), schedule) for key in seen)
        # Nearly always the first that is wanted moves, so this doesn't look at all of them.
        if not any(moves) and not any(
            self.wants(change) and _may_move(change, schedule) for change in ledger.unsent()
        ):
            self.is_done.set()
        return {key for key in seen if not self._wants_key(key, ledger)}

    def _wants_key(self, key: str, ledger: Ledger) -> bool:
        change = ledger.changes.get(key)
        return change is not None and self.wants(change)

    def _is_at_or_below(self, key: str) -> bool:
        below = self.below
        return not below or key == below or (below.endswith("/") and key.startswith(below))


def _may_move(change: Change | None, schedule: Schedule) -> bool:
    """Whether it goes by itself. What is sent by now, or came after the look, lets others move."""
    if change is None or change.key in schedule.staging:
        return True
    if change.state is ChangeState.FAILED:
        return False
    return change.key not in schedule.full and change.key not in schedule.waits_for
