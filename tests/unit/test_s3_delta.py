"""The arithmetic of objects that are made of another one and of what is sent."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.errors import Unsupported
from mountd.remotes.s3_delta import (
    MAX_PART_BYTES,
    MAX_PARTS,
    MIN_PART_BYTES,
    DeltaPart,
    delta_parts,
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
Spans = list[tuple[int, int]]

sizes = st.one_of(st.integers(1, 64 * MIB), st.integers(1, 2 * GIB), st.integers(1, 8000 * GIB))
edits = st.lists(
    st.tuples(st.floats(0, 1), st.one_of(st.just(4 * KIB), st.integers(1, 40 * MIB))), max_size=30
)


def same_without(size: int, dirty: Sequence[tuple[int, int]]) -> Spans:
    """What is left of [0, size)."""
    same: Spans = []
    at = 0
    for start, end in sorted(dirty):
        if at < start:
            same.append((at, min(start, size)))
        at = max(at, end)
    return [*same, (at, size)] if at < size else same


def sent(parts: Sequence[DeltaPart]) -> int:
    return sum(part.size for part in parts if not part.is_copied)


@given(sizes, edits)
def test_the_parts_are_the_object_and_what_is_copied_is_the_same_there(
    size: int, edits: list[tuple[float, int]]
) -> None:
    starts = [(int(where * (size - 1)), length) for where, length in edits]
    dirty = [(start, min(size, start + length)) for start, length in starts]
    same = same_without(size, dirty)
    try:
        parts = delta_parts(size, same)
    except Unsupported:
        assert 2 * sum(end - start + 2 * MIN_PART_BYTES for start, end in dirty) > size
        return
    assert (parts[0].start, parts[-1].end) == (0, size)
    assert all(before.end == after.start for before, after in itertools.pairwise(parts))
    assert all(part.size >= MIN_PART_BYTES for part in parts[:-1])
    assert all(0 < part.size <= MAX_PART_BYTES for part in parts)
    assert len(parts) <= MAX_PARTS
    for part in parts:
        if part.is_copied:
            assert any(start <= part.start and part.end <= end for start, end in same)
    assert sent(parts) <= size / 2
    assert sent(parts) <= sum(end - start + 2 * MIN_PART_BYTES for start, end in dirty)


@given(st.integers(16 * MIB, 2000 * GIB), st.floats(0, 1))
def test_an_edit_of_4_kib_sends_at_most_6_mib(size: int, where: float) -> None:
    start = int(where * (size - 4 * KIB))
    parts = delta_parts(size, same_without(size, [(start, start + 4 * KIB)]))
    assert sent(parts) <= 6 * MIB


def test_what_is_appended_is_all_that_is_sent() -> None:
    parts = delta_parts(101 * MIB, [(0, 100 * MIB)])
    assert [(part.start, part.end) for part in parts if not part.is_copied] == [
        (100 * MIB, 101 * MIB)
    ]


def test_an_edit_just_before_the_end_sends_only_the_end() -> None:
    size = 100 * MIB
    parts = delta_parts(size, [(0, size - 10 * KIB), (size - 6 * KIB, size)])
    assert sent(parts) == 10 * KIB


def test_edits_next_to_each_other_share_a_part() -> None:
    same = [(0, 50 * MIB), (51 * MIB, 52 * MIB), (53 * MIB, 100 * MIB)]
    assert [(part.size, part.is_copied) for part in delta_parts(100 * MIB, same)] == [
        (50 * MIB, True),
        (5 * MIB, False),
        (45 * MIB, True),
    ]


def test_thousands_of_edits_of_a_terabyte_are_not_more_parts_than_there_may_be() -> None:
    size = 1 << 40
    groups = range(0, size, 512 * MIB)
    dirty = [(at + n * 8 * MIB, at + n * 8 * MIB + 4 * KIB) for at in groups for n in range(4)]
    parts = delta_parts(size, same_without(size, dirty))
    assert len(dirty) == 8192
    assert len(parts) <= MAX_PARTS
    assert sent(parts) == 2048 * (24 * MIB + 4 * KIB)
    everywhere = [(at, at + 4 * KIB) for at in range(0, size, 16 * MIB)]
    with pytest.raises(Unsupported):
        delta_parts(size, same_without(size, everywhere))


def test_what_would_be_sent_for_the_most_part_is_unsupported() -> None:
    with pytest.raises(Unsupported):
        delta_parts(32 * MIB, [(0, 15 * MIB)])
    with pytest.raises(Unsupported):
        delta_parts(32 * MIB, [])
