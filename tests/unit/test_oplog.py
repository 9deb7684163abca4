"""The log's files: rotation, group commit, full disks, disks that fail."""

import errno
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mountd_cache.log_format import HEADER_SIZE, frames, unpack_header
from mountd_cache.oplog import RESERVE, SEGMENT_SIZE, SPARE, OpLog
from tests.fakes.faulty_disk import FaultyDisk, io_error, no_room

_FRAME = 16


@contextmanager
def opened(folder: Path, disk: FaultyDisk, next_lsn: int = 1) -> Iterator[OpLog]:
    log = OpLog(folder, disk=disk, next_lsn=next_lsn, epoch=5, boot_id="boot")
    yield log
    log.close()


def records(folder: Path) -> list[tuple[int, bytes]]:
    found = []
    for path in sorted(folder.glob("*.log")):
        data = path.read_bytes()
        first = unpack_header(data).first_lsn
        assert path.stem == f"{first:020d}"
        each = list(frames(data, first))
        assert not each or each[-1][2] == len(data), "something is behind the last record"
        found += [(lsn, payload) for lsn, payload, _ in each]
    return found


def test_records_are_there_in_order_over_several_segments(tmp_path: Path) -> None:
    payload = b"x" * 100_000
    with opened(tmp_path, FaultyDisk()) as log:
        assert [log.append(payload) for _ in range(90)] == list(range(1, 91))
        assert log.last_lsn == 90
    assert records(tmp_path) == [(lsn, payload) for lsn in range(1, 91)]
    sizes = [path.stat().st_size for path in tmp_path.glob("*.log")]
    assert len(sizes) == 3
    assert max(sizes) <= SEGMENT_SIZE - RESERVE


def test_a_record_larger_than_a_segment_gets_one_of_its_own(tmp_path: Path) -> None:
    with opened(tmp_path, FaultyDisk()) as log:
        log.append(b"small")
        log.append(b"x" * (SEGMENT_SIZE + 5))
        log.append(b"small")
    assert [len(payload) for _, payload in records(tmp_path)] == [5, SEGMENT_SIZE + 5, 5]


def test_a_log_without_records_is_replaced_by_the_next(tmp_path: Path) -> None:
    with opened(tmp_path, FaultyDisk()):
        pass
    with opened(tmp_path, FaultyDisk()) as log:
        log.append(b"one")
    assert records(tmp_path) == [(1, b"one")]
    assert len(list(tmp_path.iterdir())) == 1


def test_room_is_taken_when_a_segment_begins(tmp_path: Path) -> None:
    with opened(tmp_path, FaultyDisk()):
        (path,) = tmp_path.glob("*.log")
        assert path.stat().st_size == HEADER_SIZE
        assert path.stat().st_blocks * 512 >= SEGMENT_SIZE


def test_a_record_written_in_part_leaves_nothing_and_the_log_goes_on(tmp_path: Path) -> None:
    disk = FaultyDisk()
    with opened(tmp_path, disk) as log:
        log.append(b"one")
        disk.most_written = 7
        with pytest.raises(OSError, match="no room") as raised:
            log.append(b"lost")
        assert raised.value.errno == errno.ENOSPC
        disk.heal()
        assert log.append(b"two") == 2
    assert records(tmp_path) == [(1, b"one"), (2, b"two")]


def test_the_end_of_a_segment_is_kept_for_what_makes_room(tmp_path: Path) -> None:
    disk = FaultyDisk()
    with opened(tmp_path, disk) as log:
        disk.fail("create", "", no_room)
        size = 100_000
        for _ in range((SEGMENT_SIZE - RESERVE - HEADER_SIZE) // (size + _FRAME)):
            log.append(b"x" * size)
        with pytest.raises(OSError, match="No space"):
            log.ensure(size)
        before = log.last_lsn
        log.append(b"released" * 100, reserve=True)
        log.append(b"y" * (RESERVE - 5000), reserve=True)
        assert log.last_lsn == before + 2
        with pytest.raises(OSError, match="No space"):
            log.append(b"y" * RESERVE, reserve=True)
        disk.heal()
        log.append(b"again")
    assert records(tmp_path)[-1] == (before + 3, b"again")


def test_a_full_disk_takes_the_spare_segment(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FaultyDisk()
    caplog.set_level(logging.INFO)
    with opened(tmp_path, disk) as log:
        log.append(b"one")
        log.keep_spare()
        assert (tmp_path / SPARE).stat().st_blocks * 512 >= SEGMENT_SIZE
        disk.fail("allocate", "", no_room)
        with pytest.raises(OSError, match="No space"):
            log.rotate()  # the spare is for what has no room
        for _ in range((SEGMENT_SIZE - RESERVE) // 100_000):
            log.append(b"-" * 100_000)
        log.append(b"two" * 50_000)
        assert "the disk is full" in caplog.text
        assert not (tmp_path / SPARE).exists()
        with pytest.raises(OSError, match="No space"):
            log.rotate()
        log.append(b"three")
        log.keep_spare()
        assert not (tmp_path / SPARE).exists(), "there was no room for it"
    found = [data for _, data in records(tmp_path) if data[:1] != b"-"]
    assert found == [b"one", b"two" * 50_000, b"three"]
    assert len(list(tmp_path.glob("*.log"))) == 2


def test_on_a_full_disk_without_a_spare_the_first_segment_is_a_small_one(tmp_path: Path) -> None:
    disk, left = FaultyDisk(), [0]

    def full(call: str, path: str) -> None:
        if call == "allocate":
            left[0] += 1
            if left[0] <= 5:
                raise no_room()

    with opened(tmp_path, disk) as log:
        log.append(b"one")
    disk.before = full
    with opened(tmp_path, disk, 2) as log:
        log.append(b"two" * 20_000)
        (small,) = [path for path in tmp_path.glob("*.log") if path.stat().st_size > 50_000]
        assert small.stat().st_blocks * 512 < 256 << 10
        left[0] = 0
        with pytest.raises(OSError, match="No space"):
            log.append(b"-" * 20_000)
        log.append(b"sent" * 5_000, reserve=True)
        disk.heal()
        log.append(b"-" * SEGMENT_SIZE)
        log.append(b"three")
    assert [data[:3] for _, data in records(tmp_path)] == [b"one", b"two", b"sen", b"---", b"thr"]


def test_a_segment_that_can_not_be_begun_leaves_no_file(tmp_path: Path) -> None:
    disk = FaultyDisk()
    with opened(tmp_path, disk) as log:
        log.append(b"one")
        disk.most_written = 10
        with pytest.raises(OSError, match="no room for a segment"):
            log.rotate()
        disk.heal()
        log.append(b"two")
        assert len(list(tmp_path.iterdir())) == 1
        log.rotate()
        log.append(b"three")
    assert records(tmp_path) == [(1, b"one"), (2, b"two"), (3, b"three")]


def test_trim_takes_what_the_database_has_and_former_segments(tmp_path: Path) -> None:
    disk = FaultyDisk()
    with opened(tmp_path, disk) as log:
        log.append(b"one")
    with opened(tmp_path, disk, 2) as log:
        log.append(b"two")
        log.rotate()
        log.rotate()
        log.append(b"three")
        log.trim(1)
        assert records(tmp_path) == [(2, b"two"), (3, b"three")]
        log.trim(2)
        assert records(tmp_path) == [(3, b"three")]
        log.trim(3)
        assert records(tmp_path) == [(3, b"three")], "the segment in use went"


def test_a_sync_covers_all_segments_and_the_new_names(tmp_path: Path) -> None:
    disk = FaultyDisk()
    with opened(tmp_path, disk) as log:
        synced: list[str] = []
        log.append(b"one")
        log.rotate()
        log.append(b"two")
        disk.before = lambda call, path: (
            synced.append(Path(path).name) if call in ("fdatasync", "fsync_dir") else None
        )
        log.make_durable(2)
        assert synced == [f"{1:020d}.log", f"{2:020d}.log", tmp_path.name]
        log.make_durable(2)
        assert len(synced) == 3, "there was nothing new"
        log.append(b"three")
        log.make_durable(3)
        assert synced[3:] == [f"{2:020d}.log"]
        assert log.durable_lsn == 3


def test_syncs_at_the_same_time_share_one_fdatasync(tmp_path: Path) -> None:
    disk = FaultyDisk()
    with opened(tmp_path, disk) as log:
        log.append(b"one")
        begun, go = threading.Event(), threading.Event()

        def wait(call: str, path: str) -> None:
            if call == "fdatasync":
                begun.set()
                assert go.wait(10)

        disk.before = wait
        first = threading.Thread(target=log.make_durable, args=(1,))
        first.start()
        assert begun.wait(10)
        before = disk.calls["fdatasync"]
        log.append(b"two")  # while the first is under way: not covered by it
        threads = [threading.Thread(target=log.make_durable, args=(2,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        go.set()
        for thread in [first, *threads]:
            thread.join(10)
        assert disk.calls["fdatasync"] == before + 1
        assert log.durable_lsn == 2


def test_after_an_error_no_sync_succeeds_until_the_database_has_it(tmp_path: Path) -> None:
    disk = FaultyDisk()
    with opened(tmp_path, disk) as log:
        log.append(b"one")
        disk.fail("fdatasync", "", io_error)
        with pytest.raises(OSError, match="Input/output"):
            log.make_durable(1)
        disk.heal()  # the kernel says it once: the pages may be lost
        for _ in range(2):
            with pytest.raises(OSError, match="can't be written") as raised:
                log.make_durable(1)
            assert raised.value.errno == errno.EIO
        log.rotate()
        log.append(b"two")
        with pytest.raises(OSError, match="can't be written"):
            log.make_durable(2)
        log.trim(1)
        log.make_durable(2)
        assert log.durable_lsn == 2


def test_a_name_is_fsynced_again_after_an_error(tmp_path: Path) -> None:
    disk = FaultyDisk()
    with opened(tmp_path, disk) as log:
        log.append(b"one")
        log.rotate()
        log.append(b"two")
        disk.fail("fsync_dir", "", io_error)
        with pytest.raises(OSError, match="Input/output"):
            log.make_durable(2)
        disk.heal()
        before = disk.calls["fsync_dir"]
        log.make_durable(2)
        assert disk.calls["fsync_dir"] == before + 1


def test_threads_append_whole_records(tmp_path: Path) -> None:
    with opened(tmp_path, FaultyDisk()) as log:

        def work(name: bytes) -> None:
            for _ in range(300):
                log.append(name * 50)

        threads = [threading.Thread(target=work, args=(name,)) for name in (b"a", b"b", b"c")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    found = records(tmp_path)
    assert [lsn for lsn, _ in found] == list(range(1, 901))
    assert {payload for _, payload in found} == {b"a" * 50, b"b" * 50, b"c" * 50}
