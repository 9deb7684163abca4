"""Counts what really goes over the wire, for `transfer` in status; the innermost wrapper.

Innermost, so that retries and probes are counted too.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from typing_extensions import Buffer

from mountd.remotes.base import Capabilities, RemoteStore
from mountd.types import Entry


@dataclass(frozen=True, slots=True)
class TransferCounts:
    """Requests by kind, failed ones included, and the payload bytes of those that succeeded."""

    get: int = 0
    put: int = 0
    list: int = 0
    stat: int = 0
    down_bytes: int = 0
    up_bytes: int = 0


class CountingStore:
    """A `RemoteStore` that counts. A page of a listing counts as one `list`.

    One plain lock, held for an addition: 0.1 us uncontended, against 100 us of a thread hop.
    """

    def __init__(self, store: RemoteStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._get = self._list = self._stat = 0
        self._down_bytes = 0

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    @property
    def counts(self) -> TransferCounts:
        """The counts at one instant. Never waits for a request."""
        with self._lock:
            return TransferCounts(
                get=self._get, list=self._list, stat=self._stat, down_bytes=self._down_bytes
            )

    def stat(self, key: str) -> Entry:
        with self._lock:
            self._stat += 1
        return self._store.stat(key)

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        # One request per page, also for the page that fails; but an iterator that ends after a
        # page made none for its end.
        pages = iter(self._store.list(directory))
        given = 0
        while True:
            try:
                page = next(pages, None)
            except BaseException:
                self._count_list()
                raise
            if page is None and given:
                return
            self._count_list()
            if page is None:
                return
            given += 1
            yield page

    def _count_list(self) -> None:
        with self._lock:
            self._list += 1

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        with self._lock:
            self._get += 1
        data = self._store.read(key, start, end, version)
        with self._lock:
            self._down_bytes += end - start
        return data

    def close(self) -> None:
        self._store.close()
