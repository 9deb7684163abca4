"""Sets of byte ranges against sets of bytes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd_cache.extent_map import ExtentMap

_AT = st.integers(0, 40)
_RANGES = st.lists(st.tuples(_AT, _AT), max_size=12)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), _AT, _AT),
        st.tuples(st.just("cut"), _AT, st.just(0)),
        st.tuples(st.just("without"), _AT, _AT),
    ),
    max_size=25,
)


def is_right(found: ExtentMap, expected: set[int]) -> bool:
    ranges = list(found)
    assert all(start < end for start, end in ranges)
    assert all(one[1] < other[0] for one, other in pairwise(ranges)), ranges
    assert found.total == len(expected)
    assert len(found) == len(ranges)
    assert bool(found) == bool(expected)
    assert found.end == max(expected, default=-1) + 1
    return {at for start, end in ranges for at in range(start, end)} == expected


@given(_STEPS)
def test_it_is_the_set_of_bytes_that_it_stands_for(steps: list[tuple[str, int, int]]) -> None:
    made, expected = ExtentMap(), set[int]()
    for step, start, end in steps:
        if step == "add":
            made.add(start, end)
            expected |= set(range(start, end))
        elif step == "cut":
            made.cut(start)
            expected = {at for at in expected if at < start}
        else:
            made = made.without(start, end)
            expected -= set(range(start, end))
        assert is_right(made, expected), (step, start, end)


@given(_RANGES, _AT, _AT)
def test_pieces_cover_a_range_without_gaps(
    ranges: list[tuple[int, int]], start: int, end: int
) -> None:
    made = ExtentMap(ranges)
    expected = {at for first, last in ranges for at in range(first, last)}
    at = start
    before: bool | None = None
    for first, last, inside in made.pieces(start, end):
        assert (first, inside) != (at, before), "two pieces that could be one"
        assert first == at
        assert first < last <= end
        assert all((byte in expected) == inside for byte in range(first, last))
        at, before = last, inside
    assert at == max(start, end) if start < end else at == start
    assert made.covers(start, end) == all(byte in expected for byte in range(start, end))


@given(_RANGES)
def test_a_copy_and_the_edges_are_the_same_set_and_a_set_of_their_own(
    ranges: list[tuple[int, int]],
) -> None:
    made = ExtentMap(ranges)
    copy, again = made.copy(), ExtentMap.from_edges(made.edges())
    assert copy == made == again
    assert copy.total == made.total == again.total
    copy.add(50, 60)
    assert copy != made
    assert again == made


@pytest.mark.parametrize(
    "edges", [[1], [2, 1], [1, 1], [1, 2, 2, 3], [0, 5, 4, 6], [5, 6, 1, 2], [-1, 3]]
)
def test_what_are_no_edges_of_extents_is_refused(edges: list[int]) -> None:
    with pytest.raises(ValueError, match="no extents"):
        ExtentMap.from_edges(edges)


def test_it_can_be_looked_at() -> None:
    assert repr(ExtentMap([(1, 2), (5, 9)])) == "ExtentMap([(1, 2), (5, 9)])"
    assert ExtentMap() != "ExtentMap([])"
