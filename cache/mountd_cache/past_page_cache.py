"""Files that do not stay in the page cache.

What a reader takes from memory as it comes needs no second copy in the page cache: the kernel keeps
it as the mount's own pages. There are two ways past it.

From aligned memory, waiting for the disk (O_DIRECT). Measured with both cores busy, 1 GiB in files
of 1 MiB by two threads: 0.25 s of system time and 1.0 to 1.3 s, through the page cache 2.1 to 2.5 s
and 5 to 7 s; the copy into aligned memory took 0.1 to 0.2 s of user time.

Linux 6.14 and later forgets the pages of a write as soon as the disk has them (RWF_DONTCACHE), and
the call does not wait for that: 0.31 s of system time and 0.7 s by one thread, through the page
cache 3.1 to 3.3 s and 3.3 to 3.5 s. It still is new memory for what the disk did not take yet. A
virtual machine's kernel hands back to the host what was free for two seconds, and a new page then
costs 2 us and more: a cold read of 1 GiB took 3.6 s of CPU where all blocks went this way, 2.9 s
where only those did that the disk kept waiting (medians of five, alternating).

Reading so (`ReadOnce`) is the same: 1 GiB that only the disk had took 2.0 s of CPU in pieces of
16 MiB, as each page of the page cache was new to the machine, and 0.16 s with RWF_DONTCACHE. What
the page cache has is taken from there, and stays.
"""

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

from typing_extensions import Buffer

# Below it a file is made and gone before the disk has answered.
FROM_BYTES: Final = 256 << 10
_RWF_DONTCACHE: Final = 0x80  # linux/fs.h
_ALIGN: Final = 4096
# A kernel without pwritev2, and a container that forbids it, among them.
NOT_HERE: Final = frozenset((errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM))

Create = Callable[[int], int]
"""Opens the new file with more flags; its descriptor."""


class Past(Enum):
    """Whether what is written is to go past the page cache."""

    NO = 0
    AT_ONCE = 1  # without waiting for the disk
    SLOWLY = 2  # rather waiting for it than with new memory


class PastPageCache:
    """Of one folder. `largest_bytes`: no file is larger. Any threads; each that writes from
    aligned memory keeps a buffer of that size."""

    def __init__(self, largest_bytes: int) -> None:
        self._largest_bytes = largest_bytes
        self._own = threading.local()
        self._forgets = True
        self._is_direct = True

    def create(self, create: Create, parts: Sequence[memoryview], past: Past) -> int | None:
        """Writes `parts` into a new file; its descriptor, which from then on reads and writes like
        any other. None where it is for the page cache: too small, or there is no such way here;
        then there may be a file, with anything in it. Raises OSError.

        Three system calls at most: after each a thread waits for the interpreter, for milliseconds
        where a stream keeps it busy. With eight of them four writers fell behind.
        """
        size = sum(part.nbytes for part in parts)
        if past is Past.NO or not FROM_BYTES <= size <= self._largest_bytes:
            return None
        fd = None
        if past is Past.SLOWLY and self._is_direct and size % _ALIGN == 0:
            fd = _written(create, os.O_DIRECT, (self._aligned(parts),), 0)
            self._is_direct = fd is not None
        if fd is None and self._forgets:
            fd = _written(create, 0, parts, _RWF_DONTCACHE)
            self._forgets = fd is not None
        return fd

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


def pwrite_once(fd: int, data: Buffer, offset: int, /) -> int:
    """`os.pwrite` whose pages go as soon as the disk has them; nobody waits for that. Raises
    OSError, of `NOT_HERE` where there is no such way."""
    return os.pwritev(fd, (data,), offset, _RWF_DONTCACHE)


class ReadOnce:
    """`os.pread` of what nobody is likely to read again soon. Any threads."""

    def __init__(self) -> None:
        self._forgets = True

    def __call__(self, fd: int, length: int, offset: int, /) -> bytes | bytearray:
        if self._forgets and length >= FROM_BYTES:
            data = bytearray(length)
            try:
                done = os.preadv(fd, [data], offset, _RWF_DONTCACHE)
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                self._forgets = False  # before Linux 6.14, or not this file system
            else:
                del data[done:]
                return data
        return os.pread(fd, length, offset)


def _written(create: Create, flags: int, parts: Sequence[memoryview], how: int) -> int | None:
    """None where there is no such way. Raises OSError."""
    fd = None
    try:
        fd = create(flags)
        if os.pwritev(fd, parts, 0, how) != sum(part.nbytes for part in parts):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if flags:
            fcntl.fcntl(fd, fcntl.F_SETFL, 0)  # which leaves what it was opened for
    except OSError as error:
        if fd is not None:
            os.close(fd)
        if error.errno not in NOT_HERE:
            raise
        return None
    return fd
