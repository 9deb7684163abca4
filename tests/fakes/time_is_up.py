"""Calls whose bounded wait ends without waiting: by a mock clock, so that on a busy machine nothing
else that is bounded ends, too."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

_T = TypeVar("_T")


async def when_time_is_up(clock: MockClock, wait_s: float, work: Callable[[], Awaitable[_T]]) -> _T:
    """What `work` answers; as often as all tasks wait, `wait_s` pass. What it raises comes in an
    ExceptionGroup. Nothing else may be under way that must not miss its time."""
    answers: list[_T] = []

    async def run() -> None:
        answers.append(await work())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        while not answers:
            await wait_all_tasks_blocked(0.01)
            clock.jump(wait_s)
    return answers[0]
