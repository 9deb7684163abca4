"""Random changes here, random writes there, a remote that fails in every way: nothing is lost.

Every write is a token of its own. A token lives until the side that wrote it, or the other one
having seen it, takes it away. At the end, with the remote well, each living token is on the remote;
and where nobody else wrote, the remote is exactly what the user sees.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from mountd.errors import NotFound, Throttled, Unreachable, VersionChanged
from mountd.remotes.base import Body, Capabilities, Identity, RemoteStore, Upload
from mountd.sync.base import SyncJournal
from mountd.sync.conflict import is_base_gone
from mountd.sync.open_moves import OpenMoves
from mountd.sync.queue import SyncQueue
from mountd.types import Entry
from mountd_cache.journal import Journal
from tests.fakes.fault_store import FaultStore
from tests.fakes.local_tree import LocalTree
from tests.fakes.memory_journal import MemoryJournal, reopened
from tests.fakes.memory_store import MemoryStore
from tests.fakes.moving_store import MovingStore

EXAMPLES = int(os.environ.get("EXAMPLES", "60"))
FILES = ("a", "b", "c", "d", "d/x", "d/y")
TOKEN = 8  # bytes

_file = st.sampled_from([*FILES, "a", "b", "a"])
_fault = st.sampled_from(
    ["put", "put", "put", "write", "write", "copy", "identify", "read", "move_file"]
)
_kind = st.sampled_from(["before", "after", "after", "slow", "hang", "cut"])
LOCAL = [
    st.tuples(st.just("save"), _file),
    st.tuples(st.just("save"), _file),
    st.tuples(st.just("append"), _file),
    st.tuples(st.just("patch"), _file),
    st.tuples(st.just("unlink"), _file),
    st.tuples(st.just("rename"), _file, _file),
    st.tuples(st.just("rename"), _file, _file),
    st.tuples(st.just("swap"), _file, _file),
    st.tuples(st.just("mode"), _file),
    st.tuples(st.just("open"), _file),
    st.tuples(st.just("mkdir")),
    st.tuples(st.just("rmdir")),
]
WORLD = [
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.5, 1.5, 70.0])),
    st.tuples(st.just("drain")),
    st.tuples(st.just("kill")),
    st.tuples(st.just("release")),
    st.tuples(
        st.just("fault"), _fault, st.sampled_from(["before", "after", "slow", "hang", "cut"])
    ),
]
FOREIGN = [
    st.tuples(st.just("foreign"), st.sampled_from(["a", "b", "c"])),
    st.tuples(st.just("vanish"), st.sampled_from(["a", "b", "c"])),
    st.tuples(st.just("refresh")),
]


class Witness(MemoryStore):
    """Notes where somebody else's version was replaced or removed that we had never seen."""

    def __init__(
        self, real_directories: bool = False, enforces: bool = True, server_copy: bool = True
    ) -> None:
        super().__init__(
            real_directories=real_directories, enforces=enforces, server_copy=server_copy
        )
        self.theirs: set[str] = set()
        self.known: dict[str, set[str]] = {}
        self.violations: list[str] = []

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        made = super().put(key, body, expect, upload)
        self._check("put", key, expect)
        return made

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        made = super().copy(source, version, key, expect, upload)
        self._check("copy", key, expect)
        return made

    def delete(self, key: str, expect: str | None) -> None:
        super().delete(key, expect)
        self._check("delete", key, expect)

    def _check(self, call: str, key: str, expect: str | None) -> None:
        if expect is None or (expect in self.theirs and expect not in self.known.get(key, ())):
            self.violations.append(f"{call} {key} over {expect}")


class Moving(MovingStore, Witness):
    """Gives a file another name in one step, as a Nextcloud does."""

    def move_file(self, source: str, version: str, key: str) -> Entry:
        made = super().move_file(source, version, key)
        self._check("move_file", source, version)
        self.known.setdefault(key, set()).add(version)
        return made


class WithoutIds(Witness):
    """Keeps neither attributes nor upload ids, and tells no checksums."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, keeps_attributes=False)

    def identify(self, key: str) -> Identity:
        return replace(super().identify(key), upload_id="", md5="")


class Busy:
    """Counts the calls that are going on."""

    def __init__(self, store: RemoteStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self.active = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def call(*arguments: object) -> object:
            with self._counted():
                return found(*arguments)

        return call

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self.active += 1
        try:
            yield
        finally:
            with self._lock:
                self.active -= 1


@dataclass(eq=False)
class World:
    """The user, the remote and the daemon between them."""

    remote: Witness
    files: dict[str, bytes] = field(default_factory=dict)
    living: set[bytes] = field(default_factory=set)
    tokens: int = 0
    log: list[str] = field(default_factory=list)
    hangs: list[threading.Event] = field(default_factory=list)
    folder: Path | None = None  # of a real journal
    open_moves: OpenMoves = field(default_factory=OpenMoves)  # as the notes of it, after a kill

    def __post_init__(self) -> None:
        self.directories = {"d/"}
        if self.remote.capabilities.real_directories:
            self.remote.seed("d/")
        self.faults = FaultStore(self.remote)
        self.busy = Busy(self.faults)
        self.journal: SyncJournal = Journal.open(self.folder) if self.folder else MemoryJournal()

    def on_remote(self) -> dict[str, bytes]:
        """Files, by key."""
        keys = self.remote.keys()
        return {key: self.remote.data(key) for key in keys if not key.endswith("/")}

    def now(self) -> int:
        return int((1_800_000_000 + trio.current_time()) * 1e9)

    def boot(self) -> None:
        before = getattr(self, "tree", None)
        self.tree = LocalTree(self.journal, self.remote, self.now)
        if before is not None:
            self.tree.seen, self.tree.known = before.seen, before.known
        self.remote.known = self.tree.known
        self.queue = SyncQueue(
            self.journal,
            cast(RemoteStore, self.busy),
            self.tree,
            write_back_s=1.0,
            max_transfers=4,
            wall_clock=self.now,
            host="host",
            jitter=lambda: 0.5,
            open_moves=self.open_moves,
        )
        self.tree.wake = self.queue.wake

    def reopen(self) -> None:
        """As after SIGKILL."""
        if isinstance(self.journal, MemoryJournal):
            self.journal = reopened(self.journal)
        elif isinstance(self.journal, Journal) and self.folder is not None:
            self.journal.abandon()
            self.journal = Journal.open(self.folder)

    def token(self) -> bytes:
        self.tokens += 1
        made = b"%07d." % self.tokens
        self.living.add(made)
        return made

    def lose(self, data: bytes) -> None:
        """Somebody took this away who could see it."""
        self.living -= {data[i : i + TOKEN] for i in range(0, len(data), TOKEN)}

    # -- the user

    def save(self, key: str) -> None:
        if self._can_be(key):
            self.lose(self.files.get(key, b""))
            self.files[key] = self.token()
            self.tree.save(key, self.files[key])

    def append(self, key: str) -> None:
        if self._can_be(key):
            before, made = self.files.get(key, b""), self.token()
            self.files[key] = before + made
            self.tree.write(key, made, len(before))

    def patch(self, key: str) -> None:
        before = self.files.get(key, b"")
        if before:
            self.lose(before[:TOKEN])
            made = self.token()
            self.files[key] = made + before[TOKEN:]
            self.tree.write(key, made, 0)

    def unlink(self, key: str) -> None:
        if key in self.files:
            self.lose(self.files.pop(key))
            self.tree.unlink(key)

    def rename(self, key: str, to: str) -> None:
        if key in self.files and key != to and self._can_be(to):
            self.lose(self.files.get(to, b""))
            self.files[to] = self.files.pop(key)
            self.tree.rename(key, to)

    def swap(self, key: str, other: str) -> None:
        if {key, other} <= self.files.keys() and key != other:
            self.rename(key, "aside")
            self.rename(other, key)
            self.rename("aside", other)

    def mode(self, key: str) -> None:
        if key in self.files:
            self.tree.set_mode(key, str(self.tokens))

    def open(self, key: str) -> None:
        if key in self.files:
            self.tree.open_numbers ^= {self.tree.number(key)}

    def mkdir(self) -> None:
        if not self.directories and "d" not in self.files:
            self.directories.add("d/")
            self.tree.make_directory("d/")

    def rmdir(self) -> None:
        if self.directories and not {"d/x", "d/y"} & self.files.keys():
            self.directories.clear()
            self.tree.remove_directory("d/")

    def _can_be(self, key: str) -> bool:
        if key.startswith("d/"):
            return bool(self.directories)
        return key != "d" or not self.directories

    # -- the others

    def foreign(self, key: str) -> None:
        self._theirs_over(key)
        self.remote.theirs.add(self.remote.seed(key, self.token()))

    def vanish(self, key: str) -> None:
        if key in self.on_remote():
            self._theirs_over(key)
            self.remote.drop(key)

    def _theirs_over(self, key: str) -> None:
        self.lose(self.on_remote().get(key, b""))

    def refresh(self) -> None:
        self.tree.refresh()
        self.look()

    def look(self) -> None:
        """The user sees what the daemon shows, and what he sees he may take away."""
        keys = {*self.tree.seen, *self.journal.ledger.changes}
        self.files = {}
        for key in keys & {*FILES}:
            try:
                self.files[key] = self.tree.data(key)
            except KeyError:
                pass
            except (VersionChanged, NotFound):
                self.files[key] = b""
        # Not all of it can be read: the base may be gone.

    # -- the machinery

    def fault(self, operation: Any, kind: str, calls: Sequence[int] = (1,)) -> None:
        match kind:
            case "before":
                self.faults.add(operation, Unreachable("refused"), calls=calls)
            case "after":
                self.faults.add(operation, Unreachable("reset"), after_effect=True, calls=calls)
            case "slow":
                self.faults.add(operation, Throttled("slow down", 2.0), calls=calls)
            case "hang" | "cut":
                event = threading.Event()
                error = Unreachable("cut") if kind == "cut" else None
                self.faults.add(operation, error, hang=event, calls=calls)
                self.hangs.append(event)

    def release(self) -> None:
        for event in self.hangs:
            event.set()

    def let_threads_end(self) -> None:
        self.release()
        until_s = time.monotonic() + 60
        while self.busy.active:
            assert time.monotonic() < until_s
            time.sleep(0.0005)


async def act(world: World, steps: Sequence[Sequence[Any]], step: Callable[..., None]) -> None:
    """Runs the daemon, kills it and starts it again, until the steps are used up."""
    remaining = list(steps)
    while True:
        world.boot()
        async with trio.open_nursery() as nursery:
            await nursery.start(world.queue.run)
            killed = False
            while remaining and not killed:
                name, *arguments = remaining.pop(0)
                match name:
                    case "wait":
                        await trio.sleep(arguments[0])
                    case "hold":  # what is due is in flight from here on
                        world.fault("write", arguments[0], calls=range(1, 4))
                        await trio.sleep(1.5)
                    case "drain":
                        await world.queue.drain("", 5.0)
                    case "kill":
                        killed = True
                    case _:
                        step(name, *arguments)
            if not killed:
                world.faults.remove()
                world.release()
                left = await world.queue.drain()
                world.log.append(f"left {left}: {world.queue.items()}")
            nursery.cancel_scope.cancel()
        world.let_threads_end()
        if not killed:
            return
        world.reopen()


def run(world: World, steps: Sequence[Sequence[Any]], *, looks: bool) -> None:
    def step(name: str, *arguments: str) -> None:
        if looks:
            world.look()
        getattr(world, name)(*arguments)

    clock = MockClock(autojump_threshold=0.002)
    trio.run(act, world, steps, step, clock=clock)
    assert not world.remote.violations, world.remote.violations


def make(kind: str, folder: Path | None = None) -> World:
    if kind == "ids":
        return World(WithoutIds())
    if kind == "files":
        return World(Witness(real_directories=True, server_copy=False))
    if kind == "loose":
        return World(Witness(enforces=False))
    if kind == "moves":
        return World(Moving())
    if kind == "moved files":
        return World(Moving(real_directories=True))
    return World(Witness(), folder=folder)


_steps = st.lists(st.one_of(*LOCAL, *WORLD), max_size=40)
_foreign_steps = st.lists(st.one_of(*LOCAL, *WORLD, *FOREIGN), max_size=40)
_settings = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("kind", ["objects", "files", "ids", "moves", "moved files"])
@_settings
@given(steps=_steps)
def test_where_nobody_else_writes_the_remote_becomes_what_the_user_sees(
    kind: str, steps: Sequence[Sequence[Any]]
) -> None:
    world = make(kind)
    if kind == "ids":  # what a killed process has sent and the user then removes isn't recognised
        steps = [step for step in steps if step[0] != "kill"]
    run(world, steps, looks=False)
    assert world.on_remote() == world.files, world.log
    assert not [c for c in world.journal.ledger.changes.values() if not c.is_clean]
    if kind in ("files", "moved files"):
        assert ("d/" in list(world.remote.keys())) == bool(world.directories)


@settings(_settings, max_examples=EXAMPLES // 3)
@given(steps=_steps)
def test_with_the_real_journal_the_remote_becomes_what_the_user_sees(
    steps: Sequence[Sequence[Any]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = make("objects", Path(folder))
        run(world, steps, looks=False)
        assert world.on_remote() == world.files, world.log
        assert not [c for c in world.journal.ledger.changes.values() if not c.is_clean]
        assert not world.journal.ledger.contents
        assert isinstance(world.journal, Journal)
        world.journal.close()


@pytest.mark.parametrize("kind", ["objects", "moves"])
@_settings
@given(steps=_foreign_steps)
def test_with_others_writing_too_every_living_word_is_on_the_remote(
    kind: str, steps: Sequence[Sequence[Any]], expected_log: Any
) -> None:
    expected_log("conflict")
    expected_log("changed on the remote")
    world = make(kind)
    run(world, steps, looks=True)
    on_remote = b" ".join(world.on_remote().values())
    unsent = [c for c in world.journal.ledger.changes.values() if not c.is_clean]
    assert all(is_base_gone(change) for change in unsent), world.log
    kept = b""
    for change in unsent:
        content = world.journal.ledger.content_of(change)
        if content is not None:
            kept += b" ".join(
                world.journal.read_once(content.id, layer.number, start, end)
                for layer in content.layers
                for start, end in layer.extents
            )
    assert not {t for t in world.living if t not in on_remote and t not in kept}, world.log
