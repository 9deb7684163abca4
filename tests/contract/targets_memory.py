"""The in-memory store: as an object store and as a file server, bare and wrapped."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mountd.config import Settings
from mountd.errors import ContainerMissing, Denied, Unreachable
from mountd.remotes.base import RemoteStore
from mountd.remotes.stack import RemoteStack
from tests.contract.targets import Broken, Limit, MakeTarget, TargetFactory
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore, failing

_ERRORS = {
    Broken.WRONG_KEYS: Denied,
    Broken.MISSING_CONTAINER: ContainerMissing,
    Broken.DEAD_PORT: Unreachable,
}

MakeMemoryTarget = Callable[[MemoryStore], "MemoryTarget"]


class MemoryTarget:
    def __init__(self, memory: MemoryStore) -> None:
        self._memory = memory

    @property
    def limits(self) -> frozenset[Limit]:
        found: set[Limit] = set()
        if self._memory.capabilities.real_directories:
            found |= {Limit.NO_BOTH_FILE_AND_PREFIX, Limit.NO_DOT_SEGMENTS}
            found |= {Limit.EMPTY_DIRECTORIES_STAY}
        if not self._memory.capabilities.conditional_put:
            found |= {Limit.NO_CONDITIONAL_PUT, Limit.NO_CONDITIONAL_DELETE}
        return frozenset(found)

    def seed(self, objects: Mapping[str, bytes]) -> None:
        for key, data in objects.items():
            self._memory.seed(key, data)

    def overwrite(self, key: str, data: bytes) -> None:
        self._memory.seed(key, data)

    def remove(self, key: str) -> None:
        self._memory.drop(key)

    def store(self, page_size: int | None = None) -> RemoteStore:
        return self._memory.paged(page_size or 1000)

    def broken_store(self, how: Broken) -> RemoteStore | None:
        return failing(_ERRORS[how]("as asked"))


class FaultTarget(MemoryTarget):
    """Nothing goes wrong: the wrapper itself changes nothing."""

    def store(self, page_size: int | None = None) -> RemoteStore:
        return FaultStore(super().store(page_size))


class StackTarget(MemoryTarget):
    """All of the daemon's wrappers: nor do they."""

    def store(self, page_size: int | None = None) -> RemoteStore:
        settings = Settings(cache_dir=Path("/nonexistent"))
        return RemoteStack(super().store(page_size), settings).store


@contextmanager
def _running(make: MakeMemoryTarget, **kwargs: bool) -> Iterator[MakeTarget]:
    yield lambda name: make(MemoryStore({}, **kwargs))


def _factory(name: str, make: MakeMemoryTarget = MemoryTarget, **kwargs: bool) -> TargetFactory:
    return TargetFactory(name, lambda: _running(make, **kwargs), is_server=False)


TARGETS = (
    _factory("memory"),
    _factory("memory-directories", real_directories=True),
    _factory("memory-unconditional", enforces=False),
    _factory("memory-faults", FaultTarget),
    _factory("memory-stack", StackTarget),
)
