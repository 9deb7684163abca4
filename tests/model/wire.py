"""The way from one daemon to a remote: what is under way when the daemon dies may still arrive, and
what was not sent by then never does."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from typing_extensions import Buffer

from mountd.errors import Unreachable
from mountd.remotes.base import Body, Capabilities, Identity, RemoteStore, Upload
from mountd.remotes.optional_doors import move_dir_in, move_file_in, remove_tree_in
from mountd.types import Entry

_T = TypeVar("_T")
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Sent:
    """The bytes of an upload that are on the wire."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, start: int, end: int) -> Buffer:
        return self.data[start:end]


class Wire:
    """A store for one life of a daemon."""

    def __init__(self, store: RemoteStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._calls: Counter[int] = Counter()  # that are going on, by thread
        self.is_down = False
        self.is_dead = False

    @property
    def active(self) -> int:
        """How many calls are going on. A put that reads what it sends from here is one."""
        with self._lock:
            return len(self._calls)

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    def stat(self, key: str) -> Entry:
        return self._call(lambda: self._store.stat(key))

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        yield from self._call(lambda: list(self._store.list(directory)))

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        yield from self._call(lambda: list(self._store.list_tree(directory)))

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        return self._call(lambda: self._store.read(key, start, end, version))

    def identify(self, key: str) -> Identity:
        return self._call(lambda: self._store.identify(key))

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        return self._call(lambda: self._store.put(key, self._sent(body), expect, upload))

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
        def call() -> Entry:
            sent = self._sent(body)
            return self._store.put_delta(key, sent, expect, upload, source, version, same)

        return self._call(call)

    def abandon(self, key: str, token: str) -> None:
        self._call(lambda: self._store.abandon(key, token))

    def delete(self, key: str, expect: str | None) -> None:
        self._call(lambda: self._store.delete(key, expect))

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        return self._call(lambda: self._store.copy(source, version, key, expect, upload))

    def make_dir(self, key: str) -> None:
        self._call(lambda: self._store.make_dir(key))

    def remove_dir(self, key: str) -> None:
        self._call(lambda: self._store.remove_dir(key))

    def move_dir(self, source: str, key: str) -> None:
        self._call(lambda: move_dir_in(self._store, source, key))

    def move_file(self, source: str, version: str, key: str) -> Entry:
        return self._call(lambda: move_file_in(self._store, source, version, key))

    def remove_tree(self, key: str, inside: Mapping[str, str]) -> None:
        self._call(lambda: remove_tree_in(self._store, key, inside))

    def close(self) -> None:
        pass

    def _sent(self, body: Body) -> Sent:
        size = body.size
        pieces = [
            bytes(memoryview(body.read(start, min(start + _PIECE, size))))
            for start in range(0, size, _PIECE)
        ]
        self._check()
        return Sent(b"".join(pieces))

    def _call(self, call: Callable[[], _T]) -> _T:
        thread = threading.get_ident()
        with self._lock:
            self._calls[thread] += 1
        try:
            self._check()
            answer = call()
            self._check()
            return answer
        finally:
            with self._lock:
                self._calls[thread] -= 1
                self._calls += Counter()  # without zeros

    def _check(self) -> None:
        if self.is_down or self.is_dead:
            raise Unreachable("the remote is down")
