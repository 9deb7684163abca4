"""Symbolic links on a mount: the kernel resolves them, the remote keeps them as small files."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.mounting import mounted

pytestmark = [pytest.mark.fuse]


def test_a_virtual_environment_is_made_and_runs_on_a_mount_and_after_a_kill(
    tmp_path: Path,
) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    environment = tmp_path / "mnt/venv"
    with mounted(f"file://{remote}", tmp_path) as mount:
        command = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
        subprocess.run(command, check=True, timeout=60)
        assert (environment / "lib64").readlink() == Path("lib")
        assert runs(environment)
        mount.kill()
        subprocess.run(["fusermount3", "-uz", tmp_path / "mnt"], check=True, timeout=10)
    with mounted(f"file://{remote}", tmp_path) as mount:
        assert runs(environment)
        mount.cli("flush", str(mount.path), "--timeout", "25")
        assert (remote / "venv/lib64.rclonelink").read_bytes() == b"lib"


def runs(environment: Path) -> bool:
    code = "import sys; print(sys.prefix)"
    done = subprocess.run(
        [environment / "bin/python", "-c", code], capture_output=True, text=True, timeout=30
    )
    return done.stdout.strip() == str(environment)


def test_a_link_of_the_remote_is_resolved_by_the_kernel_and_never_by_the_daemon(
    tmp_path: Path,
) -> None:
    remote, secret = tmp_path / "remote", tmp_path / "secret"
    remote.mkdir()
    secret.write_text("of this machine")
    (remote / "out.rclonelink").write_text(f"{secret}")
    (remote / "up.rclonelink").write_text("../secret")
    (remote / "self.rclonelink").write_text("self")
    (remote / "nul.rclonelink").write_bytes(b"a\0b")
    (remote / "leads-out").symlink_to(secret)  # not shown, as before
    (remote / "inside").symlink_to("file")
    (remote / "file").write_text("file")
    with mounted(f"file://{remote}", tmp_path) as mount:
        root = mount.path
        assert sorted(os.listdir(root)) == ["file", "inside", "nul", "out", "self", "up"]
        assert (root / "out").readlink() == secret
        assert (root / "out").read_text() == "of this machine"  # as any link in a directory
        assert (root / "up").read_text() == "of this machine"
        assert not (root / "inside").is_symlink()
        for name, number in (("nul", errno.EINVAL), ("self", errno.ELOOP)):
            with pytest.raises(OSError, match=name) as caught:
                (root / name).read_text()
            assert caught.value.errno == number
        with pytest.raises(OSError, match="out") as caught:
            os.open(root / "out", os.O_RDONLY | os.O_NOFOLLOW)
        assert caught.value.errno == errno.ELOOP
        told = (root / "out").lstat()
        assert stat.S_ISLNK(told.st_mode)
        assert stat.S_IMODE(told.st_mode) == 0o777
        assert told.st_size == len(str(secret))
        entries = {entry.name: entry.is_symlink() for entry in os.scandir(root)}
        assert entries == {name: name not in ("file", "inside") for name in os.listdir(root)}
        opened = [Path(f).readlink() for f in Path(f"/proc/{mount.process.pid}/fd").iterdir()]
        assert secret not in opened


def test_what_is_written_through_a_link_goes_to_what_it_points_to(tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    with mounted(f"file://{remote}", tmp_path) as mount:
        root = mount.path
        (root / "d").mkdir()
        (root / "l").symlink_to("d")
        (root / "l/file").write_text("1")
        (root / "f").symlink_to("l/file")
        with (root / "f").open("a") as file:
            file.write("2")
        (root / "f").chmod(0o600)
        mount.cli("flush", str(root), "--timeout", "25")
        assert (root / "d/file").read_text() == "12"
    found = {str(p.relative_to(remote)): p.read_text() for p in remote.rglob("*") if p.is_file()}
    assert found == {"d/file": "12", "f.rclonelink": "l/file", "l.rclonelink": "d"}


def test_rclone_reads_the_links_that_were_made_here_and_makes_those_that_are_read_here(
    tmp_path: Path,
) -> None:
    def rclone(source: str, target: str) -> None:
        program = str(Path(sys.executable).parent / "rclone")
        command = [program, "copy", source, target, "--config", "/dev/null"]
        subprocess.run(command, check=True, timeout=60)

    ours, remote, back = (tmp_path / name for name in ("ours", "remote", "back"))
    (ours / "d").mkdir(parents=True)
    targets = {"up": "d/x", "d/link": "../nowhere", "äö": "/etc/hostname"}
    for name, target in targets.items():
        (ours / name).symlink_to(target)
    rclone(f":local,links:{ours}", str(remote))
    with mounted(f"file://{remote}", tmp_path) as mount:
        for name, target in targets.items():
            assert (mount.path / name).readlink() == Path(target)
        (mount.path / "d/made").symlink_to("here")
        (mount.path / "up").rename(mount.path / "d/moved")
        mount.cli("flush", str(mount.path), "--timeout", "25")
    rclone(str(remote), f":local,links:{back}")
    found = {str(p.relative_to(back)): str(p.readlink()) for p in back.rglob("*") if not p.is_dir()}
    assert found == {
        "d/link": "../nowhere",
        "d/made": "here",
        "d/moved": "d/x",
        "äö": "/etc/hostname",
    }
