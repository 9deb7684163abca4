"""The journal after SIGKILL at any instant: nothing that was acknowledged is lost."""

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def test_what_was_acknowledged_is_there_after_sigkill(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.crash.journal_victim", str(tmp_path), "1", "60", "60"]
    run = subprocess.run(
        command, cwd=_ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    kills, steps = map(int, run.stdout.split())
    assert kills >= 30
    assert steps > 300, "they were killed before they did anything"
