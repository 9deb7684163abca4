"""Byte ranges, blocks and pages."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mountd_cache.block_map import block_count, block_length, page_mask, runs

SIZES = st.sampled_from([512, 4096, 16384, 1 << 20])


@given(st.integers(0, 1 << 24), SIZES)
def test_the_lengths_of_all_blocks_add_up_to_the_file(file_size: int, size: int) -> None:
    count = block_count(file_size, size)
    assert sum(block_length(i, file_size, size) for i in range(count)) == file_size
    assert block_length(count, file_size, size) == 0
    assert count == 0 or block_length(count - 1, file_size, size) > 0


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
