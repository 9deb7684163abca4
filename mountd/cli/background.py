"""Starts the daemon as a child in a session of its own and waits until the mount is usable."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mountd.cli.output import warn
from mountd.cli.ready import Outcome, wait_for_outcome
from mountd.control.runtime_dir import VARIABLE as RUNTIME_VARIABLE
from mountd.errors import ExitCode, StartError
from mountd.kept import keeper
from mountd.logs import KEPT_FILES, LOG_FILE, OUTPUT_FILE, ROTATE_BYTES
from mountd.own_command import own_environment
from mountd.service.sd_notify import VARIABLES

_EXIT_TIMEOUT_S = 10.0
_KNOWN = "it was mounted here before: what is cached is served, what is written waits here"


class StartFailed(StartError):
    """The child's own line and code."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.error or "")
        known = {int(code): code for code in ExitCode}
        self.exit_code = known.get(outcome.exit_code, ExitCode.RUNTIME)


def start_in_background(command: Sequence[str], log_dir: Path, timeout_s: float) -> int:
    """Runs `command` with `--ready-fd N` added; 0 once it says that it is ready.

    Raises StartError with the child's own line, or with the last line that it left in its log. On
    a timeout or an interrupt the child is told to end.
    """
    child, read_fd = _spawn(command, log_dir)
    try:
        outcome = wait_for_outcome(read_fd, timeout_s)
    except TimeoutError as error:
        child.terminate()
        _end(child)
        raise StartError(
            f"the mount was not usable within {timeout_s:.0f} s; the log is {log_dir / LOG_FILE}"
        ) from error
    except BaseException:
        child.terminate()
        _end(child)
        raise
    finally:
        os.close(read_fd)
    if outcome is not None and outcome.error is None:
        child.returncode = 0  # it outlives us: Popen is not to complain about that
        if outcome.said:
            warn(f"{outcome.said}; {_KNOWN}")
        return 0
    code = _end(child)
    if outcome is None:
        raise StartError(_last_words(code, log_dir))
    raise StartFailed(outcome)


def _spawn(command: Sequence[str], log_dir: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The child, and the end of its pipe that the caller closes."""
    output = _open_output(log_dir / OUTPUT_FILE)
    read_fd, write_fd = os.pipe()
    try:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, str(write_fd), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(),
            pass_fds=(write_fd,),
            start_new_session=True,
        )
    finally:
        os.close(write_fd)
        os.close(output)
    return child, read_fd


def _environment() -> dict[str, str]:
    """Ours, without the service manager's variables: they are for the service that has started us,
    and READY=1 of a mount that it makes on its way is not its own. The child leaves for `/`, so the
    runtime directory that it is told doesn't depend on where it is."""
    environment = {n: value for n, value in os.environ.items() if n not in VARIABLES}
    if named := environment.get(RUNTIME_VARIABLE):
        environment[RUNTIME_VARIABLE] = str(Path(named).absolute())
    return own_environment(environment)


def _open_output(path: Path) -> int:
    """The file for stdout and stderr, rotated here because a redirected fd can't rotate itself."""
    try:
        if path.exists() and path.stat().st_size > ROTATE_BYTES:
            for number in range(KEPT_FILES, 0, -1):
                older = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
                if older.exists():
                    os.replace(older, path.with_name(f"{path.name}.{number}"))
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"cannot write the log {path}: {error.strerror}") from error


def _end(child: subprocess.Popen[bytes]) -> int:
    """The exit code of a child that ends by itself or is made to."""
    for signal_number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        try:
            return child.wait(timeout=_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.send_signal(signal_number)
    return child.wait()


def _last_words(code: int, log_dir: Path) -> str:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    output = log_dir / OUTPUT_FILE
    try:
        with output.open("rb") as file:
            file.seek(max(0, output.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    said = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    said = said.removeprefix("mountd: ")
    # What nobody expected names its log by itself.
    where = "" if str(log_dir) in said else f"; the logs are in {log_dir}"
    return f"the daemon ended at its start with {how}: {said}{where}"
