"""Uploads wait while programs make one file after the other, and only so long."""

import threading
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from mountd.sync.giving_way import GivingWay
from tests.fakes.memory_store import MemoryStore
from tests.fakes.syncing import Syncing, reached, syncing


class Programs:
    """`opens` grows with the clock by so many a second: with `clock`, or as `at` is told."""

    def __init__(self, per_s: float, clock: Callable[[], float] | None = None) -> None:
        self.per_s = per_s
        self._clock = clock
        self.is_little = True
        self._opens = 0.0
        self._since_s = 0.0

    def at(self, now_s: float) -> None:
        """`per_s` until now."""
        self._opens += (now_s - self._since_s) * self.per_s
        self._since_s = now_s

    def end(self) -> None:
        """Now."""
        self.opens()
        self.per_s = 0

    def opens(self) -> int:
        if self._clock is not None:
            self.at(self._clock())
        return int(self._opens)

    def giving_way(self, write_back_s: float = 1.0) -> GivingWay:
        return GivingWay(self.opens, lambda: self.is_little, write_back_s=write_back_s)


def asked(
    giving_way: GivingWay, programs: Programs, until_s: float, since_s: float = 0.0
) -> list[int | None]:
    """How many may go, each tenth of these seconds."""
    found = []
    for step in range(round(since_s * 10), round(until_s * 10)):
        programs.at(step / 10)
        found.append(giving_way.at_once(step / 10))
    return found


def waited(
    giving_way: GivingWay, programs: Programs, until_s: float, since_s: float = 0.0
) -> float:
    """In how many of these seconds nothing may go."""
    return asked(giving_way, programs, until_s, since_s).count(0) / 10


@pytest.mark.parametrize(("per_s", "gives"), [(0, False), (30, False), (70, True)])
def test_only_those_who_make_many_files_are_given_way(per_s: float, gives: bool) -> None:
    programs = Programs(per_s)
    assert (waited(programs.giving_way(), programs, 5) > 4) is gives


@pytest.mark.parametrize(
    ("write_back_s", "longest_s"), [(0.0, 0.0), (0.2, 2.0), (1.0, 10.0), (300.0, 10.0)]
)
def test_it_ends_after_ten_times_the_delay_and_ten_seconds_at_most(
    write_back_s: float, longest_s: float
) -> None:
    programs = Programs(1000)
    giving_way = programs.giving_way(write_back_s)
    assert waited(giving_way, programs, 3600) == pytest.approx(longest_s, abs=0.2)


def test_whoever_goes_on_for_long_gets_less_and_less_way() -> None:
    programs = Programs(1000)
    limits = asked(programs.giving_way(), programs, 3600)
    steps = [limits.count(limit) / 10 for limit in (0, 4, 8, 16, 32)]
    assert steps == pytest.approx([10, 5, 5, 5, 5], abs=0.2)
    assert (found := [limit for limit in limits if limit is not None]) == sorted(found)
    assert set(limits[310:]) == {None}


def test_whoever_goes_on_is_given_way_again_once_the_queue_has_kept_up() -> None:
    programs = Programs(1000)
    giving_way = programs.giving_way()
    waited(giving_way, programs, 40)
    giving_way.kept_up()
    assert waited(giving_way, programs, 60, since_s=40) == pytest.approx(10, abs=0.2)


def test_a_short_pause_does_not_make_it_longer() -> None:
    programs = Programs(1000)
    giving_way = programs.giving_way()
    gave = waited(giving_way, programs, 5)
    programs.per_s = 0
    assert waited(giving_way, programs, 6, since_s=5) < 0.5
    assert giving_way.at_once(6.0) is None
    programs.per_s = 1000
    assert waited(giving_way, programs, 60, since_s=6) < 10.5 - gave


def test_what_waits_goes_as_soon_as_programs_have_ended() -> None:
    programs = Programs(1000)
    giving_way = programs.giving_way()
    waited(giving_way, programs, 5)  # the last look at 4.9
    found = [giving_way.at_once(4.9 + 0.02 * step) for step in range(1, 20)]
    assert found[:2] == [0, 0]
    assert found[2:10] == [8] * 8  # they may only have had no processor
    assert set(found[13:]) == {None}


def test_who_looks_late_does_not_take_programs_for_ended() -> None:
    """On a busy machine the queue has as little of the processor as they have."""
    programs = Programs(1000)
    giving_way = programs.giving_way()
    waited(giving_way, programs, 5)
    assert [giving_way.at_once(4.9 + 0.1 * step) for step in (1, 2)] == [0, 8]


def test_what_takes_a_quarter_of_the_room_is_sent() -> None:
    programs = Programs(1000)
    giving_way = programs.giving_way()
    assert waited(giving_way, programs, 3) > 2
    programs.is_little = False
    assert waited(giving_way, programs, 6, since_s=3) == 0


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    """`syncing` moves it on when nothing goes on."""
    return mock_clock


async def _write_files(s: Syncing, seconds: int, first: int = 0) -> None:
    """One file each 100 ms, by many handles."""
    for number in range(first, first + 10 * seconds):
        s.tree.write(f"f{number}", b"1")
        await trio.sleep(0.1)


async def test_files_made_one_after_the_other_are_sent_when_that_ends(clock: MockClock) -> None:
    store, programs = MemoryStore(), Programs(1000, trio.current_time)
    async with syncing(store, giving_way=programs.giving_way()) as s:
        await _write_files(s, 5)
        assert store.keys() == []
        programs.end()
        await trio.sleep(2)
        assert len(store.keys()) == 50


async def test_what_waited_is_begun_at_once_when_programs_end(clock: MockClock) -> None:
    store, programs = MemoryStore(), Programs(1000, trio.current_time)
    async with syncing(store, giving_way=programs.giving_way()) as s:
        await _write_files(s, 5)
        programs.end()
        ended_s = trio.current_time()
        fault = s.faults.add("put", hang=threading.Event())
        await reached(fault.reached)
        assert trio.current_time() - ended_s < 0.1
        assert fault.hang is not None
        fault.hang.set()


async def test_whoever_makes_files_for_a_minute_is_sent_meanwhile(clock: MockClock) -> None:
    store, programs = MemoryStore(), Programs(1000, trio.current_time)
    async with syncing(store, giving_way=programs.giving_way()) as s:
        for second in range(0, 60, 12):
            await _write_files(s, 12, first=10 * second)
            # None waits longer than its delay and 10 s.
            assert len(store.keys()) >= 10 * second


async def test_a_drain_does_not_wait_for_programs(clock: MockClock) -> None:
    store, programs = MemoryStore(), Programs(1000, trio.current_time)
    async with syncing(store, giving_way=programs.giving_way()) as s:
        await _write_files(s, 3)
        assert store.keys() == []
        assert await s.queue.drain() == 0
        assert len(store.keys()) == 30


async def test_without_room_nothing_waits_for_programs(clock: MockClock) -> None:
    store, programs = MemoryStore(), Programs(1000, trio.current_time)
    async with syncing(store, giving_way=programs.giving_way(), pressed=lambda: True) as s:
        await _write_files(s, 3)
        assert store.keys()


async def test_a_retry_by_hand_is_not_held_up(clock: MockClock) -> None:
    store, programs = MemoryStore(), Programs(1000, trio.current_time)
    async with syncing(store, giving_way=programs.giving_way()) as s:
        await _write_files(s, 3)
        s.queue.retry("f0")
        await _write_files(s, 1, first=30)
        assert store.data("f0") == b"1"


class Beginning(GivingWay):
    """Programs begin to make files while the queue looks, and stop at once."""

    def __init__(self) -> None:
        super().__init__(lambda: 0, lambda: True, write_back_s=1.0)
        self._answers: list[int | None] = [None, None, None, None, 0, 0]

    def at_once(self, now_s: float) -> int | None:
        return self._answers.pop(0) if self._answers else None


async def test_what_gave_way_while_it_was_looked_at_is_not_forgotten(clock: MockClock) -> None:
    store = MemoryStore()
    async with syncing(store, giving_way=Beginning(), write_back_s=0.0) as s:
        s.tree.write("f", b"1")
        await trio.sleep(60)
        assert store.keys() == ["f"]
