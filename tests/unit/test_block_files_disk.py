"""Full disks, read-only disks, and a writer that is killed."""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mountd_cache.block_files import BlockFiles

PAGE = 4096
BLOCK = 16 * PAGE
FILE = bytes(range(16))
DATA = bytes(i * 13 + i // 255 & 255 for i in range(BLOCK))

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: mounting needs root")


def block_files(folder: Path, now_s: list[float], **changes: float) -> BlockFiles:
    blocks = BlockFiles(
        folder,
        block_size=BLOCK,
        page_size=PAGE,
        limit_bytes=int(changes.get("limit_bytes", 1 << 30)),
        min_free_fraction=changes.get("min_free_fraction", 0.0),
        clock=lambda: now_s[0],
    )
    blocks.scan()
    return blocks


def fill(folder: Path) -> None:
    with open(folder / "others", "ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(PAGE))


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = getattr(request, "param", "mode=700")
    mount = ["mount", "-t", "tmpfs", "-o", f"{options},size=4m", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, timeout=30)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=30)


@needs_root
def test_a_limit_larger_than_the_disk_still_caches_what_fits(small_disk: Path) -> None:
    blocks = block_files(small_disk / "blocks", [0.0])
    for index in range(200):
        assert blocks.write(FILE, index, 0, DATA, BLOCK)
        assert blocks.read(FILE, index, 0, BLOCK) == DATA
    assert sum(blocks.read(FILE, i, 0, BLOCK) == DATA for i in range(200)) >= 50
    assert blocks.bytes_used <= 4 << 20


@needs_root
def test_a_part_of_the_disk_stays_free(small_disk: Path) -> None:
    blocks = block_files(small_disk / "blocks", [0.0], min_free_fraction=0.5)
    for index in range(100):
        assert blocks.write(FILE, index, 0, DATA, BLOCK)
        disk = os.statvfs(small_disk)
        assert disk.f_bavail >= disk.f_blocks // 2
    fill(small_disk)
    assert not blocks.write(FILE, 0, 0, DATA, BLOCK)
    assert blocks.bytes_used == 0, "everything of ours must go before others lack room"
    assert blocks.health.last_reason == "the cache's disk is full (50% of it are left free)"
    (small_disk / "others").unlink()
    assert blocks.write(FILE, 0, 0, DATA, BLOCK)


@needs_root
def test_blocks_give_way_to_what_others_write_to_the_disk_without_a_block_being_written(
    small_disk: Path,
) -> None:
    blocks = block_files(small_disk / "blocks", [0.0], min_free_fraction=0.25)
    while blocks.bytes_used < 2 << 20:
        assert blocks.write(FILE, blocks.bytes_used // BLOCK, 0, DATA, BLOCK)
    (small_disk / "unsent").write_bytes(bytes(3 << 19))
    assert free_bytes(small_disk) < 1 << 20
    blocks.maintain()
    assert free_bytes(small_disk) >= 1 << 20
    assert 0 < blocks.bytes_used < 2 << 20
    fill(small_disk)
    blocks.maintain()
    assert free_bytes(small_disk) >= 1 << 20
    fill(small_disk)
    blocks.maintain()
    assert blocks.bytes_used == 0  # all that it has; more is not its own
    blocks.close()


def test_what_others_took_is_evicted_once_however_many_writers_find_it_lacking(
    tmp_path: Path,
) -> None:
    taken_bytes = 0
    together: threading.Barrier | None = None

    def taken() -> int:
        if together is not None:
            with suppress(threading.BrokenBarrierError):  # who comes alone was let in alone
                together.wait(0.3)
        return taken_bytes

    blocks = BlockFiles(
        tmp_path / "blocks",
        block_size=BLOCK,
        page_size=PAGE,
        limit_bytes=8 << 20,
        min_free_fraction=0.0,
        taken_bytes=taken,
    )
    blocks.scan()
    while blocks.bytes_used < 4 << 20:
        assert blocks.write(FILE, blocks.block_count, 0, DATA, BLOCK)
    taken_bytes = 5 << 20
    together = threading.Barrier(3)
    writers = [threading.Thread(target=blocks.maintain) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (3 << 20) - 2 * BLOCK <= blocks.bytes_used <= 3 << 20
    blocks.close()


def free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


@needs_root
def test_a_disk_that_others_filled_is_bypassed_until_they_leave(small_disk: Path) -> None:
    blocks = block_files(small_disk / "blocks", [0.0])
    assert blocks.write(FILE, 0, 0, DATA, BLOCK)
    fill(small_disk)
    assert blocks.read(FILE, 0, 0, BLOCK) == DATA
    for _ in range(3):
        assert not blocks.write(FILE, 1, 0, DATA, BLOCK)
        assert blocks.read(FILE, 1, 0, BLOCK) is None
    assert "disk is full" in (blocks.health.last_reason or "")
    (small_disk / "others").unlink()
    assert blocks.write(FILE, 1, 0, DATA, BLOCK)
    assert blocks.read(FILE, 1, 0, BLOCK) == DATA


@needs_root
@pytest.mark.parametrize("small_disk", ["nr_inodes=40"], indirect=True)
def test_a_disk_that_says_no_although_it_looked_free_is_tried_again_later(small_disk: Path) -> None:
    """Out of inodes: as a quota, it is seen only when the write fails."""
    now_s = [0.0]
    blocks = block_files(small_disk / "blocks", now_s)
    for index in range(100):
        assert blocks.write(FILE, index, 0, DATA[:PAGE], PAGE), "did not evict for itself"
        assert blocks.read(FILE, index, 0, PAGE) == DATA[:PAGE]
    for index in range(100):
        blocks.drop(FILE, index)
    blocks.maintain()
    others = small_disk / "others"
    others.mkdir()
    with suppress(OSError):
        for number in range(100):
            (others / str(number)).touch()
    assert not blocks.write(FILE, 0, 0, DATA, BLOCK)
    assert blocks.health.resting
    assert "ENOSPC" in (blocks.health.last_reason or "")
    for path in others.iterdir():
        path.unlink()
    assert not blocks.write(FILE, 0, 0, DATA, BLOCK), "tried again at once"
    now_s[0] += 60
    assert blocks.write(FILE, 0, 0, DATA, BLOCK)
    assert blocks.read(FILE, 0, 0, BLOCK) == DATA
    assert not blocks.health.resting


@needs_root
def test_a_read_only_disk_is_read_and_not_written(small_disk: Path) -> None:
    now_s = [0.0]
    blocks = block_files(small_disk / "blocks", now_s)
    assert blocks.write(FILE, 0, 0, DATA, BLOCK)
    assert blocks.write(FILE, 1, 0, DATA[:PAGE], BLOCK)
    blocks.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, timeout=30)
    for _ in range(2):
        blocks = block_files(small_disk / "blocks", now_s)
        assert blocks.read(FILE, 0, 0, BLOCK) == DATA
        assert not blocks.write(FILE, 2, 0, DATA, BLOCK)
        assert "EROFS" in (blocks.health.last_reason or "")
        now_s[0] += 60
        assert not blocks.write(FILE, 1, PAGE, DATA[PAGE : 2 * PAGE], BLOCK)
        blocks.drop(FILE, 0)
        blocks.maintain()
        assert blocks.read(FILE, 0, 0, BLOCK) is None
        assert blocks.bytes_used > 0, "what could not be deleted is still counted"
        blocks.close()
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True, timeout=30)
    now_s[0] += 60
    blocks = block_files(small_disk / "blocks", now_s)
    assert blocks.read(FILE, 0, 0, BLOCK) == DATA
    assert blocks.write(FILE, 1, PAGE, DATA[PAGE : 2 * PAGE], BLOCK)


@pytest.mark.parametrize("pages", [16, 3])
def test_a_write_that_stops_halfway_leaves_nothing_behind(tmp_path: Path, pages: int) -> None:
    """A limit on the size of files makes the kernel write a part only, as a full disk does."""
    now_s = [0.0]
    blocks = block_files(tmp_path / "blocks", now_s)
    assert blocks.write(FILE, 0, 0, DATA[:PAGE], BLOCK)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        kept = blocks.write(FILE, 1, 0, DATA[: pages * PAGE], BLOCK)
        now_s[0] += 60
        added = blocks.write(FILE, 0, 0, DATA[: pages * PAGE], BLOCK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not kept
    assert not added
    files = [path for path in (tmp_path / "blocks").rglob("*") if path.is_file()]
    assert sum(path.stat().st_blocks * 512 for path in files) == blocks.bytes_used
    assert blocks.read(FILE, 1, 0, 1) is None
    assert blocks.read(FILE, 0, 0, 1) in (None, DATA[:1])
    assert blocks.health.errors > 0


WRITER = """
import random, sys
from pathlib import Path
from mountd_cache.block_files import BlockFiles
PAGE = 4096
BLOCK = 16 * PAGE
blocks = BlockFiles(Path(sys.argv[1]), block_size=BLOCK, page_size=PAGE,
                    limit_bytes=int(sys.argv[2]), min_free_fraction=0.0)
blocks.scan()
data = bytes(i * 13 + i // 255 & 255 for i in range(BLOCK))
print("ready", flush=True)
while True:
    index, first = random.randrange(60), random.randrange(16)
    if random.random() < 0.5:
        first = 0
    last = random.randint(first + 1, 16)
    blocks.write(bytes(range(16)), index, first * PAGE, data[first * PAGE : last * PAGE], BLOCK)
    if random.random() < 0.1:
        blocks.drop(bytes(range(16)), index)
"""


def test_a_kill_in_the_middle_of_writes_leaves_a_cache_that_is_right_and_within_its_limit(
    tmp_path: Path,
) -> None:
    limit = 30 * (BLOCK + PAGE)
    run = [sys.executable, "-c", WRITER, str(tmp_path / "blocks"), str(limit)]
    for turn in range(6):
        with subprocess.Popen(run, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            try:
                writer.wait(0.05 + turn * 0.021)
            except subprocess.TimeoutExpired:
                writer.send_signal(signal.SIGKILL)
            writer.wait(30)
        files = [path for path in (tmp_path / "blocks").rglob("*") if path.is_file()]
        assert sum(path.stat().st_blocks * 512 for path in files) <= limit + BLOCK + PAGE
        blocks = block_files(tmp_path / "blocks", [0.0], limit_bytes=limit)
        assert blocks.bytes_used <= limit
        hits = 0
        for index in range(60):
            for page in range(16):
                found = blocks.read(FILE, index, page * PAGE, (page + 1) * PAGE)
                assert found in (None, DATA[page * PAGE : (page + 1) * PAGE])
                hits += found is not None
        assert hits > 30, "a kill must not lose the cache"
        assert blocks.write(FILE, 0, 0, DATA, BLOCK)
        assert blocks.read(FILE, 0, 0, BLOCK) == DATA
        blocks.close()


def test_writers_of_one_file_do_not_trip_over_each_others_new_folder(tmp_path: Path) -> None:
    body = b"x" * (1 << 16)
    files = BlockFiles(tmp_path / "blocks", block_size=(1 << 16), limit_bytes=1 << 30)
    files.scan()
    kept: list[bool] = []
    barrier = threading.Barrier(2, timeout=10)

    def write(index: int) -> None:
        for shard in range(256):
            barrier.wait()
            kept.append(files.write(bytes([shard]) * 16, index, 0, body, (1 << 16)))

    writers = [threading.Thread(target=write, args=(index,)) for index in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    try:
        assert files.health.errors == 0, files.health.last_reason
        assert all(kept)
    finally:
        files.close()
