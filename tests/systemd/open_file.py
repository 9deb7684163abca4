"""A program in a booted machine that has a file of the mount open."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from tests.systemd.machine import PYTHON, Machine

# Holds a file open, and says what a look at it gives once it is told to look.
HOLDS = r"""
import os, time
fd = os.open("/storage/hello.txt", os.O_RDONLY)
open("/run/hooked-held", "w")
while not os.path.exists("/run/hooked-look"):
    time.sleep(0.05)
found = 0
try:
    os.fstatvfs(fd)  # which the kernel asks the daemon for each time
    assert os.pread(fd, 9, 0) == b"hello\n"
except OSError as error:
    found = error.errno
open("/run/hooked-part", "w").write(str(found))
os.rename("/run/hooked-part", "/run/hooked-told")
"""


@contextmanager
def open_file(machine: Machine) -> Iterator[list[int]]:
    """A program has hello.txt open meanwhile; what it found in the end, 0 or an errno, is put into
    the list."""
    found: list[int] = []
    machine.shell("rm -f /run/hooked-look /run/hooked-held /run/hooked-told")
    machine.write("/run/holds.py", HOLDS)
    machine.run("systemd-run", "--unit=holder", PYTHON, "/run/holds.py")
    machine.shell("until test -e /run/hooked-held; do sleep .1; done")
    try:
        yield found
        machine.run("touch", "/run/hooked-look")
        machine.shell("timeout 60 sh -c 'until test -e /run/hooked-told; do sleep .1; done'")
        found.append(int(machine.shell("cat /run/hooked-told")))
    finally:
        machine.shell("systemctl stop holder; systemctl reset-failed holder", check=False)


def is_lost(found: list[int]) -> bool:
    return found[0] in (errno.ENOTCONN, errno.ECONNABORTED)
