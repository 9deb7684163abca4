"""Data files that nobody needs any more become new ones, and never with a byte of the old."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd_cache.journal import Journal
from mountd_cache.sidecar import PAGE
from mountd_cache.staging import SPARE, Staging
from tests.conftest import ExpectedLog
from tests.fakes.faulty_disk import FaultyDisk, io_error
from tests.unit.journal_steps import create, read

_SIDECAR = b"s" * PAGE
_KEYS = [(at, 0) for at in range(20)]


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


@pytest.fixture
def staging(tmp_path: Path, disk: FaultyDisk) -> Iterator[Staging]:
    made = Staging(tmp_path, disk=disk, most_open=4, recycle_from=3)
    yield made
    made.close()


def write(staging: Staging, key: tuple[int, int], data: bytes) -> None:
    staging.write(key, 0, data, lambda: _SIDECAR)


def fill(staging: Staging) -> None:
    for key in _KEYS:
        write(staging, key, b"old" * 5000)
    staging.cool(_KEYS[-1][0])


def spares(folder: Path) -> int:
    return sum(name.startswith(SPARE) for name in os.listdir(folder))


def test_a_file_that_was_another_s_has_only_its_own_bytes_and_was_not_made(
    staging: Staging, disk: FaultyDisk, tmp_path: Path
) -> None:
    fill(staging)
    staging.retire(_KEYS)
    assert spares(tmp_path) == len(os.listdir(tmp_path)) == 20
    disk.calls.clear()
    write(staging, (100, 0), b"new")
    assert "create" not in disk.calls
    assert (tmp_path / "100-0.data").read_bytes() == _SIDECAR + b"new"
    assert spares(tmp_path) == 19


def test_a_spare_is_empty_and_named_on_the_disk_before_it_is_taken(
    staging: Staging, disk: FaultyDisk, tmp_path: Path
) -> None:
    order = list[str]()
    disk.before = lambda call, path: order.append(call)
    fill(staging)
    order.clear()
    staging.retire(_KEYS)
    last = {call: len(order) - order[::-1].index(call) for call in set(order)}
    assert last["truncate"] < last["fdatasync"] < last["rename"] < last["fsync_dir"] == len(order)


def test_only_a_few_are_unlinked(staging: Staging, tmp_path: Path) -> None:
    fill(staging)
    staging.retire(_KEYS[:2])
    assert len(os.listdir(tmp_path)) == 18
    assert spares(tmp_path) == 0


def test_what_somebody_reads_is_not_emptied(
    staging: Staging, disk: FaultyDisk, tmp_path: Path
) -> None:
    fill(staging)
    staging.pin(1, [0])
    begun, go, found = threading.Event(), threading.Event(), list[bytes]()

    def wait(call: str, path: str) -> None:
        if call == "pread" and path.endswith("/2-0.data"):
            begun.set()
            assert go.wait(10)

    disk.before = wait
    reader = threading.Thread(target=lambda: found.append(staging.read((2, 0), 0, 15000)))
    reader.start()
    assert begun.wait(10)
    staging.retire(_KEYS)
    for at in range(18):
        write(staging, (100 + at, 0), b"new" * 5000)
    go.set()
    reader.join(10)
    assert found == [b"old" * 5000]
    assert staging.read((1, 0), 0, 15000) == b"old" * 5000
    assert spares(tmp_path) == 0
    assert not {"1-0.data", "2-0.data"} & set(os.listdir(tmp_path))


def test_nobody_waits_while_files_are_emptied(staging: Staging, disk: FaultyDisk) -> None:
    """The loop writes and pins, and a truncate takes the disk long."""
    fill(staging)
    begun, go = threading.Event(), threading.Event()

    def wait(call: str, path: str) -> None:
        if call == "truncate":
            begun.set()
            assert go.wait(10), "the test's own thread waits for the one that empties files"

    disk.before = wait
    emptier = threading.Thread(target=staging.retire, args=(_KEYS[:10],))
    emptier.start()
    assert begun.wait(10)
    staging.pin(15, [0])
    write(staging, (100, 0), b"new")
    staging.unpin(15)
    assert staging.read((100, 0), 0, 3) == b"new"
    go.set()
    emptier.join(10)


@pytest.mark.parametrize("call", ["truncate", "fdatasync", "rename"])
def test_where_a_spare_can_t_be_made_the_files_are_unlinked(
    staging: Staging, disk: FaultyDisk, tmp_path: Path, call: str
) -> None:
    fill(staging)
    disk.fail(call, "", io_error)
    staging.retire(_KEYS)
    disk.heal()
    assert os.listdir(tmp_path) == []
    write(staging, (100, 0), b"new")
    assert staging.read((100, 0), 0, 3) == b"new"


def test_a_spare_that_is_away_is_replaced_by_a_new_file(staging: Staging, tmp_path: Path) -> None:
    fill(staging)
    staging.retire(_KEYS)
    for name in os.listdir(tmp_path):
        os.unlink(tmp_path / name)
    write(staging, (100, 0), b"new")
    assert staging.read((100, 0), 0, 3) == b"new"


def test_a_restart_keeps_empty_spares_and_gives_back_one_that_was_a_file_already(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    folder = tmp_path / "journal"
    journal = Journal.open(folder, boot_id="one")
    content, other = create(journal, "x", b"some bytes"), create(journal, "y", b"others")
    journal.abandon()
    # The power went while the new name was not on the disk.
    files = folder / "staging"
    (files / f"{content.id}-0.data").rename(files / "spare-1")
    (files / "spare-2").write_bytes(b"")
    (files / "spare-3").write_bytes(b"?" * 5000)
    (files / "spare-4").write_bytes(b"?")
    (files / "spare-none").write_bytes(b"")
    expected_log("files were set aside")
    journal = Journal.open(folder, boot_id="two")
    assert (journal.recovery.torn, len(journal.recovery.quarantined)) == ((), 1)
    assert [read(journal, key) for key in "xy"] == [b"some bytes", b"others"]
    names = {f"{id_}-0.data" for id_ in (content.id, other.id)}
    assert set(os.listdir(files)) == names | {"spare-2"}
    new = create(journal, "z", b"new")
    assert set(os.listdir(files)) == names | {f"{new.id}-0.data"}
    assert read(journal, "z") == b"new"
    journal.close()


def test_what_was_kept_over_a_restart_is_named_on_the_disk_before_it_is_taken(
    disk: FaultyDisk, tmp_path: Path
) -> None:
    kept = tmp_path / "spare-7"
    kept.write_bytes(b"")
    staging = Staging(tmp_path, disk=disk, recycle_from=3, spares=[kept])
    assert disk.calls == {"fsync_dir": 1}
    fill(staging)
    assert not kept.exists()
    staging.retire(_KEYS)
    assert "spare-8" in os.listdir(tmp_path)  # no name is given twice
    staging.close()


def test_spares_whose_names_could_not_be_made_durable_are_not_taken(
    disk: FaultyDisk, tmp_path: Path
) -> None:
    kept = tmp_path / "spare-7"
    kept.write_bytes(b"")
    disk.fail("fsync_dir", "", io_error)
    staging = Staging(tmp_path, disk=disk, spares=[kept])
    disk.heal()
    write(staging, (1, 0), b"new")
    assert kept.exists()
    staging.close()
