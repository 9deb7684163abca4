"""Which block goes: the limit, resistance against scans, memory."""

import random
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mountd_cache.block_files import BlockFiles
from mountd_cache.eviction import UNIT_BYTES, EvictionOrder

CAPACITY = 1000
RANDOM = random.Random(3)


def lru_hits(trace: Sequence[int]) -> int:
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for block in trace:
        if block in cache:
            hits += 1
            cache.move_to_end(block)
        else:
            cache[block] = None
            if len(cache) > CAPACITY:
                cache.popitem(last=False)
    return hits


def order_hits(trace: Sequence[int], cycle: int = 0) -> int:
    order = EvictionOrder(limit_bytes=CAPACITY * UNIT_BYTES, largest_bytes=UNIT_BYTES)
    order.cycle_bytes = cycle * UNIT_BYTES
    hits = 0
    for block in trace:
        key = block.to_bytes(20, "big")
        if key in order:
            hits += 1
            order.visit(key)
            continue
        while order.bytes_used + UNIT_BYTES > CAPACITY * UNIT_BYTES:
            victim = order.victim()
            assert victim is not None
            assert order.remove(victim) == UNIT_BYTES
        order.add(key, UNIT_BYTES)
    return hits


def hot_and_scanned() -> list[int]:
    trace: list[int] = []
    for turn in range(20):
        trace += RANDOM.sample(range(500), 500)
        trace += range((turn + 1) * 10_000, (turn + 1) * 10_000 + 1000)
    return trace


@pytest.mark.parametrize(
    ("trace", "at_least"),
    [
        ([i % 1100 for i in range(11_000)], 0.60),
        # Of what has gone it remembers slots by hash(key), which is another in each process: of 40
        # one had 0.171 and one 0.214.
        ([i % 2000 for i in range(20_000)], 0.12),
        (hot_and_scanned(), 0.30),
        ([int(RANDOM.random() ** 3 * 8000) for _ in range(50_000)], 0.38),
    ],
)
def test_it_hits_more_than_lru_where_lru_is_weak(trace: Sequence[int], at_least: float) -> None:
    hits = order_hits(trace)
    assert hits > lru_hits(trace)
    assert hits >= at_least * len(trace)


@pytest.mark.parametrize("size", [1100, 1500, 2000, 5000])
def test_of_a_cycle_larger_than_the_cache_a_part_stays(size: int) -> None:
    shuffled = [block for _ in range(10) for block in RANDOM.sample(range(size), size)]
    best = 0.9 * CAPACITY * 9  # what stays from the first pass on is hit in each of the others
    assert order_hits([i % size for i in range(10 * size)], cycle=size) >= 0.95 * best
    assert order_hits(shuffled, cycle=size) >= 0.95 * best


def test_it_follows_when_the_working_set_changes() -> None:
    trace = [i % 600 for i in range(6000)] + [10_000 + i % 600 for i in range(6000)]
    assert order_hits(trace) >= 0.97 * lru_hits(trace)


class OrderMachine(RuleBasedStateMachine):
    """Sizes and membership against a dictionary."""

    keys = st.integers(0, 30).map(lambda number: number.to_bytes(20, "big"))

    def __init__(self) -> None:
        super().__init__()
        self.order = EvictionOrder(limit_bytes=20 * UNIT_BYTES, largest_bytes=4 * UNIT_BYTES)
        self.sizes: dict[bytes, int] = {}

    @rule(key=keys, units=st.integers(1, 4))
    def add(self, key: bytes, units: int) -> None:
        self.order.add(key, units * UNIT_BYTES - 1)
        self.sizes[key] = units * UNIT_BYTES

    @rule(key=keys)
    def visit(self, key: bytes) -> None:
        self.order.visit(key)

    @rule(key=keys)
    def remove(self, key: bytes) -> None:
        assert self.order.remove(key) == self.sizes.pop(key, 0)

    @rule()
    def evict(self) -> None:
        victim = self.order.victim()
        assert (victim is None) == (not self.sizes)
        if victim is not None:
            assert self.order.remove(victim) == self.sizes.pop(victim)

    @rule()
    def drop_and_add_again_very_often(self) -> None:
        for _ in range(3000):
            self.order.add(b"\xff" * 20, 1)
            self.order.remove(b"\xff" * 20)
        self.sizes.pop(b"\xff" * 20, None)

    @invariant()
    def sizes_agree(self) -> None:
        assert self.order.bytes_used == sum(self.sizes.values())
        assert len(self.order) == len(self.sizes)
        assert all(self.order.size(key) == size for key, size in self.sizes.items())
        assert all(key in self.order for key in self.sizes)


TestOrderMachine = OrderMachine.TestCase
TestOrderMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_everything_can_be_evicted() -> None:
    order = EvictionOrder(limit_bytes=100 * UNIT_BYTES, largest_bytes=UNIT_BYTES)
    for number in range(150):
        key = number.to_bytes(20, "big")
        order.add(key, UNIT_BYTES)
        if number % 3:
            order.visit(key)
    gone = set()
    while (victim := order.victim()) is not None:
        gone.add(victim)
        order.remove(victim)
    assert len(gone) == 150
    assert order.bytes_used == 0


def test_one_scan_larger_than_the_cache_leaves_what_is_used_again(tmp_path: Path) -> None:
    now_s = [0.0]
    size = 16384
    blocks = BlockFiles(
        tmp_path / "blocks",
        block_size=size,
        page_size=4096,
        limit_bytes=50 * (size + 4096),
        min_free_fraction=0.0,
        clock=lambda: now_s[0],
    )
    blocks.scan()
    hot, scanned = b"h" * 16, b"s" * 16
    for index in range(20):
        assert blocks.write(hot, index, 0, bytes(size), size)
    for index in range(500):
        if index % 10 == 0:
            now_s[0] += 60
            assert sum(blocks.read(hot, i, 0, 9) is not None for i in range(20)) >= 18
        assert blocks.write(scanned, index, 0, bytes(size), size)
        assert blocks.read(scanned, index, 0, 9) is not None


MEMORY = """
import os, resource
from mountd_cache.eviction import EvictionOrder
def rss():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
MIB = 1 << 20
before = rss()
order = EvictionOrder(limit_bytes=10**6 * MIB, largest_bytes=2 * MIB)
for number in range(10**6):
    order.add(os.urandom(16) + b"abcd", MIB + 4096)
print((rss() - before) / 10**6)
"""


def test_a_million_blocks_take_at_most_150_bytes_each() -> None:
    run = [sys.executable, "-c", MEMORY]
    output = subprocess.run(run, capture_output=True, timeout=250, check=True).stdout
    print(f"{float(output):.0f} bytes per block")
    assert float(output) <= 150
