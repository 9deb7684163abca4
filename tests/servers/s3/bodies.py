"""Where an object's bytes are: extents of a memory block, a spool file, a real file or a pattern.

Bodies are immutable. A range, a copy or a completed multipart upload shares extents instead of
copying bytes, and a synthetic body of 6 TB costs one extent. What goes out is a list of spans:
either bytes or (file descriptor, offset, count) for sendfile.
"""

import ctypes
import os
import tempfile
from bisect import bisect_right
from hashlib import md5, shake_128
from pathlib import Path
from typing import NamedTuple, Protocol

Span = memoryview | tuple[int, int, int]

# A prime, so that no block size of a client ever lines up with the repetition.
PATTERN_PERIOD = 16_777_213


class Source(Protocol):
    """Something that bytes can be sent from."""

    def spans(self, offset: int, size: int) -> list[Span]: ...


class MemorySource:
    __slots__ = ("_view",)

    def __init__(self, data: bytes) -> None:
        self._view = memoryview(data)

    def spans(self, offset: int, size: int) -> list[Span]:
        return [self._view[offset : offset + size]]


class FileSource:
    """A file of the machine, opened when it is first read and then kept open."""

    __slots__ = ("_fd", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def spans(self, offset: int, size: int) -> list[Span]:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return [(self._fd, offset, size)]

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class PatternSource:
    """Pseudo-random bytes repeated for ever; an offset picks where in the pattern one starts.

    From memory, not by sendfile: on kernel 6.18's loopback `send` of 8 MiB costs the server 1.6 ms
    and sendfile 2.0 ms, and 100 KB 22 and 27 us.
    """

    def __init__(self) -> None:
        pattern = pattern_bytes()
        # Twice, so that a range up to the period's length is one span wherever it starts.
        self._view = memoryview(pattern + pattern)

    def spans(self, offset: int, size: int) -> list[Span]:
        spans: list[Span] = []
        while size > 0:
            at = offset % PATTERN_PERIOD
            count = min(size, 2 * PATTERN_PERIOD - at)
            spans.append(self._view[at : at + count])
            offset += count
            size -= count
        return spans


def pattern_bytes() -> bytes:
    return shake_128(b"mountd s3 test server").digest(PATTERN_PERIOD)


class Extent(NamedTuple):
    source: Source
    offset: int
    size: int


class Body:
    """An immutable sequence of extents."""

    __slots__ = ("_ends", "extents", "size")

    def __init__(self, extents: tuple[Extent, ...]) -> None:
        self.extents = extents
        self.size = 0
        self._ends: list[int] | None = None
        if len(extents) == 1:
            self.size = extents[0].size
            return
        self._ends = []
        for extent in extents:
            self.size += extent.size
            self._ends.append(self.size)

    def cut(self, start: int, end: int) -> "Body":
        """The body made of the bytes [start, end); 0 <= start <= end <= size."""
        if start == 0 and end == self.size:
            return self
        if self._ends is None:
            source, offset, _size = self.extents[0]
            return Body((Extent(source, offset + start, end - start),))
        kept: list[Extent] = []
        index = bisect_right(self._ends, start)
        while start < end:
            source, offset, size = self.extents[index]
            skipped = start - (self._ends[index] - size)
            count = min(size - skipped, end - start)
            kept.append(Extent(source, offset + skipped, count))
            start += count
            index += 1
        return Body(tuple(kept))

    def spans(self) -> list[Span]:
        spans: list[Span] = []
        for source, offset, size in self.extents:
            if size:
                spans += source.spans(offset, size)
        return spans

    def read(self) -> bytes:
        """Everything, in memory: for small bodies, checks and the control interface."""
        return b"".join(read_span(span) for span in self.spans())

    def md5_hex(self) -> str:
        digest = md5(usedforsecurity=False)
        for span in self.spans():
            digest.update(read_span(span))
        return digest.hexdigest()


EMPTY_BODY = Body(())


def body_of_bytes(data: bytes) -> Body:
    return Body((Extent(MemorySource(data), 0, len(data)),)) if data else EMPTY_BODY


def join_bodies(bodies: list[Body]) -> Body:
    return Body(tuple(extent for body in bodies for extent in body.extents))


def read_span(span: Span) -> bytes:
    if isinstance(span, memoryview):
        return bytes(span)
    fd, offset, count = span
    data = os.pread(fd, count, offset)
    while len(data) < count:
        more = os.pread(fd, count - len(data), offset + len(data))
        if not more:
            raise EOFError(f"{count - len(data)} bytes missing in fd {fd}")
        data += more
    return data


class Spool:
    """One unlinked file that uploads are written to; what no body uses any more is punched out.

    The file is only a name for pages of the page cache: nothing is ever synced.
    """

    def __init__(self, directory: Path | None) -> None:
        folder = directory if directory is not None else Path(tempfile.gettempdir())
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # Open for ever.
        self.fd = self._file.fileno()
        self._end = 0

    def region(self, size: int) -> "SpoolRegion":
        # Page-aligned, so that punching one region out frees all of its pages.
        offset = self._end
        self._end += (size + 4095) & ~4095
        return SpoolRegion(self, offset, size)

    def used_bytes(self) -> int:
        return os.fstat(self.fd).st_blocks * 512

    def punch(self, offset: int, size: int) -> None:
        keep_size, punch_hole = 1, 2
        length = (size + 4095) & ~4095
        _libc.fallocate(
            self.fd, keep_size | punch_hole, ctypes.c_longlong(offset), ctypes.c_longlong(length)
        )


_libc = ctypes.CDLL(None, use_errno=True)


class SpoolRegion:
    """Room for `size` bytes in the spool; given back when the last body that uses it is gone."""

    __slots__ = ("_offset", "_spool", "size")

    def __init__(self, spool: Spool, offset: int, size: int) -> None:
        self._spool = spool
        self._offset = offset
        self.size = size

    def write(self, at: int, data: memoryview) -> None:
        os.pwrite(self._spool.fd, data, self._offset + at)

    def spans(self, offset: int, size: int) -> list[Span]:
        return [(self._spool.fd, self._offset + offset, size)]

    def __del__(self) -> None:
        self._spool.punch(self._offset, self.size)
