"""What comes into the block cache for no reader: bytes at hand, and ranges brought to the disk."""

import pytest
import trio
import trio.testing

from tests.fakes.dict_blocks import BLOCK, BODY, PAGE, DictBlocks, Remote, cache_over, until


async def test_bytes_that_are_at_hand_are_kept_without_a_fetch() -> None:
    blocks, remote = DictBlocks(), Remote()
    data = BODY[: PAGE + 100]
    async with cache_over(blocks) as cache:
        file = cache.file(b"sent", len(data), remote.fetch)
        file.keep_data(data)
        await until(lambda: blocks.present(b"sent", 0, 0, len(data)) and not cache.used_bytes)
        assert blocks.read(b"sent", 0, 0, len(data)) == data
        assert bytes(memoryview(await file.read(0, 9, (0, 9)))) == data[:9]
        file.keep_data(data)  # they are there
        assert cache.used_bytes == 0
        file.close()
    assert remote.fetched == []


async def test_bytes_at_hand_that_find_no_room_are_dropped() -> None:
    blocks, remote = DictBlocks(), Remote()
    data = BODY[:PAGE]
    async with cache_over(blocks, backlog=PAGE - 1) as cache:
        file = cache.file(b"sent", len(data), remote.fetch)
        file.keep_data(data)
        assert cache.used_bytes == 0
        file.close()
    assert (blocks.pages, remote.fetched) == ({}, [])


@pytest.mark.parametrize("callers", [1, 3])
async def test_what_is_brought_for_no_reader_is_on_the_disk_and_not_in_memory(
    callers: int,
) -> None:
    blocks, remote = DictBlocks(), Remote()
    blocks.gate.clear()
    brought: list[bool] = []
    async with cache_over(blocks) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)

        async def bring() -> None:
            brought.append(await file.bring(0, 2 * BLOCK))

        async with trio.open_nursery() as nursery:
            for _ in range(callers):  # who bring the same wait for the disk together
                nursery.start_soon(bring)
            await until(lambda: len(remote.fetched) == 1)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not brought  # fetched, and not written yet
            blocks.gate.set()
        assert brought == [True] * callers
        assert remote.fetched == [(0, 2 * BLOCK, False)]
        assert blocks.present(b"f", 1, 0, BLOCK)
        assert cache.used_bytes == 0
        assert await file.bring(0, 2 * BLOCK)
        assert len(remote.fetched) == 1
        file.close()


async def test_a_disk_that_keeps_nothing_is_told_to_who_brings() -> None:
    blocks, remote = DictBlocks(), Remote()
    blocks.full = True
    async with cache_over(blocks) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)
        assert not await file.bring(0, BLOCK)
        assert cache.used_bytes == 0
        file.close()


async def test_a_reader_of_what_is_brought_waits_for_the_same_fetch() -> None:
    blocks, remote = DictBlocks(), Remote()
    remote.gate.clear()
    async with cache_over(blocks) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.bring, 0, BLOCK)
            await until(lambda: len(remote.fetched) == 1)
            before_s = cache.last_wanted_s

            async def read() -> None:
                assert bytes(memoryview(await file.read(5, 10, (5, 10)))) == BODY[5:10]

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked(0.01)
            remote.gate.set()
        assert len(remote.fetched) == 1
        assert cache.last_wanted_s == before_s
        file.close()
