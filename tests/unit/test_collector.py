"""How often Python's collector of cycles looks."""

import gc
import subprocess
import sys
import weakref

import trio
from trio.testing import MockClock

from mountd.running.collector import (
    LOOK_EVERY_S,
    MANY,
    YOUNG,
    collect_what_grows,
    resident_bytes,
)

SEEN = f"""
import gc
from mountd.running.collector import collect_seldom
collect_seldom()
before = gc.get_stats()[0]["collections"]
kept = [[] for _ in range({YOUNG // 2})]
print(gc.get_freeze_count() > 1000, len(gc.get_objects()) < {YOUNG})
print(gc.get_stats()[0]["collections"] - before)
"""


def test_a_burst_of_new_objects_is_not_looked_at_and_what_was_there_never_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEEN], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == ["True", "True", "0"]


class Failed:
    """What an error leaves: its traceback has the frame, and that has the error."""

    def __init__(self) -> None:
        self.me = self


class Process:
    """One that has so many MiB each time that somebody looks, and then the last for ever. A
    collection finds `cycles`, and from one look to the next so many new objects are `made`."""

    def __init__(self, *mib: int, cycles: int = 0, made: int = 0) -> None:
        self.mib = list(mib)
        self.cycles = cycles
        self.made = made
        self._objects = 0
        self.collected_at: list[int] = []
        self._now = 0

    def memory(self) -> int:
        self._now = self.mib.pop(0) if len(self.mib) > 1 else self.mib[0]
        return self._now << 20

    def collect(self) -> int:
        self.collected_at.append(self._now)
        gc.collect()
        return self.cycles

    def objects(self) -> int:
        self._objects += self.made
        return self._objects

    async def run(self) -> None:
        with trio.move_on_after(20.5 * LOOK_EVERY_S):
            await collect_what_grows(self.memory, self.collect, lambda: None, self.objects)


async def test_cycles_go_where_memory_has_grown_by_much(autojump_clock: MockClock) -> None:
    failed = weakref.ref(Failed())
    # 150 is what was left of 190; 190 is not much more, and of 230 120 is left.
    process = Process(100, 130, 190, 150, 190, 230, 120, 180)
    gc.disable()
    try:
        await process.run()
    finally:
        gc.enable()
    assert failed() is None
    assert process.collected_at == [190, 230]


async def test_what_many_cycles_held_goes_back_to_the_machine(autojump_clock: MockClock) -> None:
    process = Process(50, 200, 60, cycles=MANY + 1)
    given_back = trio.Event()

    def give_back() -> None:
        trio.from_thread.run_sync(given_back.set)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            collect_what_grows, process.memory, process.collect, give_back, process.objects
        )
        await given_back.wait()
        nursery.cancel_scope.cancel()
    assert process.collected_at == [200]


async def test_what_a_large_process_has_is_not_looked_at_for_little(
    autojump_clock: MockClock,
) -> None:
    process = Process(600, 700, 800, 890, 910, 905, 1000, 1200)
    await process.run()
    assert process.collected_at == [910]


async def test_what_many_new_objects_take_is_no_reason_to_look_at_them(
    autojump_clock: MockClock,
) -> None:
    process = Process(100, 160, 220, 250, made=700_000)
    await process.run()
    assert process.collected_at == []


async def test_objects_that_came_and_went_explain_nothing(autojump_clock: MockClock) -> None:
    """As collections of the young count them they were ever more."""
    for _ in range(30):
        [[] for _ in range(2 * YOUNG)]
    process = Process(100, 130, 190)
    with trio.move_on_after(20.5 * LOOK_EVERY_S):
        await collect_what_grows(process.memory, process.collect, lambda: None)
    assert process.collected_at == [190]


def test_this_process_takes_some_memory() -> None:
    assert 1 << 20 < resident_bytes() < 1 << 40
