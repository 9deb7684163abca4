"""LISTs that nobody waits for, answered long after they were asked: whatever is renamed, made and
removed meanwhile, no name is missing and none is where it was before."""

import os
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mountd.kept.record import Record
from mountd.remotes import call
from mountd.types import Entry
from mountd.vfs.nodes import Directory
from tests.fakes.dict_blocks import until
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, mounted_files, walk
from tests.unit.test_kept_record import GREETING
from tests.unit.test_restoring import go_on, note
from tests.unit.test_writing import directory, make, rename

STEPS = 70
WAIT_S = 10.0
SENT_WITHIN_S = 60.0  # what has failed once is tried again after seconds
LONG_S = 0.2  # longer than any step that waits for nothing


class HeldAhead(MemoryStore):
    """What is listed ahead is as it was when it was asked for, and is answered when `release` says
    so."""

    def __init__(self, *, native_move: bool) -> None:
        super().__init__(native_move=native_move, real_directories=True, tree_versions=native_move)
        self.asked = threading.Semaphore(0)
        self.held: list[threading.Event] = []

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        try:
            pages = [*super().list(directory)]
        finally:
            if call.prefetching.get():
                self._hold()
        return iter(pages)

    def _hold(self) -> None:
        event = threading.Event()
        self.held.append(event)
        self.asked.release()
        assert event.wait(30)

    def release(self, which: int) -> None:
        self.held.pop(which).set()

    def release_all(self) -> None:
        while self.held:
            self.release(0)


class Work:
    """Steps at random on a mount, and what there should be: a directory's number, or a file's."""

    def __init__(self, store: HeldAhead, rng: random.Random) -> None:
        self.store = store
        self.rng = rng
        self.there: dict[str, int] = {}
        self.directories = {""}
        self.named = 0

    def new(self) -> str:
        self.named += 1
        top = self.rng.choice(sorted(self.directories))
        # Few names, so that one is soon another's.
        name = f"{'abc'[self.rng.randrange(3)]}{self.rng.randrange(3)}"
        return f"{top}/{name}" if top else name

    async def step(self, mount: MountedFiles) -> None:
        kinds = (self.make_file, self.make_directory, self.move, self.remove, self.answer)
        [do] = self.rng.choices((*kinds, self.ahead, self.send), (4, 4, 6, 2, 3, 8, 2))
        await self._do(do, mount)

    async def look(self, mount: MountedFiles) -> None:
        await self._do(self._look, mount)

    async def send_all(self, mount: MountedFiles) -> None:
        await self._do(self.send, mount)

    async def _do(self, do: Callable[[MountedFiles], Awaitable[None]], mount: MountedFiles) -> None:
        """Who waits for a LIST that is held gets it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer_all)
            await do(mount)
            nursery.cancel_scope.cancel()

    async def _answer_all(self) -> None:
        while True:
            await trio.sleep(LONG_S)
            self.store.release_all()

    async def ahead(self, mount: MountedFiles) -> None:
        path = self.rng.choice(sorted(self.directories))
        key = path + "/" if path else ""
        refreshes = mount.fs.tree.refreshes
        if len(self.store.held) > 8 or refreshes.is_listing(key):
            return
        refreshes.start(key, ahead=True)
        with trio.move_on_after(0.2):  # unless it is not asked for at all
            await trio.to_thread.run_sync(self.store.asked.acquire, True, 0.1)

    async def answer(self, mount: MountedFiles) -> None:
        if self.store.held:
            self.store.release(self.rng.randrange(len(self.store.held)))
            await trio.lowlevel.checkpoint()

    async def make_file(self, mount: MountedFiles) -> None:
        path = self.new()
        if path not in self.there:
            self.there[path] = await make(mount.fs, path, path.encode())

    async def make_directory(self, mount: MountedFiles) -> None:
        path = self.new()
        if path in self.there:
            return
        parent, _, name = path.rpartition("/")
        fs = mount.fs
        made = await fs.make_directory(await directory(fs, parent), name.encode(), {})
        self.there[path] = made.number
        self.directories.add(path)

    async def move(self, mount: MountedFiles) -> None:
        path, to = self.rng.choice(sorted(self.directories)), self.new()
        if not path or to in self.there or (to + "/").startswith(path + "/"):
            return
        await rename(mount.fs, path, to)
        self.there = {moved(at, path, to): number for at, number in self.there.items()}
        self.directories = {moved(at, path, to) for at in self.directories}

    async def remove(self, mount: MountedFiles) -> None:
        empty = [p for p in self.there if not any(o.startswith(p + "/") for o in self.there)]
        if not empty:
            return
        path = self.rng.choice(sorted(empty))
        parent, _, name = path.rpartition("/")
        above = await directory(mount.fs, parent)
        if path in self.directories:
            await mount.fs.remove_directory(above, name.encode())
        else:
            await mount.fs.unlink(above, name.encode())
        del self.there[path]
        self.directories.discard(path)

    async def send(self, mount: MountedFiles) -> None:
        queue = mount.queue
        assert queue is not None
        left = await queue.drain(timeout_s=SENT_WITHIN_S)
        assert left == 0, f"{queue.items()}, and {len(self.store.held)} LISTs are held"
        if self.rng.random() < 0.7:
            await mount.fs.folding.fold_waiting()

    async def _look(self, mount: MountedFiles) -> None:
        seen: dict[str, int] = {}
        for path in sorted(self.directories):
            node = await walk(mount.fs, path)
            assert isinstance(node, Directory)
            listing = (await mount.fs.read_directory(node)).listing
            for row in range(len(listing)):
                name = os.fsdecode(listing.name(row))
                seen[f"{path}/{name}" if path else name] = listing.ino(row)
        assert seen == self.there


def moved(path: str, old: str, new: str) -> str:
    return new + path[len(old) :] if path == old or path.startswith(old + "/") else path


@asynccontextmanager
async def mounted(store: HeldAhead, folder: Path) -> AsyncIterator[MountedFiles]:
    async with mounted_files(store, folder, queue=True, wait_s=WAIT_S) as mount:
        try:
            yield mount
        finally:
            store.release_all()


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("seed", range(4))
async def test_no_name_is_missing_or_at_its_old_place_after_lists_that_are_answered_late(
    tmp_path: Path, native: bool, seed: int
) -> None:
    store, rng = HeldAhead(native_move=native), random.Random(seed)
    work, record = Work(store, rng), Record(GREETING, b"")
    for life in range(3):
        async with mounted(store, tmp_path) as mount:
            if life:
                record, _ = go_on(mount, record)
            note(mount, record)
            await work.look(mount)
            for _ in range(STEPS):
                await work.step(mount)
                if rng.random() < 0.3:
                    await work.look(mount)
            await work.look(mount)
            mount.crashes = True
    async with mounted(store, tmp_path) as mount:
        go_on(mount, record)
        await work.send_all(mount)
        mount.fs.tree.expire_below("")
        await work.look(mount)
        files = {path for path in work.there if path not in work.directories}
        assert {key for key in store.keys() if key[-1:] != "/"} == files  # noqa: SIM118


async def test_a_list_that_was_asked_before_a_new_directory_arrived_does_not_deny_it(
    tmp_path: Path,
) -> None:
    store = HeldAhead(native_move=False)
    async with mounted(store, tmp_path) as mount:
        fs, queue = mount.fs, mount.queue
        assert queue is not None
        await fs.make_directory(fs.tree.root, b"d", {})
        refresh = fs.tree.refreshes.start("d/", ahead=True)
        assert await trio.to_thread.run_sync(store.asked.acquire, True, 30)
        assert await queue.drain() == 0
        await fs.folding.fold_waiting()
        assert "d/" not in mount.journal.ledger.changes, "nothing but the listing above tells of it"
        made: list[int] = []

        async def make_file() -> None:
            made.append(await make(fs, "d/f", b"bytes"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_file)
            await trio.testing.wait_all_tasks_blocked()
            store.release_all()
            assert await trio.to_thread.run_sync(store.asked.acquire, True, 30)  # asked again
            store.release_all()
        assert (await walk(fs, "d/f")).number == made[0]
        assert (await refresh.ended()).error is None


@pytest.mark.parametrize("native", [False, True])
async def test_a_list_that_was_asked_before_a_rename_leaves_nothing_at_the_old_name(
    tmp_path: Path, native: bool
) -> None:
    store = HeldAhead(native_move=native)
    async with mounted(store, tmp_path) as mount:
        fs, queue = mount.fs, mount.queue
        assert queue is not None
        await fs.make_directory(fs.tree.root, b"old", {})
        await fs.make_directory(await directory(fs, "old"), b"below", {})
        await make(fs, "old/below/f", b"bytes")
        assert await queue.drain() == 0
        await fs.folding.fold_waiting()
        mount.metadata.forget("old/below/")
        refresh = fs.tree.refreshes.start("old/below/", ahead=True)
        assert await trio.to_thread.run_sync(store.asked.acquire, True, 30)
        await rename(fs, "old", "new")
        store.release_all()
        await refresh.ended()
        assert mount.metadata.get("old/below/") is None
        await walk(fs, "new/below/f")


class Listed(MemoryStore):
    """`listed`: the directories that were asked for."""

    def __init__(self, *keys: str) -> None:
        super().__init__(dict.fromkeys(keys, b"x"), real_directories=True)
        self.listed: list[str] = []

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        self.listed.append(directory)
        return super().list(directory)


async def test_who_walks_has_nothing_listed_ahead_that_was_removed_or_renamed_here(
    tmp_path: Path,
) -> None:
    store = Listed(*(f"{name}/f" for name in "abcdefgh"))
    async with mounted_files(store, tmp_path) as mount:
        fs = mount.fs
        await fs.read_directory(fs.tree.root)
        await fs.unlink(await directory(fs, "e"), b"f")
        await fs.remove_directory(fs.tree.root, b"e")
        await rename(fs, "f", "z")
        store.listed.clear()
        for name in "abcd":
            await fs.read_directory(await directory(fs, name))
        await until(lambda: {"g/", "h/"} <= set(store.listed))  # it walks
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not {"e/", "f/"} & set(store.listed)
