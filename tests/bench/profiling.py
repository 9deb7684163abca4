"""py-spy on a Python daemon while its case is measured."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.contestants import BIN


@dataclass(frozen=True, slots=True)
class Profiling:
    """Where profiles go, and what py-spy is told. `flame`: SVG, else folded stacks as text.

    `gil`: only the thread that holds the interpreter lock. Else a thread that waits for the lock
    after a system call counts as being in that call.
    """

    folder: Path
    flame: bool = False
    native: bool = False
    gil: bool = False


@contextmanager
def profiled(profiling: Profiling | None, pid: int, name: str) -> Iterator[None]:
    """Records `pid` until the block ends into `<folder>/<name>.txt` or `.svg`.

    Sampling at 100 Hz without stopping the daemon. py-spy still takes a part of a core, so
    profiled rates are not for the table.
    """
    if profiling is None:
        yield
        return
    profiling.folder.mkdir(parents=True, exist_ok=True)
    path = profiling.folder / f"{name}.{'svg' if profiling.flame else 'txt'}"
    command = [str(BIN / "py-spy"), "record", "--pid", str(pid), "--output", str(path)]
    command += ["--format", "flamegraph" if profiling.flame else "raw", "--rate", "100"]
    command += ["--threads", "--duration", "600", "--nonblocking"]
    command += ["--native"] if profiling.native else []
    command += ["--gil"] if profiling.gil else []
    if profiling.native:
        command.remove("--nonblocking")  # py-spy can't unwind native frames of a running thread
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # "Sampling process ...": it is attached
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
