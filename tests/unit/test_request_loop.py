"""Who reads the next request, and when: the lock and the waiting that pyfuse3 is given."""

import os
from collections import deque
from collections.abc import Iterable, Iterator

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


LOOK_S = 1.04e-6
LOOKS = 49  # while one stays awake


class Requests:
    """A kernel that has the next request ready after so many looks, each of which takes `look_s`;
    and the clock that this goes by. `asleep` and `awake` count the looks of each kind."""

    def __init__(self, ready_after: Iterable[int], *, look_s: float = LOOK_S) -> None:
        self.now_s, self._look_s = 1000.0, look_s
        self.awake = self.asleep = 0
        self._ready_after = deque(ready_after)

    def clock(self) -> float:
        return self.now_s

    def look(self, fd: int, within_s: float) -> bool:
        if within_s:
            self.asleep += 1
            is_there = self._ready_after[0] <= 100
        else:
            self.awake += 1
            self.now_s += self._look_s
            self._ready_after[0] -= 1
            is_there = self._ready_after[0] <= 0
        if is_there:
            self._ready_after.popleft()
        return is_there


async def looked_for(
    requests: Requests,
    count: int,
    *,
    processors: int = 2,
    readers: int = 1,
    meanwhile: request_loop.Meanwhile | None = None,
) -> None:
    """`count` requests after one that was waited for as trio does it, which never has to wait;
    each of `readers` reads as many."""
    look, clock = requests.look, requests.clock
    low = request_loop.LowLevel(None, meanwhile, look=look, clock=clock, processors=processors)
    readable, writable = os.pipe()

    async def read(count: int) -> None:
        for _ in range(count):
            await low.wait_readable(readable)

    try:
        os.write(writable, b"x")
        await read(1)
        for _ in range(readers):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, count // readers)
    finally:
        os.close(readable)
        os.close(writable)


async def test_from_the_second_that_comes_soon_on_nobody_sleeps_until_the_next() -> None:
    requests = Requests([20] * 10)
    await looked_for(requests, 10)
    assert (requests.asleep, requests.awake) == (1, 9 * 20)


async def test_one_that_comes_late_is_slept_for_and_so_is_the_next() -> None:
    requests = Requests([20, 20, 140, 20, 20])
    await looked_for(requests, 5)  # the late one is there while somebody sleeps
    assert (requests.asleep, requests.awake) == (3, 20 + LOOKS + 20)
    requests = Requests([20, 2000, 20])
    await looked_for(requests, 3)  # the late one comes through trio
    assert (requests.asleep, requests.awake) == (3, LOOKS)


async def test_where_most_come_late_nobody_stays_awake_but_to_try_it_once_in_a_while() -> None:
    requests = Requests([LOOKS + 20] * 1000)
    await looked_for(requests, 1000)
    assert requests.asleep == 1000
    assert requests.awake <= 25 * LOOKS
    requests = Requests([LOOKS + 20] * 1000 + [20] * 1000)
    await looked_for(requests, 2000)
    assert requests.asleep <= 1000 + 150  # soon it is as if nothing had been


async def test_with_one_processor_nobody_stays_awake() -> None:
    requests = Requests([20] * 10)
    await looked_for(requests, 10, processors=1)
    assert (requests.asleep, requests.awake) == (10, 0)


async def test_while_somebody_else_s_request_is_in_hand_the_reader_sleeps() -> None:
    requests = Requests([20] * 10)
    await looked_for(requests, 10, readers=10)
    assert (requests.asleep, requests.awake) == (10, 0)


async def test_where_a_look_takes_long_because_a_thread_was_let_in_the_reader_sleeps() -> None:
    requests = Requests([20] * 10, look_s=30e-6)
    await looked_for(requests, 10)
    assert (requests.asleep, requests.awake) == (10, 3)


async def test_who_stays_awake_sleeps_and_lets_the_loop_go_round_each_millisecond() -> None:
    requests, rounds = Requests([20] * 500), 0  # 10 ms

    async def other() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await looked_for(requests, 500)
        nursery.cancel_scope.cancel()
    assert 9 <= requests.asleep <= 12
    assert rounds >= 9


class Steps:
    """So many, each of which takes 60 us of the requests' clock."""

    def __init__(self, requests: Requests, count: int) -> None:
        self._requests = requests
        self.left = count

    def __call__(self) -> bool:
        self._requests.now_s += 60e-6
        self.left -= 1
        return self.left > 0


@pytest.mark.parametrize(("ready_after", "taken"), [(1, 0), (2, 1), (3, 2), (40, 5)])
async def test_who_stays_awake_does_what_the_next_request_wants_but_not_before_a_look_for_it(
    ready_after: int, taken: int
) -> None:
    requests, meanwhile = Requests([20, ready_after]), request_loop.Meanwhile()
    meanwhile.step = steps = Steps(requests, 5)
    await looked_for(requests, 2, meanwhile=meanwhile)
    assert 5 - steps.left == taken
    assert (meanwhile.step is None) == (taken == 5)
    assert (requests.asleep, requests.awake) == (1, ready_after)  # its time counts for no look


def test_a_look_without_waiting_finds_what_is_there_and_that_the_kernel_has_gone() -> None:
    readable, writable = os.pipe()
    look = request_loop.polled(readable)
    try:
        assert not look()
        os.write(writable, b"x")
        assert look()
        assert look(), "looking reads nothing"
        os.read(readable, 1)
        assert not look()
    finally:
        os.close(writable)
    assert look()
    os.close(readable)


async def test_where_nobody_stays_awake_nothing_is_done_meanwhile() -> None:
    requests, meanwhile = Requests([20] * 10), request_loop.Meanwhile()
    meanwhile.step = steps = Steps(requests, 5)
    await looked_for(requests, 10, processors=1, meanwhile=meanwhile)
    assert steps.left == 5
