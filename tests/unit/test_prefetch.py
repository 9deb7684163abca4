"""Decisions about fetching ahead: no I/O, only plans."""

from hypothesis import given
from hypothesis import strategies as st

from mountd.vfs.prefetch import (
    FIRST_WINDOW,
    MAX_RANGE,
    MAX_WINDOW,
    MIB,
    Prefetcher,
    max_range_of,
)

SIZE = 4 << 30
BLOCK = MIB


def prefetcher_of(size: int, parallel: int = 64, soon: int = 0) -> Prefetcher:
    return Prefetcher(size, BLOCK, lambda: (parallel, soon or parallel))


def test_a_small_file_is_wanted_whole() -> None:
    plan = prefetcher_of(100_000).miss(40_000, 44_096, lambda: MAX_WINDOW)
    assert plan.demand == (0, 100_000)
    assert plan.ahead_start == plan.ahead_end


def test_a_read_that_continues_nothing_gets_exactly_its_bytes() -> None:
    prefetcher = prefetcher_of(SIZE)
    for start in (3 << 30, 1 << 30, 2 << 30):
        plan = prefetcher.miss(start, start + 4096, lambda: MAX_WINDOW)
        assert plan.demand == (start, start + 4096)
        assert plan.ahead_start == plan.ahead_end


def test_the_window_grows_with_every_stall_up_to_its_limit() -> None:
    prefetcher = prefetcher_of(SIZE)
    windows = []
    position = 0
    for _ in range(8):
        plan = prefetcher.miss(position, position + MIB, lambda: MAX_WINDOW)
        assert plan.cursor is not None
        windows.append(plan.cursor.window)
        position += MIB
    assert windows[0] == FIRST_WINDOW
    assert windows == sorted(windows)
    assert windows[-1] == MAX_WINDOW


def test_who_waited_for_what_comes_next_three_times_reads_it_all() -> None:
    prefetcher = prefetcher_of(SIZE)
    plans = [prefetcher.miss(at, at + MIB, lambda: MAX_WINDOW) for at in range(0, 3 * MIB, MIB)]
    assert [plan.is_stream for plan in plans] == [False, False, True]
    ahead = plans[-1].ahead_end
    on_disk = prefetcher_of(SIZE)
    on_disk.hit(0, MIB, MAX_WINDOW)
    plan = on_disk.hit(MIB, 2 * MIB, MAX_WINDOW)
    assert ahead > 8 * MIB
    assert plan is not None
    assert not plan.is_stream


def test_a_handles_share_of_memory_bounds_its_window() -> None:
    prefetcher = prefetcher_of(SIZE)
    for position in range(0, 16 * MIB, MIB):
        plan = prefetcher.miss(position, position + MIB, lambda: 8 * MIB)
        assert plan.ahead_end <= position + MIB + 8 * MIB


def test_two_streams_in_one_file_are_both_sequential() -> None:
    prefetcher = prefetcher_of(SIZE)
    for i in range(1, 6):
        for base in (1 << 30, 2 << 30):
            start = base + i * MIB
            plan = prefetcher.miss(start, start + MIB, lambda: MAX_WINDOW)
            assert (plan.ahead_end > plan.ahead_start) == (i > 1)


def test_a_block_that_keeps_missing_is_fetched_whole() -> None:
    prefetcher = prefetcher_of(SIZE)
    base = 100 * BLOCK
    demands = []
    # Backwards and far apart, with other reads between, so that no cursor continues.
    for i in range(4):
        start = base + BLOCK - (i + 1) * 200_000
        demands.append(prefetcher.miss(start, start + 4096, lambda: MAX_WINDOW).demand)
        for other in range(10):
            away = (200 + 50 * (10 * i + other)) * BLOCK
            prefetcher.miss(away, away + 4096, lambda: MAX_WINDOW)
    assert demands[-1] == (base, base + BLOCK)
    assert all(end - start == 4096 for start, end in demands[:-1])


def test_hits_in_a_row_look_ahead_for_the_end_of_what_is_cached() -> None:
    prefetcher = prefetcher_of(SIZE)
    assert prefetcher.hit(5 * MIB, 6 * MIB, MAX_WINDOW) is None
    plan = prefetcher.hit(6 * MIB, 7 * MIB, MAX_WINDOW)
    assert plan is not None
    assert plan.ahead_start == 7 * MIB
    assert plan.ahead_end > plan.ahead_start


@given(
    st.integers(1, SIZE),
    st.lists(st.tuples(st.integers(0, SIZE), st.integers(1, MIB), st.booleans()), max_size=60),
)
def test_every_plan_stays_within_the_file_and_its_limits(
    size: int, reads: list[tuple[int, int, bool]]
) -> None:
    prefetcher = prefetcher_of(size)
    for start, length, hit in reads:
        start %= size
        end = min(size, start + length)
        if hit:
            plan = prefetcher.hit(start, end, MAX_WINDOW)
        else:
            plan = prefetcher.miss(start, end, lambda: MAX_WINDOW)
        if plan is None:
            continue
        if not hit:
            assert plan.demand[0] <= start
            assert end <= plan.demand[1] <= size
        assert plan.ahead_start == plan.ahead_end or 0 <= plan.ahead_start < plan.ahead_end <= size
        assert plan.ahead_end - end <= MAX_WINDOW
        assert plan.range_bytes <= MAX_RANGE


def test_wide_requests_all_over_a_file_bring_all_of_it_and_small_ones_never() -> None:
    size = 1 << 30
    for length, swept in ((MIB, True), (4096, False)):
        prefetcher = prefetcher_of(size)
        plans = [
            prefetcher.miss(start, start + length, lambda: MAX_WINDOW)
            for start in (((i * 37) % 1000 + 5) * MIB for i in range(8))
        ]
        assert plans[0].sweep is None
        assert (plans[-1].sweep is not None) == swept
        assert all(plan.ahead_start == plan.ahead_end for plan in plans)
        if swept:
            after = prefetcher.hit(700 * MIB, 701 * MIB, MAX_WINDOW)
            assert after is not None
            assert after.sweep is plans[-1].sweep


def test_a_few_wide_reads_of_a_huge_file_bring_nothing_more() -> None:
    prefetcher = prefetcher_of(1 << 40)
    for i in range(1, 50):
        assert prefetcher.miss(i << 34, (i << 34) + MIB, lambda: MAX_WINDOW).sweep is None


def longest_range(prefetcher: Prefetcher) -> int:
    plans = [prefetcher.miss(n * MIB, (n + 1) * MIB, lambda: MAX_WINDOW) for n in range(8)]
    return max(plan.range_bytes for plan in plans)


def test_a_remote_that_bears_few_requests_is_asked_for_longer_ranges() -> None:
    assert [max_range_of(n) for n in (64, 16, 4, 1)] == [MAX_RANGE, MAX_RANGE, 12 * MIB, 16 * MIB]
    assert longest_range(prefetcher_of(1 << 30, 4)) == 12 * MIB


def test_ranges_are_short_as_long_as_it_is_not_known_how_many_a_remote_bears() -> None:
    assert longest_range(prefetcher_of(1 << 30, 4, soon=32)) == MAX_RANGE


def test_a_small_window_is_as_many_ranges_as_may_go_ahead_at_once() -> None:
    found = []
    for parallel in (64, 16, 8, 4, 2, 1):
        prefetcher = prefetcher_of(1 << 30, parallel)
        prefetcher.miss(0, MIB, lambda: MAX_WINDOW)
        plan = prefetcher.miss(MIB, 2 * MIB, lambda: MAX_WINDOW)
        found.append(plan.range_bytes // MIB)
    assert found == [1, 1, 2, 3, 8, 8]
