"""The keeper of a daemon in the background, with a program that stands for the daemon."""

import signal
import subprocess
import sys

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
