"""EDQUOT before the upload: writers are told while what they write can still go elsewhere.

What was acknowledged is queued, whatever comes. The remote has the last word: this only knows what
it said of its room up to a minute ago, and counts what waits as if nothing were replaced by it.
"""

import logging
from collections.abc import Callable
from typing import Protocol

from mountd.errors import QuotaExceeded

log = logging.getLogger(__name__)


class Staged(Protocol):
    """What is in the journal. `staged_bytes` is never less than `unsent_bytes`, and costs less."""

    @property
    def staged_bytes(self) -> int: ...

    @property
    def unsent_bytes(self) -> int: ...


class RemoteQuota:
    """`free_bytes`: what the remote has left, as far as that is known; called for each write.
    `is_full`: whether it has refused a file for want of room, and taken none since."""

    def __init__(self, staged: Staged, is_full: Callable[[], bool]) -> None:
        self.free_bytes: Callable[[], int | None] = lambda: None
        self._staged = staged
        self._is_full = is_full
        self._was_short = False

    def check(self, growth: int) -> None:
        """Raises QuotaExceeded where so many bytes more will not get there."""
        free = self.free_bytes()
        if not self._is_full() and (free is None or self._staged.staged_bytes + growth <= free):
            return
        unsent = self._staged.unsent_bytes
        if self._is_full():
            what = "the remote has refused a file for want of room; `mountd queue` tells which"
        elif free is not None and unsent + growth > free:
            what = f"the remote has {free} bytes left, and {unsent} wait to be sent there"
        else:
            self._was_short = False
            return
        if not self._was_short:
            self._was_short = True
            log.warning("writers get EDQUOT: %s", what)
        raise QuotaExceeded(what)
