"""Metadata on a disk that is full."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd_cache.metadata_store import MetadataStore

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: mounting needs root")


def test_a_disk_that_is_nearly_full_is_not_written_until_it_has_room(tmp_path: Path) -> None:
    free_bytes = 1 << 30
    store = MetadataStore(tmp_path / "store", limit_bytes=1 << 24, free_bytes=lambda _: free_bytes)
    assert store.write([(b"a", b"1")])
    free_bytes = (256 << 10) + 999
    assert not store.write([(b"a", bytes(1000))])
    assert store.last_error is not None
    assert "No space left" in store.last_error
    assert store.get(b"a") == b"1"
    store.close()
    free_bytes = 100_000
    store = MetadataStore(tmp_path / "store", limit_bytes=1 << 24, free_bytes=lambda _: free_bytes)
    assert store.get(b"a") is None
    assert not store.write([(b"b", b"2")])
    free_bytes = 1 << 30
    assert store.write([(b"b", b"2")])
    assert (store.get(b"a"), store.get(b"b")) == (b"1", b"2"), "a full disk is no damage"
    store.close()


@pytest.fixture
def small_blocks(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB whose blocks have 1 KiB."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    made = ["mkfs.ext4", "-q", "-b", "1024", "-m", "0", "-O", "^has_journal", "-F", str(image)]
    try:
        subprocess.run(made, check=True, timeout=30)
        mount = ["mount", "-o", "loop", str(image), str(folder)]
        subprocess.run(mount, check=True, timeout=30, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("NOT TESTED: no ext4 here, or no loop device")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=30)


OPENS_AND_WRITES = """
import sys
from pathlib import Path
from mountd_cache.metadata_store import MetadataStore
folder = Path(sys.argv[1])
store = MetadataStore(folder / "store", limit_bytes=1 << 24)
assert not store.write([(b"new", bytes(5000))])
(folder / "others").unlink()
assert store.write([(b"new", bytes(5000))]), store.last_error
assert store.get(b"old") == b"1"
store.close()
"""


@needs_root
@pytest.mark.parametrize("left_kib", [24, 32])
def test_a_full_disk_of_small_blocks_does_not_end_the_process(
    small_blocks: Path, left_kib: int
) -> None:
    store = MetadataStore(small_blocks / "store", limit_bytes=1 << 24)
    assert store.write([(b"old", b"1")])
    store.close()
    fill(small_blocks / "others", left_kib << 10)
    command = [sys.executable, "-c", OPENS_AND_WRITES, str(small_blocks)]
    subprocess.run(command, check=True, timeout=60)  # it was SIGBUS


def fill(path: Path, left_bytes: int) -> None:
    """The disk of `path` but for so many bytes."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1024)):
                pass
        except OSError:
            file.truncate(file.tell() - left_bytes)
            os.fsync(file.fileno())
