"""The clock that the kernel dates files by: realtime as it was at the last tick, 4 ms at most ago.

A file that is told to be of that tick and is written to within it is not dated again: the kernel
sends no SETATTR at its close.
"""

import time
from typing import Final

REALTIME_COARSE: Final = 5  # of linux/time.h; Python's `time` doesn't name it


def file_time_ns() -> int:
    """Nanoseconds since the epoch."""
    return time.clock_gettime_ns(REALTIME_COARSE)
