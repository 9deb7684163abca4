"""Parts of one upload, sent side by side by a few threads that all uploads of a store share."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from typing_extensions import Buffer

from mountd.errors import Closed, Throttled, Unreachable
from mountd.remotes.request_body import SentBody

_PAUSES_S = (0.2, 1.0)
_MAX_PAUSE_S = 5.0
_GRAIN_BYTES = 1 << 20

_Part = TypeVar("_Part")
_Answer = TypeVar("_Answer")


class Stopped(Exception):
    """Another part of the same upload failed."""


class SideBySide:
    """`threads` in all and `at_once` of one upload. The threads begin when they are needed."""

    def __init__(self, name: str, threads: int = 8, at_once: int = 4) -> None:
        self._pool = ThreadPoolExecutor(threads, name)
        self._at_once = at_once
        # `cancel_futures` would leave who waits for them waiting.
        self._closed = threading.Event()

    def run(
        self,
        parts: Sequence[_Part],
        send: Callable[[_Part, threading.Event], _Answer],
        sent: Callable[[_Part], None] = lambda part: None,
        at_once: int | None = None,
    ) -> list[_Answer]:
        """The answers, in the parts' order. The first error sets the event, so that the others end
        soon, and is raised when all have ended. `sent` is called in this thread, for each part
        that has its answer; an error of it is as one of a part. `at_once`: or fewer than that."""
        most = min(self._at_once, at_once or self._at_once)
        stop = threading.Event()
        waiting = iter(enumerate(parts))
        running: dict[Future[_Answer], int] = {}
        answers: dict[int, _Answer] = {}
        try:
            while True:
                for number, part in islice(waiting, most - len(running)):
                    running[self._submit(send, part, stop)] = number
                if not running:
                    return [answers[number] for number in range(len(parts))]
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    number = running.pop(future)
                    answers[number] = future.result()
                    sent(parts[number])
        finally:
            stop.set()
            wait([future for future in running if not future.cancel()])

    def begin(self, function: Callable[[], _Answer]) -> Future[_Answer]:
        """In one of the threads. Raises Unreachable, also from the future, where it is closed."""

        def unless_closed() -> _Answer:
            if self._closed.is_set():
                raise Closed("the store was closed")
            return function()

        try:
            return self._pool.submit(unless_closed)
        except RuntimeError as error:
            raise Closed("the store was closed") from error

    def close(self) -> None:
        """Parts that haven't begun never do: their uploads fail with Unreachable."""
        self._closed.set()
        self._pool.shutdown(wait=False)

    def _submit(
        self,
        send: Callable[[_Part, threading.Event], _Answer],
        part: _Part,
        stop: threading.Event,
    ) -> Future[_Answer]:
        return self.begin(lambda: send(part, stop))


def with_repeats(request: Callable[[], _Answer], stop: threading.Event) -> _Answer:
    """`request`, up to three times: only for what changes nothing that anybody can see.

    Of the requests of a very large upload one always fails.
    """
    for pause_s in _PAUSES_S:
        try:
            return request()
        except (Throttled, Unreachable) as error:
            asked_s = (error.retry_after_s or 0.0) if isinstance(error, Throttled) else 0.0
            if asked_s > _MAX_PAUSE_S or stop.wait(max(asked_s, pause_s)):
                raise
    return request()


def unless_stopped(data: Buffer, stop: threading.Event) -> SentBody:
    """`data` as a request's body that raises Stopped when another part has failed."""
    view = memoryview(data).cast("B")

    def grains() -> Iterator[Buffer]:
        for at in range(0, len(view), _GRAIN_BYTES):
            if stop.is_set():
                raise Stopped
            yield view[at : at + _GRAIN_BYTES]

    return SentBody(len(view), grains)
