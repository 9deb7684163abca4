"""Ends the wait for a blocking call of a library that has no timeouts of its own."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from mountd.errors import Unreachable

T = TypeVar("T")


class _Outcome(Generic[T]):
    def __init__(self) -> None:
        self.done = threading.Event()
        self.value: list[T] = []
        self.error: BaseException | None = None


def call_bounded(call: Callable[[], T], timeout_s: float, what: str) -> T:
    """`call()` in a thread of its own; Unreachable after `timeout_s`.

    A call that hangs goes on hanging in its thread, which does not keep the process from ending
    (a ThreadPoolExecutor's would). Making a thread costs 60 us, little beside a network call.
    """
    outcome: _Outcome[T] = _Outcome()

    def run() -> None:
        try:
            outcome.value.append(call())
        except BaseException as error:  # handed to the caller, whatever it is
            outcome.error = error
        finally:
            outcome.done.set()

    threading.Thread(target=run, name=f"bounded {what[:40]}", daemon=True).start()
    if not outcome.done.wait(timeout_s):
        raise Unreachable(f"{what}: no answer in {timeout_s:g} s")
    if outcome.error is not None:
        raise outcome.error
    return outcome.value[0]
