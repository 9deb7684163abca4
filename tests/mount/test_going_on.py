"""A large upload that a restart interrupts, on the real daemon and a bucket."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from mountd.remotes.object_store import PROBE_NAME
from tests.mount.mounting import Mounted, mounted
from tests.mount.proving import file_keys
from tests.servers.raw_s3 import raw_client
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]

Mount = Callable[..., Mounted]
MIB = 1 << 20
PART = 16 * MIB
SIZE = 200 * MIB
PARTS = 13
AT_ONCE = 8


@pytest.fixture
def mount(s3_server: S3Server, tmp_path: Path) -> Iterator[Mount]:
    """Mounts s3://b; unmounts at the end, or when it is called again (a remount)."""
    s3_server.make_bucket("b")
    with ExitStack() as stack:

        def again(**options: object) -> Mounted:
            stack.close()
            options.setdefault("cache_size", "1GiB")  # else a file that is open is sent, too
            return stack.enter_context(
                mounted("s3://b", tmp_path, environment=s3_server.environment(), **options)
            )

        yield again


def large(size: int = SIZE, salt: int = 0) -> bytes:
    """No two parts are alike."""
    piece = bytes(range(256)) * (MIB // 256)
    return b"".join((n + salt).to_bytes(8, "big") + piece[8:] for n in range(size // MIB))


def flush(mount: Mounted, within_s: int = 60) -> None:
    mount.cli("flush", str(mount.path), "--timeout", str(within_s))


def known_bucket(server: S3Server, mount: Mounted) -> None:
    """So that the bucket is proved, and its requests are over: what proved it goes after that."""
    (mount.path / "first").write_bytes(b"1")
    flush(mount)
    until_s = time.monotonic() + 60
    while any(key.startswith(PROBE_NAME) for key in server.keys("b")):
        assert time.monotonic() < until_s
        time.sleep(0.01)


def interrupted(server: S3Server, mount: Mounted, data: bytes, parts: int = 6) -> None:
    """Kills the daemon when so many parts of `large` are on the bucket."""
    known_bucket(server, mount)
    server.clear_log()
    server.faults({"op": "UploadPart", "skip": parts, "hold": True})
    (mount.path / "large").write_bytes(data)
    held = min(AT_ONCE, -(-len(data) // PART) - parts)
    server.wait_for_requests(parts + held, op="UploadPart", prefix="large", timeout_s=60)
    mount.kill()
    server.clear_faults()
    server.release()


def uploads_left(server: S3Server) -> bool:
    with closing(raw_client(server)) as raw:
        return b"<Upload>" in raw.request("GET", "b", query={"uploads": ""}).body


def sent(server: S3Server) -> int:
    return sum(entry.bytes_received for entry in server.log(op="UploadPart", prefix="large"))


def test_a_killed_upload_goes_on_where_it_was(s3_server: S3Server, mount: Mount) -> None:
    data = large()
    first = mount(write_back_s=0)
    interrupted(s3_server, first, data)
    assert uploads_left(s3_server)
    second = mount()
    flush(second)
    assert s3_server.read("b", "large") == data
    assert len(s3_server.log(op="CreateMultipartUpload", prefix="large")) == 1
    assert len(s3_server.log(op="UploadPart", prefix="large")) <= PARTS + AT_ONCE
    assert sent(s3_server) <= SIZE + AT_ONCE * PART
    assert not uploads_left(s3_server)
    assert second.status()["queue"]["conflicts"] == 0
    # What the server enforces was proved by the first daemon.
    assert not s3_server.log(prefix=".mountd-probe")


def test_a_stop_with_a_rest_is_gone_on_with(s3_server: S3Server, mount: Mount) -> None:
    data = large(64 * MIB)
    first = mount(write_back_s=0, stop_timeout_s=1, request_timeout_s=5)
    known_bucket(s3_server, first)
    s3_server.clear_log()
    s3_server.faults({"op": "UploadPart", "skip": 3, "hold": True})
    (first.path / "large").write_bytes(data)
    s3_server.wait_for_requests(4, op="UploadPart", prefix="large", timeout_s=60)
    assert first.stop() != 0
    s3_server.clear_faults()
    s3_server.release()
    flush(mount())
    assert s3_server.read("b", "large") == data
    assert len(s3_server.log(op="CreateMultipartUpload", prefix="large")) == 1
    assert sent(s3_server) <= len(data) + AT_ONCE * PART
    assert not uploads_left(s3_server)


def test_a_file_that_is_overwritten_or_removed_meanwhile_leaves_nothing(
    s3_server: S3Server, mount: Mount
) -> None:
    first = mount(write_back_s=0)
    interrupted(s3_server, first, large(64 * MIB), parts=3)
    s3_server.set_knobs(status=503)
    second = mount(write_back_s=0)
    (second.path / "large").write_bytes(b"short")
    s3_server.set_knobs(status=0)
    flush(second)
    assert s3_server.read("b", "large") == b"short"
    assert not uploads_left(s3_server)
    interrupted(s3_server, second, large(64 * MIB, salt=7), parts=3)
    s3_server.set_knobs(status=503)
    third = mount(write_back_s=0)
    (third.path / "large").unlink()
    s3_server.set_knobs(status=0)
    flush(third)
    assert file_keys(s3_server) == ["first"]
    assert not uploads_left(s3_server)


def test_a_discarded_upload_is_ended(s3_server: S3Server, mount: Mount) -> None:
    first = mount(write_back_s=0)
    interrupted(s3_server, first, large(64 * MIB), parts=3)
    second = mount(write_back_s=3600)
    s3_server.clear_log()
    second.cli("queue", str(second.path), "--discard", "large", "--yes")
    until_s = time.monotonic() + 60
    while uploads_left(s3_server):
        assert time.monotonic() < until_s
        time.sleep(0.02)
    assert len(s3_server.log(op="AbortMultipartUpload")) == 1
    assert not (second.path / "large").exists()


def test_a_complete_without_an_answer_is_found_again_after_a_kill(
    s3_server: S3Server, mount: Mount
) -> None:
    data = large(64 * MIB)
    first = mount(write_back_s=0)
    known_bucket(s3_server, first)
    s3_server.clear_log()
    s3_server.faults({"op": "CompleteMultipartUpload", "lose_reply": True})
    (first.path / "large").write_bytes(data)
    s3_server.wait_for_requests(1, op="CompleteMultipartUpload", timeout_s=60)
    first.kill()
    s3_server.clear_faults()
    s3_server.clear_log()
    second = mount()
    flush(second)
    assert s3_server.read("b", "large") == data
    assert not s3_server.log(op="UploadPart", prefix="large")
    assert not uploads_left(s3_server)
    assert second.status()["queue"]["conflicts"] == 0
    assert file_keys(s3_server) == ["first", "large"]


def test_somebody_elses_file_meanwhile_is_a_conflict_and_leaves_nothing(
    s3_server: S3Server, mount: Mount
) -> None:
    data = large(40 * MIB)
    first = mount(write_back_s=0)
    interrupted(s3_server, first, data, parts=0)
    s3_server.put("b", "large", b"theirs")
    second = mount(write_back_s=0)
    flush(second)
    assert s3_server.read("b", "large") == b"theirs"
    copies = [key for key in s3_server.keys("b") if "conflict" in key]
    assert [s3_server.read("b", key) for key in copies] == [data]
    assert not uploads_left(s3_server)
