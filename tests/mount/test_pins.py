"""warm, pin, mode = "copy" over a real bucket: what is fetched, kept, followed, not asked."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.mount.mounting import Mounted, mounted
from tests.servers.s3.launch import S3Server
from tests.servers.s3.seeding import synthetic_bytes

pytestmark = [pytest.mark.fuse, pytest.mark.server]

Mount = Callable[..., Mounted]
MIB = 1 << 20
FILES = 20
SIZE = 50_000


@pytest.fixture
def mount(s3_server: S3Server, tmp_path: Path) -> Iterator[Mount]:
    """Mounts s3://b; unmounts at the end, or when it is called again (a remount)."""
    with ExitStack() as stack:

        def again(**options: Any) -> Mounted:
            stack.close()
            return stack.enter_context(
                mounted("s3://b", tmp_path, environment=s3_server.environment(), **options)
            )

        yield again


def mountd(mount: Mounted, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mountd", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=mount.environment,
    )


def until(condition: Callable[[], object], within_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def cache(mount: Mounted) -> dict[str, Any]:
    """By the path: a process for each question would take longer than the test."""
    found: dict[str, Any] = json.loads((mount.path / ".mountd/status.json").read_text())["cache"]
    return found


def pins(mount: Mounted) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cache(mount)["pins"]
    return found


def gets(server: S3Server) -> set[str]:
    return {entry.key for entry in server.log(op="GetObject")}


def read_tree(root: Path) -> dict[str, bytes]:
    """One epoch: everything is listed, looked at and read."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            found[str(path.relative_to(root))] = path.read_bytes()
    return found


def whole_set() -> dict[str, bytes]:
    """What `seed_set` makes."""
    keys = [f"set/d{d:05d}/f{f:06d}.bin" for d in range(2) for f in range(FILES)]
    return {k.removeprefix("set/"): synthetic_bytes(k, 0, SIZE) for k in keys}


def seed_set(server: S3Server) -> None:
    server.seed("b", prefix="set/", directories=2, files=FILES, size=SIZE)


def test_a_pin_or_an_xattr_of_a_file_writes_nothing_anew(s3_server: S3Server, mount: Mount) -> None:
    """After setxattr(2) the kernel brings a file's times; nobody has set them."""
    s3_server.seed("b", keys=["f"], size=SIZE)
    at = mount()
    os.setxattr(at.path / "f", "user.mountd.pin", b"1")
    at.cli("flush", str(at.path))
    os.removexattr(at.path / "f", "user.mountd.pin")
    at.cli("flush", str(at.path))
    assert {entry.op for entry in s3_server.log()} <= {"ListObjectsV2", "GetObject", "HeadObject"}
    os.setxattr(at.path / "f", "user.own", b"x")
    at.cli("flush", str(at.path))
    copied = [e.key for e in s3_server.log(op="CopyObject") if "probe" not in e.key]
    assert copied == ["f"]


def test_warm_says_what_it_does_and_names_what_failed(s3_server: S3Server, mount: Mount) -> None:
    seed_set(s3_server)
    s3_server.seed("b", keys=["large"], size=9 * MIB + 5)
    at = mount()
    s3_server.faults({"op": "GetObject", "key": "f000007", "status": 403})
    done = mountd(at, "warm", str(at.path))
    assert done.returncode == 1
    assert f"{2 * FILES + 1} files, {10.9} MiB; 0 B here already" in done.stderr
    assert f"fetched {2 * FILES - 1} files" in done.stdout
    for number in range(2):
        assert f"set/d{number:05d}/f000007.bin" in done.stderr
    assert "2 files could not be fetched" in done.stderr
    s3_server.clear_faults()
    s3_server.clear_log()
    assert mountd(at, "warm", str(at.path / "set")).returncode == 0
    assert gets(s3_server) == {f"set/d{number:05d}/f000007.bin" for number in range(2)}
    s3_server.clear_log()
    assert read_tree(at.path / "set") == whole_set()
    assert (at.path / "large").read_bytes() == synthetic_bytes("large", 0, 9 * MIB + 5)
    assert gets(s3_server) == set()
    assert cache(at)["pinned_bytes"] == 0
    assert mountd(at, "warm", str(at.path / "nothing")).returncode == 1


def test_warm_and_pin_refuse_what_does_not_fit(s3_server: S3Server, mount: Mount) -> None:
    s3_server.seed("b", keys=["x/large"], size=12 * MIB)
    at = mount(cache_size="12MiB")
    for command in ("warm", "pin"):
        done = mountd(at, command, str(at.path / "x"))
        assert done.returncode == 1
        assert "not fit" in done.stderr
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        os.setxattr(at.path / "x", "user.mountd.pin", b"1")
    assert gets(s3_server) == set()
    assert pins(at) == []


def test_ctrl_c_ends_a_warm_in_the_daemon_too(s3_server: S3Server, mount: Mount) -> None:
    s3_server.seed("b", prefix="many/", files=300, size=1000)
    at = mount()
    s3_server.faults({"op": "GetObject", "hold": True})
    command = [sys.executable, "-m", "mountd", "warm", str(at.path)]
    process = subprocess.Popen(command, env=at.environment, stderr=subprocess.PIPE)
    s3_server.wait_for_requests(10, op="GetObject")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    s3_server.clear_faults()
    s3_server.release()
    time.sleep(1)  # for what must not come
    assert len(s3_server.log(op="GetObject")) < 100  # what was under way


def test_pins_keep_their_blocks_under_pressure_and_over_a_restart(
    s3_server: S3Server, mount: Mount
) -> None:
    seed_set(s3_server)
    s3_server.seed("b", keys=[f"other/{i}" for i in range(10)], size=4 * MIB)
    at = mount(cache_size="16MiB")
    done = mountd(at, "pin", str(at.path / "set"))
    assert done.returncode == 0, done.stderr
    assert "all here" in done.stderr
    pinned = cache(at)["pinned_bytes"]
    assert pinned >= 2 * FILES * SIZE
    for _ in range(2):
        for i in range(10):
            data = (at.path / f"other/{i}").read_bytes()
            assert data == synthetic_bytes(f"other/{i}", 0, 4 * MIB)
    assert cache(at)["bytes"] <= 20 * MIB
    at = mount(cache_size="16MiB")
    s3_server.clear_log()
    assert read_tree(at.path / "set") == whole_set()
    assert gets(s3_server) == set()
    until(lambda: [one["state"] for one in pins(at)] == ["here"])
    assert cache(at)["pinned_bytes"] == pinned
    assert mountd(at, "unpin", str(at.path / "set")).returncode == 0
    assert cache(at)["pinned_bytes"] == 0
    assert mountd(at, "unpin", str(at.path / "set")).returncode == 1


def test_a_pinned_directory_reads_while_it_is_filled(s3_server: S3Server, mount: Mount) -> None:
    seed_set(s3_server)
    at = mount()
    last = f"set/d00001/f{FILES - 1:06d}.bin"
    # All but the last file hang; who reads that one does not wait for them.
    s3_server.faults({"op": "GetObject", "key": "set/d00000", "hold": True})
    assert mountd(at, "pin", "--no-wait", str(at.path / "set")).returncode == 0
    s3_server.wait_for_requests(2, op="GetObject", prefix="set/d00000")
    assert (at.path / last).read_bytes() == synthetic_bytes(last, 0, SIZE)
    assert os.getxattr(at.path / "set", "user.mountd.pin").endswith(b"%")
    s3_server.clear_faults()
    s3_server.release()
    until(lambda: os.getxattr(at.path / "set", "user.mountd.pin") == b"1")
    assert read_tree(at.path / "set") == whole_set()


def test_a_killed_fill_goes_on_with_what_is_missing(s3_server: S3Server, mount: Mount) -> None:
    seed_set(s3_server)
    at = mount()
    s3_server.faults({"op": "GetObject", "key": "set/d00001", "hold": True})
    assert mountd(at, "pin", "--no-wait", str(at.path / "set")).returncode == 0
    until(lambda: pins(at)[0]["missing_bytes"] <= FILES * SIZE)
    at.kill()
    s3_server.clear_faults()
    s3_server.release()
    s3_server.clear_log()
    at = mount()
    until(lambda: [one["state"] for one in pins(at)] == ["here"])
    assert gets(s3_server) == {f"set/d00001/f{f:06d}.bin" for f in range(FILES)}
    assert read_tree(at.path / "set") == whole_set()


def test_what_a_pin_follows_is_fetched_without_a_reader(s3_server: S3Server, mount: Mount) -> None:
    seed_set(s3_server)
    at = mount(metadata_ttl_s=0.2)
    assert mountd(at, "pin", str(at.path / "set")).returncode == 0
    s3_server.put("b", "set/d00000/f000003.bin", b"changed" * 1000)
    s3_server.put("b", "set/d00000/new", b"new" * 1000)
    time.sleep(0.3)
    s3_server.clear_log()
    assert len(os.listdir(at.path / "set/d00000")) == FILES + 1  # it is seen
    s3_server.wait_for_requests(2, op="GetObject")
    assert gets(s3_server) == {"set/d00000/f000003.bin", "set/d00000/new"}
    until(lambda: [one["state"] for one in pins(at)] == ["here"])
    assert (at.path / "set/d00000/f000003.bin").read_bytes() == b"changed" * 1000


def test_what_is_written_below_a_pin_is_kept_and_pinned(s3_server: S3Server, mount: Mount) -> None:
    seed_set(s3_server)
    at = mount(write_back_s=0)
    assert mountd(at, "pin", str(at.path / "set")).returncode == 0
    before = cache(at)["pinned_bytes"]
    (at.path / "set/d00000/made").write_bytes(b"m" * 100_000)
    with (at.path / "set/d00000/f000001.bin").open("r+b") as file:
        file.write(b"edited")
    assert mountd(at, "flush", str(at.path)).returncode == 0
    until(lambda: cache(at)["pinned_bytes"] >= before + 100_000)
    until(lambda: [one["state"] for one in pins(at)] == ["here"])
    s3_server.clear_log()
    edited = whole_set()["d00000/f000001.bin"]
    assert (at.path / "set/d00000/f000001.bin").read_bytes() == b"edited" + edited[6:]


COPY = '[[mounts.m.subtree]]\npath = "in/set"\nmode = "copy"\nrecheck_s = 3600\n'


def seed_copied(server: S3Server) -> dict[str, bytes]:
    server.seed("b", prefix="in/set/", directories=2, files=FILES, size=SIZE)
    server.seed("b", keys=["in/beside"], size=10)
    keys = [f"in/set/d{d:05d}/f{f:06d}.bin" for d in range(2) for f in range(FILES)]
    return {k.removeprefix("in/set/"): synthetic_bytes(k, 0, SIZE) for k in keys}


def test_a_copied_subtree_is_read_without_a_request(s3_server: S3Server, mount: Mount) -> None:
    expected = seed_copied(s3_server)
    at = mount(config=COPY, metadata_ttl_s=0.1)
    until(lambda: [one["state"] for one in pins(at)] == ["here"])
    assert pins(at)[0]["mode"] == "copy"
    top = at.path / "in/set"
    assert read_tree(top) == expected
    s3_server.clear_log()
    for _ in range(3):  # epochs, each after the TTL
        time.sleep(0.2)
        assert read_tree(top) == expected
        assert not (top / "d00000/missing").exists()
    assert s3_server.log() == []
    s3_server.refuse_connections()
    time.sleep(0.2)
    assert read_tree(top) == expected
    at = mount(config=COPY, metadata_ttl_s=0.1)
    assert read_tree(top) == expected
    time.sleep(0.2)
    assert read_tree(top) == expected


def test_a_foreign_change_of_a_copied_subtree_appears_whole(
    s3_server: S3Server, mount: Mount
) -> None:
    expected = seed_copied(s3_server)
    at = mount(config=COPY.replace("3600", "1"))
    until(lambda: [one["state"] for one in pins(at)] == ["here"])
    top = at.path / "in/set"
    assert read_tree(top) == expected
    assert not (top / "d00000/new").exists()  # the kernel keeps that it is not there
    # No look at the directory sees but a part of this.
    s3_server.faults({"op": "GetObject", "hold": True}, {"op": "ListObjectsV2", "hold": True})
    s3_server.put("b", "in/set/d00000/f000000.bin", b"other" * 1000)
    s3_server.put("b", "in/set/d00000/new", b"new" * 1000)
    s3_server.delete("b", "in/set/d00000/f000001.bin")
    s3_server.faults({"op": "GetObject", "hold": True}, replace=True)
    s3_server.release()
    s3_server.wait_for_requests(2, op="GetObject", prefix="in/set/d00000")
    assert read_tree(top) == expected
    s3_server.clear_faults()
    s3_server.release()
    until(lambda: (top / "d00000/new").exists())
    s3_server.clear_log()
    expected["d00000/f000000.bin"] = b"other" * 1000
    expected["d00000/new"] = b"new" * 1000
    del expected["d00000/f000001.bin"]
    assert read_tree(top) == expected
    assert gets(s3_server) == set()


def test_who_sees_only_the_path_pins_and_warms_through_it(
    s3_server: S3Server, mount: Mount, tmp_path: Path
) -> None:
    seed_set(s3_server)
    at = mount()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    at.environment["MOUNTD_RUNTIME_DIR"] = str(elsewhere)  # no socket is found there
    done = mountd(at, "warm", str(at.path / "set/d00001"))
    assert done.returncode == 0, done.stderr
    assert gets(s3_server) == {f"set/d00001/f{f:06d}.bin" for f in range(FILES)}
    done = mountd(at, "pin", str(at.path / "set"))
    assert done.returncode == 0, done.stderr
    assert os.getxattr(at.path / "set/d00000/f000000.bin", "user.mountd.pin") == b"1"
    assert [one["state"] for one in pins(at)] == ["here"]
    assert mountd(at, "unpin", str(at.path / "set")).returncode == 0
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        os.getxattr(at.path / "set", "user.mountd.pin")


def test_a_read_only_mount_pins_by_its_daemon(s3_server: S3Server, mount: Mount) -> None:
    seed_set(s3_server)
    at = mount(read_only=True, xattrs=False)
    assert mountd(at, "pin", str(at.path / "set")).returncode == 0
    assert [one["state"] for one in pins(at)] == ["here"]
