"""Writing through fsspec: whole or not at all, and what can't be promised is looked at.

What every store does is in the contract suite.
"""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from mountd.errors import (
    Corrupt,
    Denied,
    DirectoryNotEmpty,
    NameNotAllowed,
    NotFound,
    QuotaExceeded,
    RemoteError,
    Unreachable,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.base import ABSENT, Upload
from mountd.remotes.fsspec_engines import Engine
from mountd.remotes.fsspec_errors import remote_error
from mountd.remotes.fsspec_store import FsspecStore
from mountd.remotes.temporary_names import LEFTOVER_S
from mountd.types import Entry
from tests.fakes.body import BytesBody

LEFTOVER = ".mountd-tmp-0123456789abcdef"


class Disk(LocalFileSystem):  # type: ignore[misc]
    """A directory, as SFTP would show one. `before` is called with the name of each change."""

    protocol = "disk"
    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[str], object] = lambda name: None

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
        super().pipe_file(path, value, **kwargs)
        self.before("renaming")

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        self.before("putting")
        super().put_file(lpath, rpath, **kwargs)
        self.before("renaming")


class Memory(MemoryFileSystem):  # type: ignore[misc]
    """An object store of its own. `after` is called when something was put."""

    protocol = "objects"
    cachable = False

    def __init__(self) -> None:
        super().__init__(global_store=False)
        self.after: Callable[[], object] = lambda: None

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value, mode, **kwargs)
        self.after()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def on_disk(fs: Disk, root: Path) -> FsspecStore:
    engine = Engine(
        *(fs, str(root), "", True, False, True),
        puts_are_whole=False,
        largest_pipe_bytes=100,
    )
    return FsspecStore(engine, 5.0)


def in_memory(fs: Memory) -> FsspecStore:
    return FsspecStore(Engine(fs, "/r", "", False, False, True, takes_mode=True), 5.0)


def write(store: FsspecStore, key: str, data: bytes, expect: str | None = None) -> Entry:
    return store.put(key, BytesBody(data), expect, Upload())


def names(store: FsspecStore, directory: str = "") -> list[str]:
    return sorted(entry.name for page in store.list(directory) for entry in page)


@pytest.mark.parametrize("size", [0, 100, 101, 3 << 20])
def test_small_and_large_files_arrive_under_their_names_only_when_they_are_whole(
    root: Path, size: int
) -> None:
    fs, data = Disk(), os.urandom(size)
    store = on_disk(fs, root)
    listed: list[list[str]] = []
    fs.before = lambda name: listed.append(names(store))
    version = write(store, "f", data, ABSENT).version
    write(store, "f", data + b"!", version)
    assert (root / "f").read_bytes() == data + b"!"
    assert os.listdir(root) == ["f"]
    assert listed[0] == []


def test_a_change_before_the_rename_is_seen(root: Path) -> None:
    fs = Disk()
    store = on_disk(fs, root)
    fs.before = lambda name: (root / "f").write_bytes(b"theirs")
    with pytest.raises(VersionChanged):
        write(store, "f", b"ours", ABSENT)
    assert (root / "f").read_bytes() == b"theirs"
    assert os.listdir(root) == ["f"]


@pytest.mark.parametrize("size", [10, 3 << 20])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "disk"), VersionChanged("base")])
def test_a_body_that_fails_is_never_sent(root: Path, size: int, error: Exception) -> None:
    fs = Disk()
    asked: list[str] = []
    fs.before = asked.append

    def fail(start: int, end: int) -> None:
        if end == size:
            raise error

    with pytest.raises(type(error)) as raised:
        on_disk(fs, root).put("f", BytesBody(bytes(size), fail), ABSENT, Upload())
    assert raised.value is error
    assert (asked, os.listdir(root)) == ([], [])


def test_a_put_that_fails_on_the_remote_leaves_nothing(root: Path) -> None:
    def fail(name: str) -> None:
        raise OSError(errno.ENOSPC, "no room")

    fs = Disk()
    fs.before = fail
    for size in (10, 1000):
        with pytest.raises(QuotaExceeded):
            write(on_disk(fs, root), "f", bytes(size))
    assert os.listdir(root) == []


def test_a_body_that_is_shorter_than_it_says_is_corrupt(root: Path) -> None:
    class Short:
        size = 10

        def read(self, start: int, end: int) -> bytes:
            return b"12345"

    with pytest.raises(Corrupt):
        on_disk(Disk(), root).put("f", Short(), ABSENT, Upload())


def test_where_only_nothing_can_be_expected_of_the_remote_it_is() -> None:
    fs = Memory()

    def create(start: int, end: int) -> None:
        fs.after = lambda: None
        MemoryFileSystem.pipe_file(fs, "/r/f", b"theirs, meanwhile")

    with pytest.raises(VersionChanged):
        in_memory(fs).put("f", BytesBody(b"ours", create), ABSENT, Upload())
    assert fs.cat_file("/r/f") == b"theirs, meanwhile"


def test_a_file_replaced_right_after_our_put_is_not_taken_for_ours() -> None:
    fs = Memory()
    fs.after = lambda: MemoryFileSystem.pipe_file(fs, "/r/f", b"theirs, a moment later")
    with pytest.raises(VersionChanged):
        write(in_memory(fs), "f", b"ours", ABSENT)


def test_the_tag_of_the_answer_tells_whose_version_is_there() -> None:
    class Tagged(Memory):
        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kw: Any) -> Any:
            super().pipe_file(path, value, mode, **kw)
            return {"ETag": '"ours"'}

        def info(self, path: str, **kwargs: Any) -> Any:
            return super().info(path, **kwargs) | {"ETag": self.tag}

        tag = '"ours"'

    fs = Tagged()
    assert write(in_memory(fs), "f", b"ours", ABSENT).version == '"ours"'
    fs.tag = '"theirs"'
    with pytest.raises(VersionChanged):
        write(in_memory(fs), "g", b"ours", ABSENT)


def test_an_md5_is_told_where_the_remote_tells_it() -> None:
    class Tagged(Memory):
        told: dict[str, object]

        def info(self, path: str, **kwargs: Any) -> Any:
            return super().info(path, **kwargs) | self.told

    fs = Tagged()
    MemoryFileSystem.pipe_file(fs, "/r/f", b"x")
    told: list[tuple[dict[str, object], str]] = [
        ({}, ""),
        ({"ETag": '"9dd4e461268c8034f5c8564e155c67a6"'}, "9dd4e461268c8034f5c8564e155c67a6"),
        ({"ETag": '"9dd4e461268c8034f5c8564e155c67a6-2"'}, ""),
        ({"etag": "9dd4e461268c8034f5c8564e155c67a6"}, ""),
        ({"md5Hash": "ndTkYSaMgDT1yFZOFVxnpg=="}, "9dd4e461268c8034f5c8564e155c67a6"),
    ]
    for fs.told, md5 in told:
        assert in_memory(fs).identify("f").md5 == md5


def test_what_a_crash_left_is_hidden_and_goes_with_its_directory_when_it_is_old(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "d").mkdir()
    (root / "d" / LEFTOVER).write_bytes(b"half")
    store = on_disk(Disk(), root)
    assert names(store, "d/") == []
    with pytest.raises(DirectoryNotEmpty):
        store.remove_dir("d/")
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + LEFTOVER_S + 60)
    store.remove_dir("d/")
    assert os.listdir(root) == []


def test_keys_that_fsspec_would_take_apart_are_not_written(root: Path) -> None:
    store = on_disk(Disk(), root)
    for key in ("a//b", "../x", "a/./b", "/a", LEFTOVER):
        with pytest.raises(NameNotAllowed):
            write(store, key, b"x")
        with pytest.raises(NameNotAllowed):
            store.make_dir(f"{key}/")
    assert os.listdir(root) == []


def test_a_marker_that_fsspec_can_not_say_is_unsupported() -> None:
    fs = Memory()
    fs.mkdir("/r/d")
    store = FsspecStore(Engine(fs, "/r", "", False, False, True, makes_directories=False), 5.0)
    with pytest.raises(Unsupported):
        store.make_dir("new/")
    with pytest.raises(Unsupported):
        store.remove_dir("d/")
    assert fs.pseudo_dirs == ["", "/r", "/r/d"]


def test_a_put_has_the_time_that_its_size_needs() -> None:
    class Slow(Memory):
        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kw: Any) -> None:
            time.sleep(1.3)
            super().pipe_file(path, value, mode, **kw)

    store = FsspecStore(Engine(Slow(), "/r", "", False, False, True), 1.0)
    assert write(store, "large", bytes(1 << 20)).size == 1 << 20
    with pytest.raises(Unreachable):
        write(store, "small", b"x")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileExistsError("there"), VersionChanged),
        (OSError(errno.ENOSPC, "full"), QuotaExceeded),
        (OSError(errno.EDQUOT, "full"), QuotaExceeded),
        (OSError(errno.EROFS, "read-only"), Denied),
        (OSError(errno.ENAMETOOLONG, "long"), NameNotAllowed),
        (OSError(errno.ENOTEMPTY, "not empty"), DirectoryNotEmpty),
        (IsADirectoryError("directory"), NotFound),
        (OSError(errno.EIO, "wire"), Unreachable),
    ],
)
def test_what_a_write_raises_is_told_apart(error: OSError, expected: type[RemoteError]) -> None:
    assert type(remote_error("put", error)) is expected
