"""The time for which a thread had no processor."""

import os
import threading
from collections.abc import Callable

from mountd.remotes.late import stood_s


def in_thread(work: Callable[[], float]) -> float:
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_it_never_goes_back_and_is_each_threads_own() -> None:
    first = stood_s()
    assert 0.0 <= first <= stood_s()
    assert in_thread(stood_s) >= 0.0


def test_threads_that_ended_leave_no_file_open() -> None:
    stood_s()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        in_thread(stood_s)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
