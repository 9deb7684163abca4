"""`mountd copy` to odd disks: one that is full in the middle, one that folds letter case."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.mounting import is_mounted, small_disk
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]

MIB = 1 << 20


@pytest.fixture
def environment(s3_server: S3Server, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "config.toml").write_text("")
    s3_server.make_bucket("b")
    return {
        **os.environ,
        **s3_server.environment(),
        "MOUNTD_CONFIG": str(tmp_path / "config.toml"),
        "MOUNTD_CACHE_DIR": str(tmp_path / "cache"),
        "MOUNTD_RUNTIME_DIR": str(tmp_path / "run"),
    }


def started(environment: dict[str, str], *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mountd", "copy", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment, text=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("NOT TESTED: mounting a small disk takes root")
    with small_disk(tmp_path / "disk", 24) as path:
        yield path


def test_a_disk_that_fills_up_stops_the_copy_names_it_and_has_no_half_file(
    s3_server: S3Server, environment: dict[str, str], disk: Path
) -> None:
    big = os.urandom(9 * MIB)
    for name in ("big1", "big2"):
        s3_server.put("b", name, big)
    s3_server.put_many("b", [f"small/{n}" for n in range(30)], b"s" * 1000)
    s3_server.faults({"op": "GetObject", "hold": True})
    process = started(environment, "s3://b", disk / "out")
    s3_server.wait_for_requests(4, op="GetObject")
    with (disk / "other").open("wb") as other:  # somebody else was quicker
        other.write(bytes(12 * MIB))
    s3_server.clear_faults()
    s3_server.release()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "No space left on device" in said
    assert "it was stopped" in said
    found = {p.name: p for p in (disk / "out").rglob("*") if p.is_file()}
    whole = [name for name in found if name.startswith("big")]
    assert len(whole) < 2
    assert all(found[name].read_bytes() == big for name in whole)
    (disk / "other").unlink()
    process = started(environment, "s3://b", disk / "out")
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    names = [p.name for p in (disk / "out").rglob("*") if p.is_file()]
    assert len(names) == 32
    assert not [name for name in names if name.startswith(".")]


def test_what_does_not_fit_is_refused_before_anything_is_written(
    s3_server: S3Server, environment: dict[str, str], disk: Path
) -> None:
    s3_server.put("b", "big", bytes(25 * MIB))
    process = started(environment, "s3://b", disk / "out")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "do not fit" in said
    assert os.listdir(disk) == []


@pytest.fixture
def folding_disk(tmp_path: Path) -> Iterator[Path]:
    """One that takes `A` for `a`, and has no hard links: what a FAT disk or macOS is."""
    rclone = Path(sys.executable).parent / "rclone"
    if not rclone.exists():
        pytest.skip("there is no rclone")
    below, path = tmp_path / "below", tmp_path / "disk"
    below.mkdir()
    path.mkdir()
    command = [str(rclone), "mount", str(below), str(path), "--vfs-case-insensitive"]
    command += ["--vfs-cache-mode", "writes", "--cache-dir", str(tmp_path / "rclone")]
    command += ["--config", "/dev/null", "--vfs-write-back", "0s"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + 20
        while not is_mounted(path):
            assert time.monotonic() < deadline_s, "rclone did not mount"
            time.sleep(0.02)
        yield path
    finally:
        subprocess.run(["fusermount3", "-uz", str(path)], check=False)
        process.wait(20)


@pytest.mark.parametrize("is_new", [False, True])
def test_where_case_is_folded_neither_of_two_names_is_overwritten(
    s3_server: S3Server, environment: dict[str, str], folding_disk: Path, is_new: bool
) -> None:
    for key in ("Readme", "readme", "other", "D/x", "d/y"):
        s3_server.put("b", key, key.encode())
    out = folding_disk / "out"
    if not is_new:
        out.mkdir()
    process = started(environment, "s3://b", out)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert "4 files not copied" in said
    assert "DEST can't tell it from" in said
    assert (out / "other").read_bytes() == b"other"
    assert {p.name for p in out.rglob("*") if p.is_file()} <= {"other"}


def test_where_case_is_folded_what_is_there_under_another_spelling_stays(
    s3_server: S3Server, environment: dict[str, str], folding_disk: Path
) -> None:
    s3_server.put("b", "readme", b"the remote's")
    (folding_disk / "README").write_bytes(b"mine")
    process = started(environment, "s3://b", folding_disk)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "readme" in said
    assert (folding_disk / "README").read_bytes() == b"mine"
