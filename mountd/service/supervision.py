"""What a service manager hears of this daemon's life, from the loop that serves the mount.

One task, so that a loop that is stuck (a blocking call, an endless one) tells nothing any more, and
the manager's watchdog ends the process. Without a manager nothing runs.
"""

import faulthandler
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import trio

from mountd.in_words import counted, human_bytes, human_seconds
from mountd.service.sd_notify import Notifier, watchdog_interval_s

LOOK_EVERY_S = 5.0
# Asked for again at each look while it starts or stops, so the manager's own TimeoutStartSec and
# TimeoutStopSec only end a daemon whose loop says nothing. What bounds a drain is stop_timeout_s.
EXTEND_S = 30.0
WAITED_FOR_S = 60.0  # and what was asked for last: 90 s, which is the keeper's patience, too
_USEC = 1_000_000
_NOT_TAKEN = {"refused": ", but refuses writes", "full": ", but full"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Life:
    """`state` as in the status: starting, ready, stopping. `words`: the line for a person."""

    state: str
    words: str


class Supervision:
    """Sends READY=1 and STOPPING=1 once, STATUS when it changed, and WATCHDOG=1 at each look."""

    def __init__(
        self,
        notifier: Notifier,
        life: Callable[[], Life],
        watchdog_s: float | None = None,
        *,
        starts_within_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`watchdog_s`: how often the manager wants to hear from us; None where it has no watch.
        A start that takes longer than `starts_within_s` is as good as a loop that is stuck."""
        self._notifier = notifier
        self._life = life
        self._watches = watchdog_s is not None
        self._every_s = min(LOOK_EVERY_S, watchdog_s or LOOK_EVERY_S)
        self._clock = clock
        self._starts_by_s = clock() + starts_within_s
        self._told: dict[str, str | int] = {}
        self._last = Life("starting", "starting")
        self._complained = False

    @classmethod
    def from_environment(
        cls, life: Callable[[], Life], is_waited_for: bool = False
    ) -> "Supervision":
        """For the manager that started this process, if one did. `is_waited_for`: calls on the
        mount wait until this process serves it."""
        notifier = Notifier.from_environment()
        if notifier.is_listened_to and not faulthandler.is_enabled():
            # The watchdog's SIGABRT then writes to the journal where each thread is stuck.
            faulthandler.enable()
        starts_within_s = WAITED_FOR_S if is_waited_for else math.inf
        return cls(notifier, life, watchdog_interval_s(), starts_within_s=starts_within_s)

    @property
    def is_heard(self) -> bool:
        """Whether a service manager listens."""
        return self._notifier.is_listened_to

    async def run(self) -> None:
        """Until cancelled."""
        while self.is_heard:
            self.look()
            await trio.sleep(self._every_s)

    def look(self) -> None:
        """Tells what has changed, now. What the manager's queue has no room for is told again at
        the next look."""
        try:
            self._last = self._life()
        except Exception:
            # A defect in the words must not end the mount, nor keep the watchdog unfed.
            log.log(
                logging.DEBUG if self._complained else logging.ERROR, "no status", exc_info=True
            )
            self._complained = True
        lines = self._due(self._last)
        if lines and self._notifier.send(fds=(), **lines):
            self._told |= lines

    def failed(self, error: BaseException) -> None:
        """The last line of a mount that could not come up, or broke."""
        self._notifier.send(STATUS=f"failed: {error}")

    def _due(self, life: Life) -> dict[str, str | int]:
        if life.state == "starting" and self._clock() > self._starts_by_s:
            return {}
        once: dict[str, str | int] = {"STATUS": life.words}
        if life.state == "ready":
            once["READY"] = 1
        elif life.state == "stopping":
            once["STOPPING"] = 1
        lines = {name: value for name, value in once.items() if self._told.get(name) != value}
        if life.state in ("starting", "stopping"):
            lines["EXTEND_TIMEOUT_USEC"] = round(EXTEND_S * _USEC)
        if self._watches:
            lines["WATCHDOG"] = 1
        return lines


def words_of(status: Mapping[str, Any]) -> str:
    """One line of a status object: what is served, how far the remote is behind, and whether the
    cache's disk takes what is written."""
    state, source = status["state"], status["source"]
    if state == "starting":
        return f"starting: {source}"
    waits = _waits(status["queue"]) or "all is on the remote"
    disk = status["cache"]["disk_error"]
    trouble = f"; the cache's disk: {disk}" if disk else ""
    if status.get("quarantined"):
        trouble += "; something was set aside at a start: mountd doctor says more"
    if state == "stopping":
        return f"stopping: {waits}{trouble}"
    remote = status["remote"]
    taken = _NOT_TAKEN.get(remote["writes"]["state"], "")
    return f"serves {source}; remote {remote['state']}{taken}; {waits}{trouble}"


def last_words(left: int, size_bytes: int, folder: str, *, set_aside: bool = False) -> str:
    """What stays in `systemctl status` after the end. `set_aside`: something lies in the
    quarantine, which may be data that was never sent."""
    if not left and set_aside:
        return f"ended: all but what was set aside in {folder} is on the remote: see mountd doctor"
    if not left:
        return "ended: all is on the remote"
    changes = f"{counted(left, 'change')} ({human_bytes(size_bytes)})"
    return f"ended: {changes} not on the remote; kept in {folder}, the next start sends them"


def _waits(queue: Mapping[str, Any]) -> str:
    unsent = queue["pending"] + queue["uploading"] + queue["failed"]
    found = []
    if unsent:
        oldest = queue["oldest_s"]
        age = f", oldest {human_seconds(oldest)}" if oldest is not None else ""
        found.append(f"{counted(unsent, 'change')} ({human_bytes(queue['bytes'])}) to send{age}")
    if queue["failed"]:
        found.append(f"{queue['failed']} failed")
    if queue["conflicts"]:
        found.append(counted(queue["conflicts"], "conflict"))
    return ", ".join(found)
