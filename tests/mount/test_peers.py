"""Seven ways in which the most used peer loses acknowledged data, each tried on the real daemon and
a real server. The comment says what `rclone mount` 1.75.2 with its full cache did."""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mountd.remotes.object_store import PROBE_NAME
from tests.mount.mounting import Mounted, mounted
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]

MIB = 1 << 20
WAIT_S = 30.0


def old_bytes(size: int) -> bytes:
    return bytes(range(251)) * (size // 251) + b"\1" * (size % 251)


def mount_of(server: S3Server, folder: Path, **options: object) -> Any:
    settings: dict[str, object] = {"request_timeout_s": 5, "stop_timeout_s": 20, **options}
    return mounted("s3://b", folder, environment=server.environment(), **settings)


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline, f"not in {WAIT_S:g} s: {what}"
        time.sleep(0.02)


def write_at(path: Path, offset: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def left(mount: Mounted) -> int:
    queue = mount.status()["queue"]
    return int(queue["pending"] + queue["uploading"] + queue["failed"])


def conflicts(server: S3Server) -> list[str]:
    return [key for key in server.keys("b") if "conflict" in key]


def test_p1_every_synced_write_into_a_remote_file_survives_a_kill(
    s3_server: S3Server, tmp_path: Path
) -> None:
    """rclone: one of four survives, and the stale file is uploaded as "succeeded"."""
    old = old_bytes(4 * MIB)
    s3_server.put("b", "model.bin", old)
    new = bytearray(old)
    with mount_of(s3_server, tmp_path, write_back_s=3600) as mount:
        fd = os.open(mount.path / "model.bin", os.O_RDWR)
        for i in range(4):
            new[i * MIB + 512 : i * MIB + 512 + 4096] = bytes([65 + i]) * 4096
            os.pwrite(fd, bytes([65 + i]) * 4096, i * MIB + 512)
            os.fsync(fd)
        mount.kill()
        with contextlib.suppress(OSError):  # its daemon is dead
            os.close(fd)
    with mount_of(s3_server, tmp_path) as mount:
        assert (mount.path / "model.bin").read_bytes() == new
        mount.cli("flush", str(mount.path))
        assert s3_server.read("b", "model.bin") == new
    assert conflicts(s3_server) == []


def test_p2_a_damaged_database_never_deletes_what_was_written(
    s3_server: S3Server, tmp_path: Path
) -> None:
    """rclone: the dirty data is deleted at INFO level on the next start."""
    data = os.urandom(3 * MIB)
    s3_server.put("b", "other", b"1")
    with mount_of(s3_server, tmp_path, write_back_s=3600) as mount:
        (mount.path / "week-of-work").write_bytes(data)
        time.sleep(6)  # the log has been absorbed by the database
        mount.kill()
    [database] = (tmp_path / "cache").rglob("journal.db")
    damage(database)
    with mount_of(s3_server, tmp_path) as mount:
        assert (mount.path / "other").read_bytes() == b"1"
        found = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
        assert any(data in p.read_bytes() for p in found if p.stat().st_size >= len(data))
        assert "quarantine" in mount.log.read_text()


def damage(database: Path) -> None:
    content = database.read_bytes()
    for suffix in ("", "-wal"):
        path = database.with_name(database.name + suffix)
        if path.exists():
            path.write_bytes(b"torn" + content[4:2000])


def test_after_the_journal_was_lost_a_file_of_the_remote_is_seen_that_only_the_journal_knew(
    s3_server: S3Server, tmp_path: Path
) -> None:
    """It was sent, and edited before the kept listing had it."""
    s3_server.put("b", "other", b"1")
    with mount_of(s3_server, tmp_path) as mount:
        assert os.listdir(mount.path) == ["other"]
    with mount_of(s3_server, tmp_path, write_back_s=0.1) as mount:
        (mount.path / "sent").write_bytes(b"on the remote")
        until(lambda: "sent" in s3_server.keys("b"), "sent")
        s3_server.faults({"op": "PutObject", "status": 503})
        write_at(mount.path / "sent", 0, b"EDITED")
        mount.kill()
    s3_server.clear_faults()
    [database] = (tmp_path / "cache").rglob("journal.db")
    damage(database)
    for log in (database.parent / "log").iterdir():
        log.write_bytes(b"torn" + bytes(2000))
    with mount_of(s3_server, tmp_path) as mount:
        assert (mount.path / "sent").read_bytes() == b"on the remote"
        assert sorted(os.listdir(mount.path)) == ["other", "sent"]


def test_p3_a_full_remote_is_told_to_whoever_closes_the_file(
    s3_server: S3Server, tmp_path: Path
) -> None:
    """rclone with `--vfs-write-back 0`: write, fsync and close succeed; nothing is there."""
    s3_server.make_bucket("b")
    with mount_of(s3_server, tmp_path, durability="remote", stop_timeout_s=1) as mount:
        s3_server.faults({"method": "PUT", "key": "full", "status": 507})
        fd = os.open(mount.path / "full", os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"precious")
        with pytest.raises(OSError, match=r".") as caught:
            os.close(fd)
        assert caught.value.errno in (errno.EDQUOT, errno.EIO, errno.ENOSPC, errno.ETIMEDOUT)
        assert (mount.path / "full").read_bytes() == b"precious"
        assert left(mount) == 1
        s3_server.clear_faults()
        mount.cli("queue", str(mount.path), "--retry")
        mount.cli("flush", str(mount.path))
        assert s3_server.read("b", "full") == b"precious"


def test_p4_sigterm_waits_for_what_was_just_closed(s3_server: S3Server, tmp_path: Path) -> None:
    """rclone: it does not wait; in a container the data is gone."""
    s3_server.make_bucket("b")
    with mount_of(s3_server, tmp_path, write_back_s=3600) as mount:
        (mount.path / "result").write_bytes(b"r" * MIB)
        mount.process.send_signal(signal.SIGTERM)
        assert mount.process.wait(20) == 0
    assert s3_server.read("b", "result") == b"r" * MIB


def test_p5_holes_of_an_edited_file_are_never_sent_as_zeros(
    s3_server: S3Server, tmp_path: Path
) -> None:
    """rclone: 4,190,208 of 4,194,304 bytes destroyed."""
    old = old_bytes(4 * MIB)
    s3_server.put("b", "f", old)
    with mount_of(s3_server, tmp_path, write_back_s=0) as mount:
        os.listdir(mount.path)
        s3_server.refuse_connections()
        write_at(mount.path / "f", 2 * MIB, b"X" * 4096)
        mount.kill()
    with mount_of(s3_server, tmp_path, write_back_s=0) as mount:
        time.sleep(2)
        assert left(mount) == 1
        s3_server.accept_connections()
        until(lambda: left(mount) == 0, "sent")
        new = old[: 2 * MIB] + b"X" * 4096 + old[2 * MIB + 4096 :]
        assert s3_server.read("b", "f") == new
        assert (mount.path / "f").read_bytes() == new
    assert conflicts(s3_server) == []


def test_p6_what_somebody_else_wrote_meanwhile_is_kept_beside_ours(
    s3_server: S3Server, tmp_path: Path
) -> None:
    """rclone: silently overwritten."""
    s3_server.put("b", "paper.tex", b"old")
    with mount_of(s3_server, tmp_path, write_back_s=3600) as mount:
        (mount.path / "paper.tex").write_bytes(b"ours")
        s3_server.put("b", "paper.tex", b"theirs")
        mount.cli("flush", str(mount.path))
        until(lambda: bool(conflicts(s3_server)), "a conflict copy")
        [copy] = conflicts(s3_server)
        assert copy.startswith("paper (conflict ")
        assert copy.endswith(".tex")
        assert s3_server.read("b", "paper.tex") == b"theirs"
        assert s3_server.read("b", copy) == b"ours"
        until(lambda: (mount.path / "paper.tex").read_bytes() == b"theirs", "theirs is seen")
        assert (mount.path / copy).read_bytes() == b"ours"
        assert mount.status()["queue"]["conflicts"] == 1
        assert copy in mount.cli("queue", str(mount.path))


def test_p7_a_file_closed_while_the_remote_was_down_is_sent_without_anybody(
    s3_server: S3Server, tmp_path: Path
) -> None:
    """rclone: close returns 0, and it is not sent until somebody opens it again."""
    old = old_bytes(3 * MIB)
    s3_server.put("b", "f", old)
    with mount_of(s3_server, tmp_path, write_back_s=0) as mount:
        with (mount.path / "f").open("rb") as file:
            file.read(100_000)
        s3_server.refuse_connections()
        write_at(mount.path / "f", 10, b"edited")
        time.sleep(1)
        s3_server.accept_connections()
        new = old[:10] + b"edited" + old[16:]
        until(lambda: s3_server.read("b", "f") == new, "sent by itself")
        until(lambda: left(mount) == 0, "nothing is left")


def test_a_kill_after_close_loses_nothing(s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.put("b", "d/old", b"old")
    with mount_of(s3_server, tmp_path, write_back_s=3600) as mount:
        root = mount.path
        (root / "new").write_bytes(b"n" * 100_000)
        (root / "made").mkdir()
        (root / "made/x").write_bytes(b"x")
        (root / "d/old").rename(root / "d/renamed")
        with (root / "new").open("ab") as file:
            file.write(b"appended")
        os.utime(root / "made/x", (1, 1))
        before = {p: (p.stat().st_size, p.stat().st_mtime_ns, p.stat().st_ino) for p in walk(root)}
        mount.kill()
    with mount_of(s3_server, tmp_path, write_back_s=3600) as mount:
        after = {p: (p.stat().st_size, p.stat().st_mtime_ns, p.stat().st_ino) for p in walk(root)}
        assert after == before
        assert (root / "new").read_bytes() == b"n" * 100_000 + b"appended"
        assert (root / "d/renamed").read_bytes() == b"old"
        mount.cli("flush", str(mount.path))
    # The kill may have met the daemon while it proved what the server enforces.
    keys = [key for key in s3_server.keys("b") if not key.startswith(PROBE_NAME)]
    assert sorted(keys) == ["d/renamed", "made/", "made/x", "new"]


def walk(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file())


def test_a_stop_that_can_not_send_everything_says_so_and_the_next_mount_sends_it(
    s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.put("b", "f", b"1")

    def stopped(mount: Mounted) -> int:
        mount.process.send_signal(signal.SIGTERM)
        return mount.process.wait(30)

    with mount_of(s3_server, tmp_path, stop_timeout_s=1) as mount:
        os.listdir(mount.path)
        s3_server.refuse_connections()
        (mount.path / "late").write_bytes(b"late")
        assert stopped(mount) == 75
    s3_server.accept_connections()
    with mount_of(s3_server, tmp_path) as mount:
        assert (mount.path / "late").read_bytes() == b"late"
        until(lambda: "late" in s3_server.keys("b"), "the next mount sends it")
