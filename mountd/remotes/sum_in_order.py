"""The MD5 of a body whose parts go side by side: read in order, and added up beside the sending."""

import hashlib
import threading
from collections.abc import Callable

from typing_extensions import Buffer

_LOOK_AGAIN_S = 0.2  # whether the waiting is over for another reason


class SumInOrder:
    """Of parts with numbers. Thread-safe. Each part is held until those before it were given, so
    who gives them waits for each before it gives the next.

    `begin` runs a function in another thread; what it raises, `add` raises.
    """

    def __init__(
        self, hasher: "hashlib._Hash", first: int, begin: Callable[[Callable[[], None]], object]
    ) -> None:
        """`hasher` has the bytes before the part `first`; nobody else uses it meanwhile."""
        self._hasher = hasher
        self._next = self._first = self._to_read = first
        self._begin = begin
        self._waiting: dict[int, Buffer] = {}
        self._is_adding = False
        self._changed = threading.Condition()
        self._sums: dict[int, str] = {}

    def take(self, number: int, read: Callable[[], Buffer], stop: threading.Event) -> Buffer | None:
        """`read()`, after those before it were read, because a body may add up what is read from
        its front to its end; and `add`. A part before `first` is only read. None when `stop` came
        first."""
        if number < self._first:
            return read()
        with self._changed:
            while self._to_read != number:
                if stop.is_set():
                    return None
                self._changed.wait(_LOOK_AGAIN_S)
        data = read()
        with self._changed:
            self._to_read += 1
            self._changed.notify_all()
        self.add(number, data)
        return data

    def add(self, number: int, data: Buffer) -> None:
        """One part; again it counts for nothing. Returns at once."""
        with self._changed:
            if number < self._next:
                return
            self._waiting[number] = data
            if self._is_adding or self._next not in self._waiting:
                return
            self._is_adding = True
        self._begin(self._add_up)

    def wait(self, number: int, stop: threading.Event) -> bool:
        """Until that part and those before it are in the sum. False when `stop` came first."""
        with self._changed:
            while self._next <= number:
                if stop.is_set():
                    return False
                self._changed.wait(_LOOK_AGAIN_S)
        return True

    def up_to(self, number: int) -> str:
        """The sum (hex) of everything up to that part's end; it was waited for."""
        with self._changed:
            return self._sums[number]

    def _add_up(self) -> None:
        while True:
            with self._changed:
                data = self._waiting.pop(self._next, None)
                if data is None:
                    self._is_adding = False
                    return
            self._hasher.update(data)
            with self._changed:
                self._sums[self._next] = self._hasher.copy().hexdigest()
                self._next += 1
                self._changed.notify_all()
