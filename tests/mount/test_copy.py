"""`mountd copy` from and to paths in a mount: by the remote, not through FUSE."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from tests.mount.mounting import Mounted, mounted
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]


@pytest.fixture
def mount(s3_server: S3Server, tmp_path: Path) -> Iterator[Mounted]:
    """s3://b/p, by options and with credentials from the environment."""
    s3_server.put_many("b", ["p/d/a", "p/d/e/b", "p/other"])
    config = tmp_path / "config.toml"
    config.write_text("")
    environment = s3_server.environment() | {"MOUNTD_CONFIG": str(config)}
    endpoint = environment.pop("AWS_ENDPOINT_URL")
    with mounted(
        "s3://b/p", tmp_path, environment=environment, endpoint=endpoint, write_back_s=3600
    ) as one:
        one.environment["MOUNTD_CACHE_DIR"] = str(tmp_path / "copies")
        yield one


def contents(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def test_copying_out_of_a_mount_has_what_is_dirty_and_reads_nothing_through_it(
    mount: Mounted, s3_server: S3Server, tmp_path: Path
) -> None:
    (mount.path / "d/new").write_bytes(b"dirty")
    (mount.path / "other").write_bytes(b"not asked for")
    before = mount.requests()["get"]
    out = tmp_path / "out"
    said = mount.cli("copy", str(mount.path / "d"), str(out))
    assert f"s3://b/p/d -> {out}: 3 files to copy" in said
    assert contents(out) == {"a": b"x", "e/b": b"x", "new": b"dirty"}
    assert mount.requests()["get"] == before
    said = mount.cli("copy", str(mount.path / "d"), str(out))
    assert "0 files to copy" in said


def test_copying_out_of_a_mount_asks_the_remote_only_for_what_the_cache_has_not(
    mount: Mounted, s3_server: S3Server, tmp_path: Path
) -> None:
    big = os.urandom(9 << 20)
    s3_server.put("b", "p/d/big", big)
    for name in ("d/a", "d/big"):
        (mount.path / name).read_bytes()
    (mount.path / "d/new").write_bytes(b"dirty")
    wait_for_blocks(tmp_path / "cache", 10)
    s3_server.clear_log()
    out = tmp_path / "out"
    mount.cli("copy", str(mount.path / "d"), str(out))
    assert contents(out) == {"a": b"x", "e/b": b"x", "new": b"dirty", "big": big}
    fetched = {entry.key for entry in s3_server.log(op="GetObject")}
    assert "p/d/e/b" in fetched
    assert not fetched & {"p/d/a", "p/d/big"}
    # What a cache has of another version is not taken for it.
    s3_server.put("b", "p/d/a", b"y")
    mount.cli("copy", str(mount.path / "d/a"), str(tmp_path / "one"))
    assert contents(tmp_path / "one") == {"a": b"y"}


def wait_for_blocks(cache: Path, count: int) -> None:
    """Until so many whole blocks are on the disk: they are written behind the reader."""
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        if (
            len([path for path in cache.glob("*/blocks/??/*") if path.stat().st_size > 4096])
            >= count
        ):
            return
        time.sleep(0.02)
    raise TimeoutError("the blocks were not written")


def test_what_is_copied_into_a_mount_is_seen_there_at_once(mount: Mounted, tmp_path: Path) -> None:
    assert sorted(os.listdir(mount.path / "d")) == ["a", "e"]
    local = tmp_path / "in"
    local.mkdir()
    (local / "f").write_bytes(b"1")
    (local / "a").write_bytes(b"2")
    mount.cli("copy", str(local), str(mount.path / "d"))
    assert contents(mount.path / "d") == {"a": b"2", "e/b": b"x", "f": b"1"}


def test_a_script_and_an_empty_folder_go_through_a_mount_and_back(
    mount: Mounted, tmp_path: Path
) -> None:
    local = tmp_path / "in"
    (local / "logs").mkdir(parents=True)
    (local / "run.sh").write_bytes(b"#!/bin/sh\n")
    (local / "run.sh").chmod(0o755)
    mount.cli("copy", str(local), str(mount.path / "new"))
    assert os.listdir(mount.path / "new/logs") == []
    (mount.path / "new/here").mkdir()
    (mount.path / "new/made").write_bytes(b"1")
    (mount.path / "new/made").chmod(0o711)
    mount.cli("copy", str(mount.path / "new"), str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out")) == ["here", "logs", "made", "run.sh"]
    for name, mode in (("run.sh", 0o755), ("made", 0o711)):
        assert (tmp_path / "out" / name).stat().st_mode & 0o777 == mode


def test_one_file_of_a_mount_is_copied_by_its_path(mount: Mounted, tmp_path: Path) -> None:
    (mount.path / "d/new").write_bytes(b"dirty")
    mount.cli("copy", str(mount.path / "d/new"), str(tmp_path / "out"))
    assert contents(tmp_path / "out") == {"new": b"dirty"}


def test_where_the_daemon_cant_be_asked_the_mount_is_read_as_a_folder(
    mount: Mounted, tmp_path: Path
) -> None:
    (mount.path / "d/new").write_bytes(b"dirty")
    mount.environment["MOUNTD_RUNTIME_DIR"] = str(tmp_path / "elsewhere")
    out = tmp_path / "out"
    assert f"{mount.path}/d -> {out}" in mount.cli("copy", str(mount.path / "d"), str(out))
    assert contents(out) == {"a": b"x", "e/b": b"x", "new": b"dirty"}
    mount.cli("copy", str(out), str(mount.path / "back"))
    assert contents(mount.path / "back") == contents(out)


def test_a_copy_into_the_same_place_by_another_name_is_refused(
    mount: Mounted, tmp_path: Path
) -> None:
    with pytest.raises(CalledProcessError) as refused:
        mount.cli("copy", str(mount.path), str(mount.path / "d"))
    assert refused.value.returncode == 2
