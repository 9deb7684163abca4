"""Pinned blocks: never a victim, counted, let go in order."""

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mountd_cache.block_files import BlockFiles
from mountd_cache.block_format import block_key
from mountd_cache.eviction import UNIT_BYTES, EvictionOrder

BLOCK = 1 << 16
SIZE = BLOCK + 4096  # on disk
PINNED, OTHER = b"p" * 16, b"o" * 16
DATA = bytes(BLOCK)


def opened(folder: Path, blocks: int) -> BlockFiles:
    return BlockFiles(
        folder, block_size=BLOCK, limit_bytes=blocks * (SIZE + 8192), min_free_fraction=0.0
    )


def fill(files: BlockFiles, file_id: bytes, count: int) -> list[bool]:
    return [files.write(file_id, index, 0, DATA, BLOCK) for index in range(count)]


def here(files: BlockFiles, file_id: bytes, count: int) -> int:
    return sum(files.present(file_id, index, 0, BLOCK) for index in range(count))


@pytest.mark.parametrize("pinned_first", [True, False])
def test_pinned_blocks_outlive_any_number_of_others(tmp_path: Path, pinned_first: bool) -> None:
    files = opened(tmp_path, 20)
    files.scan()
    if pinned_first:
        assert files.pin(PINNED, 10)
    assert all(fill(files, PINNED, 10))
    if not pinned_first:
        assert files.pin(PINNED, 10)
    assert files.pinned_bytes == 10 * SIZE
    assert all(fill(files, OTHER, 100))
    assert here(files, PINNED, 10) == 10
    assert 0 < here(files, OTHER, 100) <= 13
    files.close()


def test_where_only_pinned_blocks_are_left_nothing_more_is_kept(tmp_path: Path) -> None:
    files = opened(tmp_path, 10)
    files.scan()
    files.pin(PINNED, 30)
    assert 8 <= sum(fill(files, PINNED, 30)) <= 11
    assert not files.write(OTHER, 0, 0, DATA, BLOCK)
    files.close()


def test_unpinned_blocks_go_when_their_turn_comes(tmp_path: Path) -> None:
    files = opened(tmp_path, 20)
    files.scan()
    files.pin(PINNED, 10)
    files.pin(PINNED, 10)
    fill(files, PINNED, 10)
    assert not files.unpin(PINNED, 10)  # somebody else still holds it
    assert files.pinned_bytes == 10 * SIZE
    assert files.unpin(PINNED, 10)
    assert files.pinned_bytes == 0
    assert here(files, PINNED, 10) == 10
    assert all(fill(files, OTHER, 100))
    assert files.bytes_used <= 20 * (SIZE + 8192)
    files.close()


def test_what_is_pinned_before_the_scan_is_safe_when_the_cache_has_shrunk(tmp_path: Path) -> None:
    files = opened(tmp_path, 40)
    files.scan()
    fill(files, PINNED, 10)  # the oldest
    fill(files, OTHER, 20)
    files.close()
    files = opened(tmp_path, 15)
    files.pin(PINNED, 10)
    files.scan()
    assert here(files, PINNED, 10) == 10
    assert here(files, OTHER, 20) <= 7
    assert files.pinned_bytes == 10 * SIZE
    files.close()


def test_a_pinned_block_that_is_dropped_is_not_counted(tmp_path: Path) -> None:
    files = opened(tmp_path, 20)
    files.scan()
    files.pin(PINNED, 2)
    fill(files, PINNED, 2)
    files.drop(PINNED, 0)
    files.maintain()
    assert files.pinned_bytes == SIZE
    files.close()


class PinnedOrder(RuleBasedStateMachine):
    """Against sets."""

    def __init__(self) -> None:
        super().__init__()
        self.order = EvictionOrder(limit_bytes=50 * UNIT_BYTES, largest_bytes=UNIT_BYTES)
        self.there: set[tuple[int, int]] = set()
        self.pins: dict[int, int] = {}

    file = st.integers(0, 3)
    index = st.integers(0, 7)

    def key(self, file: int, index: int) -> bytes:
        return block_key(bytes([file]) * 16, index)

    @rule(file=file, index=index)
    def add(self, file: int, index: int) -> None:
        self.order.add(self.key(file, index), UNIT_BYTES)
        self.there.add((file, index))

    @rule(file=file, index=index)
    def remove(self, file: int, index: int) -> None:
        self.order.remove(self.key(file, index))
        self.there.discard((file, index))

    @rule(file=file, index=index)
    def visit(self, file: int, index: int) -> None:
        self.order.visit(self.key(file, index))

    @rule(file=file)
    def pin(self, file: int) -> None:
        self.order.pin(bytes([file]) * 16)
        self.pins[file] = self.pins.get(file, 0) + 1
        for index in range(8):
            self.order.pin_block(self.key(file, index))

    @precondition(lambda self: any(self.pins.values()))
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from([f for f, count in self.pins.items() if count]))
        self.pins[file] -= 1
        assert self.order.unpin(bytes([file]) * 16) == (self.pins[file] == 0)
        if not self.pins[file]:
            for index in range(8):
                self.order.unpin_block(self.key(file, index))

    @rule()
    def evict(self) -> None:
        key = self.order.victim()
        loose = {(f, i) for f, i in self.there if not self.pins.get(f)}
        assert (key is None) == (not loose)
        if key is not None:
            victim = (key[0], int.from_bytes(key[16:], "big"))
            assert victim in loose
            self.order.remove(key)
            self.there.discard(victim)

    @invariant()
    def counts(self) -> None:
        pinned = {(f, i) for f, i in self.there if self.pins.get(f)}
        assert self.order.pinned_bytes == len(pinned) * UNIT_BYTES
        assert self.order.bytes_used == len(self.there) * UNIT_BYTES


TestPinnedOrder = PinnedOrder.TestCase
TestPinnedOrder.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
