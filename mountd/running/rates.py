"""How fast bytes come and go at the moment."""

from collections import deque
from collections.abc import Callable

import trio

from mountd.remotes.counting import TransferCounts

EVERY_S = 1.0
OVER = 5  # samples: a rate is that of the last five seconds


class Rates:
    """Of the last seconds; 0 before `keep` runs. A download counts when its range is here, an
    upload while it is sent."""

    def __init__(self, counts: Callable[[], TransferCounts]) -> None:
        self._counts = counts
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=OVER + 1)

    @property
    def down_bytes_per_s(self) -> float:
        return self._rate(1)

    @property
    def up_bytes_per_s(self) -> float:
        return self._rate(2)

    async def keep(self) -> None:
        """Looks every second, which takes 20 us. Until cancelled."""
        while True:
            counts = self._counts()
            self._samples.append((trio.current_time(), counts.down_bytes, counts.moved_up_bytes))
            await trio.sleep(EVERY_S)

    def _rate(self, column: int) -> float:
        if len(self._samples) < 2:
            return 0.0
        first, last = self._samples[0], self._samples[-1]
        return (last[column] - first[column]) / max(last[0] - first[0], EVERY_S / 2)
