"""The real daemon is killed some times during a mixed load; scripts/crash-test does it hundreds of
times, at more moments."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.fuse, pytest.mark.server]

ROOT = Path(__file__).parents[2]
WITHIN_S = 100


def test_nothing_that_was_acknowledged_is_lost_when_the_daemon_is_killed(tmp_path: Path) -> None:
    # In a process of its own: a mount that hangs must not take pytest along.
    command = [sys.executable, "-m", "tests.crash.kill_loop", "--quick", "--kills", "8"]
    command += ["--time", "10", "--drain-every", "4", "--folder", str(tmp_path / "run")]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-4000:]
    assert "0 losses" in ended.stdout
