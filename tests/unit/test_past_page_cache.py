"""Blocks that a reader has from memory go past the page cache."""

import errno
import fcntl
import os
import tempfile
import time
from pathlib import Path

import pytest

from mountd_cache.block_files import BlockFiles
from mountd_cache.past_page_cache import FROM_BYTES, Past, PastPageCache, ReadOnce
from tests.fakes.dict_blocks import BLOCK, BODY, DictBlocks, Remote, cache_over, until

MIB = 1 << 20
FILE = bytes(range(16))
DATA = bytes(i * 7 + i // 251 & 255 for i in range(4096)) * 256
HEADER = memoryview(b"h" * 4096)


def opened(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags)


def is_in_page_cache(path: Path) -> bool:
    with open(path, "rb", buffering=0) as file:
        try:
            return os.preadv(file.fileno(), [bytearray(4096)], MIB // 2, os.RWF_NOWAIT) > 0
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                pytest.skip("NOT TESTED: this file system doesn't say what is in the page cache")
            raise


class Kernel:
    """Makes a file anew, and notes with which flags."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[int] = []

    def create(self, flags: int) -> int:
        self.asked.append(flags)
        self.path.unlink(missing_ok=True)
        return opened(self.path, flags)


class WithoutForgetting(Kernel):
    """As before Linux 6.14."""

    def create(self, flags: int) -> int:
        if not flags:
            self.asked.append(flags)
            raise OSError(errno.EOPNOTSUPP, "no such way")
        return super().create(flags)


class WithoutDirect(Kernel):
    """As many file systems."""

    def create(self, flags: int) -> int:
        if flags:
            self.asked.append(flags)
            raise OSError(errno.EINVAL, "no such way")
        return super().create(flags)


@pytest.mark.parametrize("kind", [Kernel, WithoutForgetting, WithoutDirect])
def test_what_was_written_past_the_page_cache_is_read_like_any_other(
    tmp_path: Path, kind: type[Kernel]
) -> None:
    kernel = kind(tmp_path / "file")
    past = PastPageCache(4096 + MIB)
    fd = past.create(kernel.create, (HEADER, memoryview(DATA)), Past.SLOWLY)
    if fd is None:
        pytest.skip("NOT TESTED: this file system has no way past the page cache")
    usual = opened(tmp_path / "other")
    assert fcntl.fcntl(fd, fcntl.F_GETFL) == fcntl.fcntl(usual, fcntl.F_GETFL)
    assert os.pread(fd, 2 * MIB, 0) == bytes(HEADER) + DATA
    os.close(fd)
    os.close(usual)


def test_what_is_small_or_too_large_or_is_to_stay_is_left_to_the_page_cache(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path / "file")
    past = PastPageCache(4096 + MIB)
    for size, wanted in (
        (FROM_BYTES - 2 * 4096, Past.SLOWLY),
        (MIB + 4096, Past.SLOWLY),
        (MIB, Past.NO),
    ):
        assert past.create(kernel.create, (HEADER, memoryview(bytes(size))), wanted) is None
    assert not kernel.asked


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [((HEADER, memoryview(DATA)), Past.AT_ONCE), ((HEADER, memoryview(DATA)[1:]), Past.SLOWLY)],
    ids=["who does not wait for the disk", "what is not in whole pages"],
)
def test_left_to_the_page_cache_by_an_older_kernel_is(
    tmp_path: Path, parts: tuple[memoryview, memoryview], wanted: Past
) -> None:
    kernel = WithoutForgetting(tmp_path / "file")
    past = PastPageCache(4096 + MIB)
    for _ in range(2):  # and a kernel is asked once
        assert past.create(kernel.create, parts, wanted) is None
    assert kernel.asked == [0]


def test_where_a_file_system_has_no_such_way_it_is_not_asked_again() -> None:
    asked: list[int] = []

    def refused(flags: int) -> int:
        asked.append(flags)
        raise OSError(errno.EINVAL, "no such way")

    past = PastPageCache(4096 + MIB)
    for _ in range(2):
        assert past.create(refused, (HEADER, memoryview(DATA)), Past.SLOWLY) is None
    assert asked == [os.O_DIRECT, 0]


def test_an_error_of_the_disk_is_told_and_leaves_nothing_open(tmp_path: Path) -> None:
    made: list[int] = []

    def for_reading(flags: int) -> int:
        made.append(os.open(tmp_path / "file", os.O_RDONLY | os.O_CREAT | flags))
        return made[-1]

    past = PastPageCache(4096 + MIB)
    for wanted in (Past.AT_ONCE, Past.SLOWLY):
        with pytest.raises(OSError, match="Bad file descriptor"):
            past.create(for_reading, (HEADER, memoryview(DATA)), wanted)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(made[-1])


@pytest.mark.parametrize("length", [MIB, MIB - 1])
def test_a_block_that_its_reader_has_is_kept_but_not_in_the_page_cache(
    tmp_path: Path, length: int
) -> None:
    folder = tmp_path / "blocks"
    blocks = BlockFiles(folder, block_size=MIB, limit_bytes=1 << 30, min_free_fraction=0.0)
    blocks.scan()
    assert blocks.write(FILE, 0, 0, DATA[:length], length, Past.SLOWLY)
    (path,) = (each for each in folder.rglob("*") if each.is_file())
    assert blocks.bytes_used == path.stat().st_blocks * 512
    with path.open("rb+") as file:
        os.fdatasync(file.fileno())  # what the disk has is forgotten soon after
    stays = 100 if length == MIB else 0  # without the first way a part of a page stays
    while is_in_page_cache(path) and stays:
        stays -= 1
        time.sleep(0.02)
    blocks.close()

    again = BlockFiles(folder, block_size=MIB, limit_bytes=1 << 30, min_free_fraction=0.0)
    assert again.read(FILE, 0, 0, length) == DATA[:length]
    again.close()
    assert stays or length < MIB


def test_the_same_block_for_a_reader_who_is_yet_to_come_stays_in_the_page_cache(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "blocks"
    blocks = BlockFiles(folder, block_size=MIB, limit_bytes=1 << 30, min_free_fraction=0.0)
    blocks.scan()
    assert blocks.write(FILE, 0, 0, DATA, MIB)
    (path,) = (each for each in folder.rglob("*") if each.is_file())
    assert is_in_page_cache(path)
    blocks.close()


@pytest.mark.parametrize(
    ("streamed", "backlog_blocks", "told"),
    [(True, 4, Past.SLOWLY), (False, 4, Past.NO), (True, 1, Past.AT_ONCE)],
    ids=["a stream", "not a stream", "a stream that is faster than the disk"],
)
async def test_the_writers_hear_what_is_read_as_it_comes(
    streamed: bool, backlog_blocks: int, told: Past
) -> None:
    blocks, remote = DictBlocks(), Remote()
    async with cache_over(blocks, backlog=backlog_blocks * BLOCK) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)
        file.begin(0, BLOCK, urgent=False, streamed=streamed)
        await until(lambda: blocks.present(b"f", 0, 0, BLOCK))
        file.close()
    assert blocks.past == {(b"f", 0): told}


def test_what_is_read_once_leaves_the_page_cache_as_it_was(tmp_path: Path) -> None:
    path, read = tmp_path / "data", ReadOnce()
    fd = opened(path)
    try:
        os.pwrite(fd, DATA, 0)
        os.fsync(fd)
        assert read(fd, MIB, 0) == DATA
        assert is_in_page_cache(path), "what was there stays"
        assert read(fd, MIB, 4096) == DATA[4096:], "fewer at the end of the file"
        try:
            os.preadv(fd, [bytearray(4096)], 0, 0x80)
        except OSError:
            pytest.skip("NOT TESTED: this kernel or file system keeps what was read")
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert read(fd, MIB, 0) == DATA
        assert not is_in_page_cache(path)  # a look has the kernel read ahead: not before the read
    finally:
        os.close(fd)


def test_a_file_system_that_keeps_all_it_reads_is_read_in_the_usual_way() -> None:
    read = ReadOnce()
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:  # tmpfs has no way past it
        file.write(DATA)
        file.flush()
        for at in (0, 4096):
            assert read(file.fileno(), MIB, at) == DATA[at:]
