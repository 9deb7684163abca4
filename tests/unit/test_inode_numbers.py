"""Inode numbers: never given twice, whatever happened to their file."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from typing_extensions import Buffer

from mountd_cache.durable_io import DISK
from mountd_cache.inode_numbers import InodeNumbers

NOW = 1_800_000_000.0


def test_inode_numbers_are_never_given_twice(tmp_path: Path) -> None:
    given: list[tuple[int, int]] = []
    for _ in range(3):
        numbers = InodeNumbers(tmp_path / "inodes")
        for count in (1, 5, 1 << 20, 1, (1 << 20) - 3, 7):
            first = numbers.reserve(count)
            given.append((first, first + count))
    for (_, end), (first, last) in pairwise(given):
        assert end <= first < last < 1 << 63


def test_inode_numbers_survive_a_kill_and_the_loss_of_their_file(tmp_path: Path) -> None:
    code = (
        "import os,signal,sys; from pathlib import Path;"
        "from mountd_cache.metadata_cache import MetadataCache;"
        "cache=MetadataCache(Path(sys.argv[1]));"
        "cache.reserve_inodes(1); print(cache.reserve_inodes(3_000_000), flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "meta")]
    first = int(subprocess.run(run, capture_output=True, timeout=60, check=False).stdout)
    second = int(subprocess.run(run, capture_output=True, timeout=60, check=False).stdout)
    assert second >= first + 3_000_000
    (tmp_path / "meta" / "inodes").unlink()
    third = int(subprocess.run(run, capture_output=True, timeout=60, check=False).stdout)
    assert third >= second + 3_000_000


@pytest.mark.parametrize("content", [b"", b"x" * 20, b"mtdinos\n" + b"\xff" * 12])
def test_a_damaged_number_file_is_not_believed(tmp_path: Path, content: bytes) -> None:
    last = InodeNumbers(tmp_path / "inodes", wall_clock=lambda: NOW).reserve(1000)
    (tmp_path / "inodes").write_bytes(content)
    numbers = InodeNumbers(tmp_path / "inodes", wall_clock=lambda: NOW + 1)
    assert last + 1000 <= numbers.reserve(1) < 1 << 63


class FullDisk:
    """A DurableIO on which nothing can be written."""

    def write_file(self, path: Path, data: Buffer) -> None:
        raise OSError(28, "No space left on device")

    replace = DISK.replace
    fsync_dir = DISK.fsync_dir


def test_inode_numbers_go_on_when_the_disk_is_full(tmp_path: Path) -> None:
    last = InodeNumbers(tmp_path / "inodes", wall_clock=lambda: NOW).reserve(1000)
    numbers = InodeNumbers(tmp_path / "inodes", disk=FullDisk(), wall_clock=lambda: NOW + 60)
    first = numbers.reserve(10)
    assert first >= last + 1000
    assert numbers.reserve(1 << 21) >= first + 10
    assert numbers.last_error is not None
