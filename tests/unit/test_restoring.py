"""What a successor answers for inodes that the former process gave out."""

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyfuse3
import pytest

from mountd.errors import NameNotAllowed, Stale
from mountd.fusefs.operations import ownership
from mountd.fusefs.successor import SuccessorOperations
from mountd.kept.record import Record
from mountd.vfs.half_renamed import completed
from mountd.vfs.listing_rows import FIRST_DERIVED, number_of
from mountd.vfs.nodes import Directory, Node
from mountd.vfs.notes import NotedListing
from mountd.vfs.restoring import Noted, restore
from mountd.vfs.virtual_files import VirtualFiles
from tests.conftest import ExpectedLog
from tests.fakes.fake_clock import FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, mounted_files, walk
from tests.unit.test_kept_record import GREETING

CONTEXT = pyfuse3.RequestContext.__new__(pyfuse3.RequestContext)


@dataclass
class Fields:
    """As pyfuse3.SetattrFields, of which nothing can be set."""

    update_mtime: bool = True
    update_ctime: bool = True
    update_atime: bool = False
    update_size: bool = False
    update_mode: bool = False
    update_uid: bool = False
    update_gid: bool = False


def note(mount: MountedFiles, record: Record) -> None:
    mount.fs.files.notes = mount.fs.tree.notes = mount.fs.tree.following.notes = record


async def made(mount: MountedFiles, name: bytes = b"file") -> int:
    """The inode of a file that was made, and that the kernel holds."""
    handle, found = await mount.fs.create(mount.fs.tree.root, name, {})
    await mount.fs.write(handle, 0, b"bytes")
    mount.fs.release(handle)
    return found.number


def go_on(mount: MountedFiles, record: Record) -> tuple[Record, SuccessorOperations]:
    found = Record.read(record.fd)
    noted = found.directories(), found.files(), found.contents()
    numbers = found.edited_numbers(), found.gone_numbers()
    restore(mount.fs, completed(mount.fs.tree, Noted(*noted, *numbers), found))
    note(mount, found)
    virtual = VirtualFiles(lambda: b"")
    made = SuccessorOperations(mount.fs, virtual, ownership(0, 0, 0o022), xattrs=True)
    made.notes = found
    return found, made


async def bring_times(operations: SuccessorOperations, number: int, **more: bool) -> int:
    """The errno of the kernel's request."""
    attributes = pyfuse3.EntryAttributes()
    attributes.st_mtime_ns = 1_700_000_000_000_000_000
    fields = cast(pyfuse3.SetattrFields, Fields(**more))
    try:
        await operations.setattr(number, attributes, fields, None, CONTEXT)
    except pyfuse3.FUSEError as error:
        return error.errno
    return 0


async def test_times_that_the_kernel_brings_late_for_a_removed_file_are_taken(
    tmp_path: Path,
) -> None:
    store, record = MemoryStore(), Record(GREETING, b"")
    async with mounted_files(store, tmp_path) as mount:
        note(mount, record)
        number = await made(mount)
        await mount.fs.unlink(mount.fs.tree.root, b"file")
        mount.crashes = True
    async with mounted_files(store, tmp_path) as mount:
        found, operations = go_on(mount, record)
        assert await bring_times(operations, number) == 0
        assert not mount.journal.ledger.by_number
        with pytest.raises(Stale):
            await mount.fs.open(number)
        # That is a program's, with a path that is to be looked up again.
        assert await bring_times(operations, number, update_atime=True) == errno.ESTALE
        assert await bring_times(operations, number, update_mode=True) == errno.ESTALE
        # Nobody said that the kernel owes anything of this one: its time would be lost.
        assert await bring_times(operations, number + 1) == errno.ESTALE
        mount.fs.tree.forget(number, 1)
        assert not Record.read(found.fd).is_late(number)


async def test_a_file_that_was_made_before_and_written_after_is_as_old_as_the_kernel_was_told(
    tmp_path: Path,
) -> None:
    store, record, wall = MemoryStore(), Record(GREETING, b""), FakeClock()
    async with mounted_files(store, tmp_path, clock=wall) as mount:
        note(mount, record)
        handle, made = await mount.fs.create(mount.fs.tree.root, b"file", {})
        mount.crashes = True
    wall.advance(5)
    async with mounted_files(store, tmp_path, clock=wall) as mount:
        found, operations = go_on(mount, record)
        operations.took_over(found.files())
        await operations.write(handle, 0, b"bytes")
        assert mount.fs.attributes(made.number).mtime_ns == 1005_000_000_000
        await operations.release(handle)
        assert mount.fs.attributes(made.number).mtime_ns == made.mtime_ns == 1000_000_000_000


async def test_times_of_a_file_that_the_successor_removes_itself_are_taken(tmp_path: Path) -> None:
    store, record = MemoryStore(), Record(GREETING, b"")
    async with mounted_files(store, tmp_path) as mount:
        note(mount, record)
        number = await made(mount)
        mount.crashes = True
    async with mounted_files(store, tmp_path) as mount:
        _, operations = go_on(mount, record)
        await mount.fs.unlink(mount.fs.tree.root, b"file")
        assert await bring_times(operations, number) == 0


async def test_times_of_a_file_that_is_there_are_its_own_also_behind_a_rename(
    tmp_path: Path,
) -> None:
    store, record = MemoryStore(), Record(GREETING, b"")
    async with mounted_files(store, tmp_path) as mount:
        note(mount, record)
        number = await made(mount)
        root = mount.fs.tree.root
        await mount.fs.rename(root, b"file", root, b"other")
        assert Record.read(record.fd).is_late(number)
        mount.crashes = True
    async with mounted_files(store, tmp_path) as mount:
        found, operations = go_on(mount, record)
        assert await bring_times(operations, number) == 0
        assert mount.fs.attributes(number).mtime_ns == 1_700_000_000_000_000_000
        assert not Record.read(found.fd).is_late(number)


async def test_times_of_a_renamed_file_whose_listing_is_known_no_more_are_taken(
    tmp_path: Path,
) -> None:
    store, record = MemoryStore(), Record(GREETING, b"")
    store.seed("d/file", b"bytes")
    async with mounted_files(store, tmp_path, queue=True) as mount:
        note(mount, record)
        fs = mount.fs
        node = await walk(fs, "d/file")
        directory = await walk(fs, "d")
        assert isinstance(directory, Directory)
        await fs.rename(directory, b"file", directory, b"other")
        assert mount.queue is not None
        assert await mount.queue.drain() == 0
        await fs.folding.fold_waiting()
        assert not mount.journal.ledger.by_number
        mount.metadata.forget("d/")
        assert mount.metadata.flush(5)
        mount.crashes = True
    async with mounted_files(store, tmp_path) as mount:
        _, operations = go_on(mount, record)
        assert await bring_times(operations, node.number) == 0
        assert await bring_times(operations, node.number, update_atime=True) == errno.ESTALE


async def test_a_file_is_noted_until_the_kernel_forgets_it(tmp_path: Path) -> None:
    record = Record(GREETING, b"")
    async with mounted_files(MemoryStore(), tmp_path) as mount:
        note(mount, record)
        numbers = [await made(mount, name) for name in (b"first", b"second")]
        for name in (b"first", b"second"):
            await mount.fs.unlink(mount.fs.tree.root, name)
        assert [Record.read(record.fd).is_late(number) for number in numbers] == [True, True]
        mount.fs.tree.forget(numbers[0], 1 << 32)
        assert [Record.read(record.fd).is_late(number) for number in numbers] == [False, True]


async def test_a_number_that_is_made_of_a_remote_identity_is_found_in_its_listing(
    tmp_path: Path,
) -> None:
    store, record = MemoryStore(identifies=True), Record(GREETING, b"")
    store.seed("d/file", b"bytes")
    async with mounted_files(store, tmp_path) as mount:
        note(mount, record)
        node = await walk(mount.fs, "d/file")
        handle = await mount.fs.open(node.number)
        assert node.number >= FIRST_DERIVED
        assert mount.metadata.flush(5)
        mount.crashes = True
    async with mounted_files(store, tmp_path) as mount:
        go_on(mount, record)
        assert bytes(await mount.fs.read(handle, 0, 9)) == b"bytes"
        again = await mount.fs.open(node.number)
        assert bytes(await mount.fs.read(again, 0, 9)) == b"bytes"
        now = await walk(mount.fs, "d/file")
        assert now.number == node.number


async def test_what_is_open_is_read_on_although_its_listing_was_not_on_the_disk_yet(
    tmp_path: Path,
) -> None:
    store, record = MemoryStore(), Record(GREETING, b"")
    store.seed("d/file", b"bytes")
    async with mounted_files(store, tmp_path) as mount:
        note(mount, record)
        node = await walk(mount.fs, "d/file")
        handle = await mount.fs.open(node.number)
        assert mount.metadata.flush(5)
        mount.crashes = True
    shutil.rmtree(tmp_path / "metadata" / "listings")
    async with mounted_files(store, tmp_path) as mount:
        go_on(mount, record)
        assert bytes(await mount.fs.read(handle, 0, 9)) == b"bytes"
        assert mount.fs.attributes(node.number).size == 5
        mount.fs.release(handle)


async def edited(mount: MountedFiles, record: Record) -> Node:
    """`d/file` of the remote, which programs have written to and closed, as `record` knows."""
    note(mount, record)
    node = await walk(mount.fs, "d/file")
    handle = await mount.fs.open(node.number, writes=True)
    await mount.fs.write(handle, 0, b"OTHER")
    mount.fs.release(handle)
    return node


async def test_what_such_a_number_stood_for_here_is_nothing_elses_after_a_crash(
    tmp_path: Path,
) -> None:
    store, record = MemoryStore(identifies=True), Record(GREETING, b"")
    store.seed("d/file", b"bytes")
    async with mounted_files(store, tmp_path) as mount:
        node = await edited(mount, record)
        assert Record.read(record.fd).edited_numbers() == {node.number}
    async with mounted_files(MemoryStore(), tmp_path / "other") as mount:
        assert not mount.fs.tree.following.is_taken(node.number)
        go_on(mount, record)
        assert mount.fs.tree.following.is_taken(node.number)


async def test_what_such_a_number_stood_for_is_noted_while_somebody_may_hold_it_and_no_longer(
    tmp_path: Path,
) -> None:
    store, record = MemoryStore(identifies=True), Record(GREETING, b"")
    store.seed("d/file", b"bytes")
    async with mounted_files(store, tmp_path) as mount:
        node = await edited(mount, record)
        following = mount.fs.tree.following
        mount.fs.tree.forget(node.number, node.lookups)
        assert Record.read(record.fd).edited_numbers() == frozenset()
        assert following.is_taken(node.number)  # the change has it
        await walk(mount.fs, "d/file")
        assert Record.read(record.fd).edited_numbers() == {node.number}
    async with mounted_files(MemoryStore(), tmp_path / "other") as mount:
        found, _ = go_on(mount, record)
        mount.fs.tree.forget(node.number, 1)  # the former process told more often of it
        assert mount.fs.tree.following.is_taken(node.number)
        assert found.edited_numbers() == {node.number}


async def test_a_successor_gives_no_new_numbers_to_what_others_have_made(tmp_path: Path) -> None:
    store, record = MemoryStore(identifies=True), Record(GREETING, b"")
    store.seed("d/file", b"bytes")
    async with mounted_files(store, tmp_path) as mount:
        note(mount, record)
        await walk(mount.fs, "d/file")
        assert mount.metadata.flush(5)
        mount.crashes = True
    for name in ("d/new", "e/new", "e/newer"):
        store.seed(name, b"bytes")
    async with mounted_files(store, tmp_path, ttl_s=0) as mount:
        go_on(mount, record)
        for name in ("e/new", "e/newer", "d/new", "d/file"):
            node = await walk(mount.fs, name)
            entry = store.stat(name)
            assert node.number == number_of(entry.identity, entry.version, 5)


class NothingGoes(MemoryStore):
    """Refuses every delete, so that what was renamed keeps its old name there."""

    def delete(self, key: str, expect: str | None) -> None:
        raise NameNotAllowed(f"delete {key}")


@pytest.mark.parametrize("native", [True, False])
async def test_what_a_former_process_held_below_a_directory_goes_along_when_that_is_renamed(
    tmp_path: Path, native: bool
) -> None:
    store, record = MemoryStore(native_move=native, real_directories=native), Record(GREETING, b"")
    store.seed("d/sub/below/file", b"bytes")
    store.seed("d/other", b"others")
    async with mounted_files(store, tmp_path) as mount:
        note(mount, record)
        tree = mount.fs.tree
        node = await walk(mount.fs, "d/sub/below/file")
        other = await walk(mount.fs, "d/other")
        assert isinstance(below := node.parent, Directory)
        assert isinstance(sub := below.parent, Directory)
        assert mount.metadata.flush(5)
        mount.crashes = True
    async with mounted_files(store, tmp_path) as mount:
        found, _ = go_on(mount, record)
        tree = mount.fs.tree
        await mount.fs.rename(tree.root, b"d", tree.root, b"e")
        # By the numbers that the kernel has: it looks no name up.
        assert tree.directory(sub.number).key == "e/sub/"
        assert tree.directory(below.number).key == "e/sub/below/"
        assert await read_by(mount, node.number) == b"bytes"
        assert await read_by(mount, other.number) == b"others"
        assert Record.read(found.fd).directories()[below.number].key == "e/sub/below/"


async def kept_from(
    mount: MountedFiles, record: Record, way: str
) -> tuple[Directory, Directory, Node]:
    """Two directories of which one after the other was `d`, and the kernel holds both: a program is
    still in the first. And the file in the second."""
    note(mount, record)
    fs, root = mount.fs, mount.fs.tree.root
    first = await walk(fs, "d")
    assert isinstance(first, Directory)
    if way == "made again":
        await fs.remove_directory(root, b"d")
        number = (await fs.make_directory(root, b"d", {})).number
    else:
        number = (await walk(fs, "e")).number
        await fs.rename(root, b"e", root, b"d")
    second = fs.tree.directory(number)
    handle, made = await fs.create(second, b"file", {})
    await fs.write(handle, 0, b"bytes")
    fs.release(handle)
    assert mount.metadata.flush(5)
    mount.crashes = True
    return first, second, fs.tree.file(made.number)


@pytest.mark.parametrize("way", ["made again", "replaced"])
@pytest.mark.parametrize("is_asked_for", ["never", "first", "last", "in both"])
async def test_a_directory_whose_name_another_has_now_does_not_stand_for_that_in_a_successor(
    tmp_path: Path, way: str, is_asked_for: str
) -> None:
    store, record = MemoryStore(real_directories=True), Record(GREETING, b"")
    store.make_dir("d/")
    store.make_dir("e/")
    async with mounted_files(store, tmp_path) as mount:
        first, second, file = await kept_from(mount, record, way)
    if is_asked_for == "in both":
        async with mounted_files(store, tmp_path) as mount:
            record, _ = go_on(mount, record)
            mount.fs.tree.directory(second.number)
            mount.fs.tree.directory(first.number)
            assert mount.metadata.flush(5)
            mount.crashes = True
    async with mounted_files(store, tmp_path) as mount:
        found, _ = go_on(mount, record)
        fs, tree = mount.fs, mount.fs.tree
        asked = {"first": [first, second], "last": [second, first], "in both": [first]}
        for directory in asked.get(is_asked_for, []):
            tree.directory(directory.number)
        await fs.rename(tree.root, b"d", tree.root, b"f")
        assert tree.directory(second.number).key == "f/"
        assert await read_by(mount, file.number) == b"bytes"
        assert found.directories()[second.number].key == "f/"
        handle, _ = await fs.create(tree.directory(second.number), b"new", {})
        fs.release(handle)
        assert "f/new" in mount.journal.ledger.changes


@pytest.mark.parametrize("native", [False, True])
async def test_a_directory_made_anew_where_a_former_process_held_another_is_renamed_itself(
    tmp_path: Path, native: bool
) -> None:
    """What was below the removed one was found in its stead, and the new one kept its old key."""
    store, record = MemoryStore(native_move=native, real_directories=native), Record(GREETING, b"")
    store.seed("d/sub/file", b"bytes")
    async with mounted_files(store, tmp_path) as mount:
        note(mount, record)
        node = await walk(mount.fs, "d/sub/file")
        sub = node.parent
        assert isinstance(sub, Directory)
        d = sub.parent
        assert isinstance(d, Directory)
        assert mount.metadata.flush(5)
        mount.crashes = True
    async with mounted_files(store, tmp_path) as mount:
        go_on(mount, record)
        tree, fs = mount.fs.tree, mount.fs
        await fs.unlink(tree.directory(sub.number), b"file")
        await fs.remove_directory(tree.directory(d.number), b"sub")
        await fs.remove_directory(tree.root, b"d")
        for number in (node.number, sub.number, d.number):
            tree.forget(number, 100)
        made = await fs.make_directory(tree.root, b"d", {})
        await fs.rename(tree.root, b"d", tree.root, b"e")
        assert tree.directory(made.number).key == "e/"


async def read_by(mount: MountedFiles, number: int) -> bytes:
    handle = await mount.fs.open(number)
    try:
        return bytes(await mount.fs.read(handle, 0, 100))
    finally:
        mount.fs.release(handle)


@pytest.mark.parametrize("is_noted_late", [False, True])
async def test_a_renamed_file_is_where_it_is_now_while_its_old_name_is_not_yet_removed(
    tmp_path: Path, expected_log: ExpectedLog, is_noted_late: bool
) -> None:
    """Both listings have its number then; in the old one it is hidden. Noted late: it was open, and
    the daemon was killed between sending it and noting that."""
    expected_log("was refused by the remote")
    store, record = NothingGoes(), Record(GREETING, b"")
    store.seed("a/file", b"bytes")
    store.seed("b/other", b"")
    async with mounted_files(store, tmp_path, queue=True) as mount:
        note(mount, record)
        fs = mount.fs
        node = await walk(fs, "a/file")
        await walk(fs, "b/other")
        old, new = await walk(fs, "a"), await walk(fs, "b")
        assert isinstance(old, Directory)
        assert isinstance(new, Directory)
        opened = await fs.open(node.number, writes=True)
        noted = record.files()[opened]
        await fs.rename(old, b"file", new, b"file")
        assert mount.queue is not None
        await mount.queue.drain()
        await fs.folding.fold_waiting()
        assert list(mount.journal.ledger.changes) == ["a/file"]
        assert not mount.journal.ledger.by_number
        assert mount.metadata.flush(5)
        if is_noted_late:
            record.described(opened, noted)
        else:
            fs.release(opened)
        mount.crashes = True
    async with mounted_files(store, tmp_path) as mount:
        go_on(mount, record)
        assert mount.fs.attributes(node.number).size == 5
        handle = opened
        if not is_noted_late:
            handle = await mount.fs.open(node.number, writes=True)
            assert bytes(await mount.fs.read(handle, 0, 9)) == b"bytes"
        await mount.fs.write(handle, 0, b"B")
        assert mount.journal.ledger.by_number[node.number].key == "b/file"


async def test_a_directory_that_was_open_can_be_synced(tmp_path: Path) -> None:
    store, record = MemoryStore(), Record(GREETING, b"")
    store.seed("d/file", b"bytes")
    async with mounted_files(store, tmp_path) as mount:
        note(mount, record)
        directory = await walk(mount.fs, "d")
        mount.crashes = True
    async with mounted_files(store, tmp_path) as mount:
        _, operations = go_on(mount, record)
        gone = NotedListing(directory.number + 1000, 1, 1)
        operations.former_listings = {7: NotedListing(directory.number, 1, 1), 8: gone}
        for handle in (7, 8):
            await operations.fsyncdir(handle, False)
