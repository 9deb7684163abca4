"""Threads that wait for the remote, so that the loop doesn't.

`trio.to_thread.run_sync` costs 105 us and names its thread anew for each call (four system calls);
48 answers that come at once wake the loop 48 times. Here threads stay, take what is next, and what
they have done is fetched in one go: 15 us. `Thread.start` waits for the new one's first turn, which
took 1.1 ms where 64 begin at once: so the loop starts none but the first.
"""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import outcome
import trio

_T = TypeVar("_T")
_MANY: Final = 8


@dataclass(slots=True, eq=False)
class _Job:
    """`task`: who waits for it; None when nobody does any more."""

    function: Callable[..., Any]
    arguments: tuple[object, ...]
    task: trio.lowlevel.Task | None
    context: Context


_Jobs = SimpleQueue[_Job | None]
_Wanted = SimpleQueue[trio.lowlevel.TrioToken | None]


class CallThreads:
    """At most `at_once` calls at a time, the others wait for their turn. Belongs to one loop."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._jobs: _Jobs = SimpleQueue()
        self._done: deque[tuple[_Job, outcome.Outcome[Any]]] = deque()
        self._is_told = False  # the loop is going to look at what is done
        self._busy = 0  # calls that were begun or wait, also those that nobody waits for any more
        self._threads = 0  # those that are to come included
        self._wanted: _Wanted = SimpleQueue()
        self._is_starting = False  # there is a thread that starts others

    async def run(self, function: Callable[..., _T], *arguments: object) -> _T:
        """What the function returns or raises. Cancelled, the call goes on in its thread.
        RuntimeError where not even one thread can be started; then it was not called."""
        await trio.lowlevel.checkpoint_if_cancelled()
        job = _Job(function, arguments, trio.lowlevel.current_task(), copy_context())

        def abandon(_: Callable[[], Any]) -> trio.lowlevel.Abort:
            job.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        if self._busy >= self._threads and self._threads < self._at_once:
            self._start_one()
        self._busy += 1
        self._jobs.put(job)
        found: _T = await trio.lowlevel.wait_task_rescheduled(abandon)
        return found

    def expect(self, calls: int) -> None:
        """Nothing is to be done for now, and so many calls are about to come: their threads are
        started while nobody waits. For a few none is, and all end once they are idle."""
        if calls < _MANY:
            self.rest()
            return
        with suppress(RuntimeError):
            while self._threads < min(calls, self._at_once) and self._start_one():
                pass

    def _start_one(self) -> bool:
        """Now or soon; False where a container's limit is reached, and RuntimeError where it is
        and there is none yet."""
        token = trio.lowlevel.current_trio_token()
        if not self._threads:
            self._start_thread("queue", self._work, self._jobs, token)
        elif self._is_starting or self._began_starting():
            self._wanted.put(token)
        else:
            return False
        self._threads += 1
        return True

    def _began_starting(self) -> bool:
        try:
            self._start_thread("queue starter", self._start_others, self._jobs, self._wanted)
        except RuntimeError:
            return False
        self._is_starting = True
        return True

    @staticmethod
    def _start_thread(name: str, target: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, name=name, daemon=True).start()

    def rest(self) -> None:
        """The threads end once they are idle."""
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = 0
        if self._is_starting:
            self._wanted.put(None)
            self._is_starting = False
        self._jobs, self._wanted = SimpleQueue(), SimpleQueue()  # who is to end takes nothing new

    def _start_others(self, jobs: _Jobs, wanted: _Wanted) -> None:
        """Each that is wanted works once, until it takes one of the Nones that `rest` has counted:
        where it can't be started, this thread is it, and the next ones come later."""
        while (token := wanted.get()) is not None:
            try:
                self._start_thread("queue", self._work, jobs, token)
            except RuntimeError:  # a container's limit
                self._work(jobs, token)

    def _work(self, jobs: _Jobs, token: trio.lowlevel.TrioToken) -> None:
        while (job := jobs.get()) is not None:
            self._done.append((job, outcome.capture(job.context.run, job.function, *job.arguments)))
            del job
            if self._is_told:
                continue  # it has not looked yet, and will see this one too
            self._is_told = True
            try:
                token.run_sync_soon(self._look)
            except trio.RunFinishedError:
                return

    def _look(self) -> None:
        self._is_told = False  # first: what is done from here on may be missed below
        while self._done:
            job, result = self._done.popleft()
            self._busy -= 1
            if job.task is not None:
                trio.lowlevel.reschedule(job.task, result)
