"""Byte ranges, blocks and pages: pure arithmetic.

A file is cut into blocks of `block_size` bytes (the last one is shorter), a block into pages of
`page_size` bytes (the last one is shorter). Ranges are half open, [start, end).
"""

from collections.abc import Iterator


def block_length(index: int, file_size: int, block_size: int) -> int:
    """How many bytes block `index` of a file has; 0 past its end."""
    return max(0, min(block_size, file_size - index * block_size))


def block_count(file_size: int, block_size: int) -> int:
    """How many blocks a file has; an empty one has none."""
    return -(-file_size // block_size)


def page_mask(start: int, end: int, page_size: int) -> int:
    """The bits of the pages that [start, end) touches; 0 when start >= end."""
    if start >= end:
        return 0
    first = start // page_size
    return ((1 << (-(-end // page_size) - first)) - 1) << first


def runs(mask: int) -> Iterator[tuple[int, int]]:
    """The runs of set bits as [first, last), lowest first."""
    position = 0
    while mask:
        zeros = (mask & -mask).bit_length() - 1
        mask >>= zeros
        ones = (~mask & (mask + 1)).bit_length() - 1
        yield position + zeros, position + zeros + ones
        mask >>= ones
        position += zeros + ones
