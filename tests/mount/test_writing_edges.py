"""Corners of writing where the kernel's own memory of files plays a part."""

import errno
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mountd.vfs.file_clock import file_time_ns
from tests.mount.mounting import Mounted, mounted

pytestmark = [pytest.mark.fuse]

SECOND_NS = 1_000_000_000


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    (tmp_path / "remote").mkdir()
    return tmp_path / "remote"


@pytest.fixture
def mount(remote: Path, tmp_path: Path) -> Iterator[Mounted]:
    with mounted(f"file://{remote}", tmp_path, metadata_ttl_s=1) as found:
        yield found


@pytest.fixture
def slow_mount(remote: Path, tmp_path: Path) -> Iterator[Mounted]:
    """One that sends nothing of its own accord."""
    with mounted(f"file://{remote}", tmp_path, write_back_s=3600) as found:
        yield found


def flush(mount: Mounted) -> None:
    mount.cli("flush", str(mount.path), "--timeout", "25")


def next_ticks() -> None:
    """Until the kernel dates files anew."""
    end_ns = file_time_ns() + 12_000_000
    while file_time_ns() < end_ns:
        time.sleep(0.001)


@pytest.mark.parametrize("how", ["unlink", "replace"])
def test_a_file_that_nobody_has_read_yet_is_read_after_it_is_gone(
    mount: Mounted, remote: Path, how: str
) -> None:
    data = os.urandom(3 << 20)
    (remote / "f").write_bytes(data)
    with (mount.path / "f").open("rb", buffering=0) as reader:
        if how == "unlink":
            (mount.path / "f").unlink()
        else:
            (mount.path / "new").write_bytes(b"new")
            (mount.path / "new").rename(mount.path / "f")
        flush(mount)
        assert sorted(os.listdir(remote)) == ([] if how == "unlink" else ["f"])
        assert os.pread(reader.fileno(), 4 << 20, 0) == data
        assert os.fstat(reader.fileno()).st_size == len(data)


def test_what_was_discarded_is_not_in_the_kernels_memory_either(
    slow_mount: Mounted, remote: Path
) -> None:
    (remote / "f").write_bytes(b"as it was")
    path = slow_mount.path / "f"
    path.write_bytes(b"something else, and longer")
    with path.open("rb") as reader:
        assert reader.read(9) == b"something"
        slow_mount.cli("queue", "--discard", "f", "--yes", str(slow_mount.path))
        assert path.read_bytes() == b"as it was"
        assert path.stat().st_size == 9


def test_a_conflict_shows_both_versions_also_to_who_has_the_file_open(
    mount: Mounted, remote: Path
) -> None:
    (remote / "f").write_bytes(b"first")
    path = mount.path / "f"
    with path.open("r+b", buffering=0) as file:
        assert file.read() == b"first"
        (remote / "f").write_bytes(b"foreign, and longer")
        file.seek(0)
        file.write(b"ours!")
        flush(mount)
        copies = [name for name in os.listdir(mount.path) if "conflict" in name]
        assert len(copies) == 1
        assert path.read_bytes() == b"foreign, and longer"
        assert (mount.path / copies[0]).read_bytes() == b"ours!"
        os.pwrite(file.fileno(), b"OURS", 0)
    flush(mount)
    assert (remote / "f").read_bytes() == b"foreign, and longer"
    assert (remote / copies[0]).read_bytes() == b"OURS!"


def test_a_directory_is_renamed_while_files_in_it_are_written_and_read(
    mount: Mounted, remote: Path
) -> None:
    (remote / "d").mkdir()
    (remote / "d/read").write_bytes(bytes(range(256)) * 8192)
    with (mount.path / "d/written").open("wb", buffering=0) as writer:
        writer.write(b"before ")
        with (mount.path / "d/read").open("rb", buffering=0) as reader:
            assert reader.read(4) == bytes(range(4))
            (mount.path / "d").rename(mount.path / "e")
            flush(mount)
            writer.write(b"after")
            assert os.pread(reader.fileno(), 4, 1 << 20) == bytes(range(4))
            assert sorted(os.listdir(mount.path / "e")) == ["read", "written"]
    flush(mount)
    assert (remote / "e/written").read_bytes() == b"before after"
    assert not (remote / "d").exists()


def test_one_handle_cuts_what_another_has_written(mount: Mounted, remote: Path) -> None:
    path = mount.path / "f"
    with path.open("wb", buffering=0) as one:
        one.write(b"x" * 100_000)
        os.truncate(path, 10)
        assert path.stat().st_size == 10
        one.write(b"end")
    wanted = b"x" * 10 + bytes(99_990) + b"end"
    assert path.read_bytes() == wanted
    flush(mount)
    assert (remote / "f").read_bytes() == wanted


def test_times_and_numbers_stay_over_an_upload(
    mount: Mounted, remote: Path, tmp_path: Path
) -> None:
    path = mount.path / "f"
    path.write_bytes(b"x")
    before = path.stat()
    flush(mount)
    time.sleep(1.2)  # longer than the kernel keeps attributes here
    after = path.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    flush(mount)
    assert path.stat().st_mtime_ns == 1_234_567_890_123_456_789


@pytest.mark.parametrize("when", ["created", "later", "emptied"])
def test_the_kernels_mtime_is_the_uploads_also_where_it_sends_none(
    mount: Mounted, remote: Path, when: str
) -> None:
    """A write in the tick in which the file was made, or was told a time, changes none."""
    for name in map(str, range(10)):
        with (mount.path / name).open("wb", buffering=0) as file:
            if when != "created":
                next_ticks()
            if when == "emptied":
                file.truncate(5)
            file.write(b"x" * 10)
            next_ticks()
    seen = {path.name: path.stat().st_mtime_ns for path in mount.path.glob("?")}
    assert len(seen) == 10
    flush(mount)
    assert seen == {path.name: path.stat().st_mtime_ns for path in remote.iterdir()}


def test_most_files_that_are_made_and_written_send_no_times(counted: Mounted) -> None:
    """On a machine that does nothing else 97 of 100: made and written within one tick of the
    kernel's clock. One is enough here, and on a busy one that takes some tries."""
    for number in range(2000):
        (counted.path / str(number)).write_bytes(b"x" * 10_000)
        if number % 50 == 49:
            calls = requests(counted)
            assert calls["create"] == number + 1
            if calls["setattr"] < calls["create"]:
                break
    assert calls["setattr"] < calls["create"]


def test_only_the_first_write_to_a_file_asks_for_its_capabilities(counted: Mounted) -> None:
    with (counted.path / "f").open("wb", buffering=0) as file:
        for _ in range(500):
            file.write(b"x" * 4096)
        assert os.listxattr(counted.path / "f")  # there are some all the same
    # The kernel asks again with each new look at the attributes.
    assert requests(counted)["getxattr"] < 50


def test_the_kernels_mtime_goes_with_the_upload_that_a_close_waits_for(
    remote: Path, tmp_path: Path
) -> None:
    with mounted(f"file://{remote}", tmp_path, durability="remote") as mount:
        for name in "abcde":
            with (mount.path / name).open("wb", buffering=0) as file:
                file.write(b"x" * 10)
                next_ticks()
            seen = (mount.path / name).stat().st_mtime_ns
            assert (remote / name).stat().st_mtime_ns == seen


@pytest.fixture
def counted(remote: Path, tmp_path: Path) -> Iterator[Mounted]:
    with mounted(f"file://{remote}", tmp_path, metrics="127.0.0.1:0") as found:
        yield found


def requests(mount: Mounted) -> dict[str, float]:
    """Those of the kernel, by handler."""
    with urllib.request.urlopen(f"http://{mount.status()['metrics']}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    counts = [line for line in lines if line.startswith("mountd_fuse_requests_total{")]
    return {line.split('"')[1]: float(line.split(" ")[1]) for line in counts}


def test_mountds_own_directory_can_not_be_made_moved_or_written(mount: Mounted) -> None:
    (mount.path / "d").mkdir()
    for attempt in (
        lambda: os.rename(mount.path / "d", mount.path / ".mountd"),
        lambda: os.rename(mount.path / ".mountd", mount.path / "x"),
        lambda: os.mkdir(mount.path / ".mountd/x"),
        lambda: os.unlink(mount.path / ".mountd/status.json"),
        lambda: os.open(mount.path / ".mountd/status.json", os.O_WRONLY),
        lambda: os.truncate(mount.path / ".mountd/status.json", 0),
    ):
        with pytest.raises(OSError, match=r".") as caught:
            attempt()
        assert caught.value.errno in (errno.EPERM, errno.ENOENT, errno.EINVAL, errno.ENOTEMPTY)
    assert os.listdir(mount.path) == ["d"]


def test_special_files_are_refused(mount: Mounted) -> None:
    with pytest.raises(OSError, match="not permitted"):
        os.mkfifo(mount.path / "fifo")
    os.mknod(mount.path / "plain", 0o100644)
    assert (mount.path / "plain").read_bytes() == b""


def test_a_directorys_time_moves_with_the_names_in_it(slow_mount: Mounted, remote: Path) -> None:
    """Else Python finds no module that was written since it looked, and git no new file."""
    (remote / "there").mkdir()
    path = slow_mount.path
    slow_mount.cli("refresh", str(path))
    (path / "made").mkdir()
    changes: list[Callable[[Path], object]] = [
        lambda at: (at / "f").write_bytes(b""),
        lambda at: (at / "d").mkdir(),
        lambda at: (at / "l").symlink_to("f"),
        lambda at: (at / "f").rename(at / "g"),
        lambda at: (at / "g").unlink(),
        lambda at: (at / "d").rmdir(),
    ]
    for directory in (path / "there", path / "made"):
        for change in changes:
            os.utime(directory, ns=(SECOND_NS, SECOND_NS))
            assert directory.stat().st_mtime_ns == SECOND_NS
            change(directory)
            assert directory.stat().st_mtime_ns > SECOND_NS
            [entry] = [each for each in os.scandir(path) if each.name == directory.name]
            assert entry.stat().st_mtime_ns == directory.stat().st_mtime_ns
    program = "import sys; sys.path.insert(0, '.')\n"
    program += "try: import written\nexcept ImportError: pass\n"
    program += "open('written.py', 'w').close()\nimport written\n"
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=path / "there", check=True, timeout=60)
