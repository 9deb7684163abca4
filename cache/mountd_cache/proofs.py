"""Which bytes of a data file nobody fsynced yet, and how to prove after a power cut that they are
what was written; pure.

Each write is known by its CRC32C. Where a later write replaces a part of it, the CRC of the bytes
that go (a `Cover`) is kept: the CRC of the whole is then made of the bytes that are left and the
covers, by the arithmetic of CRCs. What is asked here is what the data file holds; truncations of
the file do not touch it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from crc32c import crc32c

from mountd_cache.records import Cover

_POLYNOMIAL = 0x82F63B78  # CRC32C, bits reversed


@dataclass(eq=False, slots=True)
class Unproved:
    """A write that may not be on the disk. `volatile`: a power cut came since, so that it must be
    verified; else the page cache has it."""

    lsn: int
    start: int
    end: int
    crc: int
    volatile: bool = False
    covers: list[Cover] = field(default_factory=list)


class Proofs:
    """The unproved writes of one data file, as disjoint pieces: each byte has its last writer.

    A sequential writer costs one append per write.
    """

    __slots__ = ("_ends", "_starts", "_writes")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._writes: list[Unproved] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def replaced_by(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) whose bytes need a Cover before a write there replaces them:
        those of writes of which something is left afterwards."""
        if not self._ends or start >= self._ends[-1]:
            return []
        found = []
        for at in range(bisect_right(self._ends, start), bisect_left(self._starts, end)):
            write = self._writes[at]
            if write.start < start or write.end > end:
                found.append((max(start, self._starts[at]), min(end, self._ends[at])))
        return found

    def add(self, write: Unproved, covers: Iterable[Cover] = ()) -> None:
        """`covers`: what `replaced_by` asked for."""
        for cover in covers:
            at = bisect_right(self._ends, cover.start)
            if at < len(self._starts) and self._starts[at] <= cover.start:
                self._writes[at].covers.append(cover)
        start, end = write.start, write.end
        if not self._ends or start >= self._ends[-1]:
            self._starts.append(start)
            self._ends.append(end)
            self._writes.append(write)
            return
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        pieces = [(start, end, write)]
        if first < last and self._starts[first] < start:
            pieces.insert(0, (self._starts[first], start, self._writes[first]))
        if first < last and self._ends[last - 1] > end:
            pieces.append((end, self._ends[last - 1], self._writes[last - 1]))
        self._starts[first:last] = [piece[0] for piece in pieces]
        self._ends[first:last] = [piece[1] for piece in pieces]
        self._writes[first:last] = [piece[2] for piece in pieces]

    def forget(self, lsn: int) -> None:
        """The writes up to this one are on the disk."""
        self._keep(lambda write: write.lsn > lsn)

    def _keep(self, wanted: Callable[[Unproved], bool]) -> None:
        kept = [at for at, write in enumerate(self._writes) if wanted(write)]
        self._starts = [self._starts[at] for at in kept]
        self._ends = [self._ends[at] for at in kept]
        self._writes = [self._writes[at] for at in kept]

    def give_up(self, start: int, end: int) -> None:
        """Writes that have a part of [start, end) are lost; nothing will prove them."""
        lost = {
            id(self._writes[at])
            for at in range(bisect_right(self._ends, start), bisect_left(self._starts, end))
        }
        self._keep(lambda write: id(write) not in lost)

    def volatile(self) -> Iterator[tuple[Unproved, list[tuple[int, int]]]]:
        """The writes that must be verified, with the parts that are still theirs."""
        left: dict[int, tuple[Unproved, list[tuple[int, int]]]] = {}
        for start, end, write in zip(self._starts, self._ends, self._writes, strict=True):
            if write.volatile:
                left.setdefault(id(write), (write, []))[1].append((start, end))
        yield from left.values()


def is_proved(
    write: Unproved, left: list[tuple[int, int]], read: Callable[[int, int], bytes]
) -> bool:
    """Whether the bytes that are left of a write, read with `read(start, end)`, are those that
    were written. False as well where that can't be told. What `read` raises passes through."""
    parts = [(start, end, None) for start, end in left]
    parts += [(cover.start, cover.end, cover.crc) for cover in write.covers]  # type: ignore[misc]
    crc, at = 0, write.start
    for start, end, known in sorted(parts, key=lambda part: part[0]):
        if start != at or end > write.end:
            return False
        crc = crc32c(read(start, end), crc) if known is None else combined(crc, known, end - start)
        at = end
    return at == write.end and crc == write.crc


def combined(first: int, second: int, length: int) -> int:
    """The CRC32C of two pieces together, from those of each and the length of the second."""
    power, factor = 0x80000000, 0x00800000  # 1 and x^8, bits reversed
    while length:
        if length & 1:
            power = _times(power, factor)
        factor = _times(factor, factor)
        length >>= 1
    return _times(first, power) ^ second


def _times(a: int, b: int) -> int:
    """a * b modulo the polynomial; bit 31 is the lowest power."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product
