"""One request proves a whole tree fresh, where directories' versions tell of what is below them."""

import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from mountd.errors import Unreachable
from mountd.vfs.nodes import Directory
from tests.conftest import ExpectedLog
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import Clock, MountedFiles, content, mounted_files, names, walk
from tests.fakes.time_is_up import when_time_is_up
from tests.unit.test_folding import drained

TTL_S = 10.0
DIRECTORIES = ["", "a", "a/b", "a/b/c", "d", "d/e"]


def tree() -> MemoryStore:
    store = MemoryStore(real_directories=True, tree_versions=True)
    for directory in DIRECTORIES:
        store.seed(f"{directory}/f".lstrip("/"), directory.encode())
    return store


class World:
    """A mounted tree whose clock moves when told to, and the calls that it costs."""

    def __init__(self, store: MemoryStore, clock: Clock, mounted: MountedFiles) -> None:
        self.store = store
        self.clock = clock
        self.mounted = mounted
        self.listed: list[str] = []

    async def walk(self) -> dict[str, list[str]]:
        """As `ls -R`: what is in each directory."""
        found: dict[str, list[str]] = {}
        waiting = [""]
        while waiting:
            directory = waiting.pop(0)
            found[directory] = await names(self.mounted.fs, directory)
            node = await walk(self.mounted.fs, directory)
            assert isinstance(node, Directory)
            listing = (await self.mounted.fs.tree.listing(node)).listing
            for row in range(len(listing)):
                if listing.is_dir(row):
                    waiting.append(f"{directory}/{listing.name(row).decode()}".lstrip("/"))
        return found

    async def cost(self, calls: Callable[[], object]) -> dict[str, int]:
        """What the remote was asked for in a walk after `calls` and the TTL."""
        calls()
        self.clock.now_s += TTL_S + 1
        self.store.calls.clear()
        await self.walk()
        return dict(self.store.calls)


@asynccontextmanager
async def walked(store: MemoryStore, folder: Path) -> AsyncIterator[World]:
    """A mount in which everything was looked at once."""
    clock = Clock()
    async with mounted_files(store, folder, ttl_s=TTL_S, clock=clock) as mounted:
        world = World(store, clock, mounted)
        await world.walk()
        yield world


async def _until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not is_so():  # noqa: ASYNC110 (what a worker thread does)
            await trio.sleep(0.001)


def nothing() -> None:
    pass


async def test_one_request_proves_a_tree_in_which_nothing_changed(tmp_path: Path) -> None:
    async with walked(tree(), tmp_path) as world:
        for _ in range(3):
            assert await world.cost(nothing) == {"stat": 1}
        world.store.calls.clear()
        await world.walk()
        assert world.store.calls == Counter()


async def test_many_who_come_at_once_share_that_request(tmp_path: Path) -> None:
    async with walked(tree(), tmp_path) as world:
        nodes = [await walk(world.mounted.fs, path) for path in DIRECTORIES]
        world.clock.now_s += TTL_S + 1
        world.store.calls.clear()
        async with trio.open_nursery() as nursery:
            for node in nodes:
                assert isinstance(node, Directory)
                nursery.start_soon(world.mounted.fs.tree.listing, node)
        assert world.store.calls == {"stat": 1}


async def test_a_change_deep_below_lists_its_branch_only(tmp_path: Path) -> None:
    async with walked(tree(), tmp_path) as world:
        # The root, a, a/b and a/b/c.
        assert await world.cost(lambda: world.store.seed("a/b/c/new")) == {"stat": 1, "list": 4}
        assert await names(world.mounted.fs, "a/b/c") == ["f", "new"]
        assert await world.cost(nothing) == {"stat": 1}


async def test_a_directory_that_does_not_tell_is_listed_by_its_ttl(tmp_path: Path) -> None:
    store = tree()
    store.apart = ("d/",)
    async with walked(store, tmp_path) as world:
        assert await world.cost(lambda: store.seed("d/e/new")) == {"stat": 1, "list": 2}
        assert await names(world.mounted.fs, "d/e") == ["f", "new"]


async def test_a_restart_keeps_what_proves_the_tree(tmp_path: Path) -> None:
    store = tree()
    async with walked(store, tmp_path):
        pass
    clock = Clock(1_800_000_000.0 + TTL_S + 1)
    async with mounted_files(store, tmp_path, ttl_s=TTL_S, clock=clock) as mounted:
        store.calls.clear()
        await World(store, clock, mounted).walk()
        assert store.calls == {"stat": 1}


async def test_what_comes_between_the_look_and_the_listing_is_seen(tmp_path: Path) -> None:
    """The listing of the root is newer than its token: it is listed once more, never too seldom."""
    store = tree()
    async with walked(store, tmp_path) as world:
        list_now = store.list

        def between(directory: str) -> object:
            if directory == "a/":
                store.seed("a/late")
                store.seed("d/late")
                store.list = list_now  # type: ignore[method-assign]
            return list_now(directory)

        store.list = between  # type: ignore[assignment, method-assign]
        await world.cost(lambda: store.seed("a/early"))
        cost = await world.cost(nothing)
        assert cost["list"] <= 3
        assert await names(world.mounted.fs, "a") == ["b", "early", "f", "late"]
        assert await names(world.mounted.fs, "d") == ["e", "f", "late"]
        assert await world.cost(nothing) == {"stat": 1}


async def test_our_own_upload_costs_one_listing_of_its_branch(tmp_path: Path) -> None:
    store = tree()
    clock = Clock()
    async with mounted_files(store, tmp_path, ttl_s=TTL_S, clock=clock, queue=True) as mounted:
        world = World(store, clock, mounted)
        await world.walk()
        directory = await walk(mounted.fs, "d/e")
        assert isinstance(directory, Directory)
        fh, _ = await mounted.fs.create(directory, b"ours", {})
        await mounted.fs.write(fh, 0, b"x")
        mounted.fs.release(fh)
        assert mounted.queue is not None
        with trio.fail_after(10):
            await mounted.queue.drain()
            await mounted.fs.folding.fold_waiting()
        number = (await walk(mounted.fs, "d/e/ours")).number
        assert await world.cost(nothing) == {"stat": 1, "list": 3}
        assert await world.cost(nothing) == {"stat": 1}
        assert (await walk(mounted.fs, "d/e/ours")).number == number


async def test_what_is_asked_for_anew_is_listed_whatever_its_token_says(tmp_path: Path) -> None:
    async with walked(tree(), tmp_path) as world:
        world.store.calls.clear()
        world.mounted.fs.tree.expire("a/b/")
        await world.walk()
        assert world.store.calls == {"list": 1}
        world.store.calls.clear()
        world.mounted.fs.tree.expire_below("")
        await world.walk()
        assert world.store.calls == {"stat": 1, "list": len(DIRECTORIES)}
        assert await world.cost(nothing) == {"stat": 1}


async def test_a_push_makes_the_next_access_ask_once(tmp_path: Path) -> None:
    async with walked(tree(), tmp_path) as world:
        world.clock.now_s += 1
        world.store.seed("d/e/new")
        world.store.calls.clear()
        world.mounted.fs.tree.changed_elsewhere()
        world.clock.now_s += 0.1
        found = await world.walk()
        assert found["d/e"] == ["f", "new"]
        assert world.store.calls == {"stat": 1, "list": 3}
        world.store.calls.clear()
        await world.walk()
        assert world.store.calls == Counter()


async def test_a_push_during_a_request_makes_its_answer_old(tmp_path: Path) -> None:
    """What was pushed may have happened after the remote had looked."""
    async with walked(tree(), tmp_path) as world:
        fs, store = world.mounted.fs, world.store
        world.clock.now_s += TTL_S + 1
        store.gate = threading.Event()
        store.calls.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(names, fs, "d")
            await _until(lambda: store.calls["stat"] > 0)
            world.clock.now_s += 0.1
            fs.tree.changed_elsewhere()
            store.gate.set()
        store.gate = None
        store.seed("d/new")
        world.clock.now_s += 0.1
        assert await names(fs, "d") == ["e", "f", "new"]


async def test_a_refresh_while_the_root_is_asked_lists(tmp_path: Path) -> None:
    async with walked(tree(), tmp_path) as world:
        fs, store = world.mounted.fs, world.store
        world.clock.now_s += TTL_S + 1
        store.gate = threading.Event()
        store.calls.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(names, fs, "d")
            await _until(lambda: store.calls["stat"] > 0)
            fs.tree.expire("d/")
            store.gate.set()
        assert store.calls == {"stat": 1, "list": 1}


async def test_a_remote_that_is_not_well_is_asked_behind_the_old_answer(tmp_path: Path) -> None:
    store, clock, wells = tree(), Clock(), [True]
    async with mounted_files(
        store, tmp_path, ttl_s=TTL_S, clock=clock, remote_is_well=lambda: wells[0]
    ) as mounted:
        await World(store, clock, mounted).walk()
        wells[0] = False
        clock.now_s += TTL_S + 1
        store.gate = threading.Event()
        store.calls.clear()
        assert await names(mounted.fs, "d/e") == ["f"]
        store.gate.set()
        await _until(lambda: not mounted.fs.tree.refreshes.is_listing("d/e/"))
        assert store.calls == {"stat": 1}


async def test_an_unreachable_remote_deletes_nothing(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("listing '' failed")
    async with walked(tree(), tmp_path) as world:
        before = await world.walk()
        world.store.fail_always(Unreachable("cut"))
        cost = await world.cost(nothing)
        assert "list" not in cost
        assert await world.walk() == before
        world.store.fail_always(None)
        assert await world.cost(nothing) == {"stat": 1}


async def test_a_directory_that_was_removed_elsewhere_is_gone(tmp_path: Path) -> None:
    async with walked(tree(), tmp_path) as world:
        for key in ("d/e/f", "d/e/"):
            world.store.drop(key)
        await world.cost(nothing)
        assert "d/e" not in await world.walk()


async def test_a_slow_answer_does_not_hold_an_access_longer_than_it_may(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    store, clock = tree(), Clock()
    async with mounted_files(store, tmp_path, ttl_s=TTL_S, wait_s=10.0, clock=clock) as mounted:
        await World(store, clock, mounted).walk()
        clock.now_s += TTL_S + 1
        store.gate = threading.Event()
        try:
            asked = partial(names, mounted.fs, "a/b")
            assert await when_time_is_up(mock_clock, 10.0, asked) == ["c", "f"]
        finally:
            store.gate.set()


async def test_a_directory_that_only_waits_here_goes_when_nothing_waits(tmp_path: Path) -> None:
    """A listing with a directory in it that the remote doesn't have proves nothing."""
    async with walked(tree(), tmp_path) as world:
        fs = world.mounted.fs
        directory = await walk(fs, "d/e")
        assert isinstance(directory, Directory)
        fh, _ = await fs.create(directory, b"ours", {})
        fs.release(fh)
        for key in ("d/e/f", "d/e/"):
            world.store.drop(key)
        await world.cost(nothing)
        assert await names(fs, "d") == ["e", "f"]
        await fs.unlink(directory, b"ours")
        await world.cost(nothing)
        assert await names(fs, "d") == ["f"]


async def test_contents_changed_elsewhere_are_read_anew(tmp_path: Path) -> None:
    async with walked(tree(), tmp_path) as world:
        assert await content(world.mounted.fs, "a/b/f") == b"a/b"
        await world.cost(lambda: world.store.seed("a/b/f", b"foreign"))
        assert await content(world.mounted.fs, "a/b/f") == b"foreign"


async def test_what_others_put_where_ours_never_was_is_not_hidden_by_a_proof(
    tmp_path: Path,
) -> None:
    """It is listed while the removal of ours waits, which then turns out to be nothing to send."""
    clock = Clock()
    store = MemoryStore({"f": b"1"}, real_directories=True, tree_versions=True)
    async with mounted_files(store, tmp_path, queue=True, clock=clock) as mounted:
        fs = mounted.fs
        assert await names(fs) == ["f"]
        fh, _ = await fs.create(fs.tree.root, b"x", {})
        fs.release(fh)
        await fs.unlink(fs.tree.root, b"x")
        store.seed("x", b"theirs")
        fs.tree.expire("")
        assert await names(fs) == ["f"]
        await drained(mounted)
        await fs.folding.fold_waiting()
        clock.now_s += 61.0
        assert await names(fs) == ["f", "x"]
