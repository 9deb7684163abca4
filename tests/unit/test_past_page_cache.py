"""Blocks that a reader has from memory go past the page cache."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from mountd_cache.block_files import BlockFiles
from mountd_cache.past_page_cache import FROM_BYTES, PastPageCache
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


def test_what_was_written_past_the_page_cache_is_read_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    past = PastPageCache(4096 + MIB)
    fd = past.create(lambda flags: opened(path, flags), (HEADER, memoryview(DATA)))
    if fd is None:
        pytest.skip("NOT TESTED: this file system has no way past the page cache")
    usual = opened(tmp_path / "other")
    assert fcntl.fcntl(fd, fcntl.F_GETFL) == fcntl.fcntl(usual, fcntl.F_GETFL)
    assert os.pread(fd, 2 * MIB, 0) == bytes(HEADER) + DATA
    os.close(fd)
    os.close(usual)


def test_what_is_small_or_not_in_whole_pages_or_too_large_is_left_to_the_page_cache(
    tmp_path: Path,
) -> None:
    past = PastPageCache(4096 + MIB)
    for size in (FROM_BYTES - 2 * 4096, MIB - 1, MIB + 4096):
        parts = (HEADER, memoryview(bytes(size)))
        assert past.create(lambda flags: opened(tmp_path / "file", flags), parts) is None
    assert not (tmp_path / "file").exists()


def test_where_a_file_system_has_no_such_way_it_is_not_asked_again(tmp_path: Path) -> None:
    past = PastPageCache(4096 + MIB)
    parts = (HEADER, memoryview(DATA))
    assert past.create(lambda flags: os.open("/proc/self/comm", os.O_RDWR | flags), parts) is None
    assert past.create(lambda flags: opened(tmp_path / "file", flags), parts) is None
    assert not (tmp_path / "file").exists()


def test_an_error_of_the_disk_is_told_and_leaves_nothing_open(
    tmp_path: Path,
) -> None:
    made: list[int] = []

    def refused(flags: int) -> int:
        made.append(os.open(tmp_path / "file", os.O_RDONLY | os.O_CREAT | flags))
        return made[-1]

    past = PastPageCache(4096 + MIB)
    with pytest.raises(OSError, match="Bad file descriptor"):  # an error that says something else
        past.create(refused, (HEADER, memoryview(DATA)))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made[0])


def test_a_block_that_its_reader_has_is_kept_but_not_in_the_page_cache(tmp_path: Path) -> None:
    folder = tmp_path / "blocks"
    blocks = BlockFiles(folder, block_size=MIB, limit_bytes=1 << 30, min_free_fraction=0.0)
    blocks.scan()
    assert blocks.write(FILE, 0, 0, DATA, MIB, is_read=True)
    (path,) = (each for each in folder.rglob("*") if each.is_file())
    was_in_page_cache = is_in_page_cache(path)
    blocks.close()

    again = BlockFiles(folder, block_size=MIB, limit_bytes=1 << 30, min_free_fraction=0.0)
    assert again.read(FILE, 0, 0, MIB) == DATA
    again.close()
    assert not was_in_page_cache


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
    [(True, 4, True), (False, 4, False), (True, 1, False)],
    ids=["a stream", "not a stream", "a stream that is faster than the disk"],
)
async def test_the_writers_hear_what_is_read_as_it_comes(
    streamed: bool, backlog_blocks: int, told: bool
) -> None:
    blocks, remote = DictBlocks(), Remote()
    async with cache_over(blocks, backlog=backlog_blocks * BLOCK) as cache:
        file = cache.file(b"f", len(BODY), remote.fetch)
        file.begin(0, BLOCK, urgent=False, streamed=streamed)
        await until(lambda: blocks.present(b"f", 0, 0, BLOCK))
        file.close()
    assert blocks.is_read == {(b"f", 0): told}
