"""file://: a local tree that is not trusted to stay inside itself."""

import fcntl
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd.config import Settings
from mountd.config.source import parse_source
from mountd.errors import ContainerMissing, Denied, NotFound, Unreachable, VersionChanged
from mountd.remotes.local import LocalStore
from mountd.remotes.registry import open_store
from mountd.types import Entry, Kind


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    return tmp_path / "root"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(str(root))


def names(store: LocalStore, directory: str = "") -> list[str]:
    return sorted(entry.name for page in store.list(directory) for entry in page)


def walk(store: LocalStore, directory: str = "") -> Iterator[str]:
    for page in store.list(directory):
        for entry in page:
            yield directory + entry.name
            if entry.kind is Kind.DIRECTORY:
                yield from walk(store, f"{directory}{entry.name}/")


def test_file_urls_have_this_store_with_any_engine(root: Path) -> None:
    for engine in ("native", "fsspec"):
        settings = Settings(cache_dir=Path("/nonexistent"), engine=engine)
        assert isinstance(open_store(parse_source(f"file://{root}"), settings), LocalStore)


def test_an_entry_is_exact(root: Path, store: LocalStore) -> None:
    (root / "f").write_bytes(b"hello")
    os.utime(root / "f", ns=(0, 1_700_000_000_123_456_789))
    inode = (root / "f").stat().st_ino
    version = f"5-1700000000123456789-{inode}"
    assert store.stat("f") == Entry("f", Kind.FILE, 5, 1_700_000_000_123_456_789, version)


def test_a_replaced_file_is_another_version_at_the_same_size_and_time(
    root: Path, store: LocalStore
) -> None:
    (root / "f").write_bytes(b"one")
    os.utime(root / "f", ns=(0, 0))
    before = store.stat("f").version
    (root / "g").write_bytes(b"two")
    os.utime(root / "g", ns=(0, 0))
    os.replace(root / "g", root / "f")
    with pytest.raises(VersionChanged):
        store.read("f", 0, 3, before)


def test_symlinks_that_stay_inside_are_what_they_point_to(root: Path, store: LocalStore) -> None:
    (root / "d").mkdir()
    (root / "d" / "f").write_bytes(b"hello")
    (root / "file").symlink_to("d/f")
    (root / "absolute").symlink_to(root / "d" / "f")
    (root / "directory").symlink_to("d")
    assert names(store) == ["absolute", "d", "directory", "file"]
    assert names(store, "directory/") == ["f"]
    for key in ("file", "absolute", "directory/f"):
        entry = store.stat(key)
        assert (entry.kind, entry.size) == (Kind.FILE, 5)
        assert store.read(key, 1, 4, entry.version) == b"ell"
    assert store.stat("directory/").kind is Kind.DIRECTORY


def test_symlinks_that_lead_out_are_not_there(root: Path, store: LocalStore) -> None:
    (root / "out").symlink_to("../outside/secret")
    (root / "out-absolute").symlink_to("/etc/passwd")
    (root / "out-directory").symlink_to("../outside")
    (root / "in-and-out").symlink_to("out-directory/secret")
    (root / "sibling").symlink_to(str(root) + "-not")
    Path(str(root) + "-not").write_bytes(b"x")
    (root / "broken").symlink_to("nothing")
    (root / "loop").symlink_to("loop")
    assert names(store) == []
    for key in ("out", "out-absolute", "out-directory/secret", "in-and-out", "sibling", "loop"):
        with pytest.raises(NotFound):
            store.stat(key)
        with pytest.raises(NotFound):
            store.read(key, 0, 1, "")
    with pytest.raises(NotFound):
        names(store, "out-directory/")


def test_dots_in_a_key_lead_nowhere(root: Path, store: LocalStore) -> None:
    (root / "d").mkdir()
    for key in ("../outside/secret", "d/../../outside/secret", "..", "./d/", "d//", "/etc/passwd"):
        with pytest.raises(NotFound):
            store.stat(key)


def test_symlinked_directories_make_no_endless_tree(root: Path, store: LocalStore) -> None:
    (root / "a").mkdir()
    (root / "b").mkdir()
    (root / "a" / "to-root").symlink_to("..")
    (root / "a" / "to-self").symlink_to(".")
    (root / "a" / "to-b").symlink_to("../b")
    (root / "b" / "to-a").symlink_to("../a")
    assert sorted(walk(store)) == ["a", "a/to-b", "b", "b/to-a"]
    with pytest.raises(NotFound):
        store.stat("a/to-b/to-a/")


def test_a_root_behind_a_symlink_is_the_root(tmp_path: Path, root: Path) -> None:
    (root / "f").write_bytes(b"1")
    (tmp_path / "link").symlink_to("root")
    store = LocalStore(str(tmp_path / "link"))
    assert names(store) == ["f"]
    assert store.read("f", 0, 1, store.stat("f").version) == b"1"


def test_pipes_sockets_and_devices_are_left_out_and_never_opened(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(root / "pipe")
    monkeypatch.chdir(root)  # socket paths are short
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("socket")
    (root / "to-pipe").symlink_to("pipe")
    assert names(store) == []
    for key in ("pipe", "socket", "to-pipe"):
        with pytest.raises(NotFound):
            store.stat(key)
        with pytest.raises(NotFound):
            store.read(key, 0, 1, "")  # would block for ever on an opened pipe


def test_a_file_that_shrinks_is_never_a_short_read(root: Path, store: LocalStore) -> None:
    (root / "f").write_bytes(b"x" * 100)
    version = store.stat("f").version
    (root / "f").write_bytes(b"x" * 50)
    with pytest.raises(VersionChanged):
        store.read("f", 0, 100, version)
    with pytest.raises(Unreachable):
        store.read("f", 0, 100, "")


def test_a_file_that_changes_between_the_look_and_the_read_is_another_version(
    root: Path, store: LocalStore
) -> None:
    (root / "f").write_bytes(b"old")
    version = store.stat("f").version
    outcome: list[BaseException | bytes] = []

    def read() -> None:
        try:
            outcome.append(store.read("f", 0, 3, version))
        except VersionChanged as error:
            outcome.append(error)

    # A lease holds the opening of the file, which comes after the first look (O_PATH breaks none).
    # Whoever waits for it turns what F_GETLEASE says. The signal that comes with it is one that
    # does nothing by default: SIGIO ended the whole process whenever another thread took it.
    fd = os.open(root / "f", os.O_RDWR)
    thread = threading.Thread(target=read)
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        thread.start()
        deadline_s = time.monotonic() + 60
        while fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK:
            assert time.monotonic() < deadline_s, "nobody opened the file"
            time.sleep(0.001)
        os.pwrite(fd, b"newer", 0)
    finally:
        os.close(fd)  # and with it the lease
        thread.join(10)
    assert [type(found) for found in outcome] == [VersionChanged]


def test_a_vanished_root_is_not_a_tree_of_deleted_files(root: Path, store: LocalStore) -> None:
    (root / "f").write_bytes(b"1")
    version = store.stat("f").version
    root.rename(root.with_name("unmounted"))
    for call in (
        lambda: names(store),
        lambda: store.stat(""),
        lambda: store.stat("f"),
        lambda: store.read("f", 0, 1, version),
    ):
        with pytest.raises(ContainerMissing):
            call()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_denied(root: Path, store: LocalStore) -> None:
    (root / "f").write_bytes(b"1")
    (root / "f").chmod(0)
    with pytest.raises(Denied):
        store.read("f", 0, 1, "")


def test_names_that_are_no_utf8_are_read(root: Path, store: LocalStore) -> None:
    with open(os.path.join(os.fsencode(root), b"caf\xe9"), "wb") as file:
        file.write(b"latin")
    assert names(store) == ["caf\udce9"]
    assert store.read("caf\udce9", 0, 5, store.stat("caf\udce9").version) == b"latin"


def test_no_descriptor_is_left_open(root: Path, store: LocalStore) -> None:
    (root / "d").mkdir()
    for n in range(1500):
        (root / "d" / str(n)).touch()
    before = len(os.listdir("/proc/self/fd"))
    pages = store.list("d/")
    next(pages)
    pages.close()  # type: ignore[attr-defined]
    names(store, "d/")
    store.stat("d/1")
    with pytest.raises(Unreachable):
        store.read("d/1", 0, 1, "")
    with pytest.raises(NotFound):
        store.stat("nothing")
    assert len(os.listdir("/proc/self/fd")) == before
