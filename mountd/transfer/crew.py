"""The threads of a copy, and what they have done so far."""

import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

from mountd.errors import ContainerMissing, NotFound, QuotaExceeded, Unreachable, VersionChanged
from mountd.transfer.plan import Copy
from mountd.transfer.window import Window

LIGHT_BYTES: Final = 1 << 20
RANGE_BYTES: Final = 8 << 20
LIGHT_AT_ONCE: Final = 64
HEAVY_AT_ONCE: Final = 16
# Memory is so many times RANGE_BYTES. With 30 ms to the first byte and 100 MB/s per connection a
# range takes 114 ms, 74 MB/s: 16 of them could not have 80 % of 16 connections.
RANGES_AT_ONCE: Final = 24
_NO_ROOM: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
_OUT_OF_REACH: Final = 8  # files that fail by Unreachable, one after the other

Job = Callable[[], None]


class Tally:
    """Counts, and who failed. Thread-safe. `stop` is set where going on makes no sense.

    `moved_bytes`: what went over the wire, or into a file, in this run. `here_bytes`: what earlier
    runs had brought of files that are copied now. `again`: what changed at
    the source while it was copied, to be tried once more.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.files = self.bytes = self.moved_bytes = self.here_bytes = self.deleted = 0
        self.folders = 0
        self.failures: dict[str, Exception] = {}
        self.again: list[Copy] = []
        self.unchecked = 0
        self.may_try_again = True
        self._lock = threading.Lock()
        self._unreachable = 0

    def moved(self, count: int) -> None:
        with self._lock:
            self.moved_bytes += count

    def was_here(self, count: int) -> None:
        with self._lock:
            self.here_bytes += count

    def count_deleted(self) -> None:
        with self._lock:
            self.deleted += 1

    def count_folder(self) -> None:
        with self._lock:
            self.folders += 1

    def done(self, size: int) -> None:
        """A file is at the target under its name, whole."""
        with self._lock:
            self.files += 1
            self.bytes += size
            self._unreachable = 0

    def changed(self, copy: Copy, error: Exception) -> None:
        """The source is another version than was listed."""
        with self._lock:
            if self.may_try_again:
                self.again.append(copy)
                return
        self.failed(copy.item.path, error)

    def failed(self, path: str, error: Exception) -> None:
        with self._lock:
            self.failures[path] = error
            self._unreachable = self._unreachable + 1 if isinstance(error, Unreachable) else 0
            if is_fatal(error) or self._unreachable >= _OUT_OF_REACH:
                self.stop.set()

    def count_unchecked(self) -> None:
        """The remote has no checksum for one."""
        with self._lock:
            self.unchecked += 1


def is_fatal(error: Exception) -> bool:
    """Whether all other files would fail as well."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    return isinstance(error, QuotaExceeded | ContainerMissing)


def has_changed(error: Exception) -> bool:
    """Whether a read says that the source is another version by now, or gone."""
    return isinstance(error, VersionChanged | NotFound)


@dataclass(frozen=True, slots=True)
class Lane:
    """Jobs, so many at once at most. `is_paced`: each is a request or two, and fewer go at once
    where they take long (window.py)."""

    jobs: Iterator[Job]
    at_once: int
    is_paced: bool = True


def work(lanes: Sequence[Lane], tally: Tally, watch: Callable[[], None]) -> None:
    """Does all jobs of all lanes, each in threads of its own; jobs raise nothing foreseen.

    `watch` is called several times a second, in this thread. Raises what a job raised. Left by an
    exception (Ctrl-C), the jobs under way go on until the process ends, and no others begin.
    """
    raised: list[BaseException] = []
    threads = [
        threading.Thread(target=_take, args=(shared, tally, raised), daemon=True)
        for shared in map(_Shared, lanes)
        for _ in range(shared.lane.at_once)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
                watch()
    except BaseException:
        tally.stop.set()
        raise
    if raised:
        raise raised[0]


class _Shared:
    """A lane for its threads."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._window = Window(lane.at_once) if lane.is_paced else None
        self._lock = threading.Lock()

    def slot(self) -> AbstractContextManager[None]:
        return self._window.slot() if self._window is not None else nullcontext()

    def next(self) -> Job | None:
        with self._lock:
            return next(self.lane.jobs, None)


def _take(shared: _Shared, tally: Tally, raised: list[BaseException]) -> None:
    try:
        while True:
            with shared.slot():
                job = None if tally.stop.is_set() else shared.next()
                if job is None:
                    return
                job()
    except BaseException as error:  # `work` raises it
        raised.append(error)
        tally.stop.set()


class Rate:
    """Bytes per second, over the last seconds and as a whole."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_s = clock()
        self._seen: list[tuple[float, int]] = []

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._began_s

    def now(self, moved_bytes: int, window_s: float = 10.0) -> float:
        """Call it regularly, with the count so far."""
        now_s = self._clock()
        self._seen.append((now_s, moved_bytes))
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - window_s:
            del self._seen[0]
        first_s, first = self._seen[0]
        return (moved_bytes - first) / (now_s - first_s) if now_s > first_s else 0.0
