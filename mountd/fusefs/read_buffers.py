"""Memory that requests are read into is there before the first one is.

SIGKILL that finds the daemon in read(2) of /dev/fuse, in a page of its buffer that is not there
yet, has the kernel end that request with EIO (`fuse_dev_do_read`): the successor never gets it, and
of a write the bytes are gone, as close or fsync tell. Tried on Linux 6.18, killed at some moment of
the read of 64 KB: 265 of 700 into fresh memory, none of 1,500 into memory that was there.

libfuse gets a buffer of 1 MiB by malloc for each of pyfuse3's workers, in the call that reads the
worker's first request. So malloc is told to fill what it gives out (M_PERTURB) from just before
that until the event loop goes on: 0.2 ms, once for each.
"""

import ctypes
from collections.abc import Callable
from typing import Final
from weakref import WeakSet

import trio

MOST: Final = 8  # of 1 MiB; the others of 200 workers wait for the remote, and seldom get a write
_M_PERTURB: Final = -6  # malloc.h
_BYTE: Final = 0xFF  # filled with its complement
# musl has none. No other thread of Python gets in meanwhile, and has its memory filled: where 32
# programs read, 230 of 12,000 requests had a new worker, which waited 0.2 to 0.7 ms for that.
_MALLOPT: Final = getattr(ctypes.PyDLL(None), "mallopt", None)


def _fill_with_libc(is_on: bool) -> None:
    if _MALLOPT is not None:
        _MALLOPT(_M_PERTURB, _BYTE if is_on else 0)


class ReadBuffers:
    """`fill` has malloc fill what it gives out, or not."""

    def __init__(self, fill: Callable[[bool], None] = _fill_with_libc) -> None:
        self._fill = fill
        self._filled: WeakSet[trio.lowlevel.Task] = WeakSet()

    def is_due(self, worker: trio.lowlevel.Task) -> bool:
        """Whether `worker` should `begin` before it reads."""
        return worker not in self._filled and len(self._filled) < MOST

    def begin(self, worker: trio.lowlevel.Task) -> None:
        """It reads its first request now, before it waits for anything."""
        self._filled.add(worker)
        trio.lowlevel.current_trio_token().run_sync_soon(self._fill, False)
        self._fill(True)  # last: the line above may let other threads in
