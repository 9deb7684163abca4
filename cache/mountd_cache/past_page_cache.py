"""New files that go to the disk without the page cache (O_DIRECT).

What a reader takes from memory as it comes needs no second copy in the page cache: the kernel keeps
it as the mount's own pages. Measured in a virtual machine with both cores busy, 1 GiB in files of
1 MiB by two threads: 2.1 to 2.5 s of system time and 5 to 7 s through the page cache, 0.25 s and
1.0 to 1.3 s past it; the copy into aligned memory (0.1 to 0.2 s of user time) is included in the
latter.
"""

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from typing import Final

from typing_extensions import Buffer

# Below it a file is made and gone before the disk has answered.
FROM_BYTES: Final = 256 << 10
_ALIGN: Final = 4096
_NOT_HERE: Final = frozenset((errno.EINVAL, errno.EOPNOTSUPP))


class PastPageCache:
    """Of one folder. `largest_bytes`: no file is larger. Any threads; each that writes keeps a
    buffer of that size."""

    def __init__(self, largest_bytes: int) -> None:
        self._largest_bytes = largest_bytes
        self._own = threading.local()
        self._is_possible = True

    def create(self, create: Callable[[int], int], parts: Sequence[memoryview]) -> int | None:
        """Writes `parts` into the new file that `create` opens with the flags it is given; its
        descriptor, which from then on reads and writes like any other. None where it is for the
        page cache: too small, not in whole pages, or the file system has no such way; then there
        may be a file, with anything in it. Raises OSError.

        Three system calls and no more: after each a thread waits for the interpreter, for
        milliseconds where a stream keeps it busy. With eight of them four writers fell behind.
        """
        size = sum(part.nbytes for part in parts)
        if not (self._is_possible and FROM_BYTES <= size <= self._largest_bytes) or size % _ALIGN:
            return None
        data = self._aligned(parts)
        try:
            fd = create(os.O_DIRECT)
        except OSError as error:
            self._note(error)
            return None
        try:
            if os.pwrite(fd, data, 0) != size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fcntl.fcntl(fd, fcntl.F_SETFL, 0)  # which leaves what it was opened for
        except OSError as error:
            os.close(fd)
            self._note(error)
            return None
        return fd

    def _note(self, error: OSError) -> None:
        """Raises it where it doesn't say that there is no such way."""
        if error.errno not in _NOT_HERE:
            raise error
        self._is_possible = False

    def _aligned(self, parts: Sequence[Buffer]) -> memoryview:
        buffer: memoryview | None = getattr(self._own, "buffer", None)
        if buffer is None:
            buffer = self._own.buffer = memoryview(mmap.mmap(-1, self._largest_bytes))
        end = 0
        for part in parts:
            view = memoryview(part)
            start, end = end, end + view.nbytes
            buffer[start:end] = view
        return buffer[:end]
