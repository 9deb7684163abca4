"""The real daemon is killed some times during a mixed load; scripts/crash-test does it hundreds of
times, at more moments."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.mounting import mounted
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]

ROOT = Path(__file__).parents[2]
WITHIN_S = 500  # 65 s were seen on a machine with ten others at work


def said_by(command: list[str]) -> str:
    """What it wrote; fails with that where it fails. One that takes too long is asked to end, since
    a mount that it leaves behind disturbs who tidies up after these tests."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)
    try:
        said, complained = process.communicate(timeout=WITHIN_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        said, complained = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, said[-8000:] + complained[-8000:]
    return said


@pytest.mark.timeout(600)
def test_nothing_that_was_acknowledged_is_lost_when_the_daemon_is_killed(tmp_path: Path) -> None:
    # In a process of its own: a mount that hangs must not take pytest along.
    command = [sys.executable, "-m", "tests.crash.kill_loop", "--quick", "--kills", "8"]
    command += ["--time", "10", "--drain-every", "4", "--seed", "1"]  # campaigns have others
    command += ["--folder", str(tmp_path / "run")]
    assert "0 losses" in said_by(command)


@pytest.mark.timeout(600)
def test_a_kill_between_any_two_steps_of_a_directorys_rename_leaves_the_renamed_tree(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "tests.crash.kill_rename", str(tmp_path / "run")]
    assert "26 points, 0 losses" in said_by(command)


def test_a_kill_right_after_the_first_file_and_a_remote_that_is_gone_keep_no_mount_away(
    s3_server: S3Server, tmp_path: Path
) -> None:
    """No listing is on the disk yet, but the queue knows the source."""
    s3_server.put("b", "other", b"1")
    environment = s3_server.environment()
    with mounted("s3://b", tmp_path, environment=environment, write_back_s=3600) as mount:
        (mount.path / "new").write_bytes(b"n" * 1000)
        mount.kill()
        s3_server.refuse_connections()
    with mounted("s3://b", tmp_path, environment=environment, stop_timeout_s=0) as mount:
        assert (mount.path / "new").read_bytes() == b"n" * 1000
