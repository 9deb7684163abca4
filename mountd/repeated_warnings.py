"""Warnings that a failing disk or remote would give thousands of times a minute."""

import logging
import time
from collections.abc import Callable, Mapping

EVERY_S = 10.0
_MAX_KINDS = 100


class Repeated:
    """Logs the first warning of a kind at once, and after it one every `EVERY_S` at most, which
    says how many there were. On one thread."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}  # when last, how many were left out since

    def warning(self, kind: str, text: str, extra: Mapping[str, object] | None = None) -> None:
        now_s = self._clock()
        said_s, left_out = self._said.get(kind, (0.0, 0))
        if kind in self._said and now_s - said_s < EVERY_S:
            self._said[kind] = said_s, left_out + 1
            return
        if len(self._said) >= _MAX_KINDS:
            self._said.clear()
        self._said[kind] = now_s, 0
        more = (
            f" ({left_out} more like it in the {now_s - said_s:.0f} s before)" if left_out else ""
        )
        self._log.warning("%s%s", text, more, extra=extra)


class GoesOn:
    """What is tried again and again: a WARNING for each new reason, and a line when it works
    again."""

    def __init__(self, log: logging.Logger, failing: str, working: str) -> None:
        """`failing`: with a %s for the reason."""
        self._log = log
        self._failing = failing
        self._working = working
        self._told = ""

    def failed(self, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        level = logging.DEBUG if reason == self._told else logging.WARNING
        self._log.log(level, self._failing, reason)
        self._told = reason

    def worked(self) -> None:
        if self._told:
            self._log.info("%s", self._working)
        self._told = ""
