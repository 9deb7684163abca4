"""Data files: bytes, pins, descriptors, and what an error of the disk means."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mountd_cache.sidecar import PAGE
from mountd_cache.staging import Staging, data_name, parse_data_name
from tests.fakes.faulty_disk import FaultyDisk, io_error, no_room

_SIDECAR = b"s" * PAGE


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


@pytest.fixture
def staging(tmp_path: Path, disk: FaultyDisk) -> Iterator[Staging]:
    made = Staging(tmp_path, disk=disk, most_open=4)
    yield made
    made.close()


def make(staging: Staging, *keys: tuple[int, int], data: bytes = b"data") -> None:
    for key in keys:
        staging.write(key, 0, data, _sidecar)


def _sidecar() -> bytes:
    return _SIDECAR


def needed(key: tuple[int, int]) -> bool:
    return True


def open_files(folder: Path) -> int:
    """Descriptors of this process that lead to data files, unlinked ones as well."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # that of the listing
            continue
    return sum(link.startswith(f"{folder}/") for link in links)


def test_names_come_back_and_others_are_none() -> None:
    assert parse_data_name(data_name((12, 3))) == (12, 3)
    for name in ("12-3.dat", "12.data", "x-1.data", "012-3.data", "12-3.data.tmp", ""):
        assert parse_data_name(name) is None


def test_bytes_are_where_they_were_written_and_holes_are_zeros(staging: Staging) -> None:
    make(staging, (1, 0))
    staging.write((1, 0), 100_000, b"far")
    assert staging.read((1, 0), 0, 6) == b"data\0\0"
    assert staging.read((1, 0), 100_000, 100_003) == b"far"


def test_a_file_that_is_short_or_missing_is_an_io_error(staging: Staging, tmp_path: Path) -> None:
    make(staging, (1, 0))
    for key, end in (((1, 0), 5), ((2, 0), 1)):
        with pytest.raises(OSError, match="staged file") as raised:
            staging.read(key, 0, end)
        assert raised.value.errno == errno.EIO


def test_no_file_is_left_of_one_that_could_not_be_made(
    staging: Staging, disk: FaultyDisk, tmp_path: Path
) -> None:
    disk.most_written = 100
    with pytest.raises(OSError, match="no room"):
        staging.write((1, 0), 0, b"data", _sidecar)
    disk.fail("pwrite", "", no_room)
    with pytest.raises(OSError, match="No space"):
        staging.write((2, 0), 0, b"data", _sidecar)
    assert os.listdir(tmp_path) == []
    disk.heal()
    staging.write((1, 0), 0, b"data", _sidecar)
    assert os.listdir(tmp_path) == ["1-0.data"]


def test_what_is_made_ready_in_steps_is_what_the_first_write_makes(
    staging: Staging, disk: FaultyDisk, tmp_path: Path
) -> None:
    make(staging, (1, 0))
    for number, steps in ((2, 1), (3, 2), (4, 3)):
        said = [staging.make_ready((number, 0), _sidecar) for _ in range(steps)]
        assert said == [True, False, False][:steps]
        make(staging, (number, 0))
    made = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 4
    assert made == {_SIDECAR + b"data"}


def test_a_file_made_ready_has_its_sidecar_also_where_others_were_written_in_between(
    staging: Staging, tmp_path: Path
) -> None:
    assert staging.make_ready((1, 0), _sidecar)
    make(staging, *((number, 0) for number in range(2, 12)))  # its descriptor is closed by now
    staging.write((1, 0), 7, b"data", _sidecar)
    assert (tmp_path / "1-0.data").read_bytes() == _SIDECAR + bytes(7) + b"data"


def test_a_first_write_without_room_leaves_no_file_where_one_was_made_ready_and_is_pinned(
    staging: Staging, disk: FaultyDisk, tmp_path: Path
) -> None:
    staging.make_ready((1, 0), _sidecar)
    staging.pin(1, [0])
    disk.most_written = 100
    with pytest.raises(OSError, match="no room"):
        staging.write((1, 0), 0, b"data", _sidecar)
    assert os.listdir(tmp_path) == []
    disk.heal()
    staging.write((1, 0), 0, b"data", _sidecar)
    assert staging.read((1, 0), 0, 4) == b"data"
    assert (tmp_path / "1-0.data").read_bytes() == _SIDECAR + b"data"
    staging.unpin(1)


def test_a_write_makes_a_file_only_for_a_layer_that_says_that_it_has_none(
    staging: Staging, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="not there") as raised:
        staging.write((1, 0), 0, b"data")
    assert raised.value.errno == errno.EIO
    assert os.listdir(tmp_path) == []
    make(staging, (1, 0))
    staging.close()
    staging.write((1, 0), 4, b"more", _sidecar)  # it has one: that is not made again
    assert staging.read((1, 0), 0, 8) == b"datamore"


def test_a_small_new_file_costs_one_open_and_one_write(
    staging: Staging, disk: FaultyDisk, tmp_path: Path
) -> None:
    make(staging, (1, 0))
    assert disk.calls == {"create": 1, "pwrite": 1}
    assert (tmp_path / "1-0.data").read_bytes() == _SIDECAR + b"data"


def test_what_a_full_disk_took_of_the_first_bytes_is_told(
    staging: Staging, disk: FaultyDisk, tmp_path: Path
) -> None:
    disk.most_written = PAGE + 3
    assert staging.write((1, 0), 0, b"data", _sidecar) == 3
    assert staging.write((1, 0), 3, b"a", _sidecar) == 1
    assert staging.read((1, 0), 0, 4) == b"data"


@pytest.mark.parametrize("offset", [0, 4])
def test_the_first_bytes_of_a_file_that_is_there_are_written_once(
    staging: Staging, tmp_path: Path, offset: int
) -> None:
    make(staging, (1, 0), (2, 0))
    staging.close()
    assert staging.write((1, 0), offset, b"more", _sidecar) == 4
    assert staging.read((1, 0), 0, 4 + offset) == (b"data" + b"more" if offset else b"more")


def test_descriptors_are_few_and_everything_can_still_be_read(
    staging: Staging, tmp_path: Path
) -> None:
    keys = [(at, 0) for at in range(20)]
    make(staging, *keys)
    assert open_files(tmp_path) <= 5
    for key in keys * 2:
        assert staging.read(key, 0, 4) == b"data"
    assert open_files(tmp_path) <= 5


def test_a_pinned_content_can_be_read_after_it_was_unlinked(
    staging: Staging, tmp_path: Path
) -> None:
    make(staging, (1, 0), (2, 0))
    staging.pin(1, [0])
    make(staging, (1, 1), data=b"more")  # a layer that comes later
    make(staging, *((at, 0) for at in range(10, 20)))
    staging.unlink([(1, 0), (1, 1), (2, 0)])
    assert staging.read((1, 0), 0, 4) == b"data"
    assert staging.read((1, 1), 0, 4) == b"more"
    with pytest.raises(OSError, match="not there"):
        staging.read((2, 0), 0, 4)
    staging.pin(1, [0])
    staging.unpin(1)
    assert staging.read((1, 0), 0, 4) == b"data"
    staging.unpin(1)
    with pytest.raises(OSError, match="not there"):
        staging.read((1, 0), 0, 4)
    assert open_files(tmp_path) <= 5


def test_a_pin_of_a_file_that_is_not_there_fails_and_pins_nothing(staging: Staging) -> None:
    make(staging, (1, 0))
    with pytest.raises(OSError, match="not there"):
        staging.pin(1, [0, 1])
    staging.unlink([(1, 0)])
    staging.cool(1)
    with pytest.raises(OSError, match="not there"):
        staging.read((1, 0), 0, 4)


def test_a_file_is_not_closed_under_a_reader(
    staging: Staging, disk: FaultyDisk, tmp_path: Path
) -> None:
    make(staging, (1, 0), (2, 0))
    begun, go, found = threading.Event(), threading.Event(), list[bytes]()

    def wait(call: str, path: str) -> None:
        if call == "pread" and path.endswith("1-0.data"):
            begun.set()
            assert go.wait(10)

    disk.before = wait
    reader = threading.Thread(target=lambda: found.append(staging.read((1, 0), 0, 4)))
    reader.start()
    assert begun.wait(10)
    staging.unlink([(1, 0)])
    make(staging, *((at, 0) for at in range(10, 20)), data=b"evil")
    go.set()
    reader.join(10)
    assert found == [b"data"]
    staging.close()
    assert open_files(tmp_path) == 0


def test_a_sync_writes_sidecars_and_fsyncs_new_names_once(
    staging: Staging, disk: FaultyDisk, tmp_path: Path
) -> None:
    make(staging, (1, 0), (2, 0))
    disk.calls.clear()
    staging.sync({(1, 0): b"n" * PAGE}, needed)
    assert (tmp_path / "1-0.data").read_bytes() == b"n" * PAGE + b"data"
    assert (disk.calls["fdatasync"], disk.calls["fsync_dir"]) == (1, 1)
    staging.sync({(1, 0): _SIDECAR}, needed)
    assert (disk.calls["fdatasync"], disk.calls["fsync_dir"]) == (2, 1)
    make(staging, (3, 0))
    staging.sync({}, needed)
    assert disk.calls["fsync_dir"] == 2


def test_many_files_are_synced_at_once(staging: Staging, disk: FaultyDisk) -> None:
    keys = [(at, 0) for at in range(100)]
    make(staging, *keys)
    disk.calls.clear()
    staging.sync(dict.fromkeys(keys, _SIDECAR), needed)
    assert disk.calls["sync_file_system"] == 1
    assert "fdatasync" not in disk.calls
    disk.fail("sync_file_system", "", io_error)  # maybe of somebody else's file
    staging.sync(dict.fromkeys(keys, _SIDECAR), needed)
    assert disk.calls["fdatasync"] == 100


def test_a_file_that_could_not_be_written_never_counts_as_synced(
    staging: Staging, disk: FaultyDisk
) -> None:
    make(staging, (1, 0), (2, 0))
    disk.fail("fdatasync", "1-0.data", io_error)
    with pytest.raises(OSError, match="Input/output"):
        staging.sync({(1, 0): _SIDECAR}, needed)
    disk.heal()  # the kernel says it once
    with pytest.raises(OSError, match="can't be written"):
        staging.sync({(1, 0): _SIDECAR}, needed)
    staging.sync({(2, 0): _SIDECAR}, needed)


def test_a_sync_of_a_missing_file_fails_unless_nobody_needs_it(
    staging: Staging, tmp_path: Path
) -> None:
    make(staging, (1, 0), (2, 0))
    staging.close()
    for name in os.listdir(tmp_path):
        os.unlink(tmp_path / name)
    with pytest.raises(OSError, match="not there"):
        staging.sync({(1, 0): _SIDECAR}, lambda key: key[0] == 1)
    staging.sync({(2, 0): _SIDECAR}, lambda key: key[0] == 1)


def test_who_still_reads_when_all_is_closed_gets_no_other_file_s_bytes(
    staging: Staging, disk: FaultyDisk, tmp_path: Path
) -> None:
    # A process that ends while an upload goes on in its thread.
    make(staging, (1, 0))
    staging.cool(1)
    (tmp_path / "other").write_bytes(b"o" * 2 * PAGE)
    others: list[int] = []

    def close_all(call: str, path: str) -> None:
        if call == "pread":
            disk.heal()
            staging.close()
            others.extend(os.open(tmp_path / "other", os.O_RDONLY) for _ in range(8))

    disk.before = close_all
    try:
        assert staging.read((1, 0), 0, 4) == b"data"
    finally:
        for fd in others:
            os.close(fd)
    assert open_files(tmp_path) == 0


class _OvertakenDisk(FaultyDisk):
    """`then` is called once, when a file that was there has been opened."""

    def __init__(self) -> None:
        super().__init__()
        self.then: Callable[[], None] | None = None

    def open_file(self, path: Path | str, *, create: bool = False) -> int:
        fd = super().open_file(path, create=create)
        then = None if create else self.then
        if then is not None:
            self.then = None
            then()
        return fd


@pytest.mark.parametrize("is_closed_again", [False, True])
def test_a_file_that_went_while_it_was_opened_is_not_taken_for_the_next_of_its_name(
    tmp_path: Path, is_closed_again: bool
) -> None:
    disk = _OvertakenDisk()
    staging, key = Staging(tmp_path, disk=disk, most_open=4), (1, 0)
    others = [(content, 0) for content in range(2, 9)]
    make(staging, key, *others)  # so that the first one is not open any more

    def overtake() -> None:
        staging.unlink([key])
        make(staging, key, data=b"next")
        if is_closed_again:
            make(staging, *((content, 1) for content in range(2, 9)))

    disk.then = overtake
    assert staging.read(key, 0, 4) == b"next"
    assert disk.then is None
    staging.write(key, 4, b" one")
    assert (tmp_path / data_name(key)).read_bytes()[PAGE:] == b"next one"
    staging.close()
    assert open_files(tmp_path) == 0


def test_who_waits_for_the_disk_to_open_a_file_keeps_no_other_waiting(
    staging: Staging, disk: FaultyDisk
) -> None:
    make(staging, *((content, 0) for content in range(1, 9)))
    opens, may_go, found = threading.Event(), threading.Event(), list[bytes]()

    def slowly(call: str, path: str) -> None:
        if call == "open" and path.endswith(data_name((1, 0))):
            opens.set()
            assert may_go.wait(10)

    disk.before = slowly
    slow, other = (
        threading.Thread(target=lambda at=at: found.append(staging.read((at, 0), 0, 4)))
        for at in (1, 8)
    )
    slow.start()
    try:
        assert opens.wait(10)
        other.start()
        other.join(5)
        assert not other.is_alive()
    finally:
        may_go.set()
        slow.join()
    assert found == [b"data", b"data"]
