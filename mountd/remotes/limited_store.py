"""A store whose requests go through a `Limiter`, and whose uploads have limits of their own, too.

Uploads are long, and many at once fill any line: `Uploads` bounds how many there are, below what
the remote bears, so that reads always find a slot. Bandwidth is taken piece by piece, as the store
reads the body: a large file would otherwise go out in one rush and then block all others.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from typing_extensions import Buffer

from mountd.errors import Throttled, Unreachable
from mountd.remotes import call
from mountd.remotes.base import (
    LIGHT_BYTES,
    Body,
    Capabilities,
    Identity,
    Quota,
    RemoteStore,
    Upload,
)
from mountd.remotes.limit import Limiter, Wait
from mountd.remotes.optional_doors import (
    checksums_in,
    keeps_version_in,
    move_dir_in,
    move_file_in,
    prepare_changes_in,
    quota_of,
    remove_tree_in,
)
from mountd.types import Entry

BURST_S = 1.0
# An upload waits for others, which end by their own timeouts.
LONGEST_WAIT_S = 86_400.0
_Answer = TypeVar("_Answer")


class Pace:
    """Bytes per second, shared by all threads in order of arrival; None: as fast as may be.

    A second's worth is let through at once after a pause. A piece goes as soon as those before
    it are paid for, and pays after it went.
    """

    def __init__(
        self,
        bytes_per_s: int | None,
        *,
        interrupt: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Wait = threading.Event.wait,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._interrupt = interrupt or threading.Event()
        self._clock = clock
        self._wait = wait
        self._lock = threading.Lock()
        self._paid_s = float("-inf")  # when all that went will be paid for

    def take(self, size_bytes: int) -> None:
        """Returns when these bytes may go. Raises Unreachable when it is interrupted."""
        if not self._bytes_per_s or not size_bytes:
            return
        costs_s = size_bytes / self._bytes_per_s
        with self._lock:
            now_s = self._clock()
            begins_s = max(self._paid_s, now_s - BURST_S)
            self._paid_s = begins_s + costs_s
        if begins_s > now_s and self._wait(self._interrupt, begins_s - now_s):
            with self._lock:
                self._paid_s -= costs_s
            raise Unreachable("the remote went down or was closed meanwhile")


class Uploads:
    """At most `max_parallel` uploads at once, at `bandwidth_up` bytes per second together.

    Small ones (LIGHT_BYTES) don't count among these, but are `max_light` at most, and `light_now`:
    see lanes.py.
    """

    def __init__(
        self,
        max_parallel: int,
        max_light: int = 0,
        *,
        light_now: Callable[[], int] | None = None,
        bandwidth_up: int | None = None,
        interrupt: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Wait = threading.Event.wait,
    ) -> None:
        self.limiter, self.light = (
            Limiter(
                at_most,
                interrupt=interrupt,
                longest_wait_s=LONGEST_WAIT_S,
                parallel_now=now,
                clock=clock,
                wait=wait,
            )
            for at_most, now in ((max_parallel, None), (max_light or max_parallel, light_now))
        )
        self._pace = Pace(bandwidth_up, interrupt=interrupt, clock=clock, wait=wait)
        self._bandwidth_up = bandwidth_up
        self._max_parallel = max_parallel
        self._max_light = max_light or max_parallel
        self._clock = clock

    @contextmanager
    def begin(self, body: Body) -> Iterator[Body]:
        """Inside, an upload goes on, with the body that this gives.

        The caller's deadline moves on by the wait for others, and by what our own limit adds to
        the body's time.
        """
        limiter, at_once = self.limiter, self._max_parallel
        if body.size <= LIGHT_BYTES:
            limiter, at_once = self.light, self._max_light
        prefetch, began_s = call.prefetching.get(), self._clock()
        limiter.acquire()
        try:
            more_s = self._clock() - began_s
            if self._bandwidth_up:
                more_s += body.size * at_once / self._bandwidth_up
            token = call.deadline_s.set(call.deadline_s.get() + more_s)
            try:
                yield _PacedBody(body, self._pace) if self._bandwidth_up else body
            finally:
                call.deadline_s.reset(token)
        finally:
            limiter.release(prefetch)


class _PacedBody:
    """A body that is read no faster than the pace. What is read twice counts twice."""

    def __init__(self, body: Body, pace: Pace) -> None:
        self._body = body
        self._pace = pace

    @property
    def size(self) -> int:
        return self._body.size

    def read(self, start: int, end: int) -> Buffer:
        self._pace.take(end - start)
        return self._body.read(start, end)


class LimitedStore:
    """A `RemoteStore` whose requests go through one `Limiter`; without `uploads`, puts have no
    limits of their own.

    `small_took` hears how long the remote took for each stat and each page, without waits.
    """

    def __init__(
        self,
        store: RemoteStore,
        limiter: Limiter,
        small_took: Callable[[float], None] = lambda elapsed_s: None,
        clock: Callable[[], float] = time.monotonic,
        uploads: Uploads | None = None,
    ) -> None:
        self._store = store
        self._limiter = limiter
        self._small_took = small_took
        self._clock = clock
        self._uploads = uploads or Uploads(store.capabilities.max_parallel)

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    def stat(self, key: str) -> Entry:
        return self._small(lambda: self._store.stat(key))

    def identify(self, key: str) -> Identity:
        return self._small(lambda: self._store.identify(key))

    def checksums(self, key: str) -> Identity:
        return self._small(lambda: checksums_in(self._store, key))

    def keeps_version(self, key: str, version: str) -> bool:
        return self._small(lambda: keeps_version_in(self._store, key, version))

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        return self._pages(lambda: self._store.list(directory))

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        return self._pages(lambda: self._store.list_tree(directory))

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        with self._slot(end - start) as ended:
            token = call.body_is_here.set(ended)
            try:
                return self._store.read(key, start, end, version)
            finally:
                call.body_is_here.reset(token)

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        with self._uploads.begin(body) as paced, self._slot():
            return self._store.put(key, paced, expect, upload)

    def put_delta(
        self,
        key: str,
        body: Body,
        expect: str | None,
        upload: Upload,
        source: str,
        version: str,
        same: Sequence[tuple[int, int]],
    ) -> Entry:
        with self._uploads.begin(body) as paced, self._slot():
            return self._store.put_delta(key, paced, expect, upload, source, version, same)

    def quota(self) -> Quota:
        return self._small(lambda: quota_of(self._store))

    def move_dir(self, source: str, key: str) -> None:
        with self._slot():
            move_dir_in(self._store, source, key)

    def move_file(self, source: str, version: str, key: str) -> Entry:
        with self._slot():
            return move_file_in(self._store, source, version, key)

    def remove_tree(self, key: str, inside: Mapping[str, str]) -> None:
        with self._slot():
            remove_tree_in(self._store, key, inside)

    def prepare_changes(self) -> None:
        with self._slot():
            prepare_changes_in(self._store)

    def abandon(self, key: str, token: str) -> None:
        with self._slot():
            self._store.abandon(key, token)

    def delete(self, key: str, expect: str | None) -> None:
        with self._slot():
            self._store.delete(key, expect)

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        with self._slot():
            return self._store.copy(source, version, key, expect, upload)

    def make_dir(self, key: str) -> None:
        with self._slot():
            self._store.make_dir(key)

    def remove_dir(self, key: str) -> None:
        with self._slot():
            self._store.remove_dir(key)

    def close(self) -> None:
        self._store.close()

    def _small(self, request: Callable[[], _Answer]) -> _Answer:
        with self._slot():
            began_s = self._clock()
            answer = request()
            self._small_took(self._clock() - began_s)
            return answer

    def _pages(self, listing: Callable[[], Iterator[_Answer]]) -> Iterator[_Answer]:
        pages = iter(listing())
        try:
            while (page := self._small(lambda: next(pages, None))) is not None:
                yield page
        finally:
            # What it holds, such as a connection, would stay as long as the error is kept that
            # ended this: it knows this frame.
            if isinstance(pages, Generator):
                pages.close()

    @contextmanager
    def _slot(self, size_bytes: int = 0) -> Iterator[Callable[[], None]]:
        """Gives what ends it early."""
        prefetch = call.prefetching.get()
        self._limiter.acquire(size_bytes)
        held = [partial(self._limiter.release, prefetch)]

        def end() -> None:
            if held:
                held.pop()()

        try:
            yield end
        except Throttled as error:
            self._limiter.throttled(error.retry_after_s)
            raise
        finally:
            end()
