"""Whole files, and directories that are ours alone."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mountd_cache.durable_io import DISK, TEMP_PREFIX, DirectoryNotPrivate, make_private_dir


def test_a_file_is_replaced_whole_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "file"
    DISK.write_file(path, b"old" * 1000)
    with open(path, "rb") as old:
        DISK.write_file(path, memoryview(b"new"))
        assert old.read() == b"old" * 1000, "a reader of the old file sees a mix"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "directory"
    target.mkdir()
    with pytest.raises(OSError, match="directory"):
        DISK.write_file(target, b"data")
    assert os.listdir(tmp_path) == ["directory"]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(TEMP_PREFIX)]
    with pytest.raises(FileNotFoundError):
        DISK.write_file(tmp_path / "missing" / "file", b"data")


def test_a_replaced_file_moves_between_directories(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "source").write_bytes(b"data")
    (tmp_path / "target").write_bytes(b"old")
    DISK.replace(tmp_path / "a" / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"data"
    assert not (tmp_path / "a" / "source").exists()
    DISK.fsync_dir(tmp_path)
    with pytest.raises(NotADirectoryError):
        DISK.fsync_dir(tmp_path / "target")


def test_a_private_directory_is_made_with_its_parents_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o277)
    try:
        make_private_dir(tmp_path / "one")
    finally:
        os.umask(before)
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o700
    make_private_dir(tmp_path / "a" / "b" / "c")
    make_private_dir(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(mode=0o755), "chmod 700"),
        (lambda path: path.mkdir(mode=0o710), "chmod 700"),
        (lambda path: path.write_bytes(b""), "is not a directory"),
        (lambda path: path.symlink_to("/tmp"), "is not a directory"),
    ],
)
def test_a_directory_that_others_could_have_filled_is_refused(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "it")
    with pytest.raises(DirectoryNotPrivate, match=message) as raised:
        make_private_dir(tmp_path / "it")
    assert str(tmp_path / "it") in str(raised.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: chown needs root")
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir(mode=0o700)
    os.chown(tmp_path / "it", 12345, 12345)
    with pytest.raises(DirectoryNotPrivate, match="uid 12345"):
        make_private_dir(tmp_path / "it")
