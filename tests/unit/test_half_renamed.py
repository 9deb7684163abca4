"""Directories that were being renamed, or had been, as a daemon was killed: what the kernel holds
at and below them goes along in the next one."""

from pathlib import Path

import pytest

from mountd.fusefs.successor import SuccessorOperations
from mountd.kept.record import Record
from mountd.vfs.filesystem import FileSystem
from mountd.vfs.nodes import ROOT, Directory
from mountd.vfs.notes import NotedDirectory
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, content, mounted_files, names, walk
from tests.unit.test_kept_record import GREETING
from tests.unit.test_restoring import CONTEXT, go_on, note, read_by
from tests.unit.test_sent_again import error_of, successor_of


@pytest.mark.parametrize("native", [False, True])
async def test_what_was_made_in_a_renamed_directory_goes_along_in_a_successor_unasked(
    tmp_path: Path, native: bool
) -> None:
    """Its mode is in the journal for good, so it is found at its new place at once; the kept
    listing was at the old one, and the file in it ESTALE."""
    store, record = MemoryStore(native_move=native, real_directories=native), Record(GREETING, b"")
    store.seed("d/other", b"")
    async with mounted_files(store, tmp_path, queue=True) as mount:
        note(mount, record)
        fs = mount.fs
        d = await walk(fs, "d")
        assert isinstance(d, Directory)
        sub = await fs.make_directory(d, b"sub", {"mode": "0700"})
        handle, made = await fs.create(fs.tree.directory(sub.number), b"file", {})
        await fs.write(handle, 0, b"bytes")
        fs.release(handle)
        assert mount.queue is not None
        assert await mount.queue.drain() == 0
        await fs.folding.fold_waiting()
        assert list(mount.journal.ledger.changes) == ["d/sub/"]
        assert mount.metadata.flush(5)
        mount.crashes = True
    async with mounted_files(store, tmp_path, queue=True) as mount:
        go_on(mount, record)
        tree = mount.fs.tree
        await mount.fs.rename(tree.root, b"d", tree.root, b"e")
        assert tree.directory(sub.number).key == "e/sub/"
        assert await read_by(mount, made.number) == b"bytes"
        assert (await walk(mount.fs, "e/sub/file")).number == made.number


class Killed(BaseException):
    """The process ends there."""


class KilledAt(Record):
    """Ends the process instead of noting the nth directory from now on."""

    left = -1

    def holds(self, number: int, directory: NotedDirectory) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1
        super().holds(number, directory)


def noted_by(operations: SuccessorOperations) -> Record:
    assert isinstance(operations.notes, Record)
    return operations.notes


async def held_numbers(mount: MountedFiles) -> list[int]:
    return [(await walk(mount.fs, path)).number for path in PATHS]


PATHS = ("d", "d/sub", "d/sub/below", "d/sub/below/file", "d/sub/file")


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("point", [0, 1, 2, "before the listings"])
@pytest.mark.parametrize("is_sent_again", [False, True])
async def test_a_rename_that_only_the_journal_has_is_completed_by_a_successor(
    tmp_path: Path, native: bool, point: int | str, is_sent_again: bool
) -> None:
    """A new file in the directory below, which the kernel has by its number, went to the old name,
    and brought that back."""
    store = MemoryStore(native_move=native, real_directories=native)
    record: Record = (killed_at := KilledAt(GREETING, b""))
    store.seed("d/sub/below/file", b"below")
    store.seed("d/sub/file", b"bytes")
    async with mounted_files(store, tmp_path, queue=True) as mount:
        note(mount, record)
        fs = mount.fs
        before = await held_numbers(mount)
        handle = await fs.open(before[-1])
        assert mount.metadata.flush(5)
        if isinstance(point, int):
            killed_at.left = point
        else:
            fs.tree.former_moved = killed
        with pytest.raises(Killed):
            await fs.rename(fs.tree.root, b"d", fs.tree.root, b"e")
        if point == 1:
            assert mount.metadata.flush(5)
        mount.crashes = True
    for _ in range(2):  # and that one is killed, too
        async with mounted_files(store, tmp_path, queue=True) as mount:
            operations = successor_of(mount, record)
            fs, record = mount.fs, noted_by(operations)
            fs.files.next_handle = record.first_handle
            if is_sent_again:
                again = operations.rename(ROOT, b"d", ROOT, b"e", 0, CONTEXT)
                assert await error_of(again) == 0
            assert [fs.tree.directory(n).key for n in before[:3]] == [
                "e/",
                "e/sub/",
                "e/sub/below/",
            ]
            assert await read_by(mount, before[3]) == b"below"
            assert bytes(memoryview(await fs.read(handle, 0, 9))) == b"bytes"
            assert [(await walk(fs, "e" + path[1:])).number for path in PATHS] == before
            assert mount.metadata.flush(5)
            mount.crashes = True
    async with mounted_files(store, tmp_path, queue=True) as mount:
        successor_of(mount, record)
        fs = mount.fs
        made, _ = await fs.create(fs.tree.directory(before[1]), b"new", {})
        await fs.write(made, 0, b"new")
        fs.release(made)
        assert mount.queue is not None
        assert await mount.queue.drain() == 0
        assert await names(fs) == ["e"]
        assert await names(fs, "e/sub") == ["below", "file", "new"]
        assert await content(fs, "e/sub/new") == b"new"
        assert "d/sub/new" not in store.keys()  # noqa: SIM118


def killed(parent: Directory, old: str, new: str) -> None:
    raise Killed


@pytest.mark.parametrize("native", [False, True])
async def test_a_directory_that_was_removed_below_a_renamed_one_is_not_the_one_made_in_its_place(
    tmp_path: Path, native: bool
) -> None:
    """The kernel holds both; only the one that is there went along."""
    store, record = MemoryStore(native_move=native, real_directories=native), Record(GREETING, b"")
    store.seed("d/file", b"bytes")
    async with mounted_files(store, tmp_path, queue=True) as mount:
        note(mount, record)
        fs = mount.fs
        assert mount.queue is not None
        d = await walk(fs, "d")
        assert isinstance(d, Directory)
        removed, removed_below = await made_in(fs, d)
        await fs.remove_directory(fs.tree.directory(removed), b"below")
        await fs.remove_directory(d, b"sub")
        made, below = await made_in(fs, d)
        assert await mount.queue.drain() == 0
        await fs.folding.fold_waiting()
        assert not mount.journal.ledger.changes
        await fs.rename(fs.tree.root, b"d", fs.tree.root, b"e")
        if not native:
            assert await mount.queue.drain() == 0
        assert mount.metadata.flush(5)
        mount.crashes = True
    async with mounted_files(store, tmp_path, queue=True) as mount:
        go_on(mount, record)
        tree = mount.fs.tree
        for number in (removed, removed_below):
            assert tree.directory(number).number == number
        await mount.fs.rename(tree.root, b"e", tree.root, b"f")
        keys = [tree.directory(number).key for number in (made, below)]
        assert keys == ["f/sub/", "f/sub/below/"]
        handle, _ = await mount.fs.create(tree.directory(below), b"new", {})
        mount.fs.release(handle)
        assert "f/sub/below/new" in mount.journal.ledger.changes


async def made_in(fs: FileSystem, d: Directory) -> tuple[int, int]:
    sub = await fs.make_directory(d, b"sub", {})
    below = await fs.make_directory(fs.tree.directory(sub.number), b"below", {})
    return sub.number, below.number


@pytest.mark.parametrize("is_looked_up", [False, True])
async def test_a_directory_that_is_found_by_its_name_has_it_whatever_was_noted_last(
    tmp_path: Path, is_looked_up: bool
) -> None:
    """Others had removed it and made it again, and the listing with the new number was not on the
    disk yet as the daemon was killed: what was made in it after a rename went to the old name."""
    store, record = MemoryStore(), Record(GREETING, b"")
    store.seed("d/file", b"bytes")
    async with mounted_files(store, tmp_path) as mount:
        note(mount, record)
        d = await walk(mount.fs, "d")
        assert mount.metadata.flush(5)
        record.holds(mount.fs.names.new_number(), NotedDirectory(ROOT, "d/"))
        mount.crashes = True
    async with mounted_files(store, tmp_path) as mount:
        found, _ = go_on(mount, record)
        fs, tree = mount.fs, mount.fs.tree
        assert tree.directory(d.number).number == d.number
        if is_looked_up:
            assert (await walk(fs, "d")).number == d.number
        await fs.rename(tree.root, b"d", tree.root, b"e")
        assert tree.directory(d.number).key == found.directories()[d.number].key == "e/"


@pytest.mark.parametrize("native", [False, True])
async def test_a_removed_directory_with_others_below_it_does_not_take_the_name_of_its_successor(
    tmp_path: Path, native: bool
) -> None:
    """What was below the removed one was found first, and brought it back under the key that had
    just been left: after two renames new files went to the first one's name."""
    store, record = MemoryStore(native_move=native, real_directories=native), Record(GREETING, b"")
    store.seed("d/sub/file", b"")
    store.seed("e/file", b"bytes")
    async with mounted_files(store, tmp_path, queue=True) as mount:
        note(mount, record)
        fs, root = mount.fs, mount.fs.tree.root
        sub, d = await walk(fs, "d/sub"), await walk(fs, "d")
        assert isinstance(sub, Directory)
        assert isinstance(d, Directory)
        await fs.unlink(sub, b"file")
        await fs.remove_directory(d, b"sub")
        await fs.remove_directory(root, b"d")
        number = (await walk(fs, "e")).number
        if native:
            assert mount.queue is not None
            assert await mount.queue.drain() == 0
        await fs.rename(root, b"e", root, b"d")
        assert mount.metadata.flush(5)
        mount.crashes = True
    async with mounted_files(store, tmp_path) as mount:
        go_on(mount, record)
        fs, root = mount.fs, mount.fs.tree.root
        await fs.rename(root, b"d", root, b"f")
        await fs.rename(root, b"f", root, b"g")
        assert fs.tree.directory(number).key == "g/"
        handle, _ = await fs.create(fs.tree.directory(number), b"new", {})
        fs.release(handle)
        assert "g/new" in mount.journal.ledger.changes
