"""Requests that a dead daemon had read, and those that came while there was none."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.mounting import is_mounted
from tests.mount.surviving import TIMEOUT_S, until

pytestmark = pytest.mark.fuse

DAEMON = Path(__file__).with_name("takeover_daemon.py")
PIDFD_GETFD = 438  # the same number everywhere
PROGRAM = """
import os, sys, threading
mount = sys.argv[1]
told = {}
def read():
    pattern = bytes(range(256)) * (1 << 12)
    with open(mount + "/big", "rb", buffering=0) as file:
        told["read"] = all(file.read(1 << 20) == pattern for _ in range(16))
def write():
    with open(mount + "/out", "r+b", buffering=0) as file:
        file.write(bytes(range(256)) * (1 << 12))
        os.fsync(file.fileno())
    told["write"] = True
def late():
    told["late"] = os.stat(mount + "/late").st_ino == 4
for name in ("big", "out"):
    os.stat(mount + "/" + name)  # one look-up of a directory's names at a time
threads = [threading.Thread(target=run) for run in (read, write, late)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sorted(name for name, good in told.items() if good))
"""


def said(folder: Path) -> list[str]:
    path = folder / "said"
    return path.read_text().split() if path.exists() else []


def descriptor_of(pid: int, number: int) -> int:
    """A copy of another process's."""
    pid_fd = os.pidfd_open(pid)
    try:
        copied = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pid_fd, number, 0)
    finally:
        os.close(pid_fd)
    assert copied >= 0, os.strerror(ctypes.get_errno())
    return int(copied)


@contextmanager
def daemon(folder: Path, how: str, kept: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    mount = folder / "mnt"
    command = [sys.executable, str(DAEMON), str(folder), str(mount), how]
    fds = () if kept is None else (kept,)
    running = subprocess.Popen([*command, *map(str, fds)], pass_fds=fds)
    try:
        yield running
    finally:
        running.kill()
        running.wait(TIMEOUT_S)


def test_what_the_dead_one_had_read_is_sent_again_and_what_came_later_waits(
    tmp_path: Path,
) -> None:
    mount = tmp_path / "mnt"
    mount.mkdir()
    kept = -1
    try:
        with daemon(tmp_path, "hang") as first:
            until(lambda: is_mounted(mount))
            program = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(mount)], stdout=subprocess.PIPE
            )
            until(lambda: {f"hangs-{w}" for w in ("read", "write", "lookup")} <= {*said(tmp_path)})
            kept = descriptor_of(first.pid, int((tmp_path / "connection").read_text()))
            first.send_signal(signal.SIGKILL)
            first.wait(TIMEOUT_S)
        looks = subprocess.Popen([sys.executable, "-c", f"import os; os.stat({str(mount)!r})"])
        assert program.poll() is None
        with daemon(tmp_path, "answer", kept):
            out, _ = program.communicate(timeout=TIMEOUT_S)
            assert looks.wait(TIMEOUT_S) == 0
        assert out.split() == b"['late', 'read', 'write']".split()
        assert {"again-read", "again-write", "again-lookup"} <= {*said(tmp_path)}
        assert (tmp_path / "out").read_bytes() == bytes(range(256)) * (1 << 12)
    finally:
        if kept >= 0:
            os.close(kept)  # whoever still waits gets an error
        subprocess.run(["fusermount3", "-uz", str(mount)], check=False, timeout=TIMEOUT_S)
