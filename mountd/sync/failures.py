"""What has failed so far, and when it is tried again."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import trio

from mountd.errors import Denied, SignInRefused
from mountd.sync.base import QueueCounts, SyncJournal
from mountd.sync.retry import Next, Trouble, backoff_s, is_foreseen, one_line, what_next
from mountd.sync.taking import Takes, TakingState
from mountd_cache.changes import Change, ChangeKind, ChangeState, Rows

log = logging.getLogger(__name__)


class Failures:
    """`troubles`, by key: what waits before it is tried again. `denied`: a put was refused by
    Denied and none that began later has succeeded. `takes`: the same for people."""

    def __init__(
        self,
        journal: SyncJournal,
        *,
        remote_is_well: Callable[[], bool],
        jitter: Callable[[], float],
        waiting: Callable[[], QueueCounts],
        wall_clock: Callable[[], int],
    ) -> None:
        self.troubles: dict[str, Trouble] = {}
        self.takes = Takes(waiting, wall_clock)
        self.denied = self.full = False
        self._journal = journal
        self._remote_is_well = remote_is_well
        self._jitter = jitter
        self._refused_s = -math.inf
        self._faults = 0  # in a row
        self._last_fault = ""

    def fault(self, error: Exception) -> float:
        """Something in the queue itself has failed. Logged once, also when it goes on; the seconds
        to leave it alone for."""
        reason = one_line(error)
        if reason != self._last_fault:
            log.error("the sync queue failed, and goes on", exc_info=error)
            self._last_fault = reason
        self._faults += 1
        return backoff_s(error, self._faults, self._jitter())

    def no_fault(self) -> None:
        self._faults = 0

    def put_went(self, began_s: float) -> None:
        """One that was under way when another was refused proves nothing."""
        if began_s > self._refused_s:
            self.denied = self.full = False
            self.takes.took()

    def look(self, *, is_idle: bool) -> None:
        """Whether what was refused is gone. `is_idle`: no change has failed, and nothing came since
        that was looked at."""
        waits_for_room = any(trouble.is_full for trouble in self.troubles.values())
        is_idle = is_idle and not self.troubles
        if is_idle:
            self.denied = False
        if not waits_for_room:
            self.full = False
        if self.takes.now.state is not TakingState.OK:
            self.takes.look(waits_for_room=waits_for_room, is_gone=self._is_refused_gone())

    def _is_refused_gone(self) -> bool:
        unsent = self._journal.ledger.unsent()
        if self.takes.now.state is TakingState.FULL:  # what failed for another reason may stay
            return all(change.state is ChangeState.FAILED for change in unsent)
        return next(unsent, None) is None

    def clear(self, key: str) -> None:
        self.troubles.pop(key, None)

    def prune(self) -> None:
        """Forgets keys that have no change any more."""
        changes = self._journal.ledger.changes
        for key in [key for key in self.troubles if key not in changes]:
            del self.troubles[key]

    def succeeded(self, change: Change) -> None:
        if self._journal.ledger.changes.get(change.key) is not change:
            self.clear(change.key)
            return
        # Nothing came of it. That must never become a loop without a pause.
        attempts = self._attempts(change.key)
        delay_s = min(60.0, 0.1 * 4.0 ** min(attempts - 1, 6))
        until_s = trio.current_time() + delay_s
        self.troubles[change.key] = Trouble(attempts, until_s, "it is looked at again")

    def failed(self, change: Change, error: Exception, *, may_refuse: bool) -> None:
        """`may_refuse`: the error says what the remote thinks of the change itself."""
        key, reason = change.key, one_line(error)
        before = self.troubles.get(key)
        is_well = self._remote_is_well()
        sign_ins = before.sign_ins if before is not None else 0
        sign_ins += is_well and isinstance(error, SignInRefused)
        next_ = what_next(error, remote_is_well=is_well, sign_ins=sign_ins)
        if isinstance(error, Denied) and change.kind is ChangeKind.FILE:
            self.denied = True
            self._refused_s = trio.current_time()
            if is_well:  # else the remote's own state tells it
                self.takes.refused(TakingState.REFUSED, reason)
        if next_ is Next.FULL and change.kind is ChangeKind.FILE:
            self.full = True
            self._refused_s = trio.current_time()
            self.takes.refused(TakingState.FULL, reason)
        if next_ is Next.REFUSED and may_refuse and self._refused(change, reason):
            return
        if not is_foreseen(error):
            if before is None or before.reason != reason:
                log.error("%r could not be sent, and is tried again", key, exc_info=error)
        elif before is None:
            log.info("%r could not be sent, and is tried again: %s", key, reason)
        attempts = self._attempts(key)
        delay_s = backoff_s(error, attempts, self._jitter())
        until_s = trio.current_time() + delay_s
        self.troubles[key] = Trouble(attempts, until_s, reason, next_ is Next.FULL, sign_ins)

    def _attempts(self, key: str) -> int:
        before = self.troubles.get(key)
        return before.attempts + 1 if before is not None else 1

    def _refused(self, change: Change, reason: str) -> bool:
        """Puts FAILED into the journal; False where that could not be written."""
        now = self._journal.ledger.changes.get(change.key)
        if now is None or (now.sequence, now.content) != (change.sequence, change.content):
            return True  # what was refused is not wanted any more
        failed = replace(now, state=ChangeState.FAILED, reason=reason)
        try:
            self._journal.commit(Rows(changes=(failed,)), reserve=True)
        except OSError:
            return False
        log.warning("%r was refused by the remote: %s", change.key, reason)
        self.clear(change.key)
        return True
