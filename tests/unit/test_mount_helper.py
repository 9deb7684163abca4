"""mount.mountd as mount(8) calls it: which options reach mountd, and which code comes back."""

from pathlib import Path

import pytest

from mountd.cli.mount_helper import mount, translated, umount


@pytest.mark.parametrize(
    ("given", "reaches"),
    [
        (["rw,_netdev,nofail,noauto,x-systemd.automount,x-systemd.mount-timeout=5min"], "rw"),
        (["ro,user,user=alice,nosuid,nodev,noexec,comment=x"], "ro"),
        (["defaults", "allow_other,uid=1000", "cache_size=2GiB"], "allow_other,uid=1000,"),
        (["password_file=/etc/a\\,b,relatime"], "password_file=/etc/a\\,b"),
        (["rw", "uhelper=systemd"], "rw"),
        ([], ""),
    ],
)
def test_what_fstab_adds_for_others_does_not_reach_mountd(given: list[str], reaches: str) -> None:
    assert translated(given, sloppy=False).startswith(reaches)
    assert translated(given, sloppy=False).count("systemd") == 0


def test_an_unknown_option_is_left_out_only_where_mount_says_so() -> None:
    assert translated(["rw,bogus,uid=1"], sloppy=True) == "rw,uid=1"
    assert translated(["rw,bogus,uid=1"], sloppy=False) == "rw,bogus,uid=1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["s3://b"], "DIR"),
        (["s3://b", "/storage", "-o", "remount,ro"], "can't be remounted"),
        (["s3://b", "/storage", "-o", "bogus"], "unknown option 'bogus'"),
        (["s3://b", "/storage", "-o", "password=x"], "show the secret"),
    ],
)
def test_a_wrong_call_is_1_as_mount_wants_it(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mount(arguments) == 1
    assert said in capsys.readouterr().err


def test_a_mount_that_fails_is_32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "remote").mkdir()
    missing = str(tmp_path / "missing")
    call = [f"file://{tmp_path}/remote", missing, "-v", "-n", "-o", "rw", "-t", "fuse.mountd"]
    assert mount(call) == 32
    assert "does not exist" in capsys.readouterr().err
    assert umount([missing, "-N", "/proc/1/ns/mnt"]) == 32


def test_a_fake_mount_mounts_nothing(tmp_path: Path) -> None:
    assert mount(["s3://b", str(tmp_path / "missing"), "-f", "-o", "rw"]) == 0
