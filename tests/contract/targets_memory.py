"""The in-memory store, as an object store and as a file server."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from mountd.errors import ContainerMissing, Denied, Unreachable
from mountd.remotes.base import RemoteStore
from tests.contract.targets import Broken, Limit, MakeTarget, TargetFactory
from tests.fakes.memory_store import MemoryStore, failing

_ERRORS = {
    Broken.WRONG_KEYS: Denied,
    Broken.MISSING_CONTAINER: ContainerMissing,
    Broken.DEAD_PORT: Unreachable,
}


class MemoryTarget:
    def __init__(self, real_directories: bool) -> None:
        self._real_directories = real_directories
        # (key, data or None for a removal, mtime): replayed, so that all stores say the same.
        self._history: list[tuple[str, bytes | None, int]] = []
        self._stores: list[MemoryStore] = []

    @property
    def limits(self) -> frozenset[Limit]:
        if not self._real_directories:
            return frozenset()
        return frozenset(
            (Limit.NO_BOTH_FILE_AND_PREFIX, Limit.NO_DOT_SEGMENTS, Limit.EMPTY_DIRECTORIES_STAY)
        )

    def seed(self, objects: Mapping[str, bytes]) -> None:
        for key, data in objects.items():
            self._do(key, data)

    def overwrite(self, key: str, data: bytes) -> None:
        self._do(key, data)

    def remove(self, key: str) -> None:
        self._do(key, None)

    def store(self, page_size: int | None = None) -> RemoteStore:
        store = MemoryStore({}, self._real_directories, page_size or 1000)
        for step in self._history:
            _replay(store, *step)
        self._stores.append(store)
        return store

    def _do(self, key: str, data: bytes | None) -> None:
        step = (key, data, time.time_ns())
        self._history.append(step)
        for store in self._stores:
            _replay(store, *step)

    def broken_store(self, how: Broken) -> RemoteStore | None:
        return failing(_ERRORS[how]("as asked"))


def _replay(store: MemoryStore, key: str, data: bytes | None, mtime_ns: int) -> None:
    if data is None:
        store.drop(key)
    else:
        store.seed(key, data, mtime_ns)


@contextmanager
def _running(real_directories: bool) -> Iterator[MakeTarget]:
    yield lambda name: MemoryTarget(real_directories)


TARGETS = (
    TargetFactory("memory", partial(_running, False), is_server=False),
    TargetFactory("memory-directories", partial(_running, True), is_server=False),
)
