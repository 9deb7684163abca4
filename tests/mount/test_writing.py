"""Real programs write on the mount; what the remote has afterwards is what they wrote."""

import errno
import fcntl
import filecmp
import mmap
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.mounting import Mounted, mounted
from tests.mount.proving import file_keys
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]


@pytest.fixture(params=["s3", "file"])
def remote(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def mount(remote: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Mounted]:
    """An empty remote, mounted, S3 or a local directory."""
    if remote == "file":
        (tmp_path / "remote").mkdir()
        with mounted(f"file://{tmp_path}/remote", tmp_path) as found:
            yield found
        return
    server: S3Server = request.getfixturevalue("s3_server")
    server.make_bucket("b")
    with mounted("s3://b", tmp_path, environment=server.environment()) as found:
        yield found


@pytest.fixture
def sent(remote: str, mount: Mounted, tmp_path: Path, request: pytest.FixtureRequest) -> "Sent":
    server = request.getfixturevalue("s3_server") if remote == "s3" else None
    return Sent(mount, server, tmp_path / "remote")


class Sent:
    """What is on the remote once everything was sent: keys of files and their bytes."""

    def __init__(self, mount: Mounted, server: S3Server | None, folder: Path) -> None:
        self._mount = mount
        self._server = server
        self._folder = folder

    def __call__(self) -> dict[str, bytes]:
        self._mount.cli("flush", str(self._mount.path), "--timeout", "25")
        if self._server is None:
            files = [p for p in self._folder.rglob("*") if p.is_file()]
            return {str(p.relative_to(self._folder)): p.read_bytes() for p in files}
        return {key: self._server.read("b", key) for key in file_keys(self._server)}


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"},
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def a_tree(root: Path) -> Path:
    for i in range(3):
        for j in range(5):
            path = root / f"d{i}" / f"f {j}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{i}{j}".encode() * (10 ** (j + 1)))
    (root / "run.sh").write_text("#!/bin/sh\necho it runs\n")
    (root / "run.sh").chmod(0o755)
    return root


def test_cp_keeps_contents_modes_and_times(mount: Mounted, sent: Sent, tmp_path: Path) -> None:
    source = a_tree(tmp_path / "source")
    run("cp", "-a", source, mount.path / "copy")
    assert not filecmp.dircmp(source, mount.path / "copy").left_only
    assert tree(mount.path / "copy") == tree(source)
    assert sent() == {f"copy/{name}": data for name, data in tree(source).items()}
    assert run(mount.path / "copy/run.sh") == "it runs\n"
    for path in (p for p in source.rglob("*") if p.is_file()):
        copied = mount.path / "copy" / path.relative_to(source)
        assert copied.stat().st_mtime_ns == path.stat().st_mtime_ns
        assert copied.stat().st_mode == path.stat().st_mode


def test_rsync_has_nothing_to_do_the_second_time(
    mount: Mounted, sent: Sent, tmp_path: Path
) -> None:
    source = a_tree(tmp_path / "source")
    for _ in range(2):
        run("rsync", "-a", f"{source}/", mount.path / "copy")
        assert sent() == {f"copy/{name}": data for name, data in tree(source).items()}
    out = run("rsync", "-ain", f"{source}/", mount.path / "copy")
    assert [line for line in out.splitlines() if line.startswith(">f")] == []


def test_git_works_on_the_mount(mount: Mounted, sent: Sent) -> None:
    repo = mount.path / "repo"
    run("git", "init", "-q", "-b", "main", repo)
    run("git", "config", "user.email", "a@example.org", cwd=repo)
    run("git", "config", "user.name", "A", cwd=repo)
    for i in range(5):
        (repo / f"f{i}").write_text(f"{i}\n" * 100)
        run("git", "add", ".", cwd=repo)
        run("git", "commit", "-q", "-m", f"commit {i}", cwd=repo)
    run("git", "gc", "-q", cwd=repo)
    run("git", "fsck", "--strict", cwd=repo)
    assert run("git", "status", "--porcelain", cwd=repo) == ""
    run("git", "clone", "-q", repo, mount.path / "clone")
    assert run("git", "rev-list", "--count", "HEAD", cwd=mount.path / "clone") == "5\n"
    there = sent()
    assert there["repo/f4"] == b"4\n" * 100
    assert {f"repo/{name}" for name in tree(repo)} <= there.keys()
    assert not [key for key in there if key.endswith(".lock")]


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_sqlite_works_on_the_mount(mount: Mounted, sent: Sent, journal_mode: str) -> None:
    path = mount.path / "data.db"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA journal_mode={journal_mode}")
        connection.execute("CREATE TABLE t (n INTEGER, s TEXT)")
    for i in range(20):
        with sqlite3.connect(path) as connection:
            connection.executemany("INSERT INTO t VALUES (?, ?)", [(i, "x" * 500)] * 50)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (1000,)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    assert sent()["data.db"] == path.read_bytes()


def test_tar_unpacks_onto_the_mount(mount: Mounted, sent: Sent, tmp_path: Path) -> None:
    source = a_tree(tmp_path / "source")
    run("tar", "-C", tmp_path, "-cf", tmp_path / "a.tar", "source")
    run("tar", "-C", mount.path, "-xf", tmp_path / "a.tar")
    assert tree(mount.path / "source") == tree(source)
    shutil.rmtree(mount.path / "source/d1")
    kept = {k: v for k, v in tree(source).items() if not k.startswith("d1/")}
    assert sent() == {f"source/{name}": data for name, data in kept.items()}


def test_several_processes_append_to_one_file(mount: Mounted, sent: Sent) -> None:
    path = mount.path / "log"
    path.touch()
    script = (
        "import sys\n"
        "for i in range(200):\n"
        "    with open(sys.argv[1], 'ab', buffering=0) as f: f.write(b'%s %03d\\n'"
        " % (sys.argv[2].encode(), i))\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in "abcd"
    ]
    assert [child.wait(60) for child in children] == [0, 0, 0, 0]
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted(f"{name} {i:03d}" for name in "abcd" for i in range(200))
    assert sent()["log"].decode().splitlines() == lines


def test_mapped_memory_is_written(mount: Mounted, sent: Sent) -> None:
    path = mount.path / "mapped"
    path.write_bytes(bytes(100_000))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[50_000:50_005] = b"hello"
        mapped.flush()
    wanted = bytes(50_000) + b"hello" + bytes(49_995)
    assert path.read_bytes() == wanted
    assert sent()["mapped"] == wanted


def test_every_way_to_open_a_file(mount: Mounted, sent: Sent) -> None:
    path = mount.path / "f"
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    assert os.write(fd, b"0123456789") == 10
    assert os.pread(fd, 4, 3) == b"3456"
    os.pwrite(fd, b"xx", 20)
    os.ftruncate(fd, 25)
    os.fsync(fd)
    os.close(fd)
    with pytest.raises(FileExistsError):
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    assert path.read_bytes() == b"0123456789" + bytes(10) + b"xx" + bytes(3)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"end")
    os.close(fd)
    fd = os.open(path, os.O_WRONLY)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(fd, 1)
    os.pwrite(fd, b"A", 0)
    os.close(fd)
    assert sent()["f"] == b"A123456789" + bytes(10) + b"xx" + bytes(3) + b"end"
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert path.stat().st_size == 0
    assert sent()["f"] == b""
    os.truncate(path, 7)
    assert sent()["f"] == bytes(7)


def test_renames_have_every_posix_outcome(mount: Mounted, sent: Sent) -> None:
    root = mount.path
    for name in ("a", "b"):
        (root / name).write_text(name)
    (root / "empty").mkdir()
    (root / "full").mkdir()
    (root / "full/x").write_text("x")
    os.rename(root / "a", root / "b")
    assert (root / "b").read_text() == "a"
    for source, target, number in (
        ("missing", "y", errno.ENOENT),
        ("b", "full", errno.EISDIR),
        ("full", "b", errno.ENOTDIR),
        ("empty", "full", errno.ENOTEMPTY),
        ("full", "full/inside", errno.EINVAL),
        ("b", "b/c", errno.ENOTDIR),
    ):
        with pytest.raises(OSError, match=r".") as caught:
            os.rename(root / source, root / target)
        assert caught.value.errno == number, (source, target)
    os.rename(root / "full", root / "empty")
    assert (root / "empty/x").read_text() == "x"
    assert sorted(os.listdir(root)) == ["b", "empty"]
    with pytest.raises(OSError, match=r".") as caught:
        os.link(root / "b", root / "hard")
    assert caught.value.errno == errno.EPERM
    assert sent() == {"b": b"a", "empty/x": b"x"}


def test_an_open_file_survives_its_removal(mount: Mounted, sent: Sent) -> None:
    path = mount.path / "scratch"
    with path.open("w+b") as file:
        file.write(b"before")
        file.flush()
        path.unlink()
        assert not path.exists()
        file.write(b" and after")
        file.seek(0)
        assert file.read() == b"before and after"
    assert sent() == {}


def test_a_file_is_replaced_while_another_process_reads_it(mount: Mounted, sent: Sent) -> None:
    path = mount.path / "model"
    path.write_bytes(b"old" * 100_000)
    assert sent()["model"] == b"old" * 100_000
    with path.open("rb") as reader:
        assert reader.read(3) == b"old"
        (mount.path / "model.new").write_bytes(b"new" * 100_000)
        (mount.path / "model.new").rename(path)
        assert path.read_bytes() == b"new" * 100_000
        assert reader.read() == (b"old" * 100_000)[3:]
    assert sent() == {"model": b"new" * 100_000}


def test_odd_names_are_kept_byte_for_byte(mount: Mounted, sent: Sent, remote: str) -> None:
    names = [
        "a b",
        "100%",
        "a+b",
        "#1",
        "what?",
        "\u00fcn",
        "\u00e9",
        "e\u0301",
        "\U0001f600",
        "x" * 255,
    ]
    for name in names:
        (mount.path / name).write_text(name)
    assert sorted(os.listdir(mount.path)) == sorted(names)
    assert sent() == {name: name.encode() for name in names}


def test_directories_stay_until_they_are_removed(mount: Mounted, sent: Sent) -> None:
    (mount.path / "d/sub").mkdir(parents=True)
    (mount.path / "d/sub/x").write_text("x")
    assert sent() == {"d/sub/x": b"x"}
    (mount.path / "d/sub/x").unlink()
    assert sent() == {}
    mount.cli("refresh", str(mount.path))
    assert os.listdir(mount.path / "d") == ["sub"]
    with pytest.raises(OSError, match="not empty"):
        (mount.path / "d").rmdir()
    (mount.path / "d/sub").rmdir()
    (mount.path / "d").rmdir()
    assert sent() == {}
    mount.cli("refresh", str(mount.path))
    assert os.listdir(mount.path) == []


def test_locks_between_processes_hold(mount: Mounted) -> None:
    path = mount.path / "lock"
    path.touch()
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        script = "import fcntl,sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, timeout=30)
        assert done.returncode != 0


def test_what_was_sent_is_read_again_without_the_remote(
    s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.make_bucket("b")
    data = os.urandom(3_000_000)
    environment = s3_server.environment()
    with mounted("s3://b", tmp_path, environment=environment) as mount:
        (mount.path / "f").write_bytes(data)
        mount.cli("flush", str(mount.path))
        until_kept(mount.path / "f")
    with mounted("s3://b", tmp_path, environment=environment) as mount:
        assert (mount.path / "f").read_bytes() == data
        assert mount.requests()["get"] == 0


def until_kept(path: Path) -> None:
    deadline = time.monotonic() + 20
    while os.getxattr(path, "user.mountd.state") != b"cached":
        assert time.monotonic() < deadline, os.getxattr(path, "user.mountd.state")
        time.sleep(0.05)
