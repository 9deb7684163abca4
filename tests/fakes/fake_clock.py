"""A clock that tests move by hand, with the `clock` and `wait` that the wrappers take."""

import threading


class FakeClock:
    """`waits` lists how long each wait was to last. Thread-safe enough for one waiting thread."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def advance(self, duration_s: float) -> None:
        self.now_s += duration_s

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Like `Event.wait`, in no time: the whole timeout passes unless the event is set."""
        self.waits.append(timeout_s)
        if not event.is_set():
            self.advance(timeout_s)
        return event.is_set()
