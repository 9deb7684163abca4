"""Epochs, told from opens alone; and the file that the order is kept in."""

import random
import struct
from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from mountd.vfs.epochs import RECENT, TURN, Epochs
from mountd_cache import opening_order
from mountd_cache.opening_order import (
    MAX_FILES,
    Opened,
    OpeningOrder,
    SetOrder,
    pack_orders,
    read_orders,
    unpack_orders,
    write_orders,
)


def read(epochs: Epochs, numbers: "range | list[int]") -> None:
    for number in numbers:
        epochs.opened(number, f"d{number % 3}/", number, 10)


def interleaved(count: int, workers: int, batch: int) -> list[int]:
    """As the workers of a loader do: worker k has the batches k, k + workers and so on."""
    batches = [list(range(at, min(count, at + batch))) for at in range(0, count, batch)]
    found: list[int] = []
    for first in range(0, len(batches), workers):
        group = batches[first : first + workers]
        found += [each[i] for i in range(batch) for each in group if i < len(each)]
    return found


def test_reading_the_same_files_again_is_the_next_epoch() -> None:
    epochs = Epochs()
    read(epochs, range(1000))
    assert (epochs.turns, len(epochs.now), epochs.is_repeated) == (0, 1000, False)
    read(epochs, range(TURN - 1))
    assert epochs.turns == 0
    read(epochs, [TURN])
    assert epochs.turns == 1
    assert list(epochs.before.numbers) == list(range(1000))
    assert epochs.before.size_bytes == 10_000
    assert len(epochs.now) == TURN


def test_the_same_order_is_known_after_a_few_files_and_another_never() -> None:
    epochs = Epochs()
    order = random.Random(1).sample(range(5000), 5000)
    read(epochs, order)
    read(epochs, order[:40])
    assert epochs.is_in_order
    assert 30 < epochs.front < 45
    read(epochs, order[40:])
    assert epochs.is_in_order
    for seed in range(2, 6):
        other = random.Random(seed).sample(range(5000), 5000)
        read(epochs, other[:TURN])
        for number in other[TURN:]:
            read(epochs, [number])
            assert not epochs.is_in_order
        assert epochs.is_repeated


def test_workers_that_are_not_equally_fast_still_go_in_order() -> None:
    epochs = Epochs()
    order = interleaved(4000, 4, 32)
    chance = random.Random(3)
    read(epochs, order)
    jittered = sorted(range(len(order)), key=lambda i: i + chance.randrange(64))
    read(epochs, [order[i] for i in jittered])
    assert epochs.turns == 1
    assert epochs.is_in_order
    assert epochs.front == 3999


def test_an_order_that_is_left_is_no_longer_followed() -> None:
    epochs = Epochs()
    read(epochs, range(2000))
    read(epochs, range(500))
    assert epochs.is_in_order
    read(epochs, random.Random(1).sample(range(500, 2000), 100))
    assert not epochs.is_in_order
    assert epochs.is_repeated


def test_files_that_are_opened_twice_at_once_make_no_epoch() -> None:
    epochs = Epochs()
    for number in range(1000):
        read(epochs, [number, number, max(0, number - RECENT // 2)])
    assert epochs.turns == 0
    assert len(epochs.now) == 1000


def test_another_set_is_no_repetition() -> None:
    epochs = Epochs()
    read(epochs, range(800))
    read(epochs, range(100))
    assert epochs.is_repeated
    read(epochs, range(10_000, 10_200))
    assert not epochs.is_repeated


def test_a_set_that_is_read_in_part_and_then_whole_is_known_whole() -> None:
    epochs = Epochs()
    read(epochs, range(300))  # it was interrupted, and began again
    read(epochs, range(1000))
    read(epochs, range(20))
    assert list(epochs.before.numbers) == list(range(1000))


def test_of_more_files_than_are_kept_epochs_are_known_by_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mountd.vfs.epochs.MAX_FILES", 100)
    epochs = Epochs()
    read(epochs, range(1000))
    read(epochs, random.Random(1).sample(range(1000), 1000))
    assert epochs.turns == 1
    assert len(epochs.before) == 100
    assert len(epochs._last) <= 200


def test_an_order_comes_back_from_the_disk_and_is_followed(tmp_path: Path) -> None:
    first, second = Epochs(), Epochs()
    read(first, range(500))
    write_orders(tmp_path / "order", pack_orders([SetOrder("a/", True, first.best)]))
    [(root, is_whole, order)] = read_orders(tmp_path / "order")
    assert (root, is_whole) == ("a/", True)
    assert order[7] == Opened(7, "d1/", 7)
    second.restore(order)
    read(second, range(20))
    assert second.is_in_order
    assert second.is_repeated
    assert len(second.best) == 500


def test_an_order_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    assert read_orders(tmp_path / "none") == []
    epochs = Epochs()
    read(epochs, range(100))
    blob = epochs.best.to_bytes()
    for damaged in (b"", blob[:-1], blob + b"x", b"x" + blob[1:], blob[:60] + b"\1" + blob[61:]):
        with pytest.raises(ValueError, match="order"):
            OpeningOrder.from_bytes(damaged)
        with pytest.raises(ValueError, match="order"):
            unpack_orders(pack_orders([SetOrder("", False, epochs.best)])[:-1] + damaged)
    with pytest.raises(ValueError, match="not orders of this format"):
        unpack_orders(blob)  # as versions before this one kept it
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(opening_order.MAX_FILE_BYTES + 1)
    with pytest.raises(ValueError, match="smaller"):
        read_orders(tmp_path / "huge")


@settings(max_examples=60)
@given(st.data())
def test_whatever_is_read_either_is_an_order_or_raises(data: st.DataObject) -> None:
    order = OpeningOrder()
    for number in range(20):
        order.add(number, f"k{number % 4}", number, 1)
    blob = bytearray(order.to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(16, len(blob) - 1))] = data.draw(st.integers(0, 255))
    # A right CRC over what was made to lie.
    crc = crc32c(memoryview(blob)[16:])
    blob[12:16] = crc.to_bytes(4, "little")
    try:
        found = OpeningOrder.from_bytes(bytes(blob))
    except ValueError:
        return
    assert len(found) <= MAX_FILES
    assert all(isinstance(found[i], Opened) for i in range(len(found)))


@settings(max_examples=60)
@given(st.data())
def test_whatever_is_read_either_is_some_orders_or_raises(data: st.DataObject) -> None:
    order = OpeningOrder()
    order.add(1, "k", 2, 3)
    blob = bytearray(pack_orders([SetOrder("a", False, order), SetOrder("b", True, order)]))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(16, len(blob) - 1))] = data.draw(st.integers(0, 255))
    blob[12:16] = crc32c(memoryview(blob)[16:]).to_bytes(4, "little")
    try:
        found = unpack_orders(bytes(blob))
    except ValueError:
        return
    assert all(len(each.order) == 1 for each in found)


def test_a_validation_set_after_each_epoch_belongs_to_it() -> None:
    epochs = Epochs()
    for seed in range(4):
        read(epochs, random.Random(seed).sample(range(2000), 2000))
        read(epochs, range(5000, 5300))
    assert epochs.turns == 3
    assert len(epochs.before) == 2300
    assert epochs.is_repeated


def test_a_sampler_that_leaves_some_out_each_time_turns_all_the_same() -> None:
    epochs = Epochs()
    for seed in range(4):  # drop_last, or one process of several that each have nine tenths
        read(epochs, random.Random(seed).sample(range(2000), 1800))
    assert epochs.turns == 3
    assert epochs.is_repeated


def test_an_order_of_more_directories_than_files_is_refused() -> None:
    """64 MiB of empty keys took 940 MiB of memory."""
    with pytest.raises(ValueError, match="directories without files"):
        OpeningOrder.from_bytes(_packed_by_hand(files=1, directories=2))
    assert len(OpeningOrder.from_bytes(_packed_by_hand(files=1, directories=1))) == 1


def test_of_an_order_behind_another_only_what_is_kept_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mountd_cache.opening_order.MAX_FILES", 3)
    order, other = OpeningOrder(), OpeningOrder()
    order.add(1, "a/", 0, 1)
    for number, directory in ((2, "b/"), (3, "a/"), (4, "c/")):
        other.add(number, directory, 0, 1)
    order.extend(other)
    assert [order.has(each) for each in ("a/", "b/", "c/")] == [True, True, False]
    found = OpeningOrder.from_bytes(order.to_bytes())
    assert [found[i][:2] for i in range(3)] == [(1, "a/"), (2, "b/"), (3, "a/")]


def _packed_by_hand(*, files: int, directories: int) -> bytes:
    """All files in the first directory, and no key has a letter."""
    sizes = struct.pack("=4Q", files, directories, 0, 0)
    body = bytes(16 * files + 8 * directories)
    return struct.pack("=8sII", b"mtdorder", 1, crc32c(sizes + body)) + sizes + body
