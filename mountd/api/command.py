"""Runs `mountd COMMAND` as a child and turns its end into an exception."""

import json
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from tempfile import TemporaryFile
from typing import IO, Any

from mountd.errors import (
    CredentialsError,
    ExitCode,
    MountPointError,
    NotAllSent,
    StartError,
    UnreachableError,
    UsageError,
)
from mountd.own_command import own_command, own_environment

log = logging.getLogger(__name__)

_PATIENCE_S = 10.0
_SAID_BYTES = 64 << 10
_WARNING = "warning: "
_ERRORS: Mapping[int, type[StartError]] = {
    ExitCode.USAGE: UsageError,
    ExitCode.CREDENTIALS: CredentialsError,
    ExitCode.UNREACHABLE: UnreachableError,
    ExitCode.MOUNT_POINT: MountPointError,
    ExitCode.LEFT_IN_QUEUE: NotAllSent,
}
# The first makes a command tidy up. `umount` takes it for a question.
INTERRUPT = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
TERMINATE = (signal.SIGTERM, signal.SIGKILL)

Hear = Callable[[dict[str, Any]], None]


def run_command(
    words: Sequence[str],
    secrets: Mapping[str, str] | None = None,
    *,
    hear: Hear | None = None,
    ending: Sequence[signal.Signals] = INTERRUPT,
) -> None:
    """Returns when the command has ended well. Its warnings go to the logger `mountd.api`.

    `secrets` are added to its environment. `hear` gets what it reports on the way (cli/report.py).
    Raises StartError with the command's one line, of the type of its exit code. Left by an
    exception, of `hear` or Ctrl-C, the command is ended by the signals of `ending`. Any thread.
    """
    environment = own_environment() | dict(secrets or {})
    with TemporaryFile() as said:
        read_fd, write_fd = os.pipe() if hear is not None else (-1, -1)
        report = ["--report-fd", str(write_fd)] if hear is not None else []
        try:
            child = subprocess.Popen(
                [*own_command(), *words, *report],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=environment,
                pass_fds=(write_fd,) if hear is not None else (),
                start_new_session=True,  # a terminal's Ctrl-C is ours to pass on
            )
        except BaseException:
            if hear is not None:
                os.close(read_fd)
            raise
        finally:
            if hear is not None:
                os.close(write_fd)
        try:
            if hear is not None:
                with open(read_fd, encoding="utf-8") as lines:
                    for line in lines:
                        hear(json.loads(line))
            code = child.wait()
        except BaseException:
            _end(child, ending)
            raise
        _judge(words[0], code, _lines(said))


def _end(child: subprocess.Popen[bytes], ending: Sequence[signal.Signals]) -> None:
    for number in ending:
        child.send_signal(number)
        try:
            child.wait(_PATIENCE_S)
            return
        except subprocess.TimeoutExpired:
            continue


def _lines(said: IO[bytes]) -> list[str]:
    """What it said of itself, without its name."""
    size = said.seek(0, os.SEEK_END)
    said.seek(max(size - _SAID_BYTES, 0))
    lines = said.read().decode(errors="replace").splitlines()
    return [line.removeprefix("mountd: ") for line in lines if line.startswith("mountd: ")]


def _judge(name: str, code: int, lines: list[str]) -> None:
    last = ""
    if code != ExitCode.OK:
        last = lines.pop() if lines else ""
    for line in lines:
        if line.startswith(_WARNING):
            log.warning("%s", line.removeprefix(_WARNING))
    if code == ExitCode.OK:
        return
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    message = last.removeprefix(_WARNING) or f"mountd {name} ended with {how} and said nothing"
    raise _ERRORS.get(code, StartError)(message)
