"""Who reads the next request, and when: the lock and the waiting that pyfuse3 is given."""

import os
from collections.abc import Iterator

import pyfuse3
import pytest
import trio
import trio.testing

from mountd.fusefs import request_loop


@pytest.fixture
def fake() -> Iterator[request_loop.EventLoop]:
    """What pyfuse3 gets; its own afterwards."""
    request_loop.install()
    found = vars(pyfuse3)["trio"]
    assert isinstance(found, request_loop.EventLoop)
    yield found
    vars(pyfuse3)["trio"] = trio


def test_pyfuse3_has_the_door_and_finds_the_rest_of_trio_behind_it(
    fake: request_loop.EventLoop,
) -> None:
    assert fake.open_nursery is trio.open_nursery
    assert fake.ClosedResourceError is trio.ClosedResourceError
    assert fake.lowlevel.current_task is trio.lowlevel.current_task


async def test_a_free_turn_is_taken_without_a_round_of_the_loop() -> None:
    turn, steps = request_loop.Turn(), list[str]()

    async def other() -> None:
        steps.append("other")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(3):
            async with turn:
                steps.append("mine")
    assert steps == ["mine", "mine", "mine", "other"]


async def test_the_turn_is_one_reader_s_and_everybody_gets_it_who_waits() -> None:
    turn, readers, most, had = request_loop.Turn(), 0, 0, list[int]()

    async def reader(number: int) -> None:
        nonlocal readers, most
        for _ in range(3):
            async with turn:
                readers += 1
                most = max(most, readers)
                await trio.lowlevel.checkpoint()
                readers -= 1
            had.append(number)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(reader, number)
    assert most == 1
    assert sorted(had) == sorted(list(range(5)) * 3)


async def test_whoever_is_cancelled_while_it_waits_takes_no_turn_and_blocks_nobody() -> None:
    turn, had = request_loop.Turn(), list[str]()

    async def reader(name: str, scope: trio.CancelScope) -> None:
        with scope:
            async with turn:
                had.append(name)

    one, two, three = trio.CancelScope(), trio.CancelScope(), trio.CancelScope()
    async with trio.open_nursery() as nursery, turn:
        for name, scope in (("one", one), ("two", two), ("three", three)):
            nursery.start_soon(reader, name, scope)
        await trio.testing.wait_all_tasks_blocked()
        two.cancel()
        await trio.testing.wait_all_tasks_blocked()
    assert sorted(had) == ["one", "three"]


async def test_a_request_that_is_there_is_read_at_once_but_others_get_to_run(
    fake: request_loop.EventLoop,
) -> None:
    readable, writable = os.pipe()
    rounds, reads = 0, 0

    async def other() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await trio.lowlevel.checkpoint()

    try:
        os.write(writable, b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            while rounds < 5:
                await fake.lowlevel.wait_readable(readable)
                reads += 1
            nursery.cancel_scope.cancel()
    finally:
        os.close(readable)
        os.close(writable)
    assert reads > 5  # more of them than rounds of the loop, and the loop goes round


async def test_where_no_request_comes_the_loop_goes_on(fake: request_loop.EventLoop) -> None:
    readable, writable = os.pipe()
    try:
        os.write(writable, b"x")
        await fake.lowlevel.wait_readable(readable)
        os.read(readable, 1)
        with trio.move_on_after(0.01) as scope:
            await fake.lowlevel.wait_readable(readable)
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fake.lowlevel.wait_readable, readable)
            await trio.testing.wait_all_tasks_blocked()
            os.write(writable, b"x")
    finally:
        os.close(readable)
        os.close(writable)
