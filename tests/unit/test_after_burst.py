"""What was sent waits for the block files while more of it comes, and not for long."""

import trio
from trio.testing import MockClock

from mountd_cache.after_burst import AT_MOST_BYTES, AT_MOST_S, QUIET_S, AfterBurst
from tests.fakes.dict_blocks import PAGE, DictBlocks, Remote, cache_over


async def gone_at(times: list[float], size_bytes: int = 1) -> list[float]:
    """When a job went that was added at each of these times."""
    found = dict[int, float]()

    def go(job: int) -> None:
        found[job] = trio.current_time() - began_s

    began_s = trio.current_time()
    jobs = AfterBurst[int](go)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(jobs.run)
        for number, at_s in enumerate(times):
            await trio.sleep_until(began_s + at_s)
            jobs.add(number, size_bytes)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    return [round(found[number], 6) for number in range(len(times))]


async def test_all_go_once_no_more_come(autojump_clock: MockClock) -> None:
    assert await gone_at([0.0, 0.1, 0.3, 7.0]) == [0.55, 0.55, 0.55, 7.25]


async def test_none_waits_longer_than_some_seconds(autojump_clock: MockClock) -> None:
    found = await gone_at([number / 10 for number in range(100)])
    assert found[0] == AT_MOST_S
    assert max(gone - number / 10 for number, gone in enumerate(found)) <= AT_MOST_S + QUIET_S


async def test_many_bytes_do_not_wait(autojump_clock: MockClock) -> None:
    assert await gone_at([0.0, 0.1, 0.2], AT_MOST_BYTES // 2) == [0.2] * 3


async def test_what_somebody_waits_for_goes_at_once() -> None:
    blocks, remote = DictBlocks(), Remote()
    async with cache_over(blocks) as cache:
        file = cache.file(b"sent", PAGE, remote.fetch)
        file.keep_data(bytes(PAGE))
        assert await file.bring(0, PAGE)
        file.close()
    assert blocks.present(b"sent", 0, 0, PAGE)
    assert remote.fetched == []


async def test_what_waits_is_written_before_the_cache_ends() -> None:
    blocks, remote = DictBlocks(), Remote()
    async with cache_over(blocks) as cache:
        for name in b"a", b"b":
            file = cache.file(name, PAGE, remote.fetch)
            file.keep_data(bytes(PAGE))
            file.close()
        assert not blocks.pages
    assert all(blocks.present(name, 0, 0, PAGE) for name in (b"a", b"b"))
