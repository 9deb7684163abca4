"""Large files past the page cache, and what is done where that can't be."""

import errno
import fcntl
import os
from pathlib import Path

import pytest
from typing_extensions import Buffer

from mountd.transfer.direct_writes import FROM_BYTES, AlignedBuffers, DirectWrites
from mountd.transfer.fetch import Partial
from mountd.transfer.items import Item
from mountd.transfer.local_target import LocalTarget
from tests.fakes.faulty_disk import FaultyDisk

DATA = os.urandom((9 << 20) + 5000)


class Disk(FaultyDisk):
    """Counts what goes past the page cache; `takes`: how many bytes of such a write it takes."""

    buffered = -1

    def __init__(self, takes: int | None = None, error: int = 0) -> None:
        super().__init__()
        self.direct_bytes = 0
        self.takes = takes
        self.error = error

    def pwrite(self, fd: int, data: Buffer, offset: int, /) -> int:
        view = memoryview(data).cast("B")
        if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            return super().pwrite(fd, view, offset)
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        if self.takes is not None:  # as a buffered one: only whole sectors could go directly
            count = os.pwrite(self.buffered, view[: self.takes], offset)
        else:
            count = super().pwrite(fd, view, offset)
        self.direct_bytes += count
        return count


def partial_of(folder: Path, disk: Disk, size: int) -> Partial:
    target = LocalTarget(os.fspath(folder), disk)
    target.prepare()
    return Partial(target, Item("big", size, 0, "v"))


def takes_direct_writes(folder: Path) -> bool:
    path = folder / "probe"
    path.touch()
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


def test_ranges_in_any_order_make_the_file_and_whole_pages_pass_the_cache_by(
    tmp_path: Path,
) -> None:
    disk, at = Disk(), 24 << 20
    with partial_of(tmp_path / "out", disk, FROM_BYTES + len(DATA)) as partial:
        partial.write(DATA, at)
        partial.write(DATA[: 8 << 20], 0)
        partial.write(b"odd", 100)
        assert os.pread(partial.fd, len(DATA), at) == DATA
        found = os.pread(partial.fd, 8 << 20, 0)
    assert found == DATA[:100] + b"odd" + DATA[103 : 8 << 20]
    if takes_direct_writes(tmp_path):
        assert disk.direct_bytes == (17 << 20) + 4096


def test_what_is_in_aligned_memory_is_written_from_there(tmp_path: Path) -> None:
    class Watched(Disk):
        def pwrite(self, fd: int, data: Buffer, offset: int, /) -> int:
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
                room[:4] = b"seen"  # before the bytes are written
            return super().pwrite(fd, data, offset)

    with AlignedBuffers(8 << 20).taken(1 << 20) as room:
        room[:] = DATA[: 1 << 20]
        with partial_of(tmp_path / "out", Watched(), FROM_BYTES) as partial:
            partial.write(room, 4096)
            found = os.pread(partial.fd, 1 << 20, 4096)
    if takes_direct_writes(tmp_path):
        assert found == b"seen" + DATA[4 : 1 << 20]
    else:
        assert found == DATA[: 1 << 20]


def test_as_many_buffers_are_made_as_are_taken_at_once() -> None:
    buffers = AlignedBuffers(1 << 20)
    with buffers.taken(10) as one, buffers.taken(20) as other:
        one[:] = b"1" * 10
        other[:] = b"2" * 20
        assert [bytes(one), bytes(other)] == [b"1" * 10, b"2" * 20]
    with buffers.taken(10) as again, buffers.taken(10) as too:
        assert sorted([bytes(again), bytes(too)]) == [b"1" * 10, b"2" * 10]


def test_a_file_that_is_not_large_stays_in_the_page_cache(tmp_path: Path) -> None:
    disk = Disk()
    with partial_of(tmp_path / "out", disk, FROM_BYTES - 1) as partial:
        partial.write(DATA, 0)
        assert os.pread(partial.fd, len(DATA), 0) == DATA
    assert disk.direct_bytes == 0


def test_a_file_system_that_refuses_gets_it_in_the_usual_way(tmp_path: Path) -> None:
    disk = Disk(error=errno.EINVAL)
    with partial_of(tmp_path / "out", disk, FROM_BYTES) as partial:
        partial.write(DATA, 0)
        assert os.pread(partial.fd, len(DATA), 0) == DATA


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    if not takes_direct_writes(tmp_path):
        pytest.skip("this file system has no such writes")
    disk = Disk(error=errno.ENOSPC)
    with (
        partial_of(tmp_path / "out", disk, FROM_BYTES) as partial,
        pytest.raises(OSError, match="No space"),
    ):
        partial.write(DATA, 0)


@pytest.mark.parametrize("takes", [4096, 5000, 0])
def test_a_write_that_takes_less_is_gone_on_with(tmp_path: Path, takes: int) -> None:
    if not takes_direct_writes(tmp_path):
        pytest.skip("this file system has no such writes")
    disk = Disk(takes=takes)
    with partial_of(tmp_path / "out", disk, FROM_BYTES) as partial:
        disk.buffered = partial.fd
        partial.write(DATA, 8 << 20)
        assert os.pread(partial.fd, len(DATA), 8 << 20) == DATA


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    direct = DirectWrites(Disk(), len(DATA))
    direct.write(fd, DATA, 0)
    direct.close()
    direct.close()
    os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before
