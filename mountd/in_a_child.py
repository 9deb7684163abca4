"""Touching a path that may be a mount whose daemon is stuck, or our own: by a child, for a time.

Such a path makes every syscall wait, some of them uninterruptibly, and a process with a thread in
one can't be ended by anything.
"""

import errno
import os
import select
import subprocess
import sys
from pathlib import Path

_START_TIMEOUT_S = 30.0  # of a Python, on a machine that does other things


def run_in_child(
    script: str, path: Path, timeout_s: float, own_pids: set[int] | None = None
) -> bytes:
    """What `script` writes, with `path` as its argument. Its first byte says that it looks at the
    path from now on: the time in which a busy machine starts the child says nothing about that. A
    script that ends with a number has met that errno. With `own_pids` it reads a byte before it
    looks, and its pid is among them meanwhile. Raises OSError, TimeoutError."""
    command = [sys.executable, "-I", "-S", "-c", script, os.fspath(path)]
    # Not subprocess.run: after a timeout it waits for the child, which may be unkillable.
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if own_pids is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
    )
    try:
        _wait_until_begun(child)
        if own_pids is not None:
            own_pids.add(child.pid)
        out, complaint = child.communicate(None if own_pids is None else b".", timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        child.kill()
        abandon(child)
        raise TimeoutError(errno.ETIMEDOUT, f"{path} does not answer") from error
    finally:
        if own_pids is not None:
            own_pids.discard(child.pid)
    if child.returncode and complaint.strip().isdigit():
        number = int(complaint)
        raise OSError(number, os.strerror(number), str(path))
    return out


def _wait_until_begun(child: subprocess.Popen[bytes]) -> None:
    """Takes its first byte. Raises TimeoutExpired."""
    assert child.stdout is not None
    begun = select.poll()  # not `select`, which can't bear numbers over 1023
    begun.register(child.stdout, select.POLLIN)
    if not begun.poll(_START_TIMEOUT_S * 1000):
        raise subprocess.TimeoutExpired(child.args, _START_TIMEOUT_S)
    os.read(child.stdout.fileno(), 1)


def abandon(child: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Gives a killed child a moment; one stuck in the kernel is left to init."""
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
    try:
        child.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        child.returncode = -9  # or Popen complains when it is collected
