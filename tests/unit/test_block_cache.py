"""Single-flight, memory and backlog of the block cache, over blocks in a dictionary."""

import sys
import threading
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import Buffer

from mountd.errors import Unreachable
from mountd_cache.cached_file import pieces
from tests.fakes.dict_blocks import BLOCK, BODY, PAGE, DictBlocks, Remote, cache_over, until
from tests.fakes.time_is_up import when_time_is_up


async def test_a_range_read_twice_is_fetched_once_and_lands_in_the_block_files() -> None:
    blocks, remote = DictBlocks(), Remote()
    async with cache_over(blocks) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)
        assert file.read_now(10, 20) is None
        assert bytes(memoryview(await file.read(10, 20, (10, 20)))) == BODY[10:20]
        await until(lambda: blocks.present(b"f", 0, 0, PAGE))
        assert bytes(memoryview(await file.read(100, 200, (100, 200)))) == BODY[100:200]
        assert remote.fetched == [(0, PAGE, True)]
        file.close()


async def test_many_readers_of_one_range_share_one_fetch() -> None:
    blocks, remote = DictBlocks(), Remote()
    remote.gate.clear()
    got: list[bytes] = []
    async with cache_over(blocks) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)

        async def read() -> None:
            got.append(bytes(memoryview(await file.read(0, 100, (0, BLOCK)))))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(read)
            await until(lambda: len(remote.fetched) == 1)
            await trio.testing.wait_all_tasks_blocked(0.01)
            remote.gate.set()
    assert got == [BODY[:100]] * 20
    assert remote.fetched == [(0, BLOCK, True)]


async def test_a_cancelled_reader_leaves_the_fetch_to_the_others() -> None:
    blocks, remote = DictBlocks(), Remote()
    remote.gate.clear()
    async with cache_over(blocks) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)
        with trio.move_on_after(0.02) as scope:
            await file.read(0, 10, (0, 10))
        assert scope.cancelled_caught
        remote.gate.set()
        assert bytes(memoryview(await file.read(0, 10, (0, 10)))) == BODY[:10]
        assert len(remote.fetched) == 1


async def test_a_failed_fetch_ahead_is_tried_again_by_the_reader_who_needs_it() -> None:
    blocks, remote = DictBlocks(), Remote()
    remote.error = lambda urgent: None if urgent else OSError("ahead failed")
    async with cache_over(blocks) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)
        file.begin(0, BLOCK, urgent=False)
        await until(lambda: len(remote.fetched) == 1)
        assert bytes(memoryview(await file.read(0, 10, (0, 10)))) == BODY[:10]
        assert [urgent for _, _, urgent in remote.fetched] == [False, True]


async def test_a_readers_own_failure_reaches_all_who_wait_and_is_not_remembered() -> None:
    blocks, remote = DictBlocks(), Remote()
    remote.error = lambda urgent: OSError("down")
    async with cache_over(blocks) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)
        with pytest.raises(OSError, match="down"):
            await file.read(0, 10, (0, 10))
        remote.error = lambda urgent: None
        assert bytes(memoryview(await file.read(0, 10, (0, 10)))) == BODY[:10]


async def test_a_reader_never_waits_longer_than_its_bound() -> None:
    blocks, remote = DictBlocks(), Remote()
    remote.gate.clear()
    async with cache_over(blocks, wait_s=0.05) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)
        with pytest.raises(TimeoutError):
            await file.read(0, 10, (0, 10))
        remote.gate.set()


async def test_with_a_full_disk_data_is_served_from_memory_and_memory_is_given_back() -> None:
    blocks, remote = DictBlocks(), Remote()
    blocks.full = True
    async with cache_over(blocks) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)
        file.begin(0, 4 * BLOCK, urgent=False, most=BLOCK)
        for start in range(0, 4 * BLOCK, PAGE):
            data = await file.read(start, start + PAGE, (start, start + PAGE))
            assert bytes(memoryview(data)) == BODY[start : start + PAGE]
        assert len(remote.fetched) == 4
        await until(lambda: cache.used_bytes == 0)


async def test_fetches_ahead_stop_at_the_memory_budget_and_urgent_ones_do_not() -> None:
    blocks, remote = DictBlocks(), Remote()
    remote.gate.clear()
    async with cache_over(blocks, memory=2 * BLOCK) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)
        assert file.begin(0, 4 * BLOCK, urgent=False, most=BLOCK) == 2 * BLOCK
        assert file.begin(3 * BLOCK, 4 * BLOCK, urgent=True) == 4 * BLOCK
        assert cache.used_bytes == 3 * BLOCK
        remote.gate.set()


@pytest.mark.parametrize("run", range(4))  # trio throws a coin for the order of new tasks
async def test_what_is_fetched_ahead_is_asked_for_in_order(run: int) -> None:
    blocks, remote = DictBlocks(), Remote()
    async with cache_over(blocks, memory=64 * BLOCK, parallel=1) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)
        file.begin(0, 4 * BLOCK, urgent=False, most=PAGE)
        await until(lambda: len(remote.fetched) == 64)
    assert remote.fetched == sorted(remote.fetched)


@pytest.fixture
def threads_run_until_they_wait() -> Iterator[None]:
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(10.0)
    yield
    sys.setswitchinterval(before_s)


@pytest.mark.usefixtures("threads_run_until_they_wait")
async def test_what_many_threads_fetch_ahead_together_is_asked_for_in_order() -> None:
    blocks, remote = DictBlocks(), Remote()
    remote.gate.clear()
    async with cache_over(blocks, memory=64 * BLOCK, parallel=16) as cache:
        for name in (b"f", b"g", b"h"):  # the first makes the threads, which then wake in any order
            file = cache.file(name, len(BODY), remote.fetch)
            file.begin(0, BLOCK, urgent=False, most=PAGE)
            await until(lambda: len(remote.fetched) == 16)
            assert remote.fetched == sorted(remote.fetched)
            remote.gate.set()
            await file.ensure(0, BLOCK)
            remote.gate.clear()
            remote.fetched.clear()


async def test_what_does_not_fit_into_the_backlog_is_served_and_not_kept() -> None:
    blocks, remote = DictBlocks(), Remote()
    blocks.gate.clear()  # the disk is stuck
    async with cache_over(blocks, backlog=BLOCK) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)
        for index in range(3):
            start = index * BLOCK
            data = await file.read(start, start + BLOCK, (start, start + BLOCK))
            assert bytes(memoryview(data)) == BODY[start : start + BLOCK]
        assert cache.counters.dropped_bytes == 2 * BLOCK
        blocks.gate.set()
        await until(lambda: blocks.present(b"f", 0, 0, BLOCK))
        assert not blocks.present(b"f", 1, 0, PAGE)


async def test_a_closed_file_is_forgotten_when_its_last_fetch_has_gone() -> None:
    blocks, remote = DictBlocks(), Remote()
    async with cache_over(blocks) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)
        await file.read(0, BLOCK, (0, BLOCK))
        await until(lambda: cache.used_bytes == 0)
        file.close()
        assert cache.file(b"f", len(BODY), remote.fetch) is not file


async def test_a_fetch_that_panics_fails_its_reader_and_not_the_cache() -> None:
    class Panic(BaseException):
        """What pyo3 makes of a panic in Rust is no Exception."""

    def fetch(start: int, end: int, urgent: bool) -> Buffer:
        if start == 0:
            raise Panic("index out of bounds")
        return BODY[start:end]

    async with cache_over(DictBlocks()) as cache:
        file = cache.file(b"f", len(BODY), fetch)
        with pytest.raises(Exception, match="index out of bounds"):
            await file.read(0, 10, (0, 10))
        assert bytes(memoryview(await file.read(BLOCK, BLOCK + 10, (BLOCK, BLOCK + 10))))
        file.close()


async def test_a_block_that_the_disk_can_no_longer_read_is_fetched_again() -> None:
    class BadSector(DictBlocks):
        """`present` by its header, and EIO for the data, as BlockFiles tells them."""

        def read(self, file_id: bytes, index: int, start: int, end: int) -> bytes | None:
            return None if index == 1 else super().read(file_id, index, start, end)

    blocks, remote = BadSector(), Remote()
    blocks.write(b"f", 1, 0, BODY[BLOCK : 2 * BLOCK], BLOCK)
    async with cache_over(blocks) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)
        span = (BLOCK + 5, BLOCK + 105)
        assert bytes(memoryview(await file.read(*span, span))) == BODY[span[0] : span[1]]
        file.close()


async def test_two_halves_of_a_read_do_not_push_each_other_out_of_scarce_memory() -> None:
    remote, other = Remote(), Remote()
    other.gate.clear()
    async with cache_over(DictBlocks(), memory=BLOCK, backlog=0) as cache:
        hog = cache.file(b"h", len(BODY), other.fetch)
        hog.begin(0, 2 * BLOCK, urgent=True)  # more than the whole budget, and it hangs
        file = cache.file(b"f", len(BODY), remote.fetch)
        await file.read(0, 10, (0, BLOCK - 10))
        span = (BLOCK - 100, BLOCK + 100)
        assert bytes(memoryview(await file.read(*span, span))) == BODY[span[0] : span[1]]
        other.gate.set()
        file.close()
        hog.close()


async def test_a_reader_does_not_queue_behind_what_is_fetched_ahead_for_others() -> None:
    remote, hanging = Remote(), Remote()
    hanging.gate.clear()
    async with cache_over(DictBlocks(), memory=64 * BLOCK) as cache:
        busy = [cache.file(b"%d" % i, len(BODY), hanging.fetch) for i in range(8)]
        for file in busy:
            file.begin(0, BLOCK, urgent=False)
        await until(lambda: len(hanging.fetched) == 8)
        mine = cache.file(b"f", len(BODY), remote.fetch)
        mine.begin(0, BLOCK, urgent=False)  # my own prefetch, which has not begun to run
        try:
            with trio.fail_after(4):  # waiting for them would take 5 s
                assert bytes(memoryview(await mine.read(0, 10, (0, 10)))) == BODY[:10]
        finally:
            hanging.gate.set()


async def test_a_read_ends_within_its_bound_also_when_a_fetch_ahead_failed_first(
    mock_clock: trio.testing.MockClock,
) -> None:
    gates = {False: threading.Event(), True: threading.Event()}
    asked = {False: threading.Event(), True: threading.Event()}

    def fetch(start: int, end: int, urgent: bool) -> Buffer:
        asked[urgent].set()
        gates[urgent].wait(10)
        raise Unreachable("slow, and then nothing")

    async def reached(event: threading.Event) -> None:
        assert await trio.to_thread.run_sync(event.wait, 10)

    async with cache_over(DictBlocks(), wait_s=60) as cache:
        file = cache.file(b"f", len(BODY), fetch)
        file.begin(0, BLOCK, urgent=False)
        ended = trio.Event()

        async def read() -> None:
            with pytest.raises((TimeoutError, Unreachable)):
                await file.read(0, 10, (0, 10))
            ended.set()

        async with trio.open_nursery() as nursery:
            await reached(asked[False])
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(50)
            gates[False].set()
            await reached(asked[True])
            mock_clock.jump(20)  # 70 s since the read began
            await trio.testing.wait_all_tasks_blocked()
            in_time = ended.is_set()
            gates[True].set()
        assert in_time


async def test_a_fetch_that_never_ends_does_not_make_its_range_unreadable_for_ever(
    mock_clock: trio.testing.MockClock,
) -> None:
    stuck, calls = threading.Event(), []

    def fetch(start: int, end: int, urgent: bool) -> Buffer:
        calls.append(start)
        if len(calls) == 1:
            stuck.wait(60)
        return BODY[start:end]

    async with cache_over(DictBlocks(), wait_s=10.0) as cache:
        file = cache.file(b"f", len(BODY), fetch)

        async def waits_in_vain() -> None:
            with pytest.raises(TimeoutError):
                await file.read(0, 10, (0, 10))

        await when_time_is_up(mock_clock, 10.0, waits_in_vain)
        try:
            assert bytes(memoryview(await file.read(0, 10, (0, 10)))) == BODY[:10]
        finally:
            stuck.set()


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(BODY) - 1), st.integers(1, 3 * BLOCK), st.booleans(), st.booleans()
        ),
        max_size=25,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_mix_of_reads_and_fetches_ahead_gives_the_right_bytes(
    steps: list[tuple[int, int, bool, bool]],
) -> None:
    async def main() -> None:
        blocks, remote = DictBlocks(), Remote()
        async with cache_over(blocks, memory=3 * BLOCK, backlog=2 * BLOCK) as cache:
            file = cache.file(b"f", len(BODY), remote.fetch)
            for start, length, ahead, full in steps:
                blocks.full = full
                end = min(len(BODY), start + length)
                if ahead:
                    file.begin(start, end, urgent=False, most=BLOCK)
                    continue
                data = file.read_now(start, end)
                if data is None:
                    data = await file.read(start, end, (start, end))
                assert bytes(memoryview(data)) == BODY[start:end]

    trio.run(main)


@given(st.integers(0, 10**13), st.integers(1, 10**7), st.sampled_from([4096, 1 << 20]))
def test_pieces_cover_a_range_exactly_and_stay_within_blocks(
    start: int, length: int, block_size: int
) -> None:
    position = start
    for index, low, high in pieces(start, start + length, block_size):
        assert low == position
        assert index * block_size <= low < high <= (index + 1) * block_size
        position = high
    assert position == start + length
