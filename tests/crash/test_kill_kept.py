"""Daemons in the background are killed while the load and its open files go on;
`scripts/crash-test --kept` does it for longer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.test_kill import ROOT, said_by
from tests.mount.surviving import in_background, is_alive, until

pytestmark = [pytest.mark.fuse, pytest.mark.server]


@pytest.mark.timeout(600)
def test_no_call_fails_or_lies_and_nothing_is_lost_while_daemons_are_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.crash.kill_kept", "--quick", "--kills", "6"]
    assert "0 losses" in said_by([*command, "--seed", "1", "--folder", str(tmp_path / "run")])


WRITES_AND_CLOSES_LATE = """
import ctypes, sys
from pathlib import Path
from tests.crash.kill_loop_calls import Calls, DaemonGone, Diary, Mount
from tests.crash.kill_loop_model import Tree

top = Path(sys.argv[1])
mount = Mount(top)
mount.arrive()
calls = Calls(mount, top, Tree({}), Diary(Path(sys.argv[2])))
with calls.made("first"):
    pass  # from here on the kernel sends no FLUSH
try:
    with calls.made("file") as (fd, file):
        calls.write(fd, file, 0, b"a" * 4566)
        calls.sync(fd, file)
        calls.write(fd, file, 2522, b"b" * 4096)
        print("written", flush=True)
        sys.stdin.readline()
        ctypes.CDLL(None).syncfs(fd)
except DaemonGone:
    print("gone", len(file.data), len(file.steps))
else:
    print("closed", len(file.data), len(file.steps))
"""


def test_what_is_closed_after_the_mount_died_was_not_acknowledged(tmp_path: Path) -> None:
    """The kernel says 0 to such a close, and the bytes are nowhere."""
    (tmp_path / "data").mkdir()
    with in_background(f"file://{tmp_path / 'data'}", tmp_path) as mount:
        command = [sys.executable, "-c", WRITES_AND_CLOSES_LATE]
        command += [str(mount.path), str(tmp_path / "diary")]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as writing:
            assert writing.stdout is not None
            assert writing.stdout.readline() == "written\n"
            for pid in (mount.keeper, mount.pid):
                os.kill(pid, signal.SIGKILL)
            until(lambda: not is_alive(mount.keeper) and not is_alive(mount.pid))
            said, _ = writing.communicate("\n", timeout=30)
    assert said == "gone 4566 1\n"
