"""A small edit of a large object, and a file larger than the cache, on a bucket."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mount.mounting import Mounted, mounted
from tests.mount.proving import file_keys
from tests.servers.s3.launch import S3Server
from tests.servers.s3.seeding import synthetic_bytes

pytestmark = [pytest.mark.fuse, pytest.mark.server]

Mount = Callable[..., Mounted]
MIB = 1 << 20
SIZE = 256 * MIB
AT = 30 * MIB + 12_345
EDIT = b"edited" * 683


@pytest.fixture
def mount(s3_server: S3Server, tmp_path: Path) -> Iterator[Mount]:
    """Mounts s3://b; unmounts at the end, or when it is called again (a remount)."""
    with ExitStack() as stack:

        def again(**options: object) -> Mounted:
            stack.close()
            return stack.enter_context(
                mounted("s3://b", tmp_path, environment=s3_server.environment(), **options)
            )

        yield again


def seeded(server: S3Server, size: int = 40 * MIB) -> bytes:
    """The object `big`, made on the remote, as it is to be with EDIT at AT."""
    server.seed("b", keys=["big"], size=size)
    old = synthetic_bytes("big", 0, size)
    return old[:AT] + EDIT + old[AT + len(EDIT) :]


def edit(mount: Mounted, name: str = "big") -> None:
    with (mount.path / name).open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), EDIT, AT)


def flush(mount: Mounted, within_s: int = 25) -> None:
    mount.cli("flush", str(mount.path), "--timeout", str(within_s))


def test_a_small_edit_of_a_large_object_sends_little(s3_server: S3Server, mount: Mount) -> None:
    big = seeded(s3_server, SIZE)
    mounted = mount()
    s3_server.clear_log()
    edit(mounted)
    flush(mounted)
    assert s3_server.read("b", "big") == big
    assert file_keys(s3_server) == ["big"]
    assert sum(entry.bytes_received for entry in s3_server.log()) <= 6 * MIB
    assert mounted.status()["transfer"]["up_bytes"] <= 6 * MIB
    assert mounted.status()["transfer"]["down_bytes"] <= 16 * MIB
    with (mounted.path / "big").open("ab") as file:
        file.write(b"and more")
    flush(mounted)
    assert s3_server.read("b", "big") == big + b"and more"
    assert (mounted.path / "big").read_bytes() == big + b"and more"
    assert mounted.status()["transfer"]["up_bytes"] <= 12 * MIB


@pytest.mark.parametrize("op", ["UploadPart", "CompleteMultipartUpload"])
def test_a_killed_delta_is_sent_by_the_next_daemon(
    s3_server: S3Server, mount: Mount, op: str
) -> None:
    big = seeded(s3_server)
    first = mount()
    (first.path / "first").write_bytes(b"so that the bucket is known")
    flush(first)
    s3_server.clear_log()
    s3_server.faults({"op": op, "hold": True, "times": 1})
    edit(first)
    s3_server.wait_for_requests(1, op=op)
    first.kill()
    s3_server.release()
    s3_server.clear_faults()
    second = mount()
    flush(second)
    assert s3_server.read("b", "big") == big
    assert file_keys(s3_server) == ["big", "first"]


def test_a_delta_that_landed_without_an_answer_is_no_conflict(
    s3_server: S3Server, mount: Mount
) -> None:
    big = seeded(s3_server)
    mounted = mount()
    (mounted.path / "first").write_bytes(b"so that the bucket is known")
    flush(mounted)
    s3_server.faults({"op": "CompleteMultipartUpload", "lose_reply": True, "times": 1})
    s3_server.clear_log()
    edit(mounted)
    flush(mounted)
    assert s3_server.read("b", "big") == big
    assert file_keys(s3_server) == ["big", "first"]
    assert len(s3_server.log(op="CompleteMultipartUpload")) == 1


def test_a_foreign_change_between_edit_and_upload_is_a_conflict_and_never_a_mix(
    s3_server: S3Server, mount: Mount
) -> None:
    seeded(s3_server)
    mounted = mount(write_back_s=3600)
    edit(mounted)
    theirs = b"theirs" * MIB
    s3_server.put("b", "big", theirs)
    with pytest.raises(subprocess.CalledProcessError):
        flush(mounted, within_s=3)
    assert s3_server.read("b", "big") == theirs
    assert file_keys(s3_server) == ["big"]
    assert mounted.status()["queue"]["conflicts"] == 1


def test_a_foreign_change_between_two_parts_is_a_conflict_and_never_a_mix(
    s3_server: S3Server, mount: Mount
) -> None:
    seeded(s3_server)
    mounted = mount()
    (mounted.path / "first").write_bytes(b"so that the bucket is known")
    flush(mounted)
    s3_server.clear_log()
    s3_server.faults({"op": "CompleteMultipartUpload", "hold": True, "times": 1})
    edit(mounted)
    s3_server.wait_for_requests(1, op="CompleteMultipartUpload")
    theirs = b"theirs" * MIB
    s3_server.put("b", "big", theirs)
    s3_server.release()
    with pytest.raises(subprocess.CalledProcessError):
        flush(mounted, within_s=3)
    assert s3_server.read("b", "big") == theirs
    assert mounted.status()["queue"]["conflicts"] == 1


def test_a_file_larger_than_the_cache_is_written_through_it(
    s3_server: S3Server, mount: Mount
) -> None:
    size = 200 * MIB
    s3_server.make_bucket("b")
    mounted = mount(cache_size="32MiB")
    piece = bytes(range(256)) * (MIB // 256)
    with (mounted.path / "long").open("wb", buffering=0) as file:
        for number in range(size // MIB):
            file.write(number.to_bytes(8, "big") + piece[8:])
    flush(mounted)
    data = s3_server.read("b", "long")
    assert len(data) == size
    for number in range(size // MIB):
        assert data[number * MIB : (number + 1) * MIB] == number.to_bytes(8, "big") + piece[8:]
    assert file_keys(s3_server) == ["long"]
    # What is staged lies side by side: 1.09 times, in ten objects.
    assert mounted.status()["transfer"]["up_bytes"] <= 1.5 * size
