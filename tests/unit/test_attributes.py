"""What a file has beside its bytes survives whoever changes something else, also where this mount
has never asked for it."""

import threading
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import pytest
import trio

from mountd.errors import Denied, Unreachable
from mountd.vfs.asking import REST_S
from mountd.vfs.attributes import NewAttributes
from mountd.vfs.filesystem import FileSystem
from mountd_cache.changes import Base, Change, Rows
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import mounted_files, walk
from tests.fakes.time_is_up import when_time_is_up
from tests.unit.test_folding import drained, make
from tests.unit.test_writing import edit

ALL = {"mode": "33261", "uid": "1000", "gid": "7", "xattr": "%7B%7D"}


async def owner(fs: FileSystem, path: str) -> tuple[int | None, int | None, int | None]:
    found = fs.attributes((await walk(fs, path)).number)
    return found.mode, found.uid, found.gid


async def test_an_edit_keeps_what_the_remote_has_beside_the_bytes_and_asks_once(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    store.seed("f", b"hello", 5, ALL)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        await edit(fs, "f", 0, b"J")
        await drained(mounted)
        assert (store.data("f"), store.upload("f").attributes) == (b"Jello", ALL)
        assert store.calls["identify"] == 1
        await fs.folding.fold_waiting()
        assert await owner(fs, "f") == (0o100755, 1000, 7)
        await edit(fs, "f", 1, b"E")
        await drained(mounted)
        assert (store.data("f"), store.upload("f").attributes) == (b"JEllo", ALL)
        await make(mounted, b"new", b"bytes")
        await drained(mounted)
        await fs.folding.fold_waiting()
        await edit(fs, "new", 0, b"B")
        await drained(mounted)
        assert store.calls["identify"] == 1


async def test_a_chmod_of_an_edited_file_changes_nothing_else_of_what_waits_here(
    tmp_path: Path,
) -> None:
    """Its base and its bytes, above all: the change is made anew, field by field."""
    store = MemoryStore({"a": b"remote bytes"})
    async with mounted_files(store, tmp_path) as mounted:
        number = await edit(mounted.fs, "a", 0, b"EDITED")
        before = mounted.journal.ledger.changes["a"]
        before = replace(before, conflict="a (conflict)", base=Base("old", "v", 12))
        assert all((before.content, before.expect))
        mounted.journal.commit(Rows(changes=(before,)))
        await mounted.fs.set_attributes(number, NewAttributes(mode=0o700), None)
        after = mounted.journal.ledger.changes["a"]
        names = {field.name for field in fields(Change)}
        changed = {name for name in names if getattr(before, name) != getattr(after, name)}
        assert changed == {"attributes", "sequence", "changed_ns"}


async def test_a_rename_and_a_chmod_keep_all_else_that_the_remote_has(tmp_path: Path) -> None:
    store = MemoryStore()
    store.seed("f", b"hello", 5, ALL)
    store.seed("g", b"hello", 5, ALL)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        await fs.rename(fs.tree.root, b"f", fs.tree.root, b"h")
        number = (await walk(fs, "g")).number
        await fs.set_attributes(number, NewAttributes(mode=0o600), None)
        await drained(mounted)
        assert store.upload("h").attributes == ALL
        assert store.upload("g").attributes == {**ALL, "mode": str(0o100600)}
        assert (store.calls["put"], store.calls["copy"], store.calls["identify"]) == (0, 2, 0)
        await fs.folding.fold_waiting()
        assert not mounted.journal.ledger.changes
        assert await owner(fs, "g") == (0o100600, 1000, 7)
        assert await owner(fs, "h") == (0o100755, 1000, 7)


@pytest.mark.parametrize("how", ["rename", "chmod", "a large edit"])
async def test_what_others_set_beside_the_same_bytes_stays_unless_it_was_set_here(
    tmp_path: Path, how: str
) -> None:
    store = MemoryStore()
    data = bytes(9 << 20 if how == "a large edit" else 9)
    version = store.seed("f", data, 5, ALL)
    async with mounted_files(store, tmp_path, queue=True, asks_for_metadata=True) as mounted:
        fs = mounted.fs
        await fs.asking.name(fs.tree.root, b"f")
        assert await owner(fs, "f") == (0o100755, 1000, 7)
        # As an S3 copy onto itself: another owner, one key more, and the same ETag.
        store.seed_attributes("f", {**ALL, "uid": "2000", "theirs": "x"})
        assert store.stat("f").version == version
        number = (await walk(fs, "f")).number
        if how == "rename":
            await fs.rename(fs.tree.root, b"f", fs.tree.root, b"g")
        elif how == "chmod":
            await fs.set_attributes(number, NewAttributes(mode=0o600), None)
        else:
            await edit(fs, "f", 0, b"J")
        await drained(mounted)
        mode = str(0o100600) if how == "chmod" else ALL["mode"]
        name = "g" if how == "rename" else "f"
        there = store.upload(name).attributes
        assert there == {**ALL, "mode": mode, "uid": "2000", "theirs": "x"}


async def test_a_time_that_only_says_when_an_object_arrived_is_not_written_over_the_files_own(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    for name in ("renamed", "dated"):
        store.seed(name, b"hello", 5, ALL)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        for name in ("renamed", "dated"):
            await walk(fs, name)
            store.seed_mtime(name, 77)
        number = (await walk(fs, "dated")).number
        await fs.set_attributes(number, NewAttributes(mtime_ns=99), None)
        await fs.rename(fs.tree.root, b"renamed", fs.tree.root, b"r")
        await fs.rename(fs.tree.root, b"dated", fs.tree.root, b"d")
        await drained(mounted)
        assert (store.upload("r").mtime_ns, store.upload("d").mtime_ns) == (77, 99)


async def test_the_time_that_a_file_has_is_no_reason_to_write_it_anew(tmp_path: Path) -> None:
    store = MemoryStore()
    store.seed("f", b"hello", 5, ALL)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        number = (await walk(fs, "f")).number
        shown_ns = fs.attributes(number).mtime_ns
        await fs.set_attributes(number, NewAttributes(mtime_ns=shown_ns), None)
        assert not mounted.journal.ledger.changes
        await fs.set_attributes(number, NewAttributes(mtime_ns=shown_ns + 1), None)
        await drained(mounted)
        assert store.calls["copy"] == 1


@pytest.mark.parametrize("top", ["f", "d"])
async def test_a_chmod_between_a_rename_and_the_way_back_is_sent_and_no_rename_is(
    tmp_path: Path, top: str
) -> None:
    store = MemoryStore()
    paths = ["d/f", "d/g"] if top == "d" else ["f", "g"]
    for path in paths:
        store.seed(path, b"hello", 5, ALL)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs, root = mounted.fs, mounted.fs.tree.root
        for name in ["d"] if top == "d" else ["f", "g"]:
            for old, new in [(name, "new" + name), ("new" + name, name)]:
                await fs.rename(root, old.encode(), root, new.encode())
                if new[-1] in "fd" and new != name:
                    number = (await walk(fs, paths[0].replace(name, new, 1))).number
                    await fs.set_attributes(number, NewAttributes(mode=0o600), None)
        await drained(mounted)
        assert [key for key in store.keys() if not key.endswith("/")] == paths  # noqa: SIM118
        assert store.upload(paths[0]).attributes == {**ALL, "mode": str(0o100600)}
        assert store.upload(paths[1]).attributes == ALL
        assert (store.calls["put"], store.calls["copy"]) == (0, 1)


# metadata = "full"


async def shown(fs: FileSystem, names: list[str]) -> list[int | None]:
    """The modes that LOOKUP answers."""
    root, modes = fs.tree.root, []
    for name in names:
        await fs.asking.name(root, name.encode())
        modes.append((await fs.tree.lookup(root, name.encode())).mode)
    return modes


def many(count: int) -> MemoryStore:
    store = MemoryStore()
    for i in range(count):
        store.seed(f"f{i:03}", b"x", 5, {"mode": str(0o100600 + i % 8)})
    return store


async def test_full_metadata_are_asked_once_for_each_version_also_after_a_restart(
    tmp_path: Path,
) -> None:
    store = many(20)
    names = [f"f{i:03}" for i in range(20)]
    modes = [0o100600 + i % 8 for i in range(20)]
    async with mounted_files(store, tmp_path, asks_for_metadata=True) as mounted:
        assert await shown(mounted.fs, names) == modes
        assert await shown(mounted.fs, names) == modes
        assert store.calls["stat"] == 20
    async with mounted_files(store, tmp_path, asks_for_metadata=True) as mounted:
        assert await shown(mounted.fs, names) == modes
        assert store.calls["stat"] == 20
        store.seed("f003", b"new", 5, {"mode": str(0o100755)})
        mounted.fs.refresh(b"")
        assert await shown(mounted.fs, ["f003", "f004"]) == [0o100755, 0o100604]
        assert store.calls["stat"] == 21
    async with mounted_files(store, tmp_path) as mounted:
        assert await owner(mounted.fs, "f003") == (0o100755, None, None)


async def test_a_directory_is_asked_ahead_of_its_reader_and_each_file_once(tmp_path: Path) -> None:
    store = many(300)
    async with mounted_files(store, tmp_path, asks_for_metadata=True) as mounted:
        fs = mounted.fs
        cached = await fs.read_directory(fs.tree.root)
        at = 0
        while at < 300:
            at = await fs.asking.rows(fs.tree.root, cached, at)
            assert fs.tree.row_attributes(cached, at - 1).mode == 0o100600 + (at - 1) % 8
        assert store.calls["stat"] == 300


async def test_without_full_metadata_nothing_is_asked(tmp_path: Path) -> None:
    store = many(3)
    async with mounted_files(store, tmp_path) as mounted:
        assert not mounted.fs.asking.is_on
        assert await owner(mounted.fs, "f001") == (None, None, None)
        assert store.calls["stat"] == 0


async def test_a_failure_gives_what_the_listing_says_and_is_asked_again_later(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    store = many(3)
    async with mounted_files(store, tmp_path, asks_for_metadata=True) as mounted:
        fs = mounted.fs
        await fs.read_directory(fs.tree.root)
        store.fail_next(Unreachable("down"))
        assert await shown(fs, ["f001", "f002"]) == [None, None]
        assert store.calls["stat"] == 1
        mock_clock.jump(REST_S)
        assert await shown(fs, ["f001", "f002"]) == [0o100601, 0o100602]


async def test_an_answer_about_another_version_is_not_believed(tmp_path: Path) -> None:
    store = many(3)
    async with mounted_files(store, tmp_path, asks_for_metadata=True) as mounted:
        fs = mounted.fs
        await fs.read_directory(fs.tree.root)
        store.seed("f001", b"other", 5, {"mode": str(0o100777)})
        store.drop("f002")
        assert await shown(fs, ["f001", "f002", "f000"]) == [None, None, 0o100600]


async def test_who_waits_for_a_remote_that_does_not_answer_gets_what_the_listing_says(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    store = many(3)
    async with mounted_files(store, tmp_path, asks_for_metadata=True, wait_s=10.0) as mounted:
        fs = mounted.fs
        await fs.read_directory(fs.tree.root)
        store.gate = threading.Event()
        try:
            asked = partial(shown, fs, ["f001"])
            assert await when_time_is_up(mock_clock, 10.0, asked) == [None]
        finally:
            store.gate.set()


async def test_who_may_write_and_not_read_can_replace_a_file(tmp_path: Path) -> None:
    store = MemoryStore()
    store.seed("f", b"hello", 5, ALL)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        fh = await fs.open((await walk(fs, "f")).number, writes=True, truncates=True)
        store.fail_next(Denied("HEAD"))
        await fs.write(fh, 0, b"new")
        fs.release(fh)
        await drained(mounted)
        assert (store.data("f"), store.upload("f").attributes) == (b"new", {})
        assert store.calls["identify"] == 1
