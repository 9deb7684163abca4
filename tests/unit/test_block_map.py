"""Byte ranges, blocks and pages."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mountd_cache.block_map import (
    block_count,
    block_length,
    block_ranges,
    page_mask,
    runs,
    whole_pages,
)

OFFSETS = st.integers(0, 1 << 44)
LENGTHS = st.integers(0, 1 << 16)
SIZES = st.sampled_from([512, 4096, 16384, 1 << 20])


@given(OFFSETS, LENGTHS, SIZES)
def test_block_ranges_cover_the_range_once_and_in_order(start: int, length: int, size: int) -> None:
    position = start
    for block, low, high in block_ranges(start, start + length, size):
        assert block * size + low == position
        assert 0 <= low < high <= size
        position += high - low
    assert position == start + length


def test_an_empty_or_reversed_range_has_no_blocks() -> None:
    assert list(block_ranges(5, 5, 512)) == []
    assert list(block_ranges(6, 5, 512)) == []


@given(st.integers(0, 1 << 24), SIZES)
def test_the_lengths_of_all_blocks_add_up_to_the_file(file_size: int, size: int) -> None:
    count = block_count(file_size, size)
    assert sum(block_length(i, file_size, size) for i in range(count)) == file_size
    assert block_length(count, file_size, size) == 0
    assert count == 0 or block_length(count - 1, file_size, size) > 0


@given(st.integers(1, 1 << 20), st.data())
def test_whole_pages_are_the_smallest_aligned_range_inside_the_block(
    length: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, length - 1))
    end = data.draw(st.integers(start + 1, length))
    low, high = whole_pages(start, end, 4096, length)
    assert low % 4096 == 0
    assert start - 4096 < low <= start
    assert end <= high <= length
    assert high == length or (high % 4096 == 0 and high < end + 4096)


@given(st.integers(0, 1 << 20), st.integers(0, 1 << 18), SIZES)
def test_a_page_mask_has_just_the_bits_of_the_pages_touched(
    start: int, length: int, size: int
) -> None:
    touched = {offset // size for offset in (*range(start, start + length, 512),)}
    if length:
        touched.add((start + length - 1) // size)
    assert page_mask(start, start + length, size) == sum(1 << page for page in touched)


@given(st.integers(0, 1 << 70))
def test_runs_are_the_runs_of_set_bits(mask: int) -> None:
    found = list(runs(mask))
    assert sum(((1 << (last - first)) - 1) << first for first, last in found) == mask
    for (_, last), (first, _) in pairwise(found):
        assert last < first
