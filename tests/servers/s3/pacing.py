"""A token bucket per connection, in bytes; it keeps an exact mean and short bursts."""

import time

# A paced connection wakes for at least this much of its rate: 250 wakes/s, 0.4 MB at 100 MB/s, ...
TICK_S = 0.004
# ... and may catch up at most this much after the process was held up.
CREDIT_S = 0.05


class Pace:
    """`rate` bytes per second; 0 is unlimited, and then nothing else here may be called."""

    __slots__ = ("_at_s", "_tokens", "rate")

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._at_s = time.monotonic() - TICK_S
        self._tokens = 0.0

    def spend(self, size: int) -> None:
        self._tokens -= size

    def allowance(self, wanted: int) -> int:
        """How many of the wanted bytes may move now; 0: wait until `next_s`."""
        now = time.monotonic()
        gained = (now - self._at_s) * self.rate
        self._tokens = min(self._tokens + gained, self.rate * CREDIT_S)
        self._at_s = now
        enough = min(wanted, self.rate * TICK_S)
        return int(self._tokens) if self._tokens >= enough else 0

    def next_s(self) -> float:
        """On time.monotonic(): when a tick's worth of bytes will have come together."""
        return self._at_s + max(TICK_S - self._tokens / self.rate, 0.0005)
