"""xattrs of one's own: any bytes, wherever the file goes, and none lost that nobody asked for."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.errors import NoAttribute, NoSpace, Stale, TooLarge, Unreachable, Unsupported
from mountd.vfs.attributes import NewAttributes
from mountd.vfs.filesystem import FileSystem
from mountd.vfs.user_xattrs import decoded, encoded
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import mounted_files, walk
from tests.unit.test_folding import drained, make
from tests.unit.test_writing import edit

NAMES = st.binary(min_size=1, max_size=40).map(lambda end: b"user." + end.replace(b"\0", b""))
OURS = {b"user.mountd.state": b"x", b"security.selinux": b"x", b"user.a\0": b"x", b"x": b"y"}
THEIRS = encoded({b"user.theirs": b"1"})


async def number(fs: FileSystem, path: str) -> int:
    return (await walk(fs, path)).number


@given(st.dictionaries(NAMES, st.binary(max_size=60)))
def test_any_byte_in_a_name_or_value_comes_back(xattrs: dict[bytes, bytes]) -> None:
    text = encoded(xattrs)
    assert decoded(text) == {k: v for k, v in xattrs.items() if not k.startswith(b"user.mountd.")}
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text


def test_what_s3fs_writes_is_read() -> None:
    assert decoded("%7B%22user.key%22%3A%22dmFsdWU%3D%22%7D") == {b"user.key": b"value"}


@given(st.text() | st.binary().map(lambda raw: "".join(f"%{byte:02x}" for byte in raw)))
def test_whatever_the_metadata_says_nothing_breaks(text: str) -> None:
    assert all(name.startswith(b"user.") for name in decoded(text))


def test_names_that_are_not_the_users_are_left_out() -> None:
    assert decoded(encoded({**OURS, b"user.a": b"1", b"user." + b"x" * 251: b"2"})) == {
        b"user.a": b"1"
    }
    for text in ("%7B", "[]", "{}", '{"user.a": 1}', '{"user.a": "-"}', "[" * 5000, '"user.a"'):
        assert decoded(text) == {}


async def test_an_xattr_travels_with_its_file_and_is_there_for_another_machine(
    tmp_path: Path,
) -> None:
    store = MemoryStore({"old": b"bytes"})
    async with mounted_files(store, tmp_path / "a", queue=True) as mounted:
        fs = mounted.fs
        await make(mounted, b"new", b"bytes")
        for name in ("old", "new"):
            at = await number(fs, name)
            await fs.user_xattrs.set(at, b"user.b", b"\0\xff")
            await fs.user_xattrs.set(at, b"user.a", b"")
            await fs.user_xattrs.set(at, b"user.gone", b"x")
            await fs.user_xattrs.remove(at, b"user.gone")
            assert fs.user_xattrs.names(at) == [b"user.a", b"user.b"]
        await drained(mounted)
        await fs.folding.fold_waiting()
        assert not mounted.journal.ledger.changes
        await fs.rename(fs.tree.root, b"old", fs.tree.root, b"moved")
        await edit(fs, "new", 0, b"B")
        await fs.set_attributes(await number(fs, "moved"), NewAttributes(mode=0o700), None)
        await drained(mounted)
    async with mounted_files(store, tmp_path / "b") as mounted:
        fs = mounted.fs
        for name in ("moved", "new"):
            at = await number(fs, name)
            assert fs.user_xattrs.names(at) == []  # to list them costs nothing, so it asks nothing
            assert await fs.user_xattrs.get(at, b"user.b") == b"\0\xff"
            assert await fs.user_xattrs.get(at, b"user.a") == b""
            with pytest.raises(NoAttribute):
                await fs.user_xattrs.get(at, b"user.gone")
            assert fs.user_xattrs.names(at) == [b"user.a", b"user.b"]
    assert (store.calls["stat"], store.data("new")) == (3, b"Bytes")  # `old` once, to set the first


async def test_setting_one_keeps_those_that_nobody_has_asked_for_yet(tmp_path: Path) -> None:
    store = MemoryStore()
    for name in ("f", "renamed", "edited"):
        store.seed(name, b"bytes", 5, {"xattr": THEIRS, "uid": "7"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        await number(fs, "f")
        await fs.rename(fs.tree.root, b"renamed", fs.tree.root, b"r")
        await edit(fs, "edited", 0, b"B")
        for name in ("f", "r", "edited"):
            await fs.user_xattrs.set(await number(fs, name), b"user.mine", b"2")
        await drained(mounted)
        for key in ("f", "r", "edited"):
            attributes = store.upload(key).attributes
            assert attributes["uid"] == "7"
            assert decoded(attributes["xattr"]) == {b"user.theirs": b"1", b"user.mine": b"2"}
        await fs.user_xattrs.remove(await number(fs, "f"), b"user.theirs")
        await fs.user_xattrs.remove(await number(fs, "f"), b"user.mine")
        await drained(mounted)
        assert store.upload("f").attributes == {"uid": "7"}


async def test_what_is_not_known_and_can_not_be_asked_is_an_error_and_not_nothing(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    store.seed("f", b"bytes", 5, {"xattr": THEIRS})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        at = await number(fs, "f")
        store.fail_next(Unreachable("down"))
        for _ in range(2):
            with pytest.raises(Unreachable):
                await fs.user_xattrs.get(at, b"user.theirs")
        with pytest.raises(Unreachable):
            await fs.user_xattrs.set(at, b"user.mine", b"")
        assert not mounted.journal.ledger.changes


async def test_there_is_room_for_what_an_objects_metadata_can_hold(tmp_path: Path) -> None:
    async with mounted_files(MemoryStore(), tmp_path) as mounted:
        fs = mounted.fs
        at = await make(mounted, b"f", b"")
        with pytest.raises(TooLarge):
            await fs.user_xattrs.set(at, b"user.a", bytes(1200))
        await fs.user_xattrs.set(at, b"user.a", bytes(900))
        with pytest.raises(NoSpace):
            await fs.user_xattrs.set(at, b"user.b", bytes(900))
        assert fs.user_xattrs.names(at) == [b"user.a"]
        await fs.user_xattrs.set(at, b"user.a", b"")
        await fs.user_xattrs.set(at, b"user.b", bytes(900))


async def test_a_directory_and_a_file_without_a_name_have_none(tmp_path: Path) -> None:
    async with mounted_files(MemoryStore({"d/x": b"", "f": b"1"}), tmp_path) as mounted:
        fs = mounted.fs
        with pytest.raises(Unsupported):
            await fs.user_xattrs.set(await number(fs, "d"), b"user.a", b"")
        with pytest.raises(NoAttribute):
            await fs.user_xattrs.get(await number(fs, "d"), b"user.a")
        at = await number(fs, "f")
        fh = await fs.open(at)
        await fs.unlink(fs.tree.root, b"f")
        with pytest.raises(Stale):
            await fs.user_xattrs.set(at, b"user.a", b"")
        fs.release(fh)


async def test_a_time_that_a_file_had_at_a_setxattr_can_be_set_again_after_a_write(
    tmp_path: Path,
) -> None:
    """It is left out where the kernel brings it, and not where somebody gives it back."""
    store = MemoryStore({"f": b"bytes"})
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        at = await number(fs, "f")
        first_ns = fs.attributes(at).mtime_ns
        await fs.user_xattrs.set(at, b"user.a", b"1")
        await edit(fs, "f", 0, b"B")
        written_ns = first_ns + 5
        await fs.set_attributes(at, NewAttributes(mtime_ns=written_ns), None)
        await drained(mounted)
        assert fs.attributes(at).mtime_ns == written_ns
        await fs.set_attributes(at, NewAttributes(mtime_ns=first_ns), None)
        assert fs.attributes(at).mtime_ns == first_ns
