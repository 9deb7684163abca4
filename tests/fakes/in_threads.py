"""Which tasks of the loop wait for a thread: what a mock clock must not overtake."""

from collections.abc import Iterator

import trio
import trio.testing

from mountd.sync.call_threads import CallThreads

_IN_A_THREAD = (trio.to_thread.run_sync.__code__, CallThreads.run.__code__)


def tasks_in_threads() -> int:
    """How many. A task is one until what its thread has found is handed over: the thread may have
    ended long before, or not have begun on a busy machine."""
    return sum(
        any(frame.f_code in _IN_A_THREAD for frame, _ in task.iter_await_frames())
        for task in _tasks()
    )


async def threads_have_ended() -> None:
    """Until no task waits for a thread, and all wait for something else."""
    await trio.testing.wait_all_tasks_blocked(0.01)
    while tasks_in_threads():
        await trio.testing.wait_all_tasks_blocked(0.01)


def _tasks() -> Iterator[trio.lowlevel.Task]:
    """All of this loop."""
    waiting = [trio.lowlevel.current_root_task()]
    while waiting:
        task = waiting.pop()
        if task is not None:
            yield task
            waiting += (child for nursery in task.child_nurseries for child in nursery.child_tasks)
