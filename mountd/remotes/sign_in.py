"""A sign-in that was refused is not repeated: servers answer each further one more slowly, and lock
out whoever goes on.

Nextcloud doubles the delay of all that comes from the address with each wrong password, up to 25 s,
counts them for 12 h, and after 10 in 30 min answers only 429. So after a 401 nothing more is
sent, but for one request now and then: a server may also say 401 in a bad moment of its own.
https://docs.nextcloud.com/server/latest/admin_manual/configuration_server/bruteforce_configuration.html
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from mountd.errors import SignInRefused

# Before each further try. The first one is for who was let in before: seven wrong ones in 12 h.
AGAIN_S: Final = (30.0, 1800.0, 3600.0, 7200.0, 14400.0, 21600.0)
# After a try that tells nothing: an idle connection was dropped, the server is down. It may have
# been counted all the same.
UNTOLD_S: Final = 300.0


class SignIn:
    """What one server thinks of one user and password. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._refusals = 0
        self._next_s = 0.0
        self._was_let_in = False

    @property
    def is_refused(self) -> bool:
        return self._refusals > 0

    def check(self, what: str) -> bool:
        """Before each request. Raises SignInRefused where it is not to be sent; whether it is a
        further try, which `heard` has to be told."""
        if not self._refusals:
            return False
        with self._lock:
            if not self._refusals:
                return False
            now_s = self._clock()
            if now_s < self._next_s:
                raise SignInRefused(
                    f"{what}: not asked: the server has refused user and password (HTTP 401); "
                    "mount again with a new one"
                )
            self._refuse(now_s)  # this one goes; the others wait for what it hears
        return True

    def heard(self, status: int | None, *, is_try: bool = False) -> None:
        """After each request, None without an answer. Those that were under way at the first 401
        count as one."""
        if status == 401:
            with self._lock:
                if not self._refusals:
                    self._refusals = 0 if self._was_let_in else 1
                    self._refuse(self._clock())
        elif status is not None and _lets_in(status):
            if self._refusals or not self._was_let_in:
                with self._lock:
                    self._refusals, self._was_let_in = 0, True
        elif is_try:
            with self._lock:
                if self._refusals:  # nobody was let in meanwhile
                    self._refusals -= 1
                    self._next_s = self._clock() + UNTOLD_S

    def _refuse(self, now_s: float) -> None:
        self._next_s = now_s + AGAIN_S[min(self._refusals, len(AGAIN_S) - 1)]
        self._refusals += 1


def _lets_in(status: int) -> bool:
    """Whether only who is signed in is answered so."""
    return status < 300 or status in (404, 405, 409, 412, 416, 423, 507)
