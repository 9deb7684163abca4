"""How pyfuse3's workers wait for the next request: in the door that it has for another event loop.

pyfuse3 takes its lock and its waiting from a module that it calls `trio` and that `pyfuse3.asyncio`
replaces, and so does this. With trio's own, each request costs two switches of tasks, two rounds
of the event loop and one epoll_ctl, which is more than most handlers: of the 650 us of CPU that
create, write and close of a small file took, in seven requests, some 170 went there.

A program that waits for an answer asks again some 20 us after it has got it. So the worker that has
answered looks for that long whether the next request is there, and reads it with no round in
between, for a millisecond at most: then the loop does what else there is to do.
"""

import select
import time
from collections import deque
from types import TracebackType
from typing import Any, Final, Protocol

import pyfuse3
import trio

LINGER_S: Final = 0.0001  # for the next request
AT_MOST_S: Final = 0.001  # without a round of the loop
MOST_SELECTED: Final = 1024  # select(2) takes no greater descriptor


class Beginning(Protocol):
    """How a connection's first requests are read (takeover.py)."""

    @property
    def is_over(self) -> bool: ...

    async def next(self, fd: int) -> None:
        """Returns when libfuse may read at `fd`."""
        ...


def install(beginning: Beginning | None = None) -> bool:
    """Before `pyfuse3.main`. False, and does nothing, where pyfuse3 has no such door (any more)."""
    if not hasattr(pyfuse3, "trio"):
        return False
    pyfuse3.trio = EventLoop(beginning)
    return True


class Turn:
    """A lock for who reads next, free to take again for the one that has just released it.

    Whoever waits is called at the release and runs when the loop next comes round: if the former
    reader has it again by then, it goes on waiting. Cancelled, it never has it.
    """

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: deque[trio.lowlevel.Task] = deque()
        self._is_called = False  # somebody is, and did not run yet

    async def __aenter__(self) -> None:
        first = False
        while self._is_held:
            await self._wait(first=first)
            first = True
        self._is_held = True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_held = False
        if self._waiting and not self._is_called:
            self._is_called = True
            trio.lowlevel.reschedule(self._waiting.popleft())

    async def _wait(self, *, first: bool) -> None:
        task = trio.lowlevel.current_task()
        (self._waiting.appendleft if first else self._waiting.append)(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        self._is_called = False


class LowLevel:
    """`trio.lowlevel` with another `wait_readable`."""

    def __init__(self, beginning: Beginning | None = None) -> None:
        self._until_s = 0.0
        self._beginning = beginning

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)

    async def wait_readable(self, fd: int) -> None:
        """As trio's, but without a checkpoint where a request is there soon."""
        if self._beginning is not None:
            await self._beginning.next(fd)
            if self._beginning.is_over:
                self._beginning = None
            return
        if (
            time.perf_counter() < self._until_s
            and fd < MOST_SELECTED
            and select.select((fd,), (), (), LINGER_S)[0]
        ):
            return
        await trio.lowlevel.wait_readable(fd)
        self._until_s = time.perf_counter() + AT_MOST_S


class EventLoop:
    """`trio` as pyfuse3 uses it, with another lock."""

    Lock = Turn

    def __init__(self, beginning: Beginning | None = None) -> None:
        self.lowlevel = LowLevel(beginning)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)
