"""What `mountd status` tells people, by the real command on real mounts, while things go wrong."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mountd.cli.status import look
from mountd.control.folder_note import noted_folder
from tests.mount.mounting import Mounted, mounted, small_disk
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]

WITHIN_S = 30
MIB = 1 << 20


@pytest.fixture
def environment(s3_server: S3Server, tmp_path: Path) -> dict[str, str]:
    s3_server.put("lab", "small", b"small")
    return {**s3_server.environment(), "MOUNTD_CACHE_DIR": str(tmp_path / "cache")}


@pytest.fixture
def mount(environment: dict[str, str], tmp_path: Path) -> Iterator[Mounted]:
    with mounted("s3://lab", tmp_path, environment=environment, request_timeout_s=4) as found:
        assert os.listdir(found.path) == ["small"]
        yield found


def answer(mount: Mounted) -> str:
    return mount.cli("status", str(mount.path)).partition("\n")[0]


def until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def test_the_first_line_is_true_while_the_remote_is_cut_off_and_afterwards(
    s3_server: S3Server, mount: Mounted
) -> None:
    assert answer(mount) == "everything is on s3://lab"
    s3_server.refuse_connections()
    try:
        (mount.path / "waits").write_bytes(b"123")
        until(lambda: mount.status()["remote"]["state"] == "unreachable")
        said = mount.cli("status", str(mount.path))
        assert said.startswith("1 file (3 B) is only on this machine, for ")
        assert "; s3://lab does not answer, and gets it when that is over\n" in said
        assert "oldest unsent  waits, for " in said
        assert "\nunreachable: " in said
        queue = mount.cli("queue", str(mount.path))
        assert "the remote is unreachable since " in queue or "Unreachable" in queue
    finally:
        s3_server.accept_connections()
    mount.cli("flush", str(mount.path), "--timeout", "25")
    assert answer(mount) == "everything is on s3://lab"
    with (mount.path / "open").open("wb"):
        mount.cli("flush", str(mount.path), "--timeout", "25")
        line = "everything that was closed is on s3://lab; 1 file is open for writing"
        assert answer(mount) == line


def test_what_the_remote_refuses_is_said_to_have_failed_and_queue_says_why(
    s3_server: S3Server, mount: Mounted
) -> None:
    s3_server.faults({"op": "PutObject", "prefix": "refused", "status": 403})
    (mount.path / "refused").write_bytes(b"123")
    until(lambda: mount.status()["queue"]["failed"] == 1)
    assert answer(mount) == (
        f"1 change failed, writes are refused by the remote: see mountd queue {mount.path}"
    )
    row = mount.cli("queue", str(mount.path)).splitlines()[1]
    assert row.startswith("refused")
    assert "failed" in row
    assert "Denied" in row


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs, which takes root")
def test_a_full_cache_disk_is_told_and_what_was_not_taken_is_not_called_safe(
    s3_server: S3Server, environment: dict[str, str], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 6) as disk:
        options = {
            "cache_dir": disk,
            "cache_size": "1GiB",
            "request_timeout_s": 4,
            "stop_timeout_s": 1,
        }
        with mounted("s3://lab", tmp_path, environment=environment, **options) as found:
            assert os.listdir(found.path) == ["small"]
            s3_server.faults({"op": "PutObject", "hold": True})
            with pytest.raises(OSError, match="No space left"):
                (found.path / "large").write_bytes(bytes(8 * MIB))
            said = found.cli("status", str(found.path))
            assert "the cache's disk: No space left on device" in said
            assert "only on this machine" in said.partition("\n")[0]
            s3_server.clear_faults()
            s3_server.release()


class Terminal:
    """A command on a terminal of its own, 100 x 40."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self._fd, theirs = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mountd", *arguments],
            env={**environment, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def wait_for(self, words: str) -> None:
        """Returns when they are shown after what was waited for before."""
        until_s = time.monotonic() + WITHIN_S
        while words not in self.shown:
            assert time.monotonic() < until_s, self.shown[-3000:]
            self._read(0.2)
        self.shown = self.shown.partition(words)[2]

    def end(self, number: int) -> int:
        """Sends a signal; the exit code."""
        self.process.send_signal(number)
        while self.process.poll() is None:
            self._read(0.1)
        self._read(0.1)
        os.close(self._fd)
        return self.process.returncode

    def _read(self, within_s: float) -> None:
        if select.select([self._fd], [], [], within_s)[0]:
            try:
                self.shown += os.read(self._fd, 1 << 16).decode(errors="replace")
            except OSError:
                return  # nobody has the other end any more


def test_a_killed_daemon_is_told_with_what_waits_also_in_a_cache_dir_of_the_command_line(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_server.put("lab", "small", b"small")
    environment = {**s3_server.environment(), "MOUNTD_CACHE_DIR": str(tmp_path / "elsewhere")}
    monkeypatch.setenv("MOUNTD_RUNTIME_DIR", str(tmp_path / "run"))
    with mounted("s3://lab", tmp_path, environment=environment, write_back_s=3600) as first:
        (first.path / "waits").write_bytes(b"123")
        # Of a mount that lives nobody looks at disks, which may take seconds.
        assert look(first.path, lambda: pytest.fail("it looked"))[0]["queue"]["pending"] == 1
        first.kill()
        (found,) = statuses(first, 1)
        assert (found["state"], found["queue"]["pending"]) == ("dead", 1)
        assert found["folder"].startswith(f"{tmp_path}/cache/s3-lab-")
        assert f"no daemon serves {first.path}; these queues" in first.cli("queue", str(first.path))
        command = [sys.executable, "-m", "mountd", "flush", str(first.path), "--timeout", "1"]
        done = subprocess.run(command, env=first.environment, capture_output=True, text=True)
        assert done.returncode == 1
        assert f"no daemon serves {first.path}, and nothing is sent; mount it again" in done.stderr
    with mounted("s3://lab", tmp_path, environment=environment, write_back_s=0) as second:
        second.cli("flush", str(second.path))
        assert noted_folder(str(second.path)) is not None
        assert second.stop() == 0
    assert noted_folder(str(tmp_path / "mnt")) is None


def statuses(mount: Mounted, code: int) -> list[dict[str, Any]]:
    """By `status --json`, which ends with `code`."""
    command = [sys.executable, "-m", "mountd", "status", str(mount.path), "--json"]
    done = subprocess.run(command, env=mount.environment, stdout=subprocess.PIPE, timeout=30)
    assert done.returncode == code
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watching_survives_a_restart_of_the_daemon_and_leaves_the_terminal_as_it_was(
    environment: dict[str, str], tmp_path: Path, number: int
) -> None:
    with mounted("s3://lab", tmp_path, environment=environment) as first:
        arguments = ("status", str(first.path), "--watch", "--interval", "0.1")
        watching = Terminal(first.environment, *arguments)
        watching.wait_for("\x1b[?1049h")  # another screen
        watching.wait_for("everything is on s3://lab")
        watching.wait_for("▁")
        first.kill()
        watching.wait_for("no daemon serves")
    with mounted("s3://lab", tmp_path, environment=environment) as second:
        (second.path / "more").write_bytes(b"1")
        watching.wait_for("everything is on s3://lab")
        assert watching.end(number) == 0
    assert "\x1b[?1049l" in watching.shown  # the first one again
    assert "\x1b[?25h" in watching.shown  # with its cursor
    assert "Traceback" not in watching.shown


def test_watching_into_a_pipe_is_a_line_per_interval(mount: Mounted) -> None:
    command = [sys.executable, "-m", "mountd", "status", str(mount.path), "--watch"]
    with subprocess.Popen(
        [*command, "--interval", "0.1"],
        env=mount.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        lines = [watching.stdout.readline() for _ in range(4)]
        watching.send_signal(signal.SIGINT)
        _, complaints = watching.communicate(timeout=20)
    assert [line.partition(" ")[2] for line in lines[:1]] == ["everything is on s3://lab\n"]
    assert lines[2].endswith("everything is on s3://lab\n")
    assert (watching.returncode, complaints) == (0, "")
