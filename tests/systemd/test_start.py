"""systemd/start: how long mountd is started for a mount that waits, and nobody serves."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.systemd.machine import ROOT

LEFT = {"LISTEN_FDNAMES": "mountd-record-0-0:mountd-connection-0"}


def start(
    folder: Path, environment: dict[str, str], limit_s: int = 60
) -> "subprocess.CompletedProcess[str]":
    command = ["sh", str(ROOT / "systemd/start"), str(limit_s), str(folder / "since")]
    return subprocess.run(
        [*command, "echo", "two words"],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_a_mount_that_waits_it_always_runs_the_command(tmp_path: Path) -> None:
    for environment in ({}, {"LISTEN_FDNAMES": "http.socket:mountd-record-0-0"}):
        done = start(tmp_path, environment, limit_s=0)
        assert (done.returncode, done.stdout, done.stderr) == (0, "two words\n", "")
    assert not (tmp_path / "since").exists()


def test_a_mount_that_waits_is_tried_until_the_time_is_over_and_once_more_from_the_start(
    tmp_path: Path,
) -> None:
    for _ in range(2):
        assert start(tmp_path, LEFT).stdout == "two words\n"
    since = int((tmp_path / "since").read_text())
    (tmp_path / "since").write_text(f"{since - 61}\n")
    done = start(tmp_path, LEFT)
    assert (done.returncode, done.stdout) == (76, "")
    assert "giving up" in done.stderr
    assert start(tmp_path, LEFT).stdout == "two words\n"


def test_what_was_noted_before_a_start_without_one_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "since").write_text("0\n")
    assert start(tmp_path, {}).stdout == "two words\n"
    assert start(tmp_path, LEFT).stdout == "two words\n"


@pytest.mark.parametrize("noted", ["", "\n", "soon\n", "1 2\n", "-5\n"])
def test_what_is_no_time_begins_anew(tmp_path: Path, noted: str) -> None:
    (tmp_path / "since").write_text(noted)
    assert start(tmp_path, LEFT).stdout == "two words\n"
    assert int((tmp_path / "since").read_text()) > 0


def test_where_the_time_can_not_be_noted_nobody_is_to_wait(tmp_path: Path) -> None:
    done = start(tmp_path / "none", LEFT)
    assert (done.returncode, done.stdout) == (76, "")
    assert start(tmp_path / "none", {}).stdout == "two words\n"
