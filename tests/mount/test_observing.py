"""What a mount tells over HTTP, by the real daemon, while the remote comes and goes."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.mounting import Mounted, mounted
from tests.servers.s3.launch import S3Server
from tests.unit.test_metrics import values

pytestmark = [pytest.mark.fuse, pytest.mark.server]

WITHIN_S = 30


@pytest.fixture
def mount(s3_server: S3Server, tmp_path: Path) -> Iterator[Mounted]:
    s3_server.put("lab", "small", b"small")
    environment = s3_server.environment()
    options = {"metrics": "127.0.0.1:0", "request_timeout_s": 4, "write_back_s": 0}
    with mounted("s3://lab", tmp_path, environment=environment, **options) as found:
        yield found


def address(mount: Mounted) -> str:
    """Where it says that it serves."""
    found = re.search(r"(http://127\.0\.0\.1:\d+)/metrics", mount.log.read_text())
    assert found is not None
    return found[1]


def sent(mount: Mounted) -> None:
    """Returns when the remote has everything."""
    until(lambda: not sum(v for k, v in metrics(mount).items() if k.startswith("mountd_queue_")))


def page(mount: Mounted, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{address(mount)}{path}", timeout=20) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metrics(mount: Mounted) -> dict[str, float]:
    code, text = page(mount, "/metrics")
    assert code == 200
    return values(text.encode())


def until(holds: Callable[[], bool]) -> None:
    """Fails where it never does."""
    until_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def test_a_mount_that_is_well_says_so_and_counts(mount: Mounted) -> None:
    assert page(mount, "/healthz") == (200, "alive\n")
    assert page(mount, "/readyz") == (200, "ready\n")
    assert (mount.path / "small").read_bytes() == b"small"
    (mount.path / "new").write_bytes(b"12345")
    sent(mount)
    with pytest.raises(PermissionError):
        os.link(mount.path / "small", mount.path / "other")
    found = metrics(mount)
    assert mount.status()["metrics"] == address(mount).removeprefix("http://")
    assert found["mountd_mount_state state=ready"] == 1
    assert found["mountd_remote_state state=ok"] == 1
    assert found["mountd_dirty_bytes"] == found["mountd_queue_changes state=pending"] == 0
    assert found["mountd_remote_sent_bytes_total"] == 5
    assert found["mountd_remote_received_bytes_total"] == 5
    assert found["mountd_remote_request_duration_seconds_count operation=read"] == 1
    assert found["mountd_remote_request_duration_seconds_count operation=put"] == 1
    assert found["mountd_fuse_requests_total operation=read"] == 1
    assert found["mountd_fuse_requests_total operation=create"] == 1
    assert found["mountd_fuse_errors_total errno=EPERM operation=link"] == 1


def test_while_the_remote_is_away_it_is_alive_not_ready_and_tells_what_waits(
    s3_server: S3Server, mount: Mounted
) -> None:
    assert os.listdir(mount.path) == ["small"]  # in a directory that is known files can be made
    s3_server.refuse_connections()
    try:
        (mount.path / "waits").write_bytes(b"123")
        until(lambda: page(mount, "/readyz")[0] == 503)
        assert page(mount, "/readyz")[1].startswith("not ready: s3://lab is unreachable since ")
        assert page(mount, "/healthz")[0] == 200
        found = metrics(mount)
        assert found["mountd_remote_state state=unreachable"] == 1
        assert found["mountd_remote_state state=ok"] == 0
        assert found["mountd_dirty_bytes"] == 3
        assert found["mountd_queue_changes state=pending"] == 1
        assert found["mountd_oldest_dirty_age_seconds"] > 0
        assert any("error=Unreachable" in name for name, count in found.items() if count)
    finally:
        s3_server.accept_connections()
    until(lambda: page(mount, "/readyz")[0] == 200)
    sent(mount)
    assert metrics(mount)["mountd_dirty_bytes"] == 0


def test_a_remote_that_denies_is_not_ready(s3_server: S3Server, mount: Mounted) -> None:
    s3_server.set_identities({"access_key": "other", "secret_key": "other"})
    with pytest.raises(PermissionError):
        (mount.path / "small").read_bytes()
    until(lambda: page(mount, "/readyz")[0] == 503)
    assert " is denied since " in page(mount, "/readyz")[1]
    assert page(mount, "/healthz")[0] == 200


def test_all_is_told_while_every_request_hangs(s3_server: S3Server, mount: Mounted) -> None:
    (mount.path / "first").write_bytes(b"1")  # so that what the bucket enforces is known
    sent(mount)
    s3_server.faults({"op": "PutObject", "hold": True})
    try:
        (mount.path / "slow").write_bytes(b"1")
        s3_server.wait_for_requests(1, op="PutObject", prefix="slow")
        assert page(mount, "/healthz")[0] == page(mount, "/readyz")[0] == 200
        assert metrics(mount)["mountd_queue_changes state=uploading"] == 1
    finally:
        s3_server.clear_faults()
        s3_server.release()


def test_a_port_that_is_taken_is_one_line_and_nothing_is_mounted(
    s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.make_bucket("lab")
    (tmp_path / "mnt").mkdir()
    environment = os.environ | s3_server.environment() | {"MOUNTD_RUNTIME_DIR": str(tmp_path / "r")}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = f"metrics=:{port},cache_dir={tmp_path / 'cache'},cache_size=64MiB"
        command = [sys.executable, "-m", "mountd", "mount", "s3://lab", str(tmp_path / "mnt")]
        for more in ([], ["--foreground"]):
            done = subprocess.run(
                [*command, "-o", options, *more],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
            )
            lines = done.stderr.splitlines()
            assert done.returncode == 1
            assert (
                f"metrics=127.0.0.1:{port}: cannot listen there: Address already in use"
                in (lines[-1])
            )
            assert "Traceback" not in done.stderr


def test_keys_that_are_revoked_under_a_mount_that_only_writes_deny_all_and_fail_no_file(
    s3_server: S3Server, mount: Mounted
) -> None:
    assert os.listdir(mount.path) == ["small"]
    s3_server.set_identities({"access_key": "other", "secret_key": "other"})
    (mount.path / "new").write_bytes(b"12345")
    until(lambda: page(mount, "/readyz")[0] == 503)
    assert "InvalidAccessKeyId" in page(mount, "/readyz")[1]
    found = mount.status()
    assert (found["remote"]["state"], found["queue"]["failed"]) == ("denied", 0)
    said = mount.cli("status", str(mount.path))
    assert "s3://lab refuses our credentials or rights, and gets it when that is over" in said
    s3_server.set_identities(
        {"access_key": s3_server.access_key, "secret_key": s3_server.secret_key}
    )
    mount.cli("flush", str(mount.path), "--timeout", "25")
    assert s3_server.read("lab", "new") == b"12345"


def readyz_says(mount: Mounted, words: str) -> None:
    """Returns when it does, with 200."""
    until(lambda: words in page(mount, "/readyz")[1])
    assert page(mount, "/readyz")[0] == 200


def test_a_remote_that_refuses_writes_is_ready_and_says_so(
    s3_server: S3Server, mount: Mounted
) -> None:
    assert os.listdir(mount.path) == ["small"]
    s3_server.faults({"op": "PutObject", "status": 403})
    (mount.path / "new").write_bytes(b"12345")
    readyz_says(mount, "ready, but s3://lab refuses writes since ")
    assert (mount.path / "small").read_bytes() == b"small"
    assert metrics(mount)["mountd_remote_writes_state state=refused"] == 1
    assert mount.status()["remote"]["writes"]["state"] == "refused"
    said = mount.cli("status", str(mount.path))
    assert "1 change failed, writes are refused by the remote: see mountd queue" in said
    assert re.search(r"^writes are refused by the remote for \d+ s: .*403", said, re.MULTILINE)
    assert "WARNING" in mount.log.read_text()
    assert "writes are refused by the remote: " in mount.log.read_text()
    s3_server.clear_faults()
    mount.cli("queue", str(mount.path), "--retry")
    sent(mount)
    until(lambda: page(mount, "/readyz") == (200, "ready\n"))
    assert metrics(mount)["mountd_remote_writes_state state=ok"] == 1
    assert "the remote takes what is written again, after " in mount.log.read_text()


def test_a_full_remote_is_told_from_its_start_to_its_end(
    s3_server: S3Server, mount: Mounted
) -> None:
    assert os.listdir(mount.path) == ["small"]
    s3_server.faults({"op": "PutObject", "status": 507})
    (mount.path / "new").write_bytes(b"12345")
    readyz_says(mount, "ready, but s3://lab has no room for what is written since ")
    assert metrics(mount)["mountd_remote_writes_state state=full"] == 1
    assert "1 change waits on this machine (5 bytes)" in mount.log.read_text()
    said = mount.cli("status", str(mount.path))
    assert "1 change failed, the remote has no room for what is written: see mountd queue" in said
    assert "507" in mount.cli("queue", str(mount.path))
    s3_server.clear_faults()
    mount.cli("queue", str(mount.path), "--retry")
    sent(mount)
    until(lambda: page(mount, "/readyz") == (200, "ready\n"))
    assert mount.log.read_text().count("the remote has room again, after ") == 1


def test_a_bucket_that_is_gone_is_ready_to_read_what_is_cached_and_says_why(
    s3_server: S3Server, mount: Mounted
) -> None:
    assert os.listdir(mount.path) == ["small"]
    s3_server.faults({"status": 404, "code": "NoSuchBucket"})
    (mount.path / "new").write_bytes(b"12345")
    readyz_says(mount, "ready, but s3://lab is degraded since ")
    assert "NoSuchBucket" in page(mount, "/readyz")[1]
    said = mount.cli("status", str(mount.path))
    assert "; s3://lab answers with errors, or slowly, and is tried again" in said
    s3_server.clear_faults()
    mount.cli("flush", str(mount.path), "--timeout", "25")
    until(lambda: page(mount, "/readyz") == (200, "ready\n"))
