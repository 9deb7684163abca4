"""Another user of the machine, and a client that means no good, against a real daemon."""

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.mount.mounting import Mounted, mounted

pytestmark = [pytest.mark.fuse]
NOBODY = 65534

SPY = """
import json, os, socket, sys
found = []
for top in sys.argv[2:]:
    try:
        found += os.listdir(top)
    except PermissionError:
        pass
client = socket.socket(socket.AF_UNIX)
try:
    client.connect(sys.argv[1])
    client.sendall(b'{"op": "status"}\\n')
    found.append(client.recv(9999).decode())
except (PermissionError, BrokenPipeError, ConnectionResetError):
    pass
print(json.dumps([one for one in found if one]))
"""


def seen_by_another(mount: Mounted, *places: Path) -> list[str]:
    """What a user who is not ours gets of the socket and these directories."""
    command = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    command += ["/usr/bin/python3", "-c", SPY, str(socket_of(mount)), *map(str, places)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=30)
    seen: list[str] = json.loads(done.stdout)
    return seen


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that everybody can come to; pytest closes its own, also while this runs."""
    with tempfile.TemporaryDirectory(prefix="mountd-open-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def socket_of(mount: Mounted) -> Path:
    return next(Path(mount.environment["MOUNTD_RUNTIME_DIR"]).glob("*.sock"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_sees_nothing_of_the_cache_the_socket_and_the_mount(open_place: Path) -> None:
    remote = open_place / "remote"
    remote.mkdir()
    before = os.umask(0)
    try:
        with mounted(f"file://{remote}", open_place) as mount:
            (mount.path / "f").write_text("secret")
            cache, run = open_place / "cache", open_place / "run"
            mine = [path for top in (cache, run) for path in top.rglob("*")]
            assert [p for p in mine if stat.S_IMODE(p.lstat().st_mode) & 0o077] == []
            places = (*cache.iterdir(), run, mount.path)
            assert seen_by_another(mount, *places) == []
            run.chmod(0o755)  # a mistake of the owner's: who may ask is still looked at
            socket_of(mount).chmod(0o666)
            assert seen_by_another(mount) == []
            assert mount.status()["queue"]["failed"] == 0
            assert "control request of user 65534 was refused" in mount.log.read_text()
    finally:
        os.umask(before)


def test_clients_that_say_nothing_too_much_or_nonsense_do_not_stop_the_daemon(
    tmp_path: Path,
) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    with mounted(f"file://{remote}", tmp_path) as mount:
        directory = os.open(socket_of(mount).parent, os.O_PATH)
        address = f"/proc/self/fd/{directory}/{socket_of(mount).name}"
        silent = []
        for _ in range(20):
            client = socket.socket(socket.AF_UNIX)
            client.connect(address)
            silent.append(client)
        for sent in (b"\n", b"[" * 60_000 + b"\n", b'{"op": ["status"]}\n', b"\0" * 100 + b"\n"):
            assert b'"ok": false' in answer_to(address, sent)
        for sent in (b"x" * (1 << 20), b'{"op": "status"'):
            answer_to(address, sent)
        assert mount.status()["state"] == "ready"
        (mount.path / "f").write_text("x")
        assert mount.process.poll() is None
        for client in silent:
            client.close()
        os.close(directory)


def answer_to(address: str, sent: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(address)
        try:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            return client.recv(1 << 16)
        except (BrokenPipeError, ConnectionResetError):
            return b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_for_other_users_the_kernel_looks_at_modes_as_everywhere(open_place: Path) -> None:
    """allow_other comes with default_permissions, always."""
    remote = open_place / "remote"
    remote.mkdir()
    (remote / "closed").write_text("closed")
    (remote / "open").write_text("open")
    (remote / "closed").chmod(0o600)
    (remote / "open").chmod(0o644)
    with mounted(f"file://{remote}", open_place, allow_other="true") as mount:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        line = next(line for line in mounts if f" {mount.path} " in line)
        assert "default_permissions" in line
        assert "allow_other" in line
        code = f"""
import os
print(open({str(mount.path / "open")!r}).read())
for path in ({str(mount.path / "closed")!r}, {str(mount.path / "new")!r}):
    try:
        os.open(path, os.O_RDWR | os.O_CREAT)
        print("opened", path)
    except PermissionError:
        print("refused")
"""
        command = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
        done = subprocess.run(
            [*command, "/usr/bin/python3", "-c", code], check=True, capture_output=True, timeout=30
        )
        assert done.stdout.split() == [b"open", b"refused", b"refused"]


def test_what_is_pinned_warmed_or_copied_through_a_link_of_the_remote_is_not_of_this_machine(
    tmp_path: Path,
) -> None:
    remote, secret, target = tmp_path / "remote", tmp_path / "secret", tmp_path / "target"
    secret.mkdir()
    (secret / "key").write_text("of this machine")
    (remote / "d").mkdir(parents=True)
    (remote / "d" / "out.rclonelink").write_text(f"{secret}")
    (remote / "d" / "leads-out").symlink_to(secret)
    (remote / "d" / "file").write_text("of the remote")
    with mounted(f"file://{remote}", tmp_path) as mount:
        for command in ("pin", "warm"):
            mount.cli(command, str(mount.path / "d"))
            asked = [sys.executable, "-m", "mountd", command, str(mount.path / "d/out/key")]
            done = subprocess.run(asked, env=mount.environment, capture_output=True, timeout=30)
            assert done.returncode != 0
        mount.cli("copy", str(mount.path / "d"), str(target))
    mount.cli("copy", f"file://{remote}/d", str(tmp_path / "direct"))
    assert (target / "out").readlink() == secret
    assert sorted(os.listdir(target)) == ["file", "out"]
    direct = tmp_path / "direct"
    assert sorted(os.listdir(direct)) == ["file", "leads-out", "out.rclonelink"]
    assert (direct / "leads-out").readlink() == secret
    cached = [path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not any(b"of this machine" in data for data in cached)


def test_a_file_below_what_was_copied_as_a_link_does_not_follow_it(tmp_path: Path) -> None:
    remote, outside, target = tmp_path / "remote", tmp_path / "outside", tmp_path / "target"
    for place in (remote, outside):
        place.mkdir()
    (remote / "d.rclonelink").write_text(f"{outside}")
    with mounted(f"file://{remote}", tmp_path, metadata_ttl_s=0) as mount:
        mount.cli("copy", str(mount.path), str(target))
        assert (target / "d").readlink() == outside
        (remote / "d.rclonelink").unlink()
        (remote / "d").mkdir()
        (remote / "d" / "evil").write_text("evil")
        command = [sys.executable, "-m", "mountd", "copy", str(mount.path), str(target)]
        done = subprocess.run(
            command, env=mount.environment, timeout=30, capture_output=True, text=True
        )
    assert done.returncode != 0
    assert "d is a file at DEST" in done.stderr
    assert os.listdir(outside) == []


WRITES_AS_NOBODY = """
import os, sys
def fd_of(name, flags=os.O_WRONLY):
    return os.open(os.path.join(sys.argv[1], name), flags, 0o755)
def write(fd, times=3):
    for _ in range(times):
        os.write(fd, b"x" * 5000)
    os.close(fd)
write(fd_of("written"))
write(fd_of("appended", os.O_WRONLY | os.O_APPEND), 1)
os.truncate(os.path.join(sys.argv[1], "cut"), 1)
os.close(fd_of("emptied", os.O_WRONLY | os.O_TRUNC))
os.close(fd_of("opened", os.O_RDWR))
write(fd_of("of-its-group"))
made = fd_of("made", os.O_WRONLY | os.O_CREAT)
os.write(made, b"x" * 5000)
os.fchmod(made, 0o4755)
os.close(made)
made = fd_of("made-and-written", os.O_WRONLY | os.O_CREAT)
os.fchmod(made, 0o4755)
write(made, 1)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("xattrs", ["true", "false"])
def test_set_user_id_bits_go_as_on_a_local_disk_when_somebody_else_writes(
    open_place: Path, xattrs: str
) -> None:
    remote, local = open_place / "remote", open_place / "local"
    remote.mkdir()
    local.mkdir(mode=0o777)
    local.chmod(0o777)

    def serve() -> AbstractContextManager[Mounted]:
        options: dict[str, Any] = {"umask": "000", "xattrs": xattrs, "write_back_s": 3600}
        return mounted(f"file://{remote}", open_place, allow_other="true", **options)

    with serve() as mount:
        for folder in (local, mount.path / "d"):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o777)
            change_set_ids(folder)
        wanted = modes(local)
        assert modes(mount.path / "d") == wanted
        assert wanted["written"] == wanted["cut"] == wanted["emptied"] == 0o777
        assert wanted["by-root"] == wanted["opened"] == 0o6777
        mount.kill()
    with serve() as mount:  # the kernel knows nothing any more
        assert modes(mount.path / "d") == wanted


def change_set_ids(folder: Path) -> None:
    """The same in any folder, by root and by another user."""
    names = ("written", "appended", "cut", "emptied", "opened", "by-root", "cut-by-root", "given")
    for name in (*names, "of-its-group"):
        (folder / name).write_bytes(b"y" * 20_000)
        (folder / name).chmod(0o6777)
    os.chown(folder / "of-its-group", -1, NOBODY)
    (folder / "of-its-group").chmod(0o2767)  # no program
    command = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    script = ["/usr/bin/python3", "-c", WRITES_AS_NOBODY, str(folder)]
    subprocess.run([*command, *script], check=True, timeout=30)
    with (folder / "by-root").open("r+b") as file:
        file.write(b"x" * 5000)
    os.truncate(folder / "cut-by-root", 1)
    os.chown(folder / "given", NOBODY, NOBODY)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
