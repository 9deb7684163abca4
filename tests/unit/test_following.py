"""Where the remote says which file it is, what others move keeps its inode number."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from mountd.sync.queue import SyncQueue
from mountd.types import Entry, Kind
from mountd.vfs.filesystem import FileSystem
from mountd.vfs.listing_rows import FIRST_DERIVED, merged, number_of
from mountd_cache.listing import Listing
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import Clock, content, file_system, walk

OLD = {"from/f": b"one", "from/g": b"two", "to/h": b"three"}
LATER_S = 61.0


@asynccontextmanager
async def mounted(store: MemoryStore, folder: Path, clock: Clock) -> AsyncIterator[FileSystem]:
    async with file_system(store, folder, clock=clock, queue=True) as fs:
        yield fs


async def number(fs: FileSystem, path: str) -> int:
    return (await walk(fs, path)).number


async def write(fs: FileSystem, path: str, data: bytes) -> None:
    handle = await fs.open(await number(fs, path), writes=True, truncates=True)
    await fs.write(handle, 0, data)
    fs.release(handle)


async def test_a_file_that_others_move_keeps_its_number_and_one_they_change_does_not(
    tmp_path: Path,
) -> None:
    store, clock = MemoryStore(OLD, identifies=True), Clock()
    async with mounted(store, tmp_path, clock) as fs:
        moved, changed = await number(fs, "from/f"), await number(fs, "from/g")
        store.moved_by_others("from/f", "to/f")
        store.seed("from/g", b"other")
        clock.now_s += LATER_S
        assert await number(fs, "to/f") == moved
        assert await number(fs, "from/g") != changed
        assert await content(fs, "to/f") == b"one"


async def test_what_was_moved_while_nothing_was_mounted_keeps_its_number(tmp_path: Path) -> None:
    store, clock = MemoryStore(OLD, identifies=True), Clock()
    async with mounted(store, tmp_path / "a", clock) as fs:
        moved = await number(fs, "from/f")
    store.moved_by_others("from/f", "to/f")
    clock.now_s += LATER_S
    async with mounted(store, tmp_path / "a", clock) as fs:
        assert await number(fs, "to/f") == moved
    async with mounted(store, tmp_path / "another cache", clock) as fs:
        assert await number(fs, "to/f") == moved


async def test_until_the_old_listing_is_read_again_one_file_is_at_two_names(tmp_path: Path) -> None:
    store, clock = MemoryStore(OLD, identifies=True), Clock()
    async with mounted(store, tmp_path, clock) as fs:
        await walk(fs, "to/h")
        clock.now_s += LATER_S / 2
        moved = await number(fs, "from/f")
        store.moved_by_others("from/f", "to/f")
        clock.now_s += LATER_S / 2 + 1  # `to` is old by now, `from` is not
        assert await number(fs, "to/f") == moved
        assert await number(fs, "from/f") == moved
        # The newer listing says where it is: what is read through either name comes from there.
        assert fs.files.remote_file_of(await walk(fs, "from/f")).key == "to/f"
        assert await content(fs, "from/f") == b"one"


async def test_an_open_file_that_others_move_is_read_on_at_its_new_place(tmp_path: Path) -> None:
    store, clock = MemoryStore({"a/f": bytes(1 << 20), "b/g": b""}, identifies=True), Clock()
    async with mounted(store, tmp_path, clock) as fs:
        await walk(fs, "b/g")
        handle = await fs.open(await number(fs, "a/f"))
        store.moved_by_others("a/f", "b/f")
        clock.now_s += LATER_S
        await walk(fs, "b/f")
        assert await fs.read(handle, 1 << 19, 100) == bytes(100)
        fs.release(handle)


async def test_a_file_that_is_changed_here_while_others_move_it_is_two_files(
    tmp_path: Path,
) -> None:
    store, clock = MemoryStore(OLD, identifies=True), Clock()
    async with mounted(store, tmp_path, clock) as fs:
        ours = await number(fs, "from/f")
        await write(fs, "from/f", b"edited here")
        store.moved_by_others("from/f", "to/f")
        clock.now_s += LATER_S
        theirs = await number(fs, "to/f")
        assert theirs != ours == await number(fs, "from/f")
        assert await content(fs, "to/f") == b"one"
        assert fs.attributes(ours).size == len(b"edited here")


async def test_an_edit_that_begins_when_both_names_are_known_is_not_seen_at_the_other(
    tmp_path: Path,
) -> None:
    store, clock = MemoryStore(OLD, identifies=True), Clock()
    async with mounted(store, tmp_path, clock) as fs:
        await walk(fs, "to/h")
        clock.now_s += LATER_S / 2
        both = await number(fs, "from/f")
        store.moved_by_others("from/f", "to/f")
        clock.now_s += LATER_S / 2 + 1
        assert await number(fs, "to/f") == both
        await write(fs, "to/f", b"edited here")
        old = await number(fs, "from/f")
        assert old != both == await number(fs, "to/f")
        assert fs.attributes(old).size == len(b"one")
        assert old == await number(fs, "from/f")  # and stays this one


async def test_an_old_name_that_is_removed_takes_nothing_from_the_new_one(tmp_path: Path) -> None:
    store, clock = MemoryStore(OLD, identifies=True), Clock()
    async with mounted(store, tmp_path, clock) as fs:
        await walk(fs, "to/h")
        clock.now_s += LATER_S / 2
        await walk(fs, "from/f")
        store.moved_by_others("from/f", "to/f")
        clock.now_s += LATER_S / 2 + 1
        node = await walk(fs, "to/f")
        parent = fs.tree.directory(await number(fs, "from"))
        await fs.unlink(parent, b"f")
        assert not node.is_nameless
        assert await content(fs, "to/f") == b"one"


async def test_the_number_of_what_was_written_here_is_not_given_to_an_older_version(
    tmp_path: Path,
) -> None:
    store, clock = MemoryStore(OLD, identifies=True), Clock()
    old = store.stat("from/f").version
    async with mounted(store, tmp_path, clock) as fs:
        ours = await number(fs, "from/f")
        assert ours == number_of(store.stat("from/f").identity, old, 3)
        await write(fs, "from/f", b"two")
        assert isinstance(fs.writes.queue, SyncQueue)
        assert not await fs.writes.queue.drain("", 10.0)
        await fs.folding.fold_waiting()
        assert await number(fs, "from/f") == ours  # our own upload never changes it
        store.restored_by_others("from/f", old, b"one")
        clock.now_s += LATER_S
        assert await number(fs, "from/f") != ours
        assert await content(fs, "from/f") == b"one"


async def test_our_own_rename_keeps_the_number_while_it_is_on_its_way_and_later(
    tmp_path: Path,
) -> None:
    store, clock = MemoryStore(OLD, identifies=True), Clock()
    async with mounted(store, tmp_path, clock) as fs:
        ours = await number(fs, "from/f")
        source, target = await walk(fs, "from"), await walk(fs, "to")
        parents = fs.tree.directory(source.number), fs.tree.directory(target.number)
        await fs.rename(parents[0], b"f", parents[1], b"f")
        clock.now_s += LATER_S
        assert await number(fs, "to/f") == ours
        assert isinstance(fs.writes.queue, SyncQueue)
        assert not await fs.writes.queue.drain("", 10.0)
        await fs.folding.fold_waiting()
        clock.now_s += LATER_S
        assert await number(fs, "to/f") == ours


def entries(*which: tuple[str, str]) -> Sequence[Entry]:
    return [Entry(name, Kind.FILE, 3, 0, "v", identity=identity) for name, identity in which]


def numbers(listing: Listing) -> list[int]:
    return [listing.ino(row) for row in range(len(listing))]


def test_two_rows_of_one_listing_never_have_one_number() -> None:
    made = numbers(merged(entries(("a", "7"), ("b", "7")), None, lambda count: 100, False))
    assert made == [number_of("7", "v", 3), 100]
    old = merged(entries(("a", "7")), None, lambda count: 0, False)
    both = merged(entries(("a", "7"), ("b", "7")), old, lambda count: 100, False)
    assert numbers(both) == [number_of("7", "v", 3), 100]
    renamed = merged(entries(("b", "7")), old, lambda count: 100, False)
    assert numbers(renamed) == numbers(old)


def test_a_number_that_stands_for_something_else_is_not_given() -> None:
    made = merged(entries(("a", "7")), None, lambda count: 100, False, is_taken=lambda n: True)
    assert numbers(made) == [100]


async def test_two_files_that_make_one_number_get_two(tmp_path: Path) -> None:
    store, clock = MemoryStore(OLD, identifies=True), Clock()
    async with mounted(store, tmp_path, clock) as fs:
        first = await number(fs, "from/f")
        await walk(fs, "to/h")
        cached = fs.tree.cache.get("to/")
        assert cached is not None
        collided = cached.listing.renumbered(0, first)  # as if the hash were that
        fs.tree.cache.put("to/", collided, cached.fetched_at)
        assert await number(fs, "to/h") not in (first, 0)
        assert await number(fs, "to/h") < FIRST_DERIVED
        assert await content(fs, "to/h") == b"three"
        assert await content(fs, "from/f") == b"one"
