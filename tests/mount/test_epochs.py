"""Epochs of a training through a mount: four processes read small files as the workers of a loader
do, and the server counts."""

import multiprocessing
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from mountd_cache.opening_order import unpack_orders
from tests.mount.mounting import Mounted, mounted
from tests.servers.s3.launch import S3Server
from tests.servers.s3.seeding import synthetic_bytes

pytestmark = [pytest.mark.fuse, pytest.mark.server]

Mount = Callable[..., Mounted]
MIB = 1 << 20
FILES, SIZE = 400, 40_000
BATCH, WORKERS = 16, 4


@pytest.fixture
def mount(s3_server: S3Server, tmp_path: Path) -> Iterator[Mount]:
    """Mounts s3://b; unmounts at the end, or when it is called again (a remount)."""
    with ExitStack() as stack:

        def again(**options: object) -> Mounted:
            stack.close()
            environment = s3_server.environment()
            return stack.enter_context(
                mounted("s3://b", tmp_path, environment=environment, **options)
            )

        yield again


def keys() -> list[str]:
    return [f"class-{number % 3}/{number:05d}.jpg" for number in range(FILES)]


def shuffled(seed: int) -> list[str]:
    return random.Random(seed).sample(keys(), FILES)


def side_by_side(first: Sequence[str], second: Sequence[str]) -> list[str]:
    return [key for pair in zip(first, second, strict=True) for key in pair]


def epoch(root: Path, order: Sequence[str]) -> None:
    """Worker k reads the batches k, k + 4 and so on, each in a process of its own."""
    batches = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_work, args=(root, batches[first::WORKERS]))
        for first in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0


def _work(root: Path, batches: Sequence[Sequence[str]]) -> None:
    for name in (name for batch in batches for name in batch):
        if len((root / name).read_bytes()) != SIZE:
            os._exit(1)
    os._exit(0)


def misses(mount: Mounted) -> int:
    found: int = mount.status()["cache"]["misses"]
    return found


def test_a_first_shuffled_epoch_fetches_each_file_once_and_most_before_they_are_wanted(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.seed("b", keys=keys(), size=SIZE)
    s3_server.set_knobs(latency_ms=10.0)
    mounted_at = mount()
    for folder in sorted(os.listdir(mounted_at.path)):  # as ImageFolder does
        os.listdir(mounted_at.path / folder)
    epoch(mounted_at.path, shuffled(1))
    gets = s3_server.log(op="GetObject")
    assert len({entry.key for entry in gets}) == FILES
    assert sum(entry.bytes_sent for entry in gets) <= 1.1 * FILES * SIZE
    assert misses(mounted_at) <= 0.6 * FILES
    s3_server.clear_log()
    epoch(mounted_at.path, shuffled(2))
    assert s3_server.log(op="GetObject") == []
    name = keys()[7]
    assert (mounted_at.path / name).read_bytes() == synthetic_bytes(name, 0, SIZE)


def test_workers_that_each_have_a_batch_in_order_are_read_ahead_of(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.seed("b", keys=keys(), size=SIZE)
    s3_server.set_knobs(latency_ms=10.0)
    mounted_at = mount()
    epoch(mounted_at.path, sorted(keys()))
    gets = s3_server.log(op="GetObject")
    assert len({entry.key for entry in gets}) == FILES
    assert sum(entry.bytes_sent for entry in gets) <= 1.1 * FILES * SIZE
    assert misses(mounted_at) <= 0.25 * FILES


def test_five_files_of_a_large_directory_are_five_requests(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.seed("b", directories=1, files=20_000, size=10_000)
    path = mount().path
    folder = path / os.listdir(path)[0]
    names = sorted(os.listdir(folder))
    for name in random.Random(1).sample(names, 5):
        assert len((folder / name).read_bytes()) == 10_000
    assert len(s3_server.log(op="GetObject")) == 5


def test_a_set_larger_than_the_cache_is_fetched_ahead_in_the_order_of_the_last_run(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.seed("b", keys=keys(), size=SIZE)
    order = shuffled(1)
    epoch(mount(cache_size="8MiB").path, order)  # some 140 of the 400 fit
    again = mount(cache_size="8MiB")
    s3_server.set_knobs(latency_ms=10.0)
    s3_server.clear_log()
    epoch(again.path, order)
    gets = s3_server.log(op="GetObject")
    assert sum(entry.bytes_sent for entry in gets) <= 0.8 * FILES * SIZE
    assert misses(again) <= 0.25 * FILES


def test_of_a_set_larger_than_the_cache_a_part_stays_over_shuffled_epochs(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.seed("b", keys=keys(), size=SIZE)
    for seed in range(4):
        s3_server.clear_log()
        # Some 200 of the 400 fit; a remount has neither pages nor memory of the epoch before.
        epoch(mount(cache_size="11MiB").path, shuffled(seed))
    assert len(s3_server.log(op="GetObject")) <= 0.55 * FILES


def test_two_trainings_at_once_are_each_fetched_ahead_in_the_order_of_the_last_run(
    s3_server: S3Server, mount: Mount
) -> None:
    """In that one they began together; now the second is half an epoch apart."""
    first, second = (
        [f"{name}/{key}" for key in shuffled(seed)[:200]] for seed, name in enumerate("ab")
    )
    s3_server.seed("b", keys=[*first, *second], size=SIZE)
    epoch(mount(cache_size="8MiB").path, side_by_side(first, second))  # some 140 of the 400 fit
    again = mount(cache_size="8MiB")
    s3_server.set_knobs(latency_ms=10.0)
    s3_server.clear_log()
    epoch(again.path, side_by_side(first, second[100:] + second[:100]))
    assert misses(again) <= 160  # 218 and 229 with one record for both
    assert sum(entry.bytes_sent for entry in s3_server.log(op="GetObject")) <= 400 * SIZE


def test_an_order_as_earlier_versions_kept_it_is_forgotten(
    s3_server: S3Server, mount: Mount, tmp_path: Path
) -> None:
    s3_server.seed("b", keys=keys(), size=SIZE)
    first = mount()
    epoch(first.path, keys()[:40])
    assert first.stop() == 0
    [kept] = (tmp_path / "cache").glob("*/opening-order")
    [(root, _, order)] = unpack_orders(kept.read_bytes())
    assert (root, len(order)) == ("", 40)
    kept.write_bytes(order.to_bytes())
    second = mount()
    epoch(second.path, keys()[:40])
    assert "forgotten: not orders of this format" in second.log.read_text()
    assert second.stop() == 0
    assert len(unpack_orders(kept.read_bytes())) == 1


def test_a_damaged_record_is_forgotten(s3_server: S3Server, mount: Mount, tmp_path: Path) -> None:
    s3_server.seed("b", keys=keys(), size=SIZE)
    first = mount()
    epoch(first.path, keys())
    assert first.stop() == 0
    kept = list((tmp_path / "cache").glob("*/opening-order"))
    assert len(kept) == 1
    assert kept[0].stat().st_size > 16 * FILES
    kept[0].write_bytes(kept[0].read_bytes()[:-3] + b"xyz")
    second = mount()
    epoch(second.path, keys())
    assert "forgotten" in second.log.read_text()
