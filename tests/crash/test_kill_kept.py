"""Daemons in the background are killed while the load and its open files go on;
`scripts/crash-test --kept` does it for longer."""

import sys
from pathlib import Path

import pytest

from tests.crash.test_kill import said_by

pytestmark = [pytest.mark.fuse, pytest.mark.server]


@pytest.mark.timeout(600)
def test_no_call_fails_or_lies_and_nothing_is_lost_while_daemons_are_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.crash.kill_kept", "--quick", "--kills", "6"]
    assert "0 losses" in said_by([*command, "--seed", "1", "--folder", str(tmp_path / "run")])
