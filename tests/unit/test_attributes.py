"""What a file has beside its bytes survives whoever changes something else, also where this mount
has never asked for it."""

from pathlib import Path

from mountd.vfs.attributes import NewAttributes
from mountd.vfs.filesystem import FileSystem
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import mounted_files, walk
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
