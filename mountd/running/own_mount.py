"""Looks at our own mount: from a child. A thread of ours that waits for what this process was to
answer can't be killed, and then the whole process can't: it keeps the cache locked and its end of
the connection open, so nobody goes on, and all that wait there wait for ever. (Seen with SIGKILL
during a syncfs: the leader was a zombie, its thread in `wb_wait_for_completion`.)
"""

import errno
from pathlib import Path
from typing import Final

from mountd.in_a_child import run_in_child

_STATVFS: Final = """
import os, sys
os.write(1, b".")
try:
    os.statvfs(sys.argv[1])
except OSError as error:
    sys.exit(f"{error.errno}")
"""
# Its pid is among those that wait for no listing before it opens the directory.
_SYNCFS: Final = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
os.write(1, b".")
os.read(0, 1)
try:
    fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
except OSError as error:
    sys.exit(f"{error.errno}")
if libc.syncfs(fd):
    sys.exit(f"{ctypes.get_errno()}")
os.write(1, b"done")
"""


def answer(mountpoint: Path, within_s: float) -> None:
    """Returns when the path answers. Blocking. Raises OSError, TimeoutError."""
    run_in_child(_STATVFS, mountpoint, within_s)


def hand_over_dirty_pages(mountpoint: Path, own_pids: set[int], within_s: float) -> None:
    """syncfs(2): the kernel gives the daemon what programs have written. Blocking: never on the
    loop, which has to serve it. The child is in `own_pids` while it opens the directory, which
    then waits for no listing. Raises OSError, TimeoutError."""
    said = run_in_child(_SYNCFS, mountpoint, within_s, own_pids)
    if said != b"done":  # somebody has killed it, or no Python can be started any more
        raise OSError(errno.EIO, "the process that asks for it failed")
