"""A `RemoteStore` that wraps another and injects failures, for every suite.

    faults = FaultStore(MemoryStore(...))
    faults.add("read", Unreachable("cut"), key="*.bin", calls=[1, 3])
    faults.add("list", Throttled("slow down", 2.0), after_pages=1)
    stuck = faults.add("stat", hang=threading.Event())
    assert stuck.reached.wait(5)
    faults.add("put", Unreachable("reset"), after_effect=True)  # it took effect, the answer is lost

Every fault counts the calls that match it; several may apply to one call, in the order in which
they were added. The first that raises ends the call.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, TypeVar, get_args

from typing_extensions import Buffer

from mountd.errors import Unreachable
from mountd.remotes.base import Body, Capabilities, Identity, RemoteStore, Upload
from mountd.remotes.optional_doors import (
    move_dir_in,
    move_file_in,
    prepare_changes_in,
    remove_tree_in,
)
from mountd.types import Entry

# "write" is any of those that change something.
Reads = Literal["stat", "list", "read", "identify", "list_tree"]
Writes = Literal[
    "put",
    "put_delta",
    "delete",
    "copy",
    "make_dir",
    "remove_dir",
    "move_dir",
    "move_file",
    "remove_tree",
]
Operation = Reads | Writes | Literal["abandon", "write", "*"]
HANG_LIMIT_S = 30.0
_WRITES = frozenset(get_args(Writes))
_Answer = TypeVar("_Answer")


@dataclass(slots=True, eq=False)
class Fault:
    """What goes wrong, and when. `calls` counts from 1 among matching calls; None: all of them.

    In this order: it sleeps `delay_s`, waits for `hang`, and raises `error` before the wrapped
    store is asked, or with `after_effect` when that has done its work. For a listing the fault
    comes after `after_pages` pages. `reached` is set as soon as a call meets the fault; `hits`
    counts how often that was.
    """

    operation: Operation
    error: Exception | Callable[[], Exception] | None
    key: str
    calls: Collection[int] | None
    after_effect: bool
    after_pages: int
    hang: threading.Event | None
    delay_s: float
    hits: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    _matched: int = 0

    def meets(self, operation: str, key: str) -> bool:
        """Counts a call, and says whether this fault is for it."""
        wanted = self.operation in ("*", operation)
        wanted = wanted or (self.operation == "write" and operation in _WRITES)
        if not wanted or not fnmatchcase(key, self.key):
            return False
        self._matched += 1
        if self.calls is not None and self._matched not in self.calls:
            return False
        self.hits += 1
        return True


class FaultStore:
    """Thread-safe. `requests` lists (operation, key) of each call, as it came in; the key of a
    copy or a delta is the one that it makes."""

    def __init__(
        self,
        store: RemoteStore,
        *,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.requests: list[tuple[str, str]] = []
        self.closed = False
        self._store = store
        self._sleep = sleep
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._hanging: list[threading.Event] = []  # one for each call that waits

    @property
    def hanging(self) -> int:
        """How many calls hang until the test lets them go."""
        with self._lock:
            return sum(not hang.is_set() for hang in self._hanging)

    def add(
        self,
        operation: Operation = "*",
        error: Exception | Callable[[], Exception] | None = None,
        *,
        key: str = "*",
        calls: Collection[int] | None = None,
        after_effect: bool = False,
        after_pages: int = 0,
        hang: threading.Event | None = None,
        delay_s: float = 0.0,
    ) -> Fault:
        """From now on this goes wrong. `key` is a pattern as in fnmatch (`*` also takes `/`)."""
        fault = Fault(operation, error, key, calls, after_effect, after_pages, hang, delay_s)
        with self._lock:
            self._faults.append(fault)
        return fault

    def remove(self, *faults: Fault) -> None:
        """These no longer happen; without arguments: nothing goes wrong any more."""
        with self._lock:
            self._faults = [f for f in self._faults if faults and f not in faults]

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    def stat(self, key: str) -> Entry:
        return self._around("stat", key, lambda: self._store.stat(key))

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        return self._pages("list", directory, self._store.list)

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        return self._pages("list_tree", directory, self._store.list_tree)

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        return self._around("read", key, lambda: self._store.read(key, start, end, version))

    def identify(self, key: str) -> Identity:
        return self._around("identify", key, lambda: self._store.identify(key))

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        return self._around("put", key, lambda: self._store.put(key, body, expect, upload))

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
        return self._around(
            "put_delta",
            key,
            lambda: self._store.put_delta(key, body, expect, upload, source, version, same),
        )

    def prepare_changes(self) -> None:
        prepare_changes_in(self._store)

    def abandon(self, key: str, token: str) -> None:
        self._around("abandon", key, lambda: self._store.abandon(key, token))

    def delete(self, key: str, expect: str | None) -> None:
        self._around("delete", key, lambda: self._store.delete(key, expect))

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        return self._around(
            "copy", key, lambda: self._store.copy(source, version, key, expect, upload)
        )

    def make_dir(self, key: str) -> None:
        self._around("make_dir", key, lambda: self._store.make_dir(key))

    def remove_dir(self, key: str) -> None:
        self._around("remove_dir", key, lambda: self._store.remove_dir(key))

    def move_dir(self, source: str, key: str) -> None:
        self._around("move_dir", key, lambda: move_dir_in(self._store, source, key))

    def move_file(self, source: str, version: str, key: str) -> Entry:
        return self._around(
            "move_file", key, lambda: move_file_in(self._store, source, version, key)
        )

    def remove_tree(self, key: str, inside: Mapping[str, str]) -> None:
        self._around("remove_tree", key, lambda: remove_tree_in(self._store, key, inside))

    def close(self) -> None:
        self.closed = True
        self._store.close()

    def _around(self, operation: str, key: str, call: Callable[[], _Answer]) -> _Answer:
        met = self._met(operation, key)
        self._happen(met, after_effect=False)
        answer = call()
        self._happen(met, after_effect=True)
        return answer

    def _pages(
        self, operation: str, directory: str, call: Callable[[str], Iterator[_Answer]]
    ) -> Iterator[_Answer]:
        met = self._met(operation, directory)
        self._happen([f for f in met if f.after_pages == 0], after_effect=False)
        for count, page in enumerate(call(directory), start=1):
            yield page
            self._happen([f for f in met if f.after_pages == count], after_effect=False)
        self._happen(met, after_effect=True)

    def _met(self, operation: str, key: str) -> Sequence[Fault]:
        with self._lock:
            self.requests.append((operation, key))
            return [fault for fault in self._faults if fault.meets(operation, key)]

    def _happen(self, faults: Sequence[Fault], after_effect: bool) -> None:
        for fault in faults:
            if fault.after_effect is not after_effect:
                continue
            fault.reached.set()
            if fault.delay_s:
                self._sleep(fault.delay_s)
            if fault.hang is not None:
                self._hang(fault.hang)
            if isinstance(fault.error, Exception):
                raise fault.error
            if fault.error is not None:
                raise fault.error()

    def _hang(self, hang: threading.Event) -> None:
        with self._lock:
            self._hanging.append(hang)
        try:
            if not hang.wait(HANG_LIMIT_S):
                raise Unreachable(f"hung for {HANG_LIMIT_S} s (FaultStore)")
        finally:
            with self._lock:
                self._hanging.remove(hang)
