"""What a container's environment asks for."""

from pathlib import Path

import pytest

from mountd.cli import sidecar
from mountd.cli.sidecar import (
    check_may_mount,
    is_seen_outside,
    make_mount_point,
    mountpoint_of,
    source_of,
    take_plain_password,
)
from mountd.config.rclone_conf import RcloneConfig
from mountd.errors import ExitCode, MountPointError, StartError, UsageError
from mountd.mount_table import parse_mountinfo

PASS = "0EulCnQmzZxf8LDOAHq5pKkwDH7IoQ"  # secret
APP_PASSWORD = "Ab3dE-fG7hi-jKL9m-nOpq2-rStu5"
VOLUMES = b"""\
22 1 0:20 / / rw - overlay overlay rw
30 22 8:1 /srv/data /storage rw shared:7 - ext4 /dev/sda rw
31 22 8:1 /srv/other /private rw master:7 - ext4 /dev/sda rw
32 30 0:50 / /storage rw shared:9 - fuse.mountd s3://b rw,user_id=0
"""


def rclone(**variables: str) -> RcloneConfig:
    in_file = {"lab": {"type": "s3"}} if "in_file" in variables else {}
    return RcloneConfig(None, in_file, variables)


@pytest.mark.parametrize(
    ("environ", "source"),
    [
        ({"MOUNTD_SOURCE": "s3://b", "REMOTE_PATH": "rshare:/"}, "s3://b"),
        ({"REMOTE_PATH": "rshare:/jobs/1"}, "rclone:rshare:/jobs/1"),
        ({"REMOTE_PATH": "", "MOUNTD_SOURCE": ""}, "rclone:rshare:"),
    ],
)
def test_what_is_named_counts_and_else_the_only_remote(
    environ: dict[str, str], source: str
) -> None:
    assert source_of(environ, rclone(RCLONE_CONFIG_RSHARE_TYPE="webdav")) == source


def test_where_it_is_not_clear_what_to_mount_the_line_says_what_to_set() -> None:
    with pytest.raises(UsageError, match="nothing to mount: set MOUNTD_SOURCE"):
        source_of({}, rclone())
    two = rclone(in_file="", RCLONE_CONFIG_RSHARE_TYPE="webdav")
    with pytest.raises(UsageError, match=r"\(lab, rshare\).* MOUNTD_SOURCE=rclone:lab:"):
        source_of({}, two)


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({}, "/storage"),
        ({"LOCAL_PATH": "/data/"}, "/data"),
        ({"LOCAL_PATH": "/data", "MOUNTD_MOUNTPOINT": "/srv/x"}, "/srv/x"),
    ],
)
def test_where_it_is_mounted(environ: dict[str, str], path: str) -> None:
    assert mountpoint_of(environ) == Path(path)


def test_a_password_that_rclone_did_not_obscure_is_taken_as_it_is() -> None:
    variable = "RCLONE_CONFIG_RSHARE_PASS"
    environ = {variable: APP_PASSWORD}
    take_plain_password("rclone:rshare:/x", environ)
    assert environ == {"MOUNTD_PASSWORD": APP_PASSWORD}
    for untouched in ({variable: PASS}, {"RCLONE_CONFIG_OTHER_PASS": "plain"}, {}):
        environ = dict(untouched)
        take_plain_password("rclone:rshare:", environ)
        assert environ == untouched
    environ = {variable: "plain", "MOUNTD_PASSWORD": "given"}
    take_plain_password("rclone:rshare:", environ)
    assert environ == {"MOUNTD_PASSWORD": "given"}, "what is mountd's own counts"


def test_a_mount_point_is_made_closed_to_others_and_one_that_cannot_be_made_is_exit_5(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a/storage"
    make_mount_point(path)
    make_mount_point(path)
    assert path.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(MountPointError, match="can't be made: Not a directory") as failed:
        make_mount_point(tmp_path / "file/storage")
    assert failed.value.exit_code == ExitCode.MOUNT_POINT


def test_only_what_is_mounted_on_a_shared_mount_is_seen_outside() -> None:
    mounts = parse_mountinfo(VOLUMES)
    assert is_seen_outside("/storage", mounts), "what lies below a dead one of ours counts"
    assert is_seen_outside("/storage/deeper", mounts)
    assert not is_seen_outside("/private/storage", mounts)
    assert not is_seen_outside("/elsewhere", mounts)


def test_what_keeps_a_container_from_mounting_is_said_before_it_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(StartError, match="--cap-add SYS_ADMIN"):
        check_may_mount("CapBnd:\t00000000a80425fb\nNoNewPrivs:\t0\n")
    can = "CapBnd:\t00000000a82425fb\nNoNewPrivs:\t1\n"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    check_may_mount(can)
    monkeypatch.setattr("os.geteuid", lambda: 10001)
    with pytest.raises(StartError, match="no-new-privileges"):
        check_may_mount(can)


def test_the_health_check_of_what_is_not_mounted_says_so_and_is_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOUNTD_MOUNTPOINT", str(tmp_path))
    assert sidecar.run(["--check"]) == 1
    assert str(tmp_path) in capsys.readouterr().out
