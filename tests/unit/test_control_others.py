"""What root believes of another user's sockets: only what that user can say of his own mount."""

import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mountd.cli.status import all_statuses
from mountd.control.client import DaemonGone, find_daemon, find_daemons, request
from mountd.control.runtime_dir import ensure_runtime_dir, searched_dirs, socket_name, socket_path
from tests.fakes.scripted_daemon import scripted_daemon

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root looks at other users' sockets")

LIAR = """
import json, os, socket, sys
directory, names, answer = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
os.chdir(directory)
import selectors
selector = selectors.DefaultSelector()
for name in names:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
    listener.listen()
    selector.register(listener, selectors.EVENT_READ)
print("listens", flush=True)
while True:
    for key, _ in selector.select():
        client, _ = key.fileobj.accept()
        with client:
            client.settimeout(5)
            try:
                if client.recv(9999):
                    client.sendall(answer.encode() + b"\\n")
            except OSError:
                pass
"""
Lies = Callable[..., None]


@pytest.fixture
def uid() -> int:
    """A user of this test alone."""
    return 100_000 + os.getpid()


@pytest.fixture
def own_runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOUNTD_RUNTIME_DIR", str(tmp_path / "run"))
    return ensure_runtime_dir()


@pytest.fixture
def their_dir(uid: int, own_runtime_dir: Path) -> Iterator[Path]:
    directory = Path(f"/tmp/mountd-{uid}")
    directory.mkdir(mode=0o700)
    os.chown(directory, uid, uid)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def lies(their_dir: Path, uid: int) -> Iterator[Lies]:
    """Has that user listen under the names of these mount points, with one answer for all."""
    processes = []

    def listen(*mountpoints: str, **answer: Any) -> None:
        names = json.dumps([socket_name(one) for one in mountpoints])
        said = json.dumps({"ok": True, "answer": answer})
        process = subprocess.Popen(
            ["/usr/bin/python3", "-c", LIAR, str(their_dir), names, said],
            user=uid,
            group=uid,
            extra_groups=[],
            stdout=subprocess.PIPE,
            cwd="/",
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"listens\n"

    yield listen
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def mount_of(uid: int, path: Path) -> Iterator[str]:
    """A mount of that user's, by the kernel's word; nobody serves it."""
    path.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    data = f"fd={fd},rootmode=40000,user_id={uid},group_id={uid}".encode()
    try:
        done = libc.mount(b"s3://theirs", os.fsencode(path), b"fuse.mountd", 0, data)
        assert done == 0, os.strerror(ctypes.get_errno())
        yield str(path)
    finally:
        libc.umount2(os.fsencode(path), 2)  # MNT_DETACH
        os.close(fd)


def of(mountpoint: str, **more: Any) -> dict[str, Any]:
    return {"mountpoint": mountpoint, "source": "s3://theirs", "state": "ready", **more}


def found_in(directory: Path) -> list[Path]:
    """Root sees those of all users, also of the other tests that this machine runs."""
    found = [one.socket_path for one in find_daemons()]
    return [path for path in found if path.parent == directory]


def test_root_asks_another_user_only_about_a_mount_that_the_kernel_says_is_his(
    uid: int, lies: Lies, their_dir: Path, tmp_path: Path
) -> None:
    with mount_of(uid, tmp_path / "theirs") as theirs:
        lies(theirs, "/storage", **of("/storage"))
        assert found_in(their_dir) == [their_dir / socket_name(theirs)]
        assert find_daemon("/storage", 0) is None
        assert find_daemon("/storage") is None
        found = find_daemon(theirs, uid)
        assert found is not None
        assert not found.is_trusted
    assert found_in(their_dir) == []
    assert their_dir not in searched_dirs(0)
    assert their_dir not in searched_dirs()


def test_another_users_daemon_can_not_speak_for_roots_mount(
    uid: int, lies: Lies, tmp_path: Path
) -> None:
    with (
        mount_of(uid, tmp_path / "theirs") as theirs,
        scripted_daemon("/storage", status=[of("/storage", source="s3://ours")]) as ours,
    ):
        assert ours.daemon.is_trusted
        lies(theirs, "/storage", **of("/storage"))
        said = {one["mountpoint"]: one for one in all_statuses()}
        assert said["/storage"]["source"] == "s3://ours"
        assert said[theirs]["state"] == "not answering"
        assert "makes no sense" in said[theirs]["error"]


def test_an_answer_that_can_not_be_shown_hides_no_other_mount(
    uid: int, lies: Lies, tmp_path: Path
) -> None:
    with (
        mount_of(uid, tmp_path / "theirs") as theirs,
        scripted_daemon("/storage", status=[of("/storage")]),
    ):
        lies(theirs, **of(theirs, remote=["no", "object"], queue={"failed": {}}))
        said = {one["mountpoint"]: one["state"] for one in all_statuses()}
        assert said["/storage"] == "ready"
        assert said[theirs] == "not answering"


def test_a_link_to_another_daemons_socket_is_not_followed(
    uid: int, their_dir: Path, tmp_path: Path
) -> None:
    with (
        mount_of(uid, tmp_path / "theirs") as theirs,
        scripted_daemon("/storage", status=[of("/storage")]) as ours,
    ):
        link = their_dir / socket_name(theirs)
        link.symlink_to(socket_path("/storage"))
        assert find_daemon(theirs, uid) is None
        with pytest.raises(DaemonGone, match=f"is user 0, and not user {uid}"):
            request(link, {"op": "status"}, 5)
        link.unlink()
        their_dir.rename(tmp_path / "aside")
        their_dir.symlink_to(socket_path("/storage").parent)
        try:
            with pytest.raises(DaemonGone):
                request(their_dir / socket_name("/storage"), {"op": "status"}, 5)
        finally:
            their_dir.unlink()
            (tmp_path / "aside").rename(their_dir)
        assert ours.requests == []


def test_root_removes_no_socket_from_another_users_directory(
    uid: int, lies: Lies, their_dir: Path, tmp_path: Path
) -> None:
    with mount_of(uid, tmp_path / "theirs") as theirs:
        dead = their_dir / socket_name(theirs)
        command = f"import socket; socket.socket(socket.AF_UNIX).bind({str(dead)!r})"
        subprocess.run(["/usr/bin/python3", "-c", command], check=True, user=uid, group=uid)
        assert find_daemon(theirs, uid) is None
        assert dead.exists()
