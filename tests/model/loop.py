"""A trio loop in a thread of its own, so that synchronous code can drive what runs on it."""

import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.fakes.in_threads import tasks_in_threads

_T = TypeVar("_T")
_CUSHION_S = 0.001  # what a thread has handed over, others may pass on
_HANGS_AFTER_S = 120  # of the loop's clock


class Loop:
    """Its clock moves only when told to. `is_quiet` is told how many tasks wait for a thread, and
    says whether none of the threads is at work."""

    def __init__(self, is_quiet: Callable[[int], bool]) -> None:
        self.clock = MockClock()
        self._is_quiet = is_quiet
        self._error: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model-loop", daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def _run(self) -> None:
        try:
            trio.run(self._main, clock=self.clock)
        except BaseException as error:
            self._error = error

    async def _main(self) -> None:
        self._stop = trio.Event()
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            self._token = trio.lowlevel.current_trio_token()
            self._ready.set()
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    def call(self, function: Callable[..., Awaitable[_T]], *arguments: object) -> _T:
        """Runs it on the loop. From any other thread."""
        try:
            return trio.from_thread.run(function, *arguments, trio_token=self._token)
        except trio.RunFinishedError as error:
            raise AssertionError("the daemon has failed") from (self._error or error)

    def do(self, function: Callable[..., _T], *arguments: object) -> _T:
        """As `call`, of a synchronous function."""
        return trio.from_thread.run_sync(function, *arguments, trio_token=self._token)

    def close(self) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._stop.set)
        self._thread.join(10)

    async def settle(self) -> None:
        """Until nothing moves any more without the clock."""
        while True:
            await wait_all_tasks_blocked(_CUSHION_S)
            if self._is_quiet(tasks_in_threads()):
                return
            time.sleep(0.0005)  # noqa: ASYNC251 -- a thread is at work, and nobody else

    async def advance(self, seconds: float) -> None:
        """The clock goes on, in steps in which everything has its time."""
        step_s = 0.02
        while seconds > 0:
            self.clock.jump(min(step_s, seconds))
            await self.settle()
            seconds -= step_s
            step_s = min(step_s * 2, 10.0)

    async def finish(
        self,
        work: Callable[[], Awaitable[_T]],
        release: Callable[[], object],
        patience_s: float,
    ) -> _T:
        """What `work` answers. Where it waits for others, they are released, and then the clock
        goes on; `patience_s`: real seconds before it is believed to. AssertionError where it
        never ends."""
        answers: list[_T] = []
        errors: list[Exception] = []

        async def run() -> None:
            try:
                answers.append(await work())
            except Exception as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            began_s, waited_s = time.monotonic(), 0.0
            for _ in range(3):  # most need no thread
                await trio.lowlevel.checkpoint()
            while not answers and not errors:
                await self.settle()
                if answers or errors:
                    break
                if time.monotonic() - began_s < patience_s:
                    continue  # a thread may be slow on a busy machine
                release()
                await self.advance(waited_s)
                waited_s += 1.0
                if waited_s > _HANGS_AFTER_S:
                    raise AssertionError("it hangs")
        if errors:
            raise errors[0]
        return answers[0]
