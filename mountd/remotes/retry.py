"""Tries reads again where that may help: after Unreachable, Throttled and Locked, nothing else.

Writes have one attempt (base.py says why) and a deadline.

Every call has `timeout_s` from its start; each page of a listing counts as a call. Between
attempts it sleeps with exponential backoff and full jitter, at least as long as a Retry-After
says. A retry that would begin too late, or that would end too late if it took as long as the
longest attempt before it, is not begun. An attempt itself is never cut off: that is the native
store's own timeout.

A remote that refuses connections or doesn't answer is given up after three attempts (at once,
then within a second), so that a dead remote is known quickly and health can tell everybody. Where
the store knows that the remote did answer (`Unreachable.answered`: 500, a cut body), there are
six.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Generic, ParamSpec, Protocol, TypeVar

from typing_extensions import Buffer

from mountd.errors import Locked, RemoteError, Throttled, Unreachable
from mountd.origin import new as new_origin
from mountd.origin import origin
from mountd.remotes import call
from mountd.remotes.base import Body, Capabilities, Identity, Quota, RemoteStore, Upload
from mountd.remotes.optional_doors import (
    checksums_in,
    keeps_version_in,
    move_dir_in,
    move_file_in,
    prepare_changes_in,
    quota_of,
    remove_tree_in,
)
from mountd.types import Entry, Kind

UNANSWERED_ATTEMPTS = 3
ANSWERED_ATTEMPTS = 6
MAX_ATTEMPTS = 16  # of any call: about what fits into 60 s when no Retry-After is given
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 8.0

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


class RetryObserver(Protocol):
    """Who wants to know about failures that callers may never see (`health.RemoteHealth`)."""

    def attempt_failed(self, error: RemoteError) -> None:
        """An attempt ended in an error that may be retried; also, after `gave_up`, the last."""
        ...

    def gave_up(self, error: RemoteError, first_failed_s: float) -> None:
        """The error goes to the caller; `first_failed_s` is when the first attempt had failed."""
        ...


class _Unobserved:
    def attempt_failed(self, error: RemoteError) -> None: ...

    def gave_up(self, error: RemoteError, first_failed_s: float) -> None: ...


class _Failures:
    """The failed attempts of one call, and whether and when there is another. No I/O."""

    def __init__(self, began_s: float, deadline_s: float) -> None:
        self.first_failed_s = 0.0
        self._attempt_began_s = began_s
        self._deadline_s = deadline_s
        self._longest_s = 0.0
        self._total = 0
        self._unreachable = 0

    def begin_attempt(self, now_s: float) -> None:
        self._attempt_began_s = now_s

    def delay_s(self, error: RemoteError, now_s: float, jitter: float) -> float | None:
        """How long to sleep before the next attempt; None: there is none. 0 <= jitter <= 1."""
        self._longest_s = max(self._longest_s, now_s - self._attempt_began_s)
        if not self._total:
            self.first_failed_s = now_s
        self._total += 1
        at_once = False
        if isinstance(error, Unreachable):
            self._unreachable += 1
            limit = ANSWERED_ATTEMPTS if error.answered else UNANSWERED_ATTEMPTS
            if self._unreachable >= limit:
                return None
            at_once = self._total == 1  # an idle connection that the server had dropped
        if self._total >= MAX_ATTEMPTS:
            return None
        backoff_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (self._total - 1))
        delay_s = 0.0 if at_once else backoff_s * jitter
        if isinstance(error, Throttled) and error.retry_after_s:
            # Jitter comes on top: all the others were told the same time.
            delay_s = error.retry_after_s + min(delay_s, 0.1 * error.retry_after_s)
        if now_s + delay_s + self._longest_s > self._deadline_s:
            return None
        return delay_s


class _Listing(Generic[_Answer]):
    """A listing's pages over several attempts; what was given once is left out later."""

    def __init__(
        self,
        begin: Callable[[], Iterator[Sequence[_Answer]]],
        marked: Callable[[_Answer], str],
    ) -> None:
        self._begin = begin
        self._marked = marked
        self._pages: Iterator[Sequence[_Answer]] | None = None
        self._given: list[Sequence[str]] = []
        self._skip: frozenset[str] = frozenset()

    def next_page(self) -> Sequence[_Answer] | None:
        """A page, or None at the end. After an error the next call lists from the beginning."""
        try:
            if self._pages is None:
                self._pages = iter(self._begin())
            for page in self._pages:
                if self._skip:
                    page = [row for row in page if self._marked(row) not in self._skip]
                    if not page:
                        continue
                self._given.append([self._marked(row) for row in page])
                return page
        except RemoteError:
            self._pages = None
            self._skip = frozenset(name for names in self._given for name in names)
            raise
        return None


def _marked(entry: Entry) -> str:
    # A file and a directory may share a name; no segment contains a slash.
    return entry.name if entry.kind is Kind.FILE else entry.name + "/"


def _key(row: tuple[str, Entry]) -> str:
    return row[0]


class RetryingStore:
    """A `RemoteStore` that retries; thread-safe.

    A listing is passed on page by page, because a million entries needn't be held here. When it
    breaks off, it is begun anew and what the caller has already is left out. Only the names are
    kept for that (80 MB for a million, while the listing runs).

    `interrupt` ends every sleep early, with Unreachable: health sets it while the remote is
    down, and `close` sets it.
    """

    def __init__(
        self,
        store: RemoteStore,
        timeout_s: float,
        *,
        observer: RetryObserver | None = None,
        interrupt: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._observer = observer or _Unobserved()
        self._interrupt = interrupt or threading.Event()
        self._clock = clock
        self._wait = wait
        self._jitter = jitter

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    def stat(self, key: str) -> Entry:
        return self._retry(self._store.stat, key)

    def quota(self) -> Quota:
        return self._retry(quota_of, self._store)

    def identify(self, key: str) -> Identity:
        return self._retry(self._store.identify, key)

    def checksums(self, key: str) -> Identity:
        return self._retry(checksums_in, self._store, key)

    def keeps_version(self, key: str, version: str) -> bool:
        return self._retry(keeps_version_in, self._store, key, version)

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        return self._pages(_Listing(lambda: self._store.list(directory), _marked))

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        return self._pages(_Listing(lambda: self._store.list_tree(directory), _key))

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        return self._retry(self._store.read, key, start, end, version)

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        with self._deadline(call.upload_timeout_s(self._timeout_s, body.size)):
            return self._store.put(key, body, expect, upload)

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
        with self._deadline(call.upload_timeout_s(self._timeout_s, body.size)):
            return self._store.put_delta(key, body, expect, upload, source, version, same)

    def move_dir(self, source: str, key: str) -> None:
        with self._deadline(self._timeout_s):
            move_dir_in(self._store, source, key)

    def move_file(self, source: str, version: str, key: str) -> Entry:
        with self._deadline(self._timeout_s):
            return move_file_in(self._store, source, version, key)

    def remove_tree(self, key: str, inside: Mapping[str, str]) -> None:
        with self._deadline(self._timeout_s):
            remove_tree_in(self._store, key, inside)

    def prepare_changes(self) -> None:
        with self._deadline(self._timeout_s):
            prepare_changes_in(self._store)

    def abandon(self, key: str, token: str) -> None:
        with self._deadline(self._timeout_s):
            self._store.abandon(key, token)

    def delete(self, key: str, expect: str | None) -> None:
        with self._deadline(self._timeout_s):
            self._store.delete(key, expect)

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        with self._deadline(self._timeout_s):
            return self._store.copy(source, version, key, expect, upload)

    def make_dir(self, key: str) -> None:
        with self._deadline(self._timeout_s):
            self._store.make_dir(key)

    def remove_dir(self, key: str) -> None:
        with self._deadline(self._timeout_s):
            self._store.remove_dir(key)

    def close(self) -> None:
        self._interrupt.set()
        self._store.close()

    def _pages(self, listing: _Listing[_Answer]) -> Iterator[Sequence[_Answer]]:
        while (page := self._retry(listing.next_page)) is not None:
            yield page

    @contextmanager
    def _deadline(self, timeout_s: float) -> Iterator[float]:
        """Inside, the call's own deadline, in `timeout_s` or what it is already, and an origin;
        gives its beginning."""
        began_s = self._clock()
        token = call.deadline_s.set(min(began_s + timeout_s, call.deadline_s.get()))
        whose = origin.get() or new_origin()
        named = origin.set(whose)
        try:
            yield began_s
        except RemoteError as error:
            error.request_id = whose.request
            raise
        finally:
            origin.reset(named)
            call.deadline_s.reset(token)

    def _retry(
        self,
        request: Callable[_Arguments, _Answer],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Answer:
        failures: _Failures | None = None
        with self._deadline(self._timeout_s) as began_s:
            while True:
                try:
                    return request(*args, **kwargs)
                except (Unreachable, Throttled, Locked) as error:
                    failures = failures or _Failures(began_s, call.deadline_s.get())
                    self._sleep_or_raise(error, failures)

    def _sleep_or_raise(self, error: RemoteError, failures: _Failures) -> None:
        delay_s = failures.delay_s(error, self._clock(), self._jitter())
        if delay_s is None:  # the grave news first: no detour through degraded
            self._observer.gave_up(error, failures.first_failed_s)
        self._observer.attempt_failed(error)
        if delay_s is None:
            raise error
        if delay_s > 0.0 and not self._interrupt.is_set():
            self._wait(self._interrupt, delay_s)
        if self._interrupt.is_set():
            raise Unreachable("the remote went down or was closed meanwhile") from error
        failures.begin_attempt(self._clock())
