"""What a successor answers to requests that the dead daemon had in hand."""

import errno
import os
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyfuse3
import pytest

from mountd.errors import NoEntry
from mountd.fusefs.operations import ownership
from mountd.fusefs.successor import SuccessorOperations
from mountd.fusefs.takeover import Successor
from mountd.kept.record import Record
from mountd.types import Entry
from mountd.vfs.nodes import ROOT, Directory
from mountd.vfs.virtual_files import VirtualFiles
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, mounted_files, walk
from tests.unit.test_kept_record import GREETING
from tests.unit.test_restoring import CONTEXT, go_on, made, note

EXCLUSIVE = os.O_CREAT | os.O_EXCL | os.O_WRONLY


@dataclass
class SentAgain:
    """As takeover's Successor: each request is one that the dead daemon had read."""

    resent: bool = True


class WaitedFor:
    """durability = "remote": the names that somebody has waited for."""

    def __init__(self) -> None:
        self.waited: list[bytes] = []

    def check(self) -> None:
        pass

    async def file(self, fh: int) -> None:
        pass

    async def node(self, number: int) -> None:
        pass

    async def names(self, *where: tuple[Directory, bytes]) -> None:
        self.waited += [name for _, name in where]


def successor_of(
    mount: MountedFiles, record: Record, on_remote: WaitedFor | None = None
) -> SuccessorOperations:
    found, operations = go_on(mount, record)
    if on_remote is not None:
        virtual, owner = VirtualFiles(lambda: b""), ownership(0, 0, 0o022)
        operations = SuccessorOperations(mount.fs, virtual, owner, xattrs=True, on_remote=on_remote)
        operations.notes = found
    operations.successor = cast(Successor, SentAgain())
    operations.former_directories = found.directories()
    return operations


async def error_of(request: Awaitable[object]) -> int:
    try:
        await request
    except pyfuse3.FUSEError as error:
        return error.errno
    return 0


def made_by(operations: SuccessorOperations, kind: str, name: bytes) -> Awaitable[object]:
    if kind == "create":
        return operations.create(ROOT, name, 0o644, EXCLUSIVE, CONTEXT)
    if kind == "mkdir":
        return operations.mkdir(ROOT, name, 0o755, CONTEXT)
    if kind == "symlink":
        return operations.symlink(ROOT, name, b"owner", CONTEXT)
    return operations.mknod(ROOT, name, 0o100644, 0, CONTEXT)


@pytest.mark.parametrize("kind", ["create", "mkdir", "symlink", "mknod"])
async def test_a_name_that_others_have_made_meanwhile_is_not_taken_for_that_of_the_dead_daemon(
    tmp_path: Path, kind: str
) -> None:
    """Else two would hold one lock."""
    store, record = MemoryStore(), Record(GREETING, b"")
    store.seed("lock/of-others" if kind == "mkdir" else "lock", b"")
    async with mounted_files(store, tmp_path) as mount:
        operations = successor_of(mount, record)
        assert await error_of(made_by(operations, kind, b"lock")) == errno.EEXIST


@pytest.mark.parametrize("kind", ["create", "mkdir", "symlink", "mknod"])
async def test_a_name_that_the_dead_daemon_has_made_is_what_was_asked_for(
    tmp_path: Path, kind: str
) -> None:
    record = Record(GREETING, b"")
    async with mounted_files(MemoryStore(), tmp_path) as mount:
        note(mount, record)
        operations = successor_of(mount, record)
        for _ in range(2):
            assert await error_of(made_by(operations, kind, b"new")) == 0


async def test_what_the_dead_daemon_has_done_is_waited_for_where_the_remote_is_to_have_it(
    tmp_path: Path,
) -> None:
    record, waited = Record(GREETING, b""), WaitedFor()
    async with mounted_files(MemoryStore(), tmp_path) as mount:
        note(mount, record)
        operations = successor_of(mount, record, waited)
        for kind in ("mkdir", "symlink", "mknod"):
            for _ in range(2):
                assert await error_of(made_by(operations, kind, kind.encode())) == 0
        for _ in range(2):
            assert await error_of(operations.rmdir(ROOT, b"mkdir", CONTEXT)) == 0
            assert await error_of(operations.unlink(ROOT, b"mknod", CONTEXT)) == 0
    made_twice = [b"mkdir"] * 2 + [b"symlink"] * 2 + [b"mknod"] * 2
    assert waited.waited == [*made_twice, b"mkdir", b"mknod", b"mkdir", b"mknod"]


async def test_a_directory_that_the_dead_daemon_had_noted_is_its_own_also_when_it_was_sent(
    tmp_path: Path,
) -> None:
    store, record = MemoryStore(), Record(GREETING, b"")
    store.seed("new/file", b"")
    async with mounted_files(store, tmp_path) as mount:
        note(mount, record)
        await walk(mount.fs, "new/file")
        operations = successor_of(mount, record)
        assert await error_of(made_by(operations, "mkdir", b"new")) == 0


async def test_a_rename_that_can_not_have_been_done_is_not_said_to_be(tmp_path: Path) -> None:
    """Others have taken the source away; what is at the target was there before."""
    store, record = MemoryStore(), Record(GREETING, b"")
    store.seed("target", b"old")
    async with mounted_files(store, tmp_path) as mount:
        operations = successor_of(mount, record)
        renaming = operations.rename(ROOT, b"source", ROOT, b"target", 0, CONTEXT)
        assert await error_of(renaming) == errno.ENOENT


async def test_a_directory_that_the_dead_daemon_had_moved_keeps_its_numbers(tmp_path: Path) -> None:
    """The remote did it, and is listed before the request comes again."""
    store, record = MemoryStore(native_move=True, real_directories=True), Record(GREETING, b"")
    store.seed("d/sub/file", b"bytes")
    async with mounted_files(store, tmp_path) as mount:
        note(mount, record)
        before = [(await walk(mount.fs, path)).number for path in ("d", "d/sub", "d/sub/file")]
        assert mount.metadata.flush(5)
        mount.crashes = True
    store.move_dir("d/", "e/")
    async with mounted_files(store, tmp_path) as mount:
        operations = successor_of(mount, record)
        fs, root = mount.fs, mount.fs.tree.root
        fs.tree.expire("")
        assert (await fs.tree.listing(root)).listing.find(b"e") >= 0
        assert await error_of(operations.rename(ROOT, b"d", ROOT, b"e", 0, CONTEXT)) == 0
        assert fs.tree.directory(before[1]).key == "e/sub/"
        after = [(await walk(fs, path)).number for path in ("e", "e/sub", "e/sub/file")]
        assert after == before
        fs.tree.expire_below("")
        await fs.folding.fold_waiting()
        after = [(await walk(fs, path)).number for path in ("e", "e/sub", "e/sub/file")]
        assert after == before


class MovesMeanwhile(MemoryStore):
    """Goes on with a MOVE whose client was killed, and has done it once the new place is listed."""

    is_moving = False

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        if self.is_moving and directory == "to/":
            self.is_moving = False
            self.move_dir("from/d/", "to/e/")
        return super().list(directory)


async def test_a_directory_that_the_remote_is_still_moving_for_the_dead_daemon_is_moved(
    tmp_path: Path,
) -> None:
    store = MovesMeanwhile(native_move=True, real_directories=True)
    record = Record(GREETING, b"")
    for key in ("from/", "from/d/", "to/"):
        store.make_dir(key)
    store.seed("from/d/file", b"bytes")
    async with mounted_files(store, tmp_path) as mount:
        note(mount, record)
        paths = ("from/d/file", "from/d", "from", "to")
        file, moved, end, other = [(await walk(mount.fs, at)).number for at in paths]
        assert mount.metadata.flush(5)
        mount.crashes = True
    store.is_moving = True
    async with mounted_files(store, tmp_path) as mount:
        operations = successor_of(mount, record)
        renaming = operations.rename(end, b"d", other, b"e", 0, CONTEXT)
        assert await error_of(renaming) == 0
        assert mount.fs.tree.directory(moved).key == "to/e/"
        assert (await walk(mount.fs, "to/e/file")).number == file


@pytest.mark.parametrize("listed", ["neither", "source", "target", "both"])
@pytest.mark.parametrize("is_empty", [False, True])
async def test_a_directory_that_the_dead_daemon_had_moved_is_known_where_one_end_was_listed_since(
    tmp_path: Path, listed: str, is_empty: bool
) -> None:
    """The kept listing of the other end still has it as it was."""
    store, record = MemoryStore(native_move=True, real_directories=True), Record(GREETING, b"")
    store.make_dir("from/")
    store.make_dir("from/d/")
    store.make_dir("to/")
    if not is_empty:
        store.seed("from/d/file", b"bytes")
    async with mounted_files(store, tmp_path) as mount:
        note(mount, record)
        path = "from/d" if is_empty else "from/d/file"
        before = (await walk(mount.fs, path)).number
        ends = [await walk(mount.fs, name) for name in ("from", "to")]
        for place in ends:
            await mount.fs.tree.listing(mount.fs.tree.directory(place.number))
        moved = mount.fs.tree.held_directory("from/d/")
        assert moved is not None
        assert mount.metadata.flush(5)
        mount.crashes = True
    store.move_dir("from/d/", "to/e/")
    async with mounted_files(store, tmp_path) as mount:
        operations = successor_of(mount, record)
        tree = mount.fs.tree
        for end, key in zip(("source", "target"), ("from/", "to/"), strict=True):
            if listed in (end, "both"):
                tree.expire(key)
                await tree.listing(tree.directory(ends[key == "to/"].number))
        renaming = operations.rename(ends[0].number, b"d", ends[1].number, b"e", 0, CONTEXT)
        assert await error_of(renaming) == 0
        assert tree.directory(moved.number).key == "to/e/"
        assert (await walk(mount.fs, path.replace("from/d", "to/e"))).number == before
        with pytest.raises(NoEntry):
            await walk(mount.fs, "from/d")
        assert not list(mount.journal.ledger.unsent())


async def test_a_rename_that_the_dead_daemon_had_done_is_said_to_be(tmp_path: Path) -> None:
    record = Record(GREETING, b"")
    async with mounted_files(MemoryStore(), tmp_path) as mount:
        note(mount, record)
        await made(mount, b"source")
        operations = successor_of(mount, record)
        for _ in range(2):
            renaming = operations.rename(ROOT, b"source", ROOT, b"target", 0, CONTEXT)
            assert await error_of(renaming) == 0
