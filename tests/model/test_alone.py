"""Random use of the real file system by one user, with outages, lost answers, crashes and restarts:
it always is what a plain file system in memory is, and in the end the remote is, too.

MODEL_EXAMPLES=2000 MODEL_STEPS=60 make it a long run.
"""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mountd.vfs.names import LINK_SUFFIX, TARGET_MAX_BYTES
from tests.fakes.memory_store import MemoryStore
from tests.model.daemon import Daemon
from tests.model.reference import Directory, File, Link, Path
from tests.model.steps import ENDS, SETTINGS, events, happen, user_step
from tests.model.world import World

TIMES = (1_000_000_000, 1_700_000_000_123_456_789)

names = st.sampled_from("abc")
some_path = st.lists(names, min_size=1, max_size=3).map(tuple)
near_path = st.lists(names, min_size=1, max_size=2).map(tuple)


def _existing(kind: type) -> st.SearchStrategy[Path]:
    def of(machine: Any) -> st.SearchStrategy[Path]:
        found = [path for path, node in machine.world.model.walk() if isinstance(node, kind)]
        return st.sampled_from(found) if found else near_path

    return st.runner().flatmap(of)


files, directories, links = _existing(File), _existing(Directory), _existing(Link)
any_path = st.one_of(files, directories, links, some_path)
new_path = st.one_of(
    near_path, st.tuples(directories, names).map(lambda both: (*both[0], both[1])), any_path
)
sizes = st.sampled_from([1, 7, 100, 5000, 70_000])
offsets = st.sampled_from([0, 3, 4096, 65_536, 100_000])


def store_of(kind: str) -> MemoryStore:
    if kind in ("files", "trees"):
        is_tree = kind == "trees"
        return MemoryStore(real_directories=True, server_copy=False, tree_versions=is_tree)
    return MemoryStore(enforces=kind != "loose")


class Alone(RuleBasedStateMachine):
    """`kinds`: what the remote can be like."""

    kinds = ("objects", "files", "trees", "loose")

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        store = store_of(data.draw(st.sampled_from(self.kinds)))
        seeds = data.draw(st.lists(st.tuples(some_path, sizes), max_size=4))
        linked = data.draw(st.lists(st.booleans(), min_size=len(seeds), max_size=len(seeds)))
        self.looks = data.draw(st.booleans())
        self._tokens = 0
        seeded: dict[Path, tuple[bytes, bool]] = {}
        for (path, size), is_link in zip(seeds, linked, strict=True):
            if not any(path[: len(p)] == p or p[: len(path)] == path for p in seeded):
                is_link &= size <= TARGET_MAX_BYTES
                seeded[path] = self.bytes_of(size), is_link
                key = "/".join(path) + LINK_SUFFIX * is_link
                store.seed(key, seeded[path][0], 1_600_000_000_000_000_000)
        self.world = World(store)
        model = self.world.model
        for path, (seed, is_link) in seeded.items():
            for depth in range(1, len(path)):
                if path[depth - 1] not in model.parent(path[:depth]).entries:
                    model.make_directory(path[:depth])
            if is_link:
                model.make_link(path, seed)
            else:
                model.create(path).data[:] = seed

    def bytes_of(self, size: int) -> bytes:
        """That no other call gives, and without a zero."""
        self._tokens += 1
        token = b"%07d." % self._tokens
        return (token * (size // len(token) + 1))[:size]

    @property
    def daemon(self) -> Daemon:
        return self.world.daemon

    # -- the user

    @user_step(path=new_path, size=sizes, closes=st.booleans())
    def create(self, path: Path, size: int, closes: bool) -> None:
        handle = self.world.create(path, self.bytes_of(size))
        if closes and handle is not None:
            self.world.close_handle(handle)

    @user_step(path=files, offset=offsets, size=sizes)
    def patch(self, path: Path, offset: int, size: int) -> None:
        handle = self.world.open(path, writes=True)
        if handle is not None:
            self.world.write(handle, offset, self.bytes_of(size))
            self.world.close_handle(handle)

    @user_step(path=files, size=sizes)
    def append(self, path: Path, size: int) -> None:
        handle = self.world.open(path, writes=True)
        if handle is not None:
            self.world.write(handle, len(handle.file.data), self.bytes_of(size))
            self.world.close_handle(handle)

    @user_step(path=files, name=names, size=sizes)
    def save_by_rename(self, path: Path, name: str, size: int) -> None:
        beside = (*path[:-1], name)
        if beside != path and (handle := self.world.create(beside, self.bytes_of(size))):
            self.world.close_handle(handle)
            self.world.rename(beside, path)

    @user_step(path=new_path)
    def make_link(self, path: Path) -> None:
        self.world.make_link(path, self.bytes_of(20))

    @user_step(path=st.one_of(links, any_path))
    def read_link(self, path: Path) -> None:
        self.world.read_link(path)

    @user_step(path=st.one_of(files, links, any_path), name=names)
    def replace_by_link(self, path: Path, name: str) -> None:
        beside = (*path[:-1], name)
        self.world.make_link(beside, self.bytes_of(10))
        if beside != path and self.world.is_link(beside):
            self.world.rename(beside, path)

    @user_step(path=any_path, writes=st.booleans(), truncates=st.booleans())
    def open(self, path: Path, writes: bool, truncates: bool) -> None:
        self.world.open(path, writes=writes, truncates=writes and truncates)

    @user_step(which=st.integers(0, 5), offset=offsets, size=sizes)
    def write(self, which: int, offset: int, size: int) -> None:
        handles = [handle for handle in self.world.handles if handle.writes]
        if handles:
            self.world.write(handles[which % len(handles)], offset, self.bytes_of(size))

    @user_step(which=st.integers(0, 5), size=offsets)
    def truncate_open(self, which: int, size: int) -> None:
        handles = [handle for handle in self.world.handles if handle.writes]
        if handles:
            self.world.truncate_open(handles[which % len(handles)], size)

    @user_step(which=st.integers(0, 5), what=st.sampled_from(["read", "sync", "close", "close"]))
    def use(self, which: int, what: str) -> None:
        if not self.world.handles:
            return
        handle = self.world.handles[which % len(self.world.handles)]
        {"read": self.world.read, "sync": self.world.sync, "close": self.world.close_handle}[what](
            handle
        )

    @user_step(path=files, size=offsets)
    def truncate(self, path: Path, size: int) -> None:
        self.world.truncate(path, size)

    @user_step(path=any_path, mode=st.sampled_from([0o600, 0o755]))
    def set_mode(self, path: Path, mode: int) -> None:
        self.world.set_mode(path, mode)

    @user_step(path=any_path, mtime_ns=st.sampled_from(TIMES))
    def set_time(self, path: Path, mtime_ns: int) -> None:
        self.world.set_time(path, mtime_ns)

    @user_step(path=new_path)
    def make_directory(self, path: Path) -> None:
        self.world.make_directory(path)

    @user_step(path=any_path)
    def unlink(self, path: Path) -> None:
        self.world.unlink(path)

    @user_step(path=st.one_of(directories, any_path))
    def remove_directory(self, path: Path) -> None:
        self.world.remove_directory(path)

    @user_step(old=st.one_of(files, any_path), new=new_path, replaces=st.integers(0, 9))
    def rename(self, old: Path, new: Path, replaces: int) -> None:
        self.world.rename(old, new, replaces=bool(replaces))

    @user_step(old=directories, new=new_path)
    def rename_directory(self, old: Path, new: Path) -> None:
        self.world.rename(old, new)

    @rule(what=st.sampled_from(["look", "read", "forget"]))
    def kernel(self, what: str) -> None:
        world = self.world
        {
            "look": world.look,
            "read": world.read_all,
            "forget": world.forget,
        }[what]()

    # -- the daemon and the remote

    @rule(event=events)
    def happens(self, event: tuple[Any, ...]) -> None:
        happen(self.daemon, event)

    @rule(how=ENDS)
    def begins_anew(self, how: str) -> None:
        if how == "crash":
            self.world.crash()
        elif how == "restart":
            self.world.restart()

    # -- what holds

    @invariant()
    def agrees(self) -> None:
        if self.looks:
            self.world.look()
        self.world.daemon.check_log("listing ")

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.finish()
        finally:
            self.world.daemon.close()

    def finish(self) -> None:
        world = self.world
        world.finish()
        self.compare_with_remote()
        world.daemon.expire()
        world.look()
        world.read_all()
        world.crash()
        world.look()
        world.daemon.expire()
        world.look()
        world.read_all()
        world.nothing_stays()
        world.daemon.check_log("listing ")

    def compare_with_remote(self) -> None:
        store, model = self.world.memory, self.world.model
        there = {key for key in list(store.keys()) if not key.endswith("/")}
        wanted = {"/".join(path): file for path, file in model.files().items()}
        links = {"/".join(path) + LINK_SUFFIX: link for path, link in model.links().items()}
        assert there == wanted.keys() | links.keys()
        for key, link in links.items():
            assert store.data(key) == link.target
            kept_ns = store.stat(key).mtime_ns
            assert not store.capabilities.server_copy or link.mtime_ns in (None, kept_ns)
        for key, file in wanted.items():
            assert store.data(key) == file.data, key
            if not store.capabilities.server_copy:
                continue  # what is changed after the upload is kept here only
            assert file.mtime_ns is None or store.stat(key).mtime_ns == file.mtime_ns, key
            told = store.upload(key).attributes.get("mode")
            assert file.mode is None or int(told or "0") & 0o7777 == file.mode, key
        if store.capabilities.real_directories:
            kept = {key for key in list(store.keys()) if key.endswith("/")}
            assert kept == {
                "/".join(path) + "/" for path, node in model.walk() if isinstance(node, Directory)
            }


def test_one_user_sees_a_plain_file_system_whatever_happens_below() -> None:
    run_state_machine_as_test(Alone, settings=SETTINGS)
