"""What commands say whose daemon dies while they wait: through the kernel."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mount.mounting import is_mounted, mounted
from tests.mount.surviving import TIMEOUT_S, in_background
from tests.mount.test_surviving_ends import with_site
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]

HELD = {"op": "PutObject", "hold": True}


@pytest.mark.parametrize("command", ["umount", "flush"])
def test_who_waits_for_the_queue_waits_on_with_the_daemon_that_goes_on(
    s3_server: S3Server, tmp_path: Path, command: str
) -> None:
    s3_server.make_bucket("b")
    environment = s3_server.environment()
    with in_background("s3://b", tmp_path, environment, write_back_s=60) as mount:
        (mount.path / "first").write_bytes(b"bytes")  # with which the server is tried
        assert mount.cli("flush", str(mount.path)).returncode == 0
        (mount.path / "file").write_bytes(b"bytes")
        s3_server.faults(HELD)
        words = [sys.executable, "-m", "mountd", command, str(mount.path)]
        with subprocess.Popen(words, env=mount.environment) as waiting:
            try:
                s3_server.wait_for_requests(
                    1, op="PutObject", prefix="file"
                )  # nobody else wants it
                mount.after(lambda: os.kill(mount.pid, signal.SIGKILL))
                assert waiting.poll() is None
            finally:
                s3_server.clear_faults()
                s3_server.release()
            assert waiting.wait(2 * TIMEOUT_S) == 0
        assert s3_server.read("b", "file") == b"bytes"
        assert is_mounted(mount.path) == (command == "flush")


def test_umount_whose_daemon_dies_for_good_says_what_is_left(
    s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.make_bucket("b")
    with mounted("s3://b", tmp_path, environment=s3_server.environment(), write_back_s=60) as mount:
        (mount.path / "first").write_bytes(b"bytes")  # with which the server is tried
        mount.cli("flush", str(mount.path))
        s3_server.faults(HELD)
        (mount.path / "file").write_bytes(b"bytes")
        words = [sys.executable, "-m", "mountd", "umount", str(mount.path)]
        with subprocess.Popen(words, env=mount.environment, stderr=subprocess.PIPE) as waiting:
            s3_server.wait_for_requests(1, op="PutObject", prefix="file")
            mount.process.kill()
            mount.process.wait(TIMEOUT_S)
            _, said = waiting.communicate(timeout=TIMEOUT_S)
        s3_server.clear_faults()
        s3_server.release()
        assert waiting.returncode == 75, said
        assert b"not on the remote yet: 1 file" in said
        assert not is_mounted(mount.path)


def test_umount_whose_daemon_dies_before_its_first_answer_says_what_is_left(
    s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.make_bucket("b")
    with mounted("s3://b", tmp_path, environment=s3_server.environment(), write_back_s=60) as mount:
        (mount.path / "file").write_bytes(b"bytes")
        mount.process.send_signal(signal.SIGSTOP)
        words = [sys.executable, "-m", "mountd", "umount", str(mount.path)]
        with subprocess.Popen(words, env=mount.environment, stderr=subprocess.PIPE) as waiting:
            while not holds_a_process(waiting.pid):
                assert waiting.poll() is None
                time.sleep(0.01)
            mount.process.kill()
            mount.process.wait(TIMEOUT_S)
            _, said = waiting.communicate(timeout=TIMEOUT_S)
        assert waiting.returncode == 75, said
        assert b"not on the remote yet: 1 file" in said
        assert not is_mounted(mount.path)


def holds_a_process(pid: int) -> bool:
    """Whether it has found the daemon, and is about to ask it."""
    links = (os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink())
    with suppress(OSError):
        return any("pidfd" in link for link in links)
    return False


DIES_AT_ITS_START = """
import os, sys
if "mount" in sys.orig_argv and "MOUNTD_KEPT_FDS" in os.environ:
    os.kill(os.getpid(), 11)
"""


def test_an_upgrade_whose_new_code_dies_and_that_nobody_goes_on_for_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    environment = with_site(tmp_path, DIES_AT_ITS_START)
    with mounted(f"file://{tmp_path / 'data'}", tmp_path, environment=environment) as mount:
        words = [sys.executable, "-m", "mountd", "upgrade", str(mount.path)]
        with subprocess.Popen(words, env=mount.environment, stderr=subprocess.PIPE) as upgrading:
            assert mount.process.wait(2 * TIMEOUT_S) == -signal.SIGSEGV
            _, said = upgrading.communicate(timeout=TIMEOUT_S)
        assert upgrading.returncode == 1
        assert b"died, and nobody goes on" in said
