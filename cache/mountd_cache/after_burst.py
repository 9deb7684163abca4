"""What was sent to the remote goes to the block files after the others that are still to be sent.

A block file for a small file costs as much of the processor as sending it (0.1-0.8 ms, on ext4),
and a copy of what the remote has is less urgent than what it has not.
"""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

import trio

# With some under way at any time, one ends each few milliseconds: then there are no more.
QUIET_S: Final = 0.25
AT_MOST_S: Final = 5.0
AT_MOST_BYTES: Final = 16 << 20

_Job = TypeVar("_Job")


class AfterBurst(Generic[_Job]):
    """Jobs wait until none has come for `QUIET_S`; for `AT_MOST_S`, and `AT_MOST_BYTES` of them, at
    most. `go` is told of each then, on the loop; it must not wait."""

    def __init__(self, go: Callable[[_Job], None]) -> None:
        self._go = go
        self._jobs: list[_Job] = []
        self._bytes = 0
        self._last_s = 0.0
        self._is_one = trio.Event()

    def add(self, job: _Job, size_bytes: int) -> None:
        self._jobs.append(job)
        self._bytes += size_bytes
        self._last_s = trio.current_time()
        self._is_one.set()
        if self._bytes > AT_MOST_BYTES:
            self.release()

    def release(self) -> None:
        """All go now: somebody waits for one."""
        jobs, self._jobs, self._bytes = self._jobs, [], 0
        for job in jobs:
            self._go(job)

    async def run(self) -> None:
        """Until cancelled; what waits then goes on waiting."""
        while True:
            await self._is_one.wait()
            self._is_one = trio.Event()
            until_s = trio.current_time() + AT_MOST_S
            while self._jobs and trio.current_time() < until_s:
                if trio.current_time() >= self._last_s + QUIET_S:
                    break
                await trio.sleep_until(min(until_s, self._last_s + QUIET_S))
            self.release()
