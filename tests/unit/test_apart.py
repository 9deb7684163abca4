"""Directories in a part of the disk of their own: as any other for whoever looks."""

import fcntl
import os
import struct
import tempfile
from pathlib import Path

import pytest

from mountd_cache.apart import make_dir_apart
from mountd_cache.durable_io import make_private_dir
from mountd_cache.journal import Journal

GET_FLAGS, SET_FLAGS, SPREADS = 0x80086601, 0x40086602, 0x20000


def flags_of(folder: Path) -> int:
    """What lsattr -d shows. Skips where the file system has no such flags."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        flags: int = struct.unpack("=I4x", fcntl.ioctl(fd, GET_FLAGS, bytes(8)))[0]
        fcntl.ioctl(fd, SET_FLAGS, struct.pack("=I4x", flags | SPREADS))
        fcntl.ioctl(fd, SET_FLAGS, struct.pack("=I4x", flags))
    except OSError as error:
        pytest.skip(f"NOT TESTED: no flag T here: {error}")
    finally:
        os.close(fd)
    return flags


@pytest.mark.parametrize("where", [None, "/dev/shm"])
def test_it_is_private_and_alone_in_its_parent_on_any_file_system(where: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=where) as name:
        before = os.umask(0o277)
        try:
            make_private_dir(Path(name) / "it", apart=True)
        finally:
            os.umask(before)
        assert (Path(name) / "it").stat().st_mode & 0o777 == 0o700
        assert os.listdir(name) == ["it"]


def test_its_parent_keeps_the_flags_that_it_had(tmp_path: Path) -> None:
    before = flags_of(tmp_path)
    make_dir_apart(tmp_path / "it")
    assert flags_of(tmp_path) == before


def test_what_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    there = {name: os.lstat(tmp_path / name).st_ino for name in os.listdir(tmp_path)}
    for name in there:
        with pytest.raises(FileExistsError):
            make_dir_apart(tmp_path / name)
    assert {name: os.lstat(tmp_path / name).st_ino for name in os.listdir(tmp_path)} == there


def test_one_that_a_killed_process_left_without_its_name_goes_and_nothing_else(
    tmp_path: Path,
) -> None:
    (tmp_path / ".new-abc").mkdir()
    (tmp_path / ".new-full" / "of").mkdir(parents=True)
    (tmp_path / ".new-file").touch()
    make_dir_apart(tmp_path / "it")
    assert sorted(os.listdir(tmp_path)) == [".new-file", ".new-full", "it"]


def test_a_parent_that_may_not_be_written_to_is_an_error_as_of_mkdir(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make_dir_apart(tmp_path / "missing" / "it")


def test_a_journal_finds_its_data_files_again_in_such_a_directory(tmp_path: Path) -> None:
    Journal.open(tmp_path / "journal").close()
    number = (tmp_path / "journal" / "staging").stat().st_ino
    Journal.open(tmp_path / "journal").close()
    assert (tmp_path / "journal" / "staging").stat().st_ino == number
    assert not list((tmp_path / "journal").glob(".new-*"))
