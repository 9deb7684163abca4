"""Signals end a daemon soon, whatever the remote does; `refresh` lasts and hides nothing."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mountd.control.client import request
from tests.mount.mounting import is_mounted, mounted
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]

MIB = 1 << 20
# The requests here hang for 60 s; what is promised takes 5 s, and this machine is a busy one.
SOON_S = 20


@contextmanager
def hanging_read(server: S3Server, path: Path) -> Iterator[list[int]]:
    """A read under way that the remote doesn't answer; its errno is in the list once it ended."""
    ended: list[int] = []
    server.faults({"op": "GetObject", "hold": True})

    def read() -> None:
        try:
            with path.open("rb", buffering=0) as file:
                os.pread(file.fileno(), 4096, 20 * MIB)
            ended.append(0)
        except OSError as error:
            ended.append(error.errno or -1)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        server.wait_for_requests(1, op="GetObject")
        yield ended
    finally:
        server.release()
        server.clear_faults()
        reader.join(SOON_S)


def test_sigterm_ends_the_daemon_soon_although_a_read_hangs(
    s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.seed("b", keys=["f"], size=40 * MIB)
    with (
        mounted("s3://b", tmp_path, environment=s3_server.environment()) as found,
        hanging_read(s3_server, found.path / "f") as ended,
    ):
        found.process.terminate()
        assert found.process.wait(SOON_S) == 0
        assert not is_mounted(found.path)
    assert ended[0] in (errno.ENOTCONN, errno.EIO, errno.ECONNABORTED)
    log = found.log.read_text()
    assert "failed to unmount" not in log
    assert "Traceback" not in log


def test_a_second_sigterm_ends_the_daemon_at_once(s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.seed("b", keys=["f"], size=40 * MIB)

    def second_sigterm_s() -> float:
        s3_server.clear_log()
        with (
            mounted("s3://b", tmp_path, environment=s3_server.environment()) as found,
            hanging_read(s3_server, found.path / "f"),
        ):
            found.process.terminate()
            _wait_for_line(found.log, "was detached")
            began_s = time.monotonic()
            found.process.terminate()
            assert found.process.wait(SOON_S) == 0
            took_s = time.monotonic() - began_s
        assert "ending at once" in found.log.read_text()
        return took_s

    # 4 s is the bound of a first SIGTERM. (On a busy machine any one may take long.)
    assert any(second_sigterm_s() < 4 for _ in range(4))


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [(signal.SIGINT, 130, ""), (signal.SIGTERM, 1, "mountd: SIGTERM before s3://b was mounted\n")],
)
def test_a_start_against_a_silent_remote_can_be_broken_off(
    s3_server: S3Server, tmp_path: Path, number: signal.Signals, code: int, words: str
) -> None:
    s3_server.put("b", "f", b"x")
    s3_server.faults({"hang": True})
    path = tmp_path / "mnt"
    path.mkdir()
    environment = os.environ | s3_server.environment()
    environment |= {
        "MOUNTD_CACHE_DIR": str(tmp_path / "cache"),
        "MOUNTD_RUNTIME_DIR": str(tmp_path / "run"),
    }
    s3_server.clear_log()
    command = [sys.executable, "-m", "mountd", "mount", "s3://b", str(path), "--foreground"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        s3_server.wait_for_requests(1)
        process.send_signal(number)
        _, said = process.communicate(timeout=SOON_S)
    finally:
        process.kill()
        process.wait(SOON_S)
        s3_server.clear_faults()
        s3_server.release()
    assert (process.returncode, said) == (code, words)
    assert not is_mounted(path)


def test_after_a_refresh_names_that_were_not_there_are_found_by_name(
    s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.put("b", "d/f", b"x")
    environment = s3_server.environment()
    with mounted("s3://b", tmp_path, environment=environment, metadata_ttl_s=3600) as found:
        new = [found.path / "new", found.path / "d/new"]
        assert not any(path.exists() for path in new)
        for key in ("new", "d/new"):
            s3_server.put("b", key, b"here")
        assert not any(path.exists() for path in new)  # the kernel knows better
        found.cli("refresh", str(found.path / "d"))
        assert [path.exists() for path in new] == [False, True]
        found.cli("refresh", str(found.path))
        assert [path.read_bytes() for path in new] == [b"here", b"here"]


def test_a_refresh_outlives_sigkill(s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.put("b", "d/old", b"x")
    environment = s3_server.environment()
    with mounted("s3://b", tmp_path, environment=environment, metadata_ttl_s=3600) as first:
        assert os.listdir(first.path / "d") == ["old"]
        s3_server.put("b", "d/new", b"x")
        (socket,) = (tmp_path / "run").glob("*.sock")
        request(socket, {"op": "refresh", "path": ""}, SOON_S)
        first.kill()  # without the time that a command takes to end
    with mounted("s3://b", tmp_path, environment=environment, metadata_ttl_s=3600) as second:
        assert sorted(os.listdir(second.path / "d")) == ["new", "old"]


def _wait_for_line(log: Path, words: str) -> None:
    deadline = time.monotonic() + SOON_S
    while words not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def test_a_daemon_ends_although_the_kernel_is_being_told_of_a_name_that_somebody_looks_up(
    s3_server: S3Server, tmp_path: Path
) -> None:
    """The kernel forgets no name in a directory while a look-up there waits for its answer."""
    s3_server.put("b", "d/f", b"1")
    with mounted(
        "s3://b", tmp_path, environment=s3_server.environment(), metadata_ttl_s=1
    ) as found:
        assert os.listdir(found.path / "d") == ["f"]
        time.sleep(1.2)
        s3_server.clear_log()
        s3_server.faults({"op": "ListObjectsV2", "hold": True})
        looks = subprocess.Popen(["stat", str(found.path / "new")], stderr=subprocess.DEVNULL)
        try:
            s3_server.wait_for_requests(1, op="ListObjectsV2")
            refresh = subprocess.Popen(
                [sys.executable, "-m", "mountd", "refresh", str(found.path / "d")],
                env=found.environment,
                stderr=subprocess.DEVNULL,
            )
            wait_until_told(found.process.pid)
            found.process.terminate()
            _wait_for_line(found.log, "SIGTERM: unmounting")
            found.process.terminate()
            assert found.process.wait(SOON_S) in (0, 75)
            assert not is_mounted(found.path)
        finally:
            looks.kill()
            s3_server.release()
            s3_server.clear_faults()
        looks.wait(SOON_S)
        refresh.wait(SOON_S)
    assert "Traceback" not in found.log.read_text()


def wait_until_told(pid: int) -> None:
    """Until a thread of the daemon waits in the kernel for the directory."""
    until_s = time.monotonic() + SOON_S
    while time.monotonic() < until_s:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # a thread that has just ended
                if "inval_entry" in (task / "wchan").read_text():
                    return
        time.sleep(0.02)
    raise AssertionError("the kernel was not told")


def test_what_was_written_is_handed_over_although_a_listing_of_the_root_hangs(
    s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.put("b", "f", b"1")
    environment = s3_server.environment()
    with mounted("s3://b", tmp_path, environment=environment, metadata_ttl_s=1) as found:
        (found.path / "first").write_bytes(b"1")
        found.cli("flush", str(found.path), "--timeout", "25")
        file = os.open(found.path / "new", os.O_WRONLY | os.O_CREAT)
        os.write(file, b"in the kernel's pages")
        time.sleep(1.2)
        s3_server.clear_log()
        s3_server.faults({"op": "ListObjectsV2", "hold": True})
        looks = subprocess.Popen(["touch", str(found.path / "other")], stderr=subprocess.DEVNULL)
        try:
            s3_server.wait_for_requests(1, op="ListObjectsV2")
            found.process.terminate()
            assert found.process.wait(SOON_S) == 0
        finally:
            s3_server.clear_faults()
            s3_server.release()
            with suppress(OSError):  # the mount is gone
                os.close(file)
            looks.wait(SOON_S)
        assert s3_server.read("b", "new") == b"in the kernel's pages"


BUSY_ONCE = """#!/bin/sh
mv "$0.first" "$0.was" 2>/dev/null && echo "umount: target is busy." >&2 && exit 32
exec {umount} "$@"
"""


def test_who_looks_at_a_mount_for_a_moment_keeps_nobody_from_unmounting_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "bin").mkdir()
    for name in ("umount", "fusermount3"):
        program, real = tmp_path / "bin" / name, shutil.which(name)
        program.write_text(BUSY_ONCE.format(umount=real))
        program.chmod(0o755)
        program.with_name(f"{name}.first").touch()
    with mounted(f"file://{tmp_path / 'data'}", tmp_path) as found:
        found.environment["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        found.cli("umount", str(found.path))
        assert len(list((tmp_path / "bin").glob("*.was"))) == 1
        assert found.process.wait(SOON_S) == 0


def test_a_part_that_hangs_does_not_keep_the_daemon_when_the_time_to_stop_is_over(
    s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.make_bucket("b")
    environment = s3_server.environment()
    with mounted("s3://b", tmp_path, environment=environment, stop_timeout_s=2) as found:
        s3_server.faults({"op": "UploadPart", "hold": True})
        (found.path / "large").write_bytes(bytes(64 * MIB))
        try:
            s3_server.wait_for_requests(1, op="UploadPart")
            found.process.terminate()
            assert found.process.wait(SOON_S) == 75
        finally:
            s3_server.release()
            s3_server.clear_faults()
    assert "Traceback" not in found.log.read_text()


def test_a_stop_finds_a_remote_that_is_back_and_does_not_wait_for_the_next_look_at_it(
    s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.make_bucket("b")
    options = {"stop_timeout_s": 7, "write_back_s": 0, "request_timeout_s": 2}
    with mounted("s3://b", tmp_path, environment=s3_server.environment(), **options) as found:
        assert os.listdir(found.path) == []
        s3_server.refuse_connections()
        try:
            (found.path / "f").write_bytes(b"1")
            deadline = time.monotonic() + 120
            while found.status()["remote"]["state"] != "unreachable":
                assert time.monotonic() < deadline
                time.sleep(0.1)
            looks = found.requests()["list"] + 4
            while (
                found.requests()["list"] < looks
            ):  # the next comes in 4 s at the soonest, more likely in 12
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            s3_server.accept_connections()
        assert found.stop() == 0
    assert s3_server.read("b", "f") == b"1"
