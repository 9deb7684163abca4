"""Runs a blocking call with a deadline, for calls that have none of their own (DNS, libraries)."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Bounded(Generic[T]):
    """A call that runs in a thread of its own, which never keeps the process from ending."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._value: T | None = None
        self._error: BaseException | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def result(self, timeout_s: float) -> T:
        """What the call returned or raised; TimeoutError when it goes on past `timeout_s`."""
        if not self._done.wait(timeout_s):
            raise TimeoutError(f"no answer in {timeout_s:.0f} s")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # the call has returned a T

    def _run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:  # handed to whoever asks for the result
            self._error = error
        finally:
            self._done.set()


def bounded(function: Callable[[], T], timeout_s: float) -> T:
    """`function()`, or TimeoutError after `timeout_s`; the call itself goes on in its thread."""
    return Bounded(function).result(timeout_s)
