"""The real daemon on a Nextcloud-shaped server."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.mount.mounting import Mounted, mounted
from tests.servers.nextcloud.launch import NextcloudServer

pytestmark = [pytest.mark.fuse, pytest.mark.server]

Mount = Callable[..., Mounted]
CHUNK = 16 << 20


@pytest.fixture
def mount(nextcloud_server: NextcloudServer, tmp_path: Path) -> Iterator[Mount]:
    """Mounts the account; unmounts at the end, or when it is called again (a remount)."""
    with ExitStack() as stack:

        def again(**options: object) -> Mounted:
            stack.close()
            return stack.enter_context(
                mounted(
                    f"nextcloud://{nextcloud_server.user}@cloud/",
                    tmp_path,
                    environment={"MOUNTD_PASSWORD": nextcloud_server.password},
                    endpoint=nextcloud_server.url,
                    cache_size="1GiB",
                    **options,
                )
            )

        yield again


def large(size: int) -> bytes:
    """No two chunks are alike."""
    piece = bytes(range(256)) * 4096
    return b"".join(n.to_bytes(8, "big") + piece[8:] for n in range(size >> 20))


def flush(mount: Mounted) -> None:
    mount.cli("flush", str(mount.path), "--timeout", "25")


def test_small_files_are_one_request_each_and_their_directory_one_more(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    at = mount()
    list(at.path.iterdir())
    nextcloud_server.clear_log()
    (at.path / "d").mkdir()
    for number in range(20):
        (at.path / "d" / f"f{number}").write_bytes(b"%d" % number)
    flush(at)
    assert len(nextcloud_server.tree()) == 21
    sent = [entry.method for entry in nextcloud_server.log() if entry.method != "PROPFIND"]
    assert sorted(sent) == ["MKCOL"] + ["PUT"] * 20


def test_a_name_that_the_server_forbids_is_einval_at_once(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    at = mount()
    list(at.path.iterdir())
    with pytest.raises(OSError, match="Invalid argument"):
        (at.path / "a.part").write_bytes(b"x")
    with pytest.raises(OSError, match="Invalid argument"):
        (at.path / "b.part").mkdir()
    flush(at)
    assert nextcloud_server.tree() == []


def test_a_directory_is_renamed_by_one_move_whatever_is_in_it(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    for number in range(30):
        nextcloud_server.put(f"d/s{number % 3}/f{number}", b"%d" % number)
    at = mount()
    numbers = {path.name: path.stat().st_ino for path in at.path.rglob("*")}
    old, new = at.path / "d", at.path / "e"
    with (old / "s1" / "f1").open("rb") as opened:
        nextcloud_server.clear_log()
        old.rename(new)
        assert [entry.method for entry in nextcloud_server.log()] == ["MOVE"]
        assert opened.read() == b"1"
    assert numbers == {
        path.name.replace("e", "d"): path.stat().st_ino for path in at.path.rglob("*")
    }
    (new / "s2" / "f2").write_bytes(b"two")
    (new / "s2").rename(at.path / "s2")  # file by file: something below waits
    flush(at)
    (at.path / "s2").rename(new / "s2")
    new.rename(old)
    assert nextcloud_server.read("d/s2/f2") == b"two"
    assert len([path for path in nextcloud_server.tree() if "/f" in path]) == 30


def test_a_file_is_renamed_by_one_move_and_stays_the_same_on_the_server(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    before = nextcloud_server.put("d/f", b"theirs", mtime_s=1_700_000_000)
    at = mount(write_back_s=1)
    number = (at.path / "d" / "f").stat().st_ino
    for old, new, looks in (("d/f", "d/g", 2), ("d/g", "top", 3)):
        nextcloud_server.clear_log()
        with (at.path / old).open("rb") as opened:
            (at.path / old).rename(at.path / new)
            flush(at)
            assert opened.read() == b"theirs"
        changing = [e.method for e in nextcloud_server.log() if e.method not in ("PROPFIND", "GET")]
        assert changing == ["MOVE"]
        looked = [e.headers.get("depth") for e in nextcloud_server.log() if e.method == "PROPFIND"]
        assert looked.count("0") <= looks + 1  # and one at the root, whether all is as it was
        after = nextcloud_server.node(new)
        assert after is not None
        assert (after.fileid, after.etag) == (before.fileid, before.etag)
    assert nextcloud_server.trash() == []
    assert (at.path / "top").stat().st_ino == number
    again = mount()
    assert (again.path / "top").read_bytes() == b"theirs"
    assert [path.name for path in again.path.rglob("*")] == ["d", "top"]


@pytest.mark.parametrize("fault", [{"lose_reply": True}, {"status": 504}, {"status": 423}])
def test_a_move_whose_answer_is_lost_is_settled_by_a_look(
    mount: Mount, nextcloud_server: NextcloudServer, fault: dict[str, Any]
) -> None:
    before = nextcloud_server.put("f", b"theirs")
    at = mount()
    list(at.path.iterdir())
    nextcloud_server.faults({"op": "Move", "times": 1, **fault})
    (at.path / "f").rename(at.path / "g")
    flush(at)
    after = nextcloud_server.node("g")
    assert after is not None
    assert after.fileid == before.fileid
    assert nextcloud_server.tree() == ["g"]
    assert {e.method for e in nextcloud_server.log()} <= {"PROPFIND", "GET", "MOVE"}


def test_a_daemon_killed_after_a_move_finds_the_file_where_it_is(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    before = nextcloud_server.put("f", b"theirs")
    at = mount(write_back_s=0.1)
    list(at.path.iterdir())
    nextcloud_server.faults({"op": "Move", "latency_ms": 9_000})  # done at once
    (at.path / "f").rename(at.path / "g")
    until(lambda: nextcloud_server.tree() == ["g"])
    (at.path / "g").rename(at.path / "h")
    (at.path / "f").write_bytes(b"new")
    at.kill()
    nextcloud_server.clear_faults()
    again = mount()
    flush(again)
    assert sorted(nextcloud_server.tree()) == ["f", "h"]
    assert nextcloud_server.read("f") == b"new"
    after = nextcloud_server.node("h")
    assert after is not None
    assert after.fileid == before.fileid


def test_a_tree_is_removed_by_one_request_and_is_one_thing_in_the_trash(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    for directory in ("tree", "tree/sub", "tree/sub/deep"):
        for number in range(20):
            nextcloud_server.put(f"{directory}/{number}", b"data")
    at = mount(write_back_s=3600)  # nothing is sent before `rm` has ended
    subprocess.run(["rm", "-r", at.path / "tree"], check=True)
    flush(at)
    assert nextcloud_server.tree() == []
    assert [each["original"] for each in nextcloud_server.trash()] == ["tree"]
    assert [entry.path for entry in nextcloud_server.log(method="DELETE")] == ["tree"]
    assert os.listdir(at.path) == []


def test_df_shows_the_accounts_room(mount: Mount, nextcloud_server: NextcloudServer) -> None:
    nextcloud_server.put("f", bytes(8192))
    nextcloud_server.configure(quota_bytes=1 << 20)
    at = mount()
    deadline_s = time.monotonic() + 60
    while (found := os.statvfs(at.path)).f_bavail > 1000 and time.monotonic() < deadline_s:
        pass
    assert found.f_frsize * found.f_bavail == (1 << 20) - 8192
    assert found.f_frsize * found.f_blocks == 1 << 20


def test_a_foreign_change_that_the_server_pushes_is_seen_before_the_ttl(
    nextcloud_server: NextcloudServer, tmp_path: Path
) -> None:
    nextcloud_server.configure(notify_push=True)
    nextcloud_server.put("d/old", b"1")
    with mounted(
        f"nextcloud://{nextcloud_server.user}@cloud/",
        tmp_path,
        environment={"MOUNTD_PASSWORD": nextcloud_server.password},
        endpoint=nextcloud_server.url,
        metadata_ttl_s=3600,
    ) as at:
        deadline_s = time.monotonic() + 60
        while b"push: listening" not in at.log.read_bytes() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert os.listdir(at.path / "d") == ["old"]
        nextcloud_server.put("d/new", b"2")
        while len(found := os.listdir(at.path / "d")) < 2 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert sorted(found) == ["new", "old"]
        assert at.stop() == 0
        assert "push" not in at.log.read_text().partition("push: listening")[2]
    assert nextcloud_server.auth_failures() == 0


def test_what_the_server_pushes_of_our_own_uploads_costs_next_to_nothing(
    nextcloud_server: NextcloudServer, tmp_path: Path
) -> None:
    nextcloud_server.configure(notify_push=True)
    nextcloud_server.mkdir("d")
    with mounted(
        f"nextcloud://{nextcloud_server.user}@cloud/",
        tmp_path,
        environment={"MOUNTD_PASSWORD": nextcloud_server.password},
        endpoint=nextcloud_server.url,
        write_back_s=0,
    ) as at:
        deadline_s = time.monotonic() + 60
        while b"push: listening" not in at.log.read_bytes() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        os.listdir(at.path / "d")
        nextcloud_server.clear_log()
        for number in range(100):
            (at.path / "d" / f"f{number}").write_bytes(b"1")
            os.listdir(at.path / "d")
        flush(at)
    looks = [entry for entry in nextcloud_server.log() if entry.method == "PROPFIND"]
    assert len(nextcloud_server.log(op="Put")) == 100
    assert len(looks) < 30  # without `Settling`, some 200


def test_writers_hear_of_a_full_account_before_the_upload(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(quota_bytes=1 << 20)
    at = mount()
    (at.path / "kept").write_bytes(bytes(1000))
    flush(at)
    deadline_s = time.monotonic() + 60
    while os.statvfs(at.path).f_bavail > 1000 and time.monotonic() < deadline_s:
        pass
    nextcloud_server.clear_log()
    with pytest.raises(OSError, match="No space left"), (at.path / "large").open("wb") as file:
        file.write(bytes(4 << 20))
    with pytest.raises(OSError, match="quota") as raised:
        os.truncate(at.path / "kept", 2 << 20)
    assert raised.value.errno == errno.EDQUOT
    (at.path / "large").unlink()
    (at.path / "small").write_bytes(b"small")
    os.truncate(at.path / "kept", 10)
    with pytest.raises(subprocess.CalledProcessError):
        flush(at)  # syncfs tells of what the kernel could not hand over, once
    flush(at)
    assert nextcloud_server.read("small") == b"small"
    assert nextcloud_server.read("kept") == bytes(10)
    refused = [entry for entry in nextcloud_server.log() if entry.status == 507]
    assert not refused
    told = at.log.read_text().count("writers get EDQUOT")
    assert told == 1


def flushed_in_vain(at: Mounted) -> str:
    """What `mountd flush` says where something is left."""
    command = [sys.executable, "-m", "mountd", "flush", str(at.path), "--timeout", "0"]
    done = subprocess.run(
        command, env=at.environment, stderr=subprocess.PIPE, timeout=30, check=False, text=True
    )
    assert done.returncode == 75
    return done.stderr


def test_after_a_507_what_was_closed_waits_and_writers_get_edquot_until_it_fits(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    at = mount()
    list(at.path.iterdir())
    nextcloud_server.configure(quota_bytes=10_000)
    (at.path / "closed").write_bytes(bytes(20_000))
    until(partial(is_told, at, "closed", "507"))
    item = queued(at)["closed"]
    assert (item["state"], item["next_try_s"] > 60) == ("failed", True)
    with pytest.raises(OSError, match="quota"):
        (at.path / "another").write_bytes(b"x")
    assert (at.path / "closed").read_bytes() == bytes(20_000)
    said = flushed_in_vain(at)
    assert "not on the remote yet: 1 file (19.5 KiB): PUT " in said
    assert "HTTP 507" in said
    nextcloud_server.configure(quota_bytes=100_000)
    at.cli("queue", str(at.path), "--retry")
    flush(at)
    assert nextcloud_server.read("closed") == bytes(20_000)
    (at.path / "another").write_bytes(b"x")
    flush(at)
    assert nextcloud_server.read("another") == b"x"


def test_what_is_locked_is_tried_again_and_the_queue_says_why(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(files_lock=True)
    for name in ("by a person", "by a request"):
        nextcloud_server.put(name, b"before")
    at = mount()
    assert (at.path / "by a request").read_bytes() == b"before"
    nextcloud_server.faults({"op": "Put", "path": "request", "status": 423})
    nextcloud_server.lock("by a person", "bob", owner_name="Bob Brown")
    reasons = {"by a person": "Bob Brown", "by a request": "HTTP 423"}
    for name in reasons:
        (at.path / name).write_bytes(b"after")
    for name, reason in reasons.items():
        until(partial(is_told, at, name, reason))
        assert queued(at)[name]["state"] in ("pending", "uploading")
    assert at.status()["queue"]["failed"] == 0
    assert "Bob Brown" in at.log.read_text()
    nextcloud_server.clear_faults()
    nextcloud_server.lock("by a person", "")
    flush(at)
    assert {nextcloud_server.read(name) for name in reasons} == {b"after"}


def queued(mount: Mounted) -> dict[str, dict[str, Any]]:
    """Items of the queue, by key."""
    found = json.loads(mount.cli("queue", str(mount.path), "--json"))
    return {item["path"]: item for item in found["items"]}


def is_told(mount: Mounted, key: str, reason: str) -> bool:
    item = queued(mount).get(key)
    return item is not None and reason in item["reason"]


def until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 25
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


def test_a_killed_daemons_upload_goes_on_after_its_chunks(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    at = mount()
    (at.path / "first").write_bytes(b"1")
    flush(at)
    data = large(7 * CHUNK)
    nextcloud_server.faults({"op": "PutChunk", "path": "0000[4-9]$", "hold": True})
    (at.path / "large").write_bytes(data)
    # Four at once: with the seventh, the daemon knows that the first three are there.
    nextcloud_server.wait_for_requests(7, op="PutChunk", timeout_s=60.0)
    at.kill()
    nextcloud_server.clear_faults()
    nextcloud_server.release()
    nextcloud_server.clear_log()
    at = mount()
    flush(at)
    assert nextcloud_server.read("large") == data
    sent = sorted(entry.path[-5:] for entry in nextcloud_server.log(op="PutChunk"))
    assert "00001" not in sent
    assert nextcloud_server.log(op="MakeUpload") == []
    assert nextcloud_server.uploads() == {}


def test_an_upload_goes_on_after_its_chunks_when_the_server_was_away(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    at = mount()
    (at.path / "first").write_bytes(b"1")
    flush(at)
    data = large(7 * CHUNK)
    nextcloud_server.faults({"op": "PutChunk", "path": "0000[4-9]$", "hold": True})
    (at.path / "large").write_bytes(data)
    # Four at once: with the seventh, the daemon knows that the first three are there.
    nextcloud_server.wait_for_requests(7, op="PutChunk", timeout_s=60.0)
    nextcloud_server.refuse_connections()
    nextcloud_server.clear_faults()
    nextcloud_server.release()
    nextcloud_server.accept_connections()
    flush(at)
    assert nextcloud_server.read("large") == data
    assert len(nextcloud_server.log(op="MakeUpload")) == 1
    sent = [entry.path[-5:] for entry in nextcloud_server.log(op="PutChunk")]
    assert [sent.count(f"0000{n}") for n in (1, 2, 3)] == [1, 1, 1]
    assert nextcloud_server.uploads() == {}


def test_a_chunk_that_hangs_does_not_keep_the_daemon_when_the_time_to_stop_is_over(
    nextcloud_server: NextcloudServer, tmp_path: Path
) -> None:
    with mounted(
        f"nextcloud://{nextcloud_server.user}@cloud/",
        tmp_path,
        environment={"MOUNTD_PASSWORD": nextcloud_server.password},
        endpoint=nextcloud_server.url,
        cache_size="1GiB",
        stop_timeout_s=2,
    ) as at:
        nextcloud_server.faults({"op": "PutChunk", "hold": True})
        (at.path / "large").write_bytes(large(6 * CHUNK))
        nextcloud_server.wait_for_requests(2, op="PutChunk", timeout_s=60.0)
        at.process.terminate()
        try:
            assert at.process.wait(20) == 75
        finally:
            nextcloud_server.clear_faults()
            nextcloud_server.release()


def test_a_mode_and_a_time_are_kept_here_although_the_servers_listings_tell_of_none(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("run.sh", b"#!/bin/sh\n")
    at = mount()
    (at.path / "run.sh").chmod(0o750)
    os.utime(at.path / "run.sh", (500_000_000, 500_000_000))
    flush(at)
    time.sleep(1.5)  # until it is in the kept listing
    for _ in range(2):
        at.cli("refresh", str(at.path))
        assert os.listdir(at.path) == ["run.sh"]
        assert (at.path / "run.sh").stat().st_mode & 0o7777 == 0o750
        assert (at.path / "run.sh").stat().st_mtime == 500_000_000
        at = mount()
    with (at.path / "run.sh").open("ab") as file:
        file.write(b"true\n")
    flush(at)
    at.cli("refresh", str(at.path))
    assert (at.path / "run.sh").stat().st_mode & 0o7777 == 0o750
