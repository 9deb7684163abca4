"""Who writes what when: a writer that the disk keeps waiting keeps nobody else."""

import queue
import threading

import pytest
from typing_extensions import Buffer

from mountd_cache.block_cache import WRITERS
from mountd_cache.block_jobs import BlockJobs
from mountd_cache.past_page_cache import Past
from tests.fakes.dict_blocks import BLOCK, BODY, DictBlocks, Remote, cache_over, until


def test_what_is_at_one_place_is_done_in_order_and_what_is_elsewhere_meanwhile() -> None:
    jobs: BlockJobs[str] = BlockJobs()
    for place, job in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a3")]:
        jobs.put(place, job)
    assert jobs.take(0) == ("a", "a1")
    assert jobs.take(0) == ("b", "b1")
    with pytest.raises(queue.Empty):
        jobs.take(0)
    jobs.done("a")
    assert jobs.take(0) == ("a", "a2")
    jobs.done("b")
    jobs.done("a")
    assert jobs.take(0) == ("a", "a3")
    jobs.done("a")
    jobs.put("b", "b2")
    assert jobs.take(0) == ("b", "b2")


def test_at_the_end_each_taker_hears_it_and_nothing_more_is_done() -> None:
    jobs: BlockJobs[str] = BlockJobs()
    for place, job in [("a", "a1"), ("a", "a2"), ("b", "b1")]:
        jobs.put(place, job)
    assert jobs.take(0) == ("a", "a1")
    jobs.end(2)
    jobs.done("a")
    assert [jobs.take(0), jobs.take(0)] == [None, None]


class SlowInPlaces(DictBlocks):
    """Keeps those waiting who write to one file, or past the page cache."""

    def __init__(self, slow_file: bytes = b"", *, slow_past: bool = False) -> None:
        super().__init__()
        self.told: list[Past] = []
        self.go_on = threading.Event()
        self._slow_file = slow_file
        self._slow_past = slow_past

    def write(
        self,
        file_id: bytes,
        index: int,
        start: int,
        data: Buffer,
        block_len: int,
        past: Past = Past.NO,
    ) -> bool:
        self.told.append(past)
        if file_id == self._slow_file or (past is Past.SLOWLY and self._slow_past):
            assert self.go_on.wait(10)
        return super().write(file_id, index, start, data, block_len, past)


FILES = [bytes([number]) for number in range(2 * WRITERS)]


async def test_a_block_that_the_disk_does_not_take_keeps_no_other_waiting() -> None:
    blocks, remote = SlowInPlaces(FILES[0]), Remote()
    async with cache_over(blocks, memory=64 * BLOCK, backlog=64 * BLOCK) as cache:
        for file_id in FILES:
            cache.file(file_id, len(BODY), remote.fetch).begin(0, BLOCK, urgent=False)
        await until(lambda: all(blocks.present(each, 0, 0, BLOCK) for each in FILES[1:]))
        assert not blocks.present(FILES[0], 0, 0, BLOCK)
        blocks.go_on.set()
        await until(lambda: blocks.present(FILES[0], 0, 0, BLOCK))


async def test_where_all_past_the_page_cache_is_slow_one_writer_does_not_wait_for_the_disk() -> (
    None
):
    blocks, remote = SlowInPlaces(slow_past=True), Remote()
    async with cache_over(blocks, memory=64 * BLOCK, backlog=64 * BLOCK) as cache:
        for file_id in FILES:
            file = cache.file(file_id, len(BODY), remote.fetch)
            file.begin(0, BLOCK, urgent=False, streamed=True)
        await until(lambda: len(blocks.told) == len(FILES))
        blocks.go_on.set()
        await until(lambda: all(blocks.present(each, 0, 0, BLOCK) for each in FILES))
    assert blocks.told.count(Past.SLOWLY) == WRITERS - 1
    assert blocks.told.count(Past.AT_ONCE) == len(FILES) - WRITERS + 1


def test_what_nobody_wants_any_more_is_dropped_and_the_rest_stays_in_order() -> None:
    jobs: BlockJobs[int] = BlockJobs()
    for job in range(6):
        jobs.put(job % 2, job)
    assert jobs.take(1) == (0, 0)
    jobs.drop(lambda job: job in (1, 2))
    assert jobs.take(1) == (1, 3)
    jobs.done(0)
    assert jobs.take(1) == (0, 4)
    jobs.done(1)
    assert jobs.take(1) == (1, 5)
    jobs.done(0)
    jobs.done(1)
    jobs.put(0, 6)
    jobs.drop(lambda job: True)
    jobs.put(0, 7)
    assert jobs.take(1) == (0, 7)
