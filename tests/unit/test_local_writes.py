"""file://, written to: nothing leaves the tree, nothing is left behind, nothing half-written shows.

What every store does is in the contract suite.
"""

import errno
import fcntl
import os
import stat as modes
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mountd.errors import (
    ContainerMissing,
    Corrupt,
    Denied,
    DirectoryNotEmpty,
    NameNotAllowed,
    NotFound,
    QuotaExceeded,
    RemoteError,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.base import ABSENT, Upload
from mountd.remotes.local import LocalStore
from mountd.remotes.temporary_names import LEFTOVER_S
from mountd.types import Entry
from tests.fakes.body import BytesBody

NOTHING = Upload()
LEFTOVER = ".mountd-tmp-0123456789abcdef"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    return tmp_path / "root"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(str(root))


def write(
    store: LocalStore,
    key: str,
    data: bytes = b"ours",
    expect: str | None = None,
    upload: Upload = NOTHING,
) -> Entry:
    return store.put(key, BytesBody(data), expect, upload)


def names(store: LocalStore, directory: str = "") -> list[str]:
    return sorted(entry.name for page in store.list(directory) for entry in page)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_a_new_file_has_the_mode_of_the_umask_and_a_replaced_one_keeps_its_own(
    root: Path, store: LocalStore
) -> None:
    with umask(0o027):
        write(store, "new")
    assert modes.S_IMODE((root / "new").stat().st_mode) == 0o640
    (root / "script").write_bytes(b"#!")
    (root / "script").chmod(0o751)
    write(store, "script")
    assert modes.S_IMODE((root / "script").stat().st_mode) == 0o751


def test_the_bytes_are_nowhere_to_be_read_by_others_while_a_private_file_is_replaced(
    root: Path, store: LocalStore
) -> None:
    (root / "private").write_bytes(b"old")
    (root / "private").chmod(0o600)
    seen: list[int] = []

    def look(start: int, end: int) -> None:
        (temporary,) = (path for path in root.iterdir() if path.name != "private")
        seen.append(modes.S_IMODE(temporary.stat().st_mode))

    store.put("private", BytesBody(b"new", look), None, NOTHING)
    assert seen == [0o600]


def test_what_is_being_written_is_not_shown(root: Path, store: LocalStore) -> None:
    shown: list[list[str]] = []

    def look(start: int, end: int) -> None:
        (name,) = os.listdir(root)
        assert name.startswith(".mountd-tmp-")
        shown.append([*names(store), *(key for page in store.list_tree("") for key, _ in page)])
        with pytest.raises(NotFound):
            store.stat(name)
        with pytest.raises(NameNotAllowed):
            write(store, name)

    store.put("f", BytesBody(b"1", look), ABSENT, NOTHING)
    assert shown == [[]]
    assert os.listdir(root) == ["f"]


def test_a_name_that_only_begins_like_a_temporary_one_is_a_name(store: LocalStore) -> None:
    write(store, ".mountd-tmp-notes")
    assert names(store) == [".mountd-tmp-notes"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "disk"), VersionChanged("base")])
def test_a_body_that_fails_leaves_no_file_at_all(
    root: Path, store: LocalStore, error: Exception
) -> None:
    def fail(start: int, end: int) -> None:
        if start:
            raise error

    with pytest.raises(type(error)) as raised:
        store.put("f", BytesBody(bytes(3 << 20), fail), ABSENT, NOTHING)
    assert raised.value is error
    assert os.listdir(root) == []


def test_a_body_that_is_shorter_than_it_says_is_corrupt(root: Path, store: LocalStore) -> None:
    class Short:
        size = 10

        def read(self, start: int, end: int) -> bytes:
            return b"12345"

    with pytest.raises(Corrupt):
        store.put("f", Short(), ABSENT, NOTHING)
    assert os.listdir(root) == []


def test_a_change_during_the_upload_is_seen(root: Path, store: LocalStore) -> None:
    version = write(store, "f", b"first").version

    def overwrite(start: int, end: int) -> None:
        (root / "f").write_bytes(b"theirs, meanwhile")

    def create(start: int, end: int) -> None:
        (root / "g").write_bytes(b"theirs, meanwhile")

    with pytest.raises(VersionChanged):
        store.put("f", BytesBody(b"ours", overwrite), version, NOTHING)
    with pytest.raises(VersionChanged):
        store.put("g", BytesBody(b"ours", create), ABSENT, NOTHING)
    assert (root / "f").read_bytes() == (root / "g").read_bytes() == b"theirs, meanwhile"
    assert sorted(os.listdir(root)) == ["f", "g"]


def test_of_many_who_create_a_file_at_once_one_wins(root: Path) -> None:
    threads, won = 8, []
    together = threading.Barrier(threads)

    def create(data: bytes) -> None:
        body = BytesBody(data, lambda start, end: together.wait(10))
        try:
            LocalStore(str(root)).put("f", body, ABSENT, NOTHING)
            won.append(data)
        except VersionChanged:
            pass

    running = [threading.Thread(target=create, args=(b"%d" % n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert won == [(root / "f").read_bytes()]
    assert os.listdir(root) == ["f"]


def test_an_mtime_is_kept_to_the_nanosecond_and_is_in_the_version(
    root: Path, store: LocalStore
) -> None:
    mtime_ns = 1_600_000_000_123_456_789
    made = write(store, "f", b"x", ABSENT, Upload("", mtime_ns))
    assert made.mtime_ns == (root / "f").stat().st_mtime_ns == mtime_ns
    assert store.stat("f") == made
    again = write(store, "f", b"y", made.version, Upload("", mtime_ns))
    assert again.version != made.version


def test_an_upload_id_goes_with_the_change_of_another_program(
    root: Path, store: LocalStore
) -> None:
    write(store, "f", b"ours", ABSENT, Upload("id"))
    if store.identify("f").upload_id == "":
        pytest.skip("this file system has no extended attributes")
    with (root / "f").open("ab") as file:
        file.write(b" and theirs")
    assert store.identify("f").upload_id == ""


def test_pipes_and_directories_are_in_the_way(root: Path, store: LocalStore) -> None:
    os.mkfifo(root / "pipe")
    (root / "d").mkdir()
    for key in ("pipe", "d"):
        for expect in (ABSENT, None):
            with pytest.raises(NameNotAllowed):
                write(store, key, expect=expect)
        with pytest.raises(NotFound):
            store.delete(key, None)


@pytest.mark.parametrize("key", ["", "a//b", "./a", "a/..", "a\0b", "n" * 256, "\ud800", LEFTOVER])
def test_a_name_that_can_not_be_is_refused(root: Path, store: LocalStore, key: str) -> None:
    (root / "a").mkdir()
    with pytest.raises(NameNotAllowed):
        write(store, key)
    with pytest.raises((NameNotAllowed, NotFound)):
        store.make_dir(f"{key}/")
    with pytest.raises(NotFound):
        store.stat(key) if key else store.stat("a//")


def test_a_crash_s_leftovers_are_hidden_and_go_with_their_directory_when_they_are_old(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "d").mkdir()
    with (root / "d" / LEFTOVER).open("wb") as half:
        fcntl.flock(half, fcntl.LOCK_EX)  # as who writes it has it, and a dead one no more
        assert names(store, "d/") == []
        with pytest.raises(DirectoryNotEmpty):
            store.remove_dir("d/")
        now_s = time.time()
        monkeypatch.setattr(time, "time", lambda: now_s + LEFTOVER_S + 60)
        store.remove_dir("d/")
    assert os.listdir(root) == []


def test_what_a_killed_daemon_was_writing_goes_with_its_directory_at_once(
    root: Path, store: LocalStore
) -> None:
    """Nobody sees it: the directory that a user has removed came back, empty, and stayed a day."""
    (root / "d").mkdir()
    (root / "d" / LEFTOVER).write_bytes(b"half")
    store.remove_dir("d/")
    assert os.listdir(root) == []


def test_what_is_just_being_written_keeps_its_directory(root: Path, store: LocalStore) -> None:
    (root / "d").mkdir()

    def look(start: int, end: int) -> None:
        with pytest.raises(DirectoryNotEmpty):
            store.remove_dir("d/")

    store.put("d/f", BytesBody(b"1", look), ABSENT, NOTHING)
    assert names(store, "d/") == ["f"]


def test_a_directory_removed_during_a_walk_is_left_out(root: Path, store: LocalStore) -> None:
    for name in ("a", "b", "c"):
        (root / name).mkdir()
    rows = store.list_tree("")
    first = next(rows)
    for name in ("a", "b", "c"):
        (root / name).rmdir()
    assert sorted(key for key, _ in first) == ["a/", "b/", "c/"]
    assert [row for page in rows for row in page] == []


def test_a_missing_root_is_no_missing_directory(root: Path) -> None:
    store = LocalStore(f"{root}-not-mounted")
    changes: list[Callable[[], object]] = [
        lambda: write(store, "f"),
        lambda: store.delete("f", None),
        lambda: store.make_dir("d/"),
        lambda: store.remove_dir("d/"),
        lambda: list(store.list_tree("")),
    ]
    for change in changes:
        with pytest.raises(ContainerMissing):
            change()


def test_a_file_beyond_the_largest_is_unsupported_and_leaves_nothing(root: Path) -> None:
    # In a process of its own: the limit and its signal hold for all of one.
    code = """
import resource, signal, sys
from mountd.errors import Unsupported
from mountd.remotes.base import Upload
from mountd.remotes.local import LocalStore
from tests.fakes.body import BytesBody
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    LocalStore(sys.argv[1]).put("f", BytesBody(bytes(2 << 20)), None, Upload())
except Unsupported:
    print("unsupported")
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(root)],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    assert run.stdout == "unsupported\n", run.stderr
    assert os.listdir(root) == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, QuotaExceeded),
        (errno.EDQUOT, QuotaExceeded),
        (errno.EROFS, Denied),
        (errno.EACCES, Denied),
        (errno.EPERM, Denied),
        (errno.EFBIG, Unsupported),
    ],
)
def test_a_write_that_the_disk_refuses_says_why(
    root: Path,
    store: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    expected: type[RemoteError],
) -> None:
    def refuse(fd: int, data: object) -> int:
        raise OSError(number, os.strerror(number))

    version = write(store, "f", b"old").version
    monkeypatch.setattr(os, "write", refuse)
    for key, expect in (("f", version), ("new", ABSENT)):
        with pytest.raises(expected):
            write(store, key, b"new", expect)
    monkeypatch.undo()
    assert os.listdir(root) == ["f"]
    assert (root / "f").read_bytes() == b"old"


def test_a_file_system_without_hard_links_looks_before_it_renames(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(os, "link", no_links)
    write(store, "f", b"ours", ABSENT)
    with pytest.raises(VersionChanged):
        write(store, "f", b"again", ABSENT)
    assert (root / "f").read_bytes() == b"ours"
    assert os.listdir(root) == ["f"]


def test_a_copy_across_file_systems_goes_another_way(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> int:
        raise OSError(errno.EXDEV, "other file system")

    data = os.urandom(3 << 20)
    version = write(store, "source", data).version
    monkeypatch.setattr(os, "copy_file_range", refuse)
    store.copy("source", version, "copied", ABSENT, NOTHING)
    assert (root / "copied").read_bytes() == data


def test_the_data_and_the_name_are_on_the_disk_when_a_put_returns(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename, link = os.fsync, os.rename, os.link

    def synced(fd: int) -> None:
        done.append("directory" if modes.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def named(call: Callable[..., None]) -> Callable[..., None]:
        def then(*args: str, **kwargs: int) -> None:
            done.append("name")
            call(*args, **kwargs)

        return then

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", named(rename))
    monkeypatch.setattr(os, "link", named(link))
    version = write(store, "f", expect=ABSENT).version
    write(store, "f", expect=version)
    assert done == ["file", "name", "directory"] * 2
