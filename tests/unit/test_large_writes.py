"""Large writes: past the page cache where that is sooner done, and the same bytes either way."""

import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from typing_extensions import Buffer

from mountd_cache.large_writes import DIRECT, FORGETS, USUAL, LargeWrites, Pace
from mountd_cache.sidecar import PAGE
from mountd_cache.staging import Staging, data_name
from tests.fakes.faulty_disk import FaultyDisk
from tests.unit.test_direct_writes import takes_direct_writes

MIB = 1 << 20
PIECE = 64 << 10


class Clock:
    """Time passes only in a `Disk`."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Disk(FaultyDisk):
    """`usual_s`, `past_s`: how long a write takes through the page cache, and past it. `refuses`:
    it takes none that goes past it. `forgets`: it has a way past it that doesn't wait."""

    def __init__(
        self,
        usual_s: float = 1.0,
        past_s: float = 0.5,
        *,
        refuses: bool = False,
        forgets: bool = False,
    ) -> None:
        super().__init__()
        self.clock = Clock()
        self.usual_s, self.past_s = usual_s, past_s
        self.refuses, self.forgets = refuses, forgets
        self.refused = 0
        self.past: list[int] = []  # offsets
        self.usual: list[int] = []
        self.directly = False

    def pwrite(self, fd: int, data: Buffer, offset: int, /) -> int:
        is_past = bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)
        if is_past and self.refuses:
            self.refused += 1
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.directly |= is_past
        self.clock.now_s += self.past_s if is_past else self.usual_s
        (self.past if is_past else self.usual).append(offset)
        return super().pwrite(fd, data, offset)

    def pwrite_once(self, fd: int, data: Buffer, offset: int, /) -> int:
        if not self.forgets:
            self.refused += 1
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        self.clock.now_s += self.past_s
        self.past.append(offset)
        return FaultyDisk.pwrite(self, fd, data, offset)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    if not takes_direct_writes(tmp_path):
        pytest.skip("this file system has no O_DIRECT")
    found = tmp_path / "data"
    found.touch()
    return found


def write(disk: Disk, path: Path, pieces: int, size: int = PIECE) -> bytes:
    """So many pieces, one after the other; what the file should have."""
    writes = LargeWrites(disk, clock=disk.clock)
    data = os.urandom(size)
    fd = os.open(path, os.O_RDWR)
    try:
        for number in range(pieces):
            assert writes.write(fd, path, data, number * size) == size
    finally:
        writes.cool()
        os.close(fd)
    return data * pieces


def tries_past() -> Pace:
    pace = Pace()
    while pace.next() == USUAL:
        pace.took(USUAL, 1.0)
    return pace


@pytest.mark.parametrize("forgets", [True, False])
def test_a_disk_that_is_quicker_than_the_page_cache_gets_what_comes_next(
    path: Path, forgets: bool
) -> None:
    disk = Disk(forgets=forgets)
    write(disk, path, 40)
    assert len(disk.past) > 25


@pytest.mark.parametrize("forgets", [True, False])
def test_the_bytes_are_the_same_whichever_way_they_went(path: Path, forgets: bool) -> None:
    disk = Disk(forgets=forgets)
    written = write(disk, path, 30)
    assert path.read_bytes() == written
    assert disk.past
    assert disk.usual


def test_a_slow_disk_is_tried_ever_more_seldom(path: Path) -> None:
    disk = Disk(usual_s=0.1, past_s=5.0)
    write(disk, path, 500)
    assert len(disk.past) <= 7


def test_a_file_system_without_such_ways_is_asked_once_for_each(path: Path) -> None:
    disk = Disk(refuses=True)
    written = write(disk, path, 60)
    assert path.read_bytes() == written
    assert (disk.past, disk.refused) == ([], 2)


def taken(pace: Pace, pieces: int, costs: Sequence[float]) -> list[int]:
    """Which way each of so many pieces goes, where each way costs that."""
    ways = []
    for _ in range(pieces):
        way = pace.next()
        pace.took(way, costs[way])
        ways.append(way)
    return ways


@pytest.mark.parametrize("way", [FORGETS, DIRECT])
def test_a_way_that_is_there_no_more_is_asked_once_although_it_was_the_better_one(way: int) -> None:
    pace = Pace()
    costs = [1.0, 3.0, 3.0]
    costs[way] = 0.5
    assert taken(pace, 20, costs)[-1] == way
    pace.never(way)
    assert way not in taken(pace, 100, costs)


def test_the_best_of_three_ways_is_taken_and_the_others_ever_more_seldom() -> None:
    for costs, best in (([1, 0.3, 0.9], FORGETS), ([2, 1.2, 0.9], DIRECT), ([0.2, 0.5, 0.9], 0)):
        ways = taken(Pace(), 500, costs)
        assert ways[20:].count(best) > 465


def test_a_way_that_has_become_the_better_one_is_found() -> None:
    """As when pages that were free for long are all used up."""
    pace = Pace()
    taken(pace, 100, [3, 1.5, 0.9])
    assert pace.next() == DIRECT
    assert taken(pace, 400, [3, 0.3, 0.9])[-1] == FORGETS
    assert taken(pace, 800, [3, 1.5, 0.9])[-1] == DIRECT


def test_of_two_ways_the_better_one_is_taken_by_what_can_not_go_the_third() -> None:
    pace = Pace()
    taken(pace, 100, [3, 1.5, 0.1])
    assert {pace.next((USUAL, FORGETS)) for _ in range(3)} == {FORGETS}


def test_pieces_that_need_no_whole_pages_keep_none_of_the_ways_from_being_tried(
    path: Path,
) -> None:
    disk = Disk(forgets=True)
    writes = LargeWrites(disk, clock=disk.clock)
    fd = os.open(path, os.O_RDWR)
    for number in range(30):
        assert writes.write(fd, path, bytes(PIECE - 1), number * PIECE) == PIECE - 1
    assert len(disk.past) > 15
    for number in range(30):
        assert writes.write(fd, path, bytes(PIECE), number * PIECE) == PIECE
    writes.cool()
    os.close(fd)
    assert disk.refused == 0
    assert disk.directly


@pytest.mark.parametrize(("offset", "size"), [(1, MIB), (0, MIB - 1), (0, MIB + 4096)])
def test_what_is_not_in_whole_pages_or_too_much_goes_through_the_page_cache(
    path: Path, offset: int, size: int
) -> None:
    disk = Disk()
    writes = LargeWrites(disk, pace=tries_past(), clock=disk.clock)
    fd = os.open(path, os.O_RDWR)
    assert writes.write(fd, path, bytes(size), offset) == size
    os.close(fd)
    assert disk.past == []


@pytest.mark.parametrize("forgets", [True, False])
def test_a_full_disk_is_told(path: Path, forgets: bool) -> None:
    disk = Disk(forgets=forgets)
    writes = LargeWrites(disk, pace=tries_past(), clock=disk.clock)
    fd = os.open(path, os.O_RDWR)

    def before(call: str, at: str) -> None:
        if call == "pwrite":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    disk.before = before
    with pytest.raises(OSError, match="No space left"):
        writes.write(fd, path, bytes(MIB), 0)
    disk.heal()
    writes.cool()
    os.close(fd)


def test_of_a_piece_that_finds_room_for_a_part_it_is_told_how_much_has_other_bytes_now(
    path: Path,
) -> None:
    """As ext4 does: past the page cache the same write is ENOSPC, with half of it written."""

    class Full(Disk):
        def pwrite(self, fd: int, data: Buffer, offset: int, /) -> int:
            done = super().pwrite(fd, memoryview(data)[: MIB // 2], offset)
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return done

    disk = Full()
    writes = LargeWrites(disk, pace=tries_past(), clock=disk.clock)
    fd = os.open(path, os.O_RDWR)
    assert writes.write(fd, path, b"x" * MIB, 0) == MIB // 2
    assert disk.past == [0]
    writes.cool()
    os.close(fd)


def test_what_is_not_in_whole_pages_goes_past_a_page_cache_that_forgets(path: Path) -> None:
    disk = Disk(forgets=True)
    writes = LargeWrites(disk, pace=tries_past(), clock=disk.clock)
    fd = os.open(path, os.O_RDWR)
    data = os.urandom(MIB - 1)
    assert writes.write(fd, path, data, 1) == MIB - 1
    os.close(fd)
    assert disk.past == [1]
    assert path.read_bytes()[1:] == data


@pytest.mark.parametrize("forgets", [True, False])
def test_staged_bytes_are_read_as_they_were_written_in_any_order_and_size(
    tmp_path: Path, forgets: bool
) -> None:
    disk = Disk(usual_s=1.0, past_s=0.0, forgets=forgets)
    staging = Staging(tmp_path, disk=disk)
    before = len(os.listdir("/proc/self/fd"))
    expected = bytearray(40 * MIB)
    for number in [*range(0, 40, 2), *range(1, 40, 2)]:
        data = os.urandom(MIB)
        at = number * MIB
        assert staging.write((1, 0), at, data, lambda: bytes(PAGE)) == MIB
        expected[at : at + MIB] = data
        assert staging.write((1, 0), at + 5, b"small") == 5
        expected[at + 5 : at + 10] = b"small"
        assert staging.read((1, 0), at, at + MIB) == expected[at : at + MIB]
    staging.sync({(1, 0): bytes(PAGE)}, lambda key: True)
    assert staging.read((1, 0), 0, 40 * MIB) == expected
    assert (tmp_path / data_name((1, 0))).read_bytes()[PAGE:] == expected
    staging.close()
    assert len(os.listdir("/proc/self/fd")) == before  # it keeps no descriptor
