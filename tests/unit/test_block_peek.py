"""A cache that another process holds, looked into."""

import os
from pathlib import Path

import pytest

from mountd_cache.block_files import BlockFiles
from mountd_cache.block_peek import BlockPeek

FILE = b"f" * 16
BLOCK = 1 << 16
DATA = os.urandom(3 * BLOCK + 5000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With all blocks of a file but the middle of its second one."""
    files = BlockFiles(tmp_path / "blocks", block_size=BLOCK, limit_bytes=1 << 30)
    files.scan()
    for index in range(4):
        block = DATA[index * BLOCK : (index + 1) * BLOCK]
        if index == 1:
            files.write(FILE, index, 0, block[:16384], BLOCK)
            files.write(FILE, index, 49152, block[49152:], BLOCK)
        else:
            files.write(FILE, index, 0, block, len(block))
    files.close()
    return tmp_path / "blocks"


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, BLOCK),
        (5, 100),
        (0, BLOCK + 16384),
        (BLOCK + 50000, len(DATA)),
        (len(DATA) - 1, len(DATA)),
    ],
)
def test_what_is_there_is_read(folder: Path, start: int, end: int) -> None:
    assert BlockPeek(folder, BLOCK).read(FILE, len(DATA), start, end) == DATA[start:end]


def test_what_is_not_all_there_is_nothing(folder: Path) -> None:
    peek = BlockPeek(folder, BLOCK)
    assert peek.read(FILE, len(DATA), 0, len(DATA)) is None
    assert peek.read(FILE, len(DATA), BLOCK + 20000, BLOCK + 20001) is None
    assert peek.read(b"g" * 16, len(DATA), 0, 1) is None
    assert peek.read(FILE, len(DATA) + 1, 3 * BLOCK, len(DATA)) is None
    assert BlockPeek(folder, 2 * BLOCK).read(FILE, len(DATA), 0, 1) is None
    assert BlockPeek(folder / "missing", BLOCK).read(FILE, len(DATA), 0, 1) is None


def test_what_does_not_prove_itself_is_nothing(folder: Path) -> None:
    (path,) = folder.glob(f"*/{FILE.hex()}-00000002")
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"rotten")
    peek = BlockPeek(folder, BLOCK)
    assert peek.read(FILE, len(DATA), 2 * BLOCK, 3 * BLOCK) is None
    os.truncate(path, 10)
    assert peek.read(FILE, len(DATA), 2 * BLOCK, 2 * BLOCK + 10) is None
