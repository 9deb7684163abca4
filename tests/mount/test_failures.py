"""What a program sees when the remote misbehaves: true errnos within bounds, never ENOENT, zeros,
a mix, or an empty directory."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.stopwatch import fastest_s
from tests.mount.mounting import Mounted, is_mounted, mounted, small_disk
from tests.servers.s3.launch import S3Server
from tests.servers.s3.seeding import synthetic_bytes

pytestmark = [pytest.mark.fuse, pytest.mark.server]

MIB = 1 << 20
TIMEOUT_S = 4
# More than the bound on a loaded machine, and far less than for ever.
GENEROUS_S = 60


@pytest.fixture
def mount(s3_server: S3Server, tmp_path: Path) -> Iterator[Mounted]:
    """A bucket with a small file, a large one, and a directory that was never listed."""
    s3_server.put("b", "known/small", b"small")
    s3_server.seed("b", keys=["known/large"], size=40 * MIB)
    s3_server.put("b", "unknown/file", b"unknown")
    environment = s3_server.environment()
    with mounted("s3://b", tmp_path, environment=environment, request_timeout_s=TIMEOUT_S) as found:
        assert sorted(os.listdir(found.path / "known")) == ["large", "small"]
        assert (found.path / "known/small").read_bytes() == b"small"
        yield found


def failure(path: Path, offset: int = 20 * MIB) -> int:
    """The errno of reading 4 KiB of the large file; 0 where it worked and was right."""
    began = time.monotonic()
    try:
        with path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), 4096, offset)
            assert data == synthetic_bytes("known/large", offset, offset + 4096)
    except OSError as error:
        return error.errno or -1
    finally:
        assert time.monotonic() - began < GENEROUS_S
    return 0


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 403}, {errno.EACCES}),
        ({"status": 500}, {errno.EIO}),
        ({"status": 503, "retry_after_s": 60}, {errno.EBUSY}),
        ({"status": 429, "retry_after_s": 60}, {errno.EBUSY}),
        ({"hang": True}, {errno.EIO, errno.ETIMEDOUT}),
        ({"reset": True}, {errno.EIO}),
        ({"cut_after_bytes": 1000}, {errno.EIO}),
        ({"cut_after_bytes": 1000, "cut_with_reset": True}, {errno.EIO}),
        ({"extra_length": 10}, {errno.EIO}),
        ({"wrong_content_range": True}, {errno.EIO}),
        ({"status": 404, "code": "NoSuchBucket"}, {errno.EIO}),
    ],
    ids=str,
)
def test_a_read_that_keeps_failing_ends_in_a_true_errno_and_heals_afterwards(
    s3_server: S3Server, mount: Mounted, fault: dict[str, Any], expected: set[int]
) -> None:
    large = mount.path / "known/large"
    s3_server.faults({"op": "GetObject", "key": "large", **fault})
    assert failure(large) in expected
    assert (mount.path / "known/small").read_bytes() == b"small"  # what is cached stays readable
    assert sorted(os.listdir(mount.path / "known")) == ["large", "small"]
    s3_server.clear_faults()
    s3_server.release()
    if "retry_after_s" not in fault:
        _until_healed(lambda: failure(large, 30 * MIB))


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503, "retry_after_s": 0},
        {"reset": True},
        {"cut_after_bytes": 1000},
    ],
    ids=str,
)
def test_a_passing_fault_is_not_even_noticed(
    s3_server: S3Server, mount: Mounted, fault: dict[str, Any]
) -> None:
    s3_server.faults({"op": "GetObject", "key": "large", "times": 1, **fault})
    assert failure(mount.path / "known/large") == 0


@pytest.mark.parametrize(
    "fault",
    [{"status": 500}, {"status": 403}, {"reset": True}, {"status": 404, "code": "NoSuchBucket"}],
    ids=str,
)
def test_a_listing_that_fails_is_an_error_never_an_empty_directory(
    s3_server: S3Server, mount: Mounted, fault: dict[str, Any]
) -> None:
    s3_server.faults({"op": "ListObjectsV2", **fault})
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        os.listdir(mount.path / "unknown")
    assert caught.value.errno in (errno.EIO, errno.EACCES)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        (mount.path / "unknown/file").stat()
    assert caught.value.errno in (errno.EIO, errno.EACCES)


def test_a_listing_cut_in_the_middle_is_no_listing(s3_server: S3Server, mount: Mounted) -> None:
    s3_server.seed("b", prefix="many/", keys=[f"many/{i:04d}" for i in range(2500)], size=1)
    s3_server.faults({"op": "ListObjectsV2", "prefix": "many/", "skip": 1, "status": 500})
    mount.cli("refresh", str(mount.path))
    with pytest.raises(OSError, match="Input/output error"):
        os.listdir(mount.path / "many")
    s3_server.clear_faults()
    _until_healed(lambda: 0 if len(os.listdir(mount.path / "many")) == 2500 else 1)


def test_once_the_remote_is_known_to_be_down_nobody_waits(
    s3_server: S3Server, mount: Mounted
) -> None:
    s3_server.refuse_connections()
    try:
        assert failure(mount.path / "known/large") == errno.EIO
        assert mount.status()["remote"]["state"] == "unreachable"
        requests = mount.requests()["get"]

        def read_all() -> None:
            for i in range(50):
                assert failure(mount.path / "known/large", i * MIB // 4 + 21 * MIB) == errno.EIO

        assert fastest_s(read_all, TIMEOUT_S) < TIMEOUT_S
        assert mount.requests()["get"] == requests
        assert (mount.path / "known/small").read_bytes() == b"small"
    finally:
        s3_server.accept_connections()
    _until_healed(lambda: failure(mount.path / "known/large"))
    assert mount.status()["remote"]["state"] in ("ok", "degraded")


def test_status_and_statfs_answer_while_a_request_hangs(
    s3_server: S3Server, mount: Mounted
) -> None:
    s3_server.faults({"op": "GetObject", "key": "large", "hold": True})
    reader = threading.Thread(target=failure, args=(mount.path / "known/large",))
    reader.start()
    try:
        s3_server.wait_for_requests(1, op="GetObject", prefix="known/large")
        assert mount.status()["state"] == "ready"
        assert os.statvfs(mount.path).f_namemax == 255
        assert (mount.path / "known/large").stat().st_size == 40 * MIB
        assert (mount.path / "known/small").read_bytes() == b"small"
    finally:
        s3_server.release()
        s3_server.clear_faults()
        reader.join(GENEROUS_S)


def test_an_expired_token_is_eacces_and_what_is_cached_stays(
    s3_server: S3Server, mount: Mounted
) -> None:
    s3_server.set_knobs(token_expired=True)
    assert failure(mount.path / "known/large") == errno.EACCES
    assert (mount.path / "known/small").read_bytes() == b"small"
    assert sorted(os.listdir(mount.path / "known")) == ["large", "small"]


def test_a_dead_daemons_mount_is_repaired_by_the_next_mount(
    s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.put("b", "f", b"x")
    environment = s3_server.environment()
    with mounted("s3://b", tmp_path, environment=environment) as first:
        assert (first.path / "f").read_bytes() == b"x"
        first.kill()
        assert is_mounted(first.path)
        with pytest.raises(OSError, match="not connected"):
            (first.path / "f").read_bytes()
        with mounted("s3://b", tmp_path, environment=environment) as second:
            assert (second.path / "f").read_bytes() == b"x"


def test_until_its_successor_can_mount_a_dead_mount_gives_errors_and_no_empty_folder(
    s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.put("b", "f", b"x")
    s3_server.put("never-listed", "g", b"y")
    environment = s3_server.environment()
    seen: list[int] = []

    def look(path: Path) -> None:
        try:
            s3_server.wait_for_requests(1, op="ListObjectsV2", timeout_s=GENEROUS_S)
            with pytest.raises(OSError, match="not connected") as caught:
                os.listdir(path)
            seen.append(-(caught.value.errno or 0))
        finally:
            s3_server.clear_faults()
            s3_server.release()

    with mounted("s3://b", tmp_path, environment=environment) as first:
        first.kill()
        s3_server.clear_log()
        s3_server.faults({"op": "ListObjectsV2", "hold": True})
        looker = threading.Thread(target=look, args=(first.path,))
        looker.start()
        try:
            with mounted("s3://never-listed", tmp_path, environment=environment) as second:
                assert (second.path / "g").read_bytes() == b"y"
        finally:
            looker.join(2 * GENEROUS_S)
    assert seen == [-errno.ENOTCONN]


@pytest.mark.skipif(os.geteuid() != 0, reason="looks below a mount, which takes root")
def test_what_lies_below_a_dead_mount_is_not_hidden_again(
    s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.put("b", "f", b"x")
    environment = s3_server.environment()
    below = tmp_path / "below"
    below.mkdir()
    with mounted("s3://b", tmp_path, environment=environment) as first:
        subprocess.run(["mount", "--bind", tmp_path, below], check=True)
        (below / "mnt/in the way").write_text("written while nothing was mounted")
        subprocess.run(["umount", below], check=True)
        first.kill()
        with (
            pytest.raises(AssertionError, match="is not empty"),
            mounted("s3://b", tmp_path, environment=environment),
        ):
            pass
        assert os.listdir(first.path) == ["in the way"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a volume as docker does, which takes root")
def test_a_cache_in_a_mount_of_ours_is_refused_also_as_a_volume(
    mount: Mounted, tmp_path: Path
) -> None:
    (volume := tmp_path / "volume").mkdir()
    (elsewhere := tmp_path / "elsewhere").mkdir()
    command: list[str | Path] = [sys.executable, "-m", "mountd", "mount", "s3://b/known"]
    subprocess.run(["mount", "--bind", mount.path / "known", volume], check=True)
    try:
        for cache_dir in (mount.path / "known/cache", volume / "cache"):
            done = subprocess.run(
                [*command, elsewhere, "-o", f"cache_dir={cache_dir}"],
                env=mount.environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=90,
            )
            assert f"cache_dir {cache_dir} lies inside the mountd mount" in done.stderr
            assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    finally:
        # Lazily: who looks at all mounts (`mountd status` of another test) may be in it just now.
        subprocess.run(["umount", "-l", volume], check=True)
    assert sorted(os.listdir(mount.path / "known")) == ["large", "small"]


def test_after_sigkill_the_cache_is_still_good(s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.seed("b", keys=["f"], size=20 * MIB)
    body = synthetic_bytes("f", 0, 20 * MIB)
    environment = s3_server.environment()
    with mounted("s3://b", tmp_path, environment=environment) as first:
        assert (first.path / "f").read_bytes() == body
        first.kill()
    with mounted("s3://b", tmp_path, environment=environment) as second:
        assert (second.path / "f").read_bytes() == body


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs, which takes root")
def test_with_a_full_cache_disk_reading_goes_on_past_it(
    s3_server: S3Server, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 6) as disk:
        s3_server.seed("b", keys=["f"], size=40 * MIB)
        environment = s3_server.environment()
        with mounted(
            "s3://b", tmp_path, environment=environment, cache_dir=disk, cache_size="1GiB"
        ) as found:
            body = synthetic_bytes("f", 0, 40 * MIB)
            assert (found.path / "f").read_bytes() == body
            found.cli("refresh", str(found.path))
            assert (found.path / "f").read_bytes() == body
            assert shutil.disk_usage(disk).used <= 6 * MIB


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs, which takes root")
def test_a_killed_daemons_successor_comes_up_on_a_full_cache_disk_and_sends_what_waits(
    s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.put("lab", "there", b"there")
    environment = s3_server.environment()
    with small_disk(tmp_path / "disk", 24) as disk:
        options = {"cache_dir": disk / "cache", "cache_size": "200MiB", "request_timeout_s": 5}
        taken: dict[str, bytes] = {}
        with mounted("s3://lab", tmp_path, environment=environment, **options) as mount:
            os.listdir(mount.path)
            s3_server.refuse_connections()
            with contextlib.suppress(OSError):
                for number in range(100):
                    data = os.urandom(MIB)
                    with (mount.path / f"f{number}").open("wb") as file:
                        file.write(data)
                        os.fsync(file.fileno())
                    taken[f"f{number}"] = data
            mount.kill()
        with mounted("s3://lab", tmp_path, environment=environment, **options) as mount:
            assert {name: (mount.path / name).read_bytes() for name in taken} == taken
            s3_server.accept_connections()
            mount.cli("flush", str(mount.path), "--timeout", "60")
            assert {name: s3_server.read("lab", name) for name in taken} == taken
            # What was sent has made room.
            (mount.path / "more").write_bytes(os.urandom(8 << 20))
            mount.cli("flush", str(mount.path), "--timeout", "60")
    assert 5 < len(taken) < 100


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs, which takes root")
def test_on_a_full_cache_disk_clean_blocks_give_way_to_what_is_written(
    s3_server: S3Server, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 48) as disk:
        s3_server.seed("b", keys=["f"], size=60 * MIB)
        environment = s3_server.environment()
        with mounted(
            "s3://b", tmp_path, environment=environment, cache_dir=disk, cache_size="1GiB"
        ) as found:
            _until_healed(lambda: 0 if _fills(disk, found.path / "f") else 1)
            s3_server.faults({"op": "UploadPart", "hold": True}, {"op": "PutObject", "hold": True})
            written = synthetic_bytes("written", 0, 24 * MIB)
            (found.path / "written").write_bytes(written)
            s3_server.clear_faults()
            s3_server.release()
            found.cli("flush", str(found.path))
        assert s3_server.read("b", "written") == written


def test_the_cache_never_outgrows_its_limit(s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.seed("b", keys=["f"], size=60 * MIB)
    environment = s3_server.environment()
    limit = 16 * MIB
    with mounted("s3://b", tmp_path, environment=environment, cache_size=limit) as found:
        most = 0
        with (found.path / "f").open("rb", buffering=0) as file:
            while file.read(MIB):
                # A block that goes and one that comes while they are counted are not there at once.
                found.process.send_signal(signal.SIGSTOP)
                try:
                    most = max(most, _allocated(tmp_path / "cache"))
                finally:
                    found.process.send_signal(signal.SIGCONT)
        assert most > 4 * MIB
        assert most <= limit + 2 * MIB


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_block_is_fetched_again_never_shown(
    s3_server: S3Server, tmp_path: Path, damage: str
) -> None:
    s3_server.seed("b", keys=["f"], size=3 * MIB)
    body = synthetic_bytes("f", 0, 3 * MIB)
    environment = s3_server.environment()
    with mounted("s3://b", tmp_path, environment=environment) as found:
        assert (found.path / "f").read_bytes() == body
        deadline = time.monotonic() + 60
        while found.status()["cache"]["bytes"] < 3 * MIB and time.monotonic() < deadline:
            time.sleep(0.02)
    blocks = [p for p in (tmp_path / "cache").rglob("blocks/*/*") if p.stat().st_size > MIB // 2]
    assert len(blocks) == 3
    for block in blocks:
        with block.open("r+b") as file:
            if damage == "truncate":
                file.truncate(500_000)
            else:
                file.seek(700_000)
                file.write(bytes([file.read(1)[0] ^ 1]))
    with mounted("s3://b", tmp_path, environment=environment) as found:
        assert (found.path / "f").read_bytes() == body


def _allocated(folder: Path) -> int:
    total = 0
    for path in folder.rglob("blocks/*/*"):
        with contextlib.suppress(FileNotFoundError):  # blocks come and go while we count
            total += path.stat().st_blocks * 512
    return total


def _fills(disk: Path, path: Path) -> bool:
    """Reads all of it, and says whether most of the disk is blocks then: what comes faster than it
    can be written there is not kept."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert file.readall() == synthetic_bytes("f", 0, 60 * MIB)
    return _allocated(disk) > 30 * MIB


def _until_healed(attempt: Any) -> None:
    deadline = time.monotonic() + GENEROUS_S
    while True:
        try:
            if attempt() == 0:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, "the mount did not heal"
        time.sleep(0.1)
