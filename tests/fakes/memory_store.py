"""A RemoteStore in memory: the reference for the contract suite and the remote of unit tests.

It counts its calls, fails on demand and blocks on demand, so that tests of other rooms need no
server and no patching.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mountd.errors import NameNotAllowed, NotFound, RemoteError, Unreachable, VersionChanged
from mountd.remotes.base import Capabilities
from mountd.types import Entry, Kind

GATE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    generation: int
    mtime_ns: int

    @property
    def version(self) -> str:
        return f"g{self.generation}"


class MemoryStore:
    """An object store (or, with `real_directories`, a file server) over a dictionary.

    A key that ends with a slash is a directory marker. With `real_directories` a `put` makes the
    parents too, they stay when they are empty, and one name is a file or a directory, not both.

    `calls` counts "stat", "list" (by listing, not by page) and "read". `gate`: while set to an
    Event that is not set, every call waits for it (at most 30 s, then Unreachable). Like the real
    stores, `list` does nothing before its first page is asked for.
    """

    def __init__(
        self,
        objects: Mapping[str, bytes] | None = None,
        real_directories: bool = False,
        page_size: int = 1000,
    ) -> None:
        self.calls: Counter[str] = Counter()
        self.gate: threading.Event | None = None
        self._capabilities = Capabilities(
            strong_version=True, conditional_read=True, real_directories=real_directories
        )
        self._page_size = page_size
        self._lock = threading.Lock()
        self._objects: dict[str, _Object] = {}
        self._directories: set[str] = {""}
        self._generation = 0
        self._failures: list[BaseException] = []
        self._always: BaseException | None = None
        for key, data in (objects or {}).items():
            self.put(key, data)

    # What a test does behind the daemon's back.

    def put(self, key: str, data: bytes = b"", mtime_ns: int | None = None) -> str:
        """Creates or replaces an object (or makes a directory, for `name/`); its new version."""
        with self._lock:
            self._check_name(key)
            self._generation += 1
            if self._capabilities.real_directories:
                self._directories.update(_parents(key))
            if key.endswith("/") and self._capabilities.real_directories:
                self._directories.add(key)
                return ""
            made = _Object(data, self._generation, time.time_ns() if mtime_ns is None else mtime_ns)
            self._objects[key] = made
            return made.version

    def remove(self, key: str) -> None:
        """Removes an object, or a marker or directory with its slash; KeyError if missing."""
        with self._lock:
            if key in self._objects:
                del self._objects[key]
            else:
                self._directories.remove(key)

    def fail_next(self, error: BaseException, n: int = 1) -> None:
        """The next `n` calls raise `error`, before `fail_always` is looked at."""
        with self._lock:
            self._failures.extend([error] * n)

    def fail_always(self, error: BaseException | None) -> None:
        """Every call raises `error`, until this is called with None."""
        with self._lock:
            self._always = error

    # RemoteStore

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def stat(self, key: str) -> Entry:
        self._begin("stat")
        name = key.removesuffix("/").rpartition("/")[2]
        with self._lock:
            if key == "" or key.endswith("/"):
                if key and not self._is_directory(key):
                    raise NotFound(key)
                return Entry(name, Kind.DIRECTORY, 0, 0, "")
            found = self._object(key)
        return Entry(name, Kind.FILE, len(found.data), found.mtime_ns, found.version)

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        self._begin("list")
        with self._lock:
            if self._capabilities.real_directories and directory not in self._directories:
                raise NotFound(directory)
            entries = self._entries(directory)
        for start in range(0, len(entries), self._page_size):
            yield entries[start : start + self._page_size]

    def read(self, key: str, start: int, end: int, version: str) -> bytes:
        self._begin("read")
        with self._lock:
            found = self._object(key)
        if (version and found.version != version) or end > len(found.data):
            raise VersionChanged(key)
        return found.data[start:end]

    def close(self) -> None:
        pass

    def _begin(self, call: str) -> None:
        self.calls[call] += 1
        gate = self.gate
        if gate is not None and not gate.wait(GATE_TIMEOUT_S):
            raise Unreachable(f"{call}: the test never opened the gate")
        with self._lock:
            error = self._failures.pop(0) if self._failures else self._always
        if error is not None:
            raise error

    def _object(self, key: str) -> _Object:
        try:
            return self._objects[key]
        except KeyError:
            raise NotFound(key) from None

    def _is_directory(self, key: str) -> bool:
        return key in self._directories or any(name.startswith(key) for name in self._objects)

    def _entries(self, directory: str) -> Sequence[Entry]:
        found: dict[tuple[str, Kind], Entry] = {}
        for key in (*self._directories, *self._objects):
            if not key.startswith(directory) or key == directory:
                continue
            name, slash, _ = key[len(directory) :].partition("/")
            if slash:
                found[name, Kind.DIRECTORY] = Entry(name, Kind.DIRECTORY, 0, 0, "")
            else:
                item = self._objects[key]
                entry = Entry(name, Kind.FILE, len(item.data), item.mtime_ns, item.version)
                found[name, Kind.FILE] = entry
        return list(found.values())

    def _check_name(self, key: str) -> None:
        if not self._capabilities.real_directories:
            return
        other = key.removesuffix("/") if key.endswith("/") else key + "/"
        taken = other in self._objects or other in self._directories
        if taken or any(parent.removesuffix("/") in self._objects for parent in _parents(key)):
            raise NameNotAllowed(key)


def _parents(key: str) -> set[str]:
    parts = key.removesuffix("/").split("/")[:-1]
    return {"/".join(parts[: n + 1]) + "/" for n in range(len(parts))}


def failing(error: RemoteError) -> MemoryStore:
    """A store that answers every call with `error`."""
    store = MemoryStore()
    store.fail_always(error)
    return store
