"""Whether the remote takes what is written, where it answers and yet refuses: its own state beside
that of the remote (health.py), because reads go on, and a line in the log for its start and end."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mountd.sync.base import QueueCounts
from mountd.sync.retry import FULL_RETRY_S

log = logging.getLogger(__name__)


class TakingState(StrEnum):
    """The values are those of `remote.writes.state` in `status --json`."""

    OK = "ok"
    REFUSED = "refused"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Taking:
    """`since_ns` of the epoch: when this state began, 0 while no file was refused yet. `reason`:
    the first refusal's words; "" while ok."""

    state: TakingState = TakingState.OK
    since_ns: int = 0
    reason: str = ""


_NEXT: Final = {
    TakingState.REFUSED: "mountd queue names them, with --retry they are tried again",
    TakingState.FULL: f"tried every {FULL_RETRY_S:.0f} s; mountd queue --retry does it at once",
}
_WHAT: Final = {
    TakingState.REFUSED: "writes are refused by the remote",
    TakingState.FULL: "the remote has no room for what is written",
}


class Takes:
    """Refused from a file that was, until one is taken or what was refused is gone; full until
    nothing waits for room any more, too: small files may go while large ones don't. Loop's thread.
    """

    def __init__(
        self, waiting: Callable[[], QueueCounts], wall_clock: Callable[[], int] = time.time_ns
    ) -> None:
        self.now = Taking()
        self._waiting = waiting
        self._wall_clock = wall_clock
        self._took_one = False  # since the last that was refused

    def refused(self, state: TakingState, reason: str) -> None:
        """A file was."""
        self._took_one = False
        if state is self.now.state:
            return
        self.now = Taking(state, self._wall_clock(), reason)
        log.warning("%s: %s; %s, %s", _WHAT[state], reason, self._left(), _NEXT[state])

    def took(self) -> None:
        """A file, whose sending began after the last refusal."""
        self._took_one = True
        if self.now.state is TakingState.REFUSED:
            self._end("the remote takes what is written again")

    def look(self, *, waits_for_room: bool, is_gone: bool) -> None:
        """While it is not ok. `is_gone`: nothing that was refused is in the queue any more."""
        if self.now.state is TakingState.FULL and self._took_one and not waits_for_room:
            self._end("the remote has room again")
        elif is_gone:
            self._end("what the remote refused is not wanted any more")

    def _end(self, words: str) -> None:
        for_s = max(0.0, (self._wall_clock() - self.now.since_ns) / 1e9)
        self.now = Taking(TakingState.OK, self._wall_clock())
        log.info("%s, after %.0f s; %s", words, for_s, self._left())

    def _left(self) -> str:
        found = self._waiting()
        unsent = found.pending + found.uploading + found.failed
        changes = "1 change waits" if unsent == 1 else f"{unsent} changes wait"
        return f"{changes} on this machine ({found.bytes} bytes)"
