"""Makes the kernel hand the dirty pages of a mount to its daemon: syncfs(2), in a child process.

A child and no thread: a thread whose request a stuck daemon has taken can't be ended, and would
keep this process from ending (the kernel waits for the answer uninterruptibly).
"""

import os
import re
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Self

from mountd.errors import StartError
from mountd.mount_table import Mount

_SCRIPT = """
import ctypes, os, sys
try:
    fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    there = os.fstat(fd).st_dev
except OSError as error:
    sys.exit(f"{error.errno}")
device = f"{os.major(there)}:{os.minor(there)}"
# Another device: the mount has gone, and its pages with it. Nobody else's are to be written.
if device == sys.argv[2] and ctypes.CDLL(None, use_errno=True).syncfs(fd):
    sys.exit(f"{ctypes.get_errno()}")
"""


class HandOverFailed(StartError):
    """The kernel still holds what was written, or has lost it. `number`: the errno, 0 for none."""

    def __init__(self, mountpoint: str, number: int) -> None:
        why = os.strerror(number) if number else "the child process failed"
        super().__init__(
            f"what was written to {mountpoint} could not be handed to its daemon: {why}"
        )
        self.number = number


class HandOver:
    """One syncfs under way. A context manager; leaving it ends the child, not the mount."""

    def __init__(self, mount: Mount) -> None:
        """Raises HandOverFailed where no child can be started as the mount's user."""
        self._mount = mount
        self._is_done = False
        command = [sys.executable, "-I", "-S", "-c", _SCRIPT, mount.path, mount.device]
        user, group = _whose(mount)
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for us
                user=user,
                group=group,
                extra_groups=None if user is None else (),
            )
        except OSError as error:
            raise HandOverFailed(mount.path, error.errno or 0) from error

    def wait(self, timeout_s: float) -> bool:
        """Whether the daemon has all that was written before; returns as soon as it has.

        Raises HandOverFailed.
        """
        if self._is_done:
            return True
        try:
            _, said = self._child.communicate(timeout=max(timeout_s, 0))
        except subprocess.TimeoutExpired:
            return False
        if self._child.returncode != 0:
            raise HandOverFailed(self._mount.path, int(said) if said.strip().isdigit() else 0)
        self._is_done = True
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._child.poll() is None:
            self._child.kill()
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(0.5)
            if self._child.returncode is None:
                self._child.returncode = -9  # stuck in the kernel; Popen is not to complain
        if self._child.stderr is not None:
            self._child.stderr.close()


def _whose(mount: Mount) -> tuple[int | None, int | None]:
    """Whom the child must be: without allow_other FUSE lets only the mount's user in, not root."""
    owner = mount.owner_uid
    if os.geteuid() != 0 or not owner:
        return None, None
    found = re.search(r"(?:^|,)group_id=(\d+)", mount.options)
    return owner, int(found[1]) if found else owner
