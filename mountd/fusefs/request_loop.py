"""How pyfuse3's workers wait for the next request: in the door that it has for another event loop.

pyfuse3 takes its lock and its waiting from a module that it calls `trio` and that `pyfuse3.asyncio`
replaces, and so does this. With trio's own, each request costs two switches of tasks, two rounds
of the event loop and one epoll_ctl, which is more than most handlers: of the 650 us of CPU that
create, write and close of a small file took, in seven requests, some 170 went there.

A program that waits for an answer asks again some 20 us after it has got it. So the worker that has
answered looks for that long whether the next request is there, and reads it with no round in
between, for a millisecond at most: then the loop does what else there is to do.

Where the last requests came that soon, it looks again and again instead of going to sleep: to be
woken up costs 30 to 60 us on a virtual machine, more than most handlers, and in processor time too.
1,000 small files took 0.65 ms each with it asleep between requests (0.50 of CPU), and 0.44 (0.40).
Threads get the interpreter only while it sleeps: so it does after a request that had to wait for
something, when it finds that a thread was let in all the same, and once in a millisecond. And where
it stayed awake for nothing, as on a machine where programs wait for a processor, it does so twice
as seldom as before: without that an untar took 1.4 times the processor time on a busy one.
"""

import os
import select
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Final, Protocol

import pyfuse3
import trio

from mountd.fusefs.read_buffers import ReadBuffers

AWAKE_S: Final = 0.00005  # for the next request
MOST_ASLEEP: Final = 64  # requests after which it is tried again
ALONE_S: Final = 0.00002  # what a look takes where nobody else wants interpreter or processor
LINGER_S: Final = 0.0001  # for it afterwards, asleep
AT_MOST_S: Final = 0.001  # without a round of the loop
MOST_SELECTED: Final = 1024  # select(2) takes no greater descriptor


class Beginning(Protocol):
    """How a connection's first requests are read (takeover.py)."""

    @property
    def is_over(self) -> bool: ...

    async def next(self, fd: int) -> None:
        """Returns when libfuse may read at `fd`."""
        ...


class Meanwhile:
    """What the next request will want, made ready while the program still looks at the last answer:
    time in which the daemon stays awake for nothing else. In steps of some 20 us; of one thing, the
    latest; and where requests are not that dense never."""

    __slots__ = ("step",)

    def __init__(self) -> None:
        self.step: Callable[[], bool] | None = None  # whether there is another; never raises

    def take(self) -> None:
        """The next step, if there is one."""
        if self.step is not None and not self.step():
            self.step = None


def install(beginning: Beginning | None = None, meanwhile: Meanwhile | None = None) -> bool:
    """Before `pyfuse3.main`. False, and does nothing, where pyfuse3 has no such door (any more)."""
    if not hasattr(pyfuse3, "trio"):
        return False
    pyfuse3.trio = EventLoop(beginning, meanwhile)
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


def is_there(fd: int, within_s: float) -> bool:
    """Whether `fd` can be read by then; 0: now. Other threads go on meanwhile."""
    return bool(select.select((fd,), (), (), within_s)[0])


def polled(fd: int) -> Callable[[], object]:
    """Says whether `fd` can be read now, in half the time that `is_there` takes."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return partial(poll.poll, 0)


class LowLevel:
    """`trio.lowlevel` with another `wait_readable`.

    `processors`: that may be used; with one the program can't ask while somebody looks for it.
    """

    def __init__(
        self,
        beginning: Beginning | None = None,
        meanwhile: Meanwhile | None = None,
        *,
        look: Callable[[int, float], bool] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        processors: int | None = None,
        buffers: ReadBuffers | None = None,
    ) -> None:
        self._buffers = buffers or ReadBuffers()
        self._until_s = 0.0
        self._is_dense = False  # the last one came soon
        self._reader: trio.lowlevel.Task | None = None
        self._in_vain = 0  # grows each time that it stayed awake and none came
        self._asleep = 0  # requests that are slept for now
        self._beginning = beginning
        self._meanwhile = meanwhile or Meanwhile()
        self._look, self._clock = look or is_there, clock
        self._look_now = polled if look is None else lambda fd: partial(look, fd, 0)
        self._now: tuple[int, Callable[[], object]] = (-1, lambda: None)
        self._stays_awake = (processors or len(os.sched_getaffinity(0))) > 1

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)

    async def wait_readable(self, fd: int) -> None:
        """As trio's, but without a checkpoint where a request is there soon."""
        if self._beginning is not None:
            await self._beginning.next(fd)
            if self._beginning.is_over:
                self._beginning = None
            reader = trio.lowlevel.current_task()
            if self._buffers.is_due(reader):
                self._buffers.begin(reader)
            return
        reader, is_new = trio.lowlevel.current_task(), False
        if reader is not self._reader:  # the former one has its request still in hand
            self._reader, self._is_dense = reader, False
            is_new = self._buffers.is_due(reader)
        if fd < MOST_SELECTED:
            if self._clock() < self._until_s:
                if self._comes(fd):
                    if is_new:
                        self._buffers.begin(reader)
                    return
            elif self._is_dense:
                await trio.lowlevel.checkpoint()
                self._until_s = self._clock() + AT_MOST_S
                if self._comes_asleep(fd):
                    return
        await trio.lowlevel.wait_readable(fd)
        self._until_s = self._clock() + AT_MOST_S
        if is_new:
            self._buffers.begin(reader)

    def _comes(self, fd: int) -> bool:
        """Whether the next request comes soon."""
        if self._is_dense and self._stays_awake:
            if self._asleep:
                self._asleep -= 1
            elif self._comes_awake(fd):
                self._in_vain //= 2
                return True
            else:
                self._asleep = self._in_vain = min(2 * self._in_vain + 1, MOST_ASLEEP)
        return self._comes_asleep(fd)

    def _comes_awake(self, fd: int) -> bool:
        if self._now[0] != fd:
            self._now = fd, self._look_now(fd)
        look, clock = self._now[1], self._clock
        last_s = now_s = clock()
        end_s = now_s + AWAKE_S
        while now_s < end_s and now_s - last_s < ALONE_S:
            if look():
                return True
            last_s, now_s = now_s, clock()
            if self._meanwhile.step is not None:
                self._meanwhile.take()
                last_s = now_s = clock()
                end_s = now_s + AWAKE_S
        return False

    def _comes_asleep(self, fd: int) -> bool:
        self._is_dense = self._look(fd, LINGER_S)
        return self._is_dense


class EventLoop:
    """`trio` as pyfuse3 uses it, with another lock."""

    Lock = Turn

    def __init__(
        self, beginning: Beginning | None = None, meanwhile: Meanwhile | None = None
    ) -> None:
        self.lowlevel = LowLevel(beginning, meanwhile)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)
