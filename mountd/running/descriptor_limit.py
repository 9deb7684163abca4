"""How many files this process may have open."""

import fcntl
import os
import resource
from contextlib import suppress

_ROOM_FOR = 1024


def allow_many_descriptors(wanted: int) -> None:
    """So many, or as many as the hard limit lets us have without asking anybody. Best before there
    is a second thread."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    _make_room()


def _make_room() -> None:
    """The kernel's table of them begins with 64 and doubles when it is full. With more than one
    thread it then waits until every processor has passed by, and all who open a file wait, too:
    20 ms on an idle machine and 750 on a busy one, in the middle of a stream. It never shrinks."""
    with suppress(OSError):  # fewer are allowed
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.close(fcntl.fcntl(nothing, fcntl.F_DUPFD_CLOEXEC, _ROOM_FOR - 1))
        finally:
            os.close(nothing)
