"""The keeper of a daemon in the background, with a program that stands for the daemon."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from mountd.kept import keeper

DIES_EACH_TIME = """
import os, signal, socket
to_keeper = socket.socket(fileno=int(os.environ["MOUNTD_KEEPER_FD"]))
socket.send_fds(to_keeper, [b"keep"], list(os.pipe()))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_keeper_that_is_told_to_end_between_two_daemons_signals_nobody() -> None:
    daemon = [sys.executable, "-I", "-S", "-c", DIES_EACH_TIME]
    command = [sys.executable, "-I", "-S", keeper.__file__, "-1", *daemon]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            deaths = (line for line in running.stderr if "was ended by signal 9" in line)
            for _ in range(4):
                next(deaths)
            running.send_signal(signal.SIGTERM)  # it waits a second before the next one
            rest = running.stderr.read()
            assert running.wait(60)
        finally:
            running.kill()
    assert "Traceback" not in rest


GOES_ON = """
import os, signal, socket
to_keeper = socket.socket(fileno=int(os.environ["MOUNTD_KEEPER_FD"]))
if "MOUNTD_KEPT_FDS" in os.environ:
    to_keeper.send(b"end")
    os._exit(7)
socket.send_fds(to_keeper, [b"keep"], list(os.pipe()))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_keeper_whose_log_is_on_a_full_disk_starts_the_next_daemon_all_the_same() -> None:
    daemon = [sys.executable, "-I", "-S", "-c", GOES_ON]
    command = [sys.executable, "-I", "-S", keeper.__file__, "-1", *daemon]
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, stderr=full, timeout=60, check=False).returncode == 7


def test_a_keeper_tries_again_where_the_next_daemon_can_not_be_started(
    tmp_path: Path,
) -> None:
    """Its Python is just being replaced."""
    python, away = tmp_path / "python", tmp_path / "away"
    python.symlink_to(sys.executable)
    goes = f"os.replace({str(python)!r}, {str(away)!r})\nos.kill("
    daemon = [str(python), "-I", "-S", "-c", GOES_ON.replace("os.kill(", goes)]
    command = [sys.executable, "-I", "-S", keeper.__file__, "-1", *daemon]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            next(line for line in running.stderr if "can't be started" in line)
            os.replace(away, python)
            assert running.wait(60) == 7
        finally:
            running.kill()
