"""One look at a file for all who want to know, from now on, which version it is.

Bytes that came between two looks that found one version are of that version. Many ranges of one
file come side by side, so one look after several of them proves all of these: a server to whom each
look is a start of PHP is asked for a fraction, and nobody waits for more than two looks.
"""

import threading
import time
from collections.abc import Callable

from mountd.errors import NotFound, Unreachable


class _Look:
    """One that is wanted, under way or over. `version` is None where it brought nothing; `gone`
    says so where there is no such file."""

    __slots__ = ("gone", "over", "version")

    def __init__(self) -> None:
        self.over = threading.Event()
        self.version: str | None = None
        self.gone: NotFound | None = None


class SharedLooks:
    """`look(key, until_s)` asks the server. Thread-safe; at most one at a time for each key."""

    def __init__(
        self, look: Callable[[str, float], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._next: dict[str, _Look] = {}  # not begun: who asks now may share it
        self._begun: dict[str, _Look] = {}

    def version(self, key: str, until_s: float) -> str:
        """The file's version at some moment after this was called. Raises NotFound, which is an
        answer for all, too; what else `look` raises is for the one who looked: the others look
        again. Unreachable at `until_s`."""
        while True:
            with self._lock:
                shared = self._next.get(key)
                if shared is None:
                    mine = self._next[key] = _Look()
                    before = self._begun.get(key)
            if shared is None:
                return self._looked(key, mine, before, until_s)
            self._wait(shared, key, until_s)
            if shared.gone is not None:
                raise NotFound(*shared.gone.args)
            if shared.version is not None:
                return shared.version

    def _looked(self, key: str, mine: _Look, before: _Look | None, until_s: float) -> str:
        try:
            if before is not None:
                self._wait(before, key, until_s)
            with self._lock:
                del self._next[key]
                self._begun[key] = mine
            mine.version = self._look(key, until_s)
            return mine.version
        except NotFound as error:
            mine.gone = error
            raise
        finally:
            with self._lock:
                for looks in (self._next, self._begun):
                    if looks.get(key) is mine:
                        del looks[key]
            mine.over.set()

    def _wait(self, look: _Look, key: str, until_s: float) -> None:
        if not look.over.wait(max(0.0, until_s - self._clock())):
            raise Unreachable(f"{key}: no answer in time")
