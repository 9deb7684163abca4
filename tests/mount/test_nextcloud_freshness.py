"""How many requests it takes to see what was changed on a Nextcloud, through the real daemon."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.mounting import Mounted, mounted
from tests.servers.nextcloud.launch import NextcloudServer

pytestmark = [pytest.mark.fuse, pytest.mark.server]

TTL_S = 2.0
DIRECTORIES = 8  # few, and few files: a walk must not last as long as the TTL
FILES = 3
TRIES = 8


@pytest.fixture
def at(nextcloud_server: NextcloudServer, tmp_path: Path) -> Iterator[Mounted]:
    """Some directories of files, and one on an external storage; everything was looked at."""
    nextcloud_server.seed("tree", directories=DIRECTORIES, files=FILES, size=10)
    nextcloud_server.put("disk/sub/f", b"1")
    nextcloud_server.mount("disk", "external")
    with mounted(
        f"nextcloud://{nextcloud_server.user}@cloud/",
        tmp_path,
        environment={"MOUNTD_PASSWORD": nextcloud_server.password},
        endpoint=nextcloud_server.url,
        metadata_ttl_s=TTL_S,
    ) as mount:
        walk(mount.path)
        yield mount


def walk(path: Path) -> list[str]:
    """As `ls -lR`."""
    found = [entry for entry in path.rglob("*") if entry.stat()]
    return sorted(str(entry.relative_to(path)) for entry in found)


def cost(
    path: Path, server: NextcloudServer, change: Callable[[int], object] = lambda number: None
) -> list[str]:
    """The requests of a walk after the TTL: what was looked at, a listing with a slash. On a busy
    machine a walk may last as long as the TTL; then it is done again, after another `change`."""
    for number in range(TRIES):
        change(number)
        time.sleep(1.1 * TTL_S)
        server.clear_log()
        began_s = time.monotonic()
        walk(path)
        if time.monotonic() - began_s < 0.8 * TTL_S:
            break
    return sorted(
        entry.path + ("" if entry.headers.get("depth") == "0" else "/")
        for entry in server.log(method="PROPFIND")
    )


def test_nothing_changed_is_one_request(at: Mounted, nextcloud_server: NextcloudServer) -> None:
    assert len(walk(at.path / "tree")) == DIRECTORIES * (1 + FILES)
    assert cost(at.path / "tree", nextcloud_server) == [""]
    assert [entry.method for entry in nextcloud_server.log()] == ["PROPFIND"]


def test_a_change_deep_below_lists_only_its_branch(
    at: Mounted, nextcloud_server: NextcloudServer
) -> None:
    def change(number: int) -> None:
        nextcloud_server.put(f"tree/d00007/new{number}", b"x")

    looked = cost(at.path / "tree", nextcloud_server, change)
    assert looked == ["", "/", "tree/", "tree/d00007/"]
    assert (at.path / "tree/d00007/new0").read_bytes() == b"x"


def test_a_change_on_an_external_storage_is_seen_after_the_ttl(
    at: Mounted, nextcloud_server: NextcloudServer
) -> None:
    def change(number: int) -> None:
        nextcloud_server.put(f"disk/sub/new{number}", b"x")

    assert cost(at.path, nextcloud_server, change) == ["", "disk/", "disk/sub/"]
    assert (at.path / "disk/sub/new0").read_bytes() == b"x"


def test_a_file_that_others_move_keeps_its_blocks_and_its_inode_number(
    at: Mounted, nextcloud_server: NextcloudServer
) -> None:
    data = bytes(range(256)) * 4096
    nextcloud_server.put("tree/d00003/large", data)
    cost(at.path, nextcloud_server)
    with (at.path / "tree/d00003/large").open("rb") as held:
        assert held.read() == data
        number = (at.path / "tree/d00003/large").stat().st_ino
        nextcloud_server.move("tree/d00003/large", "tree/d00004/moved")
        cost(at.path, nextcloud_server)
        moved = at.path / "tree/d00004/moved"
        assert moved.stat().st_ino == number
        assert moved.read_bytes() == data
        assert not (at.path / "tree/d00003/large").exists()
        assert nextcloud_server.log(method="GET") == []


def test_what_others_replace_in_place_has_another_number_and_what_we_write_keeps_it(
    at: Mounted, nextcloud_server: NextcloudServer
) -> None:
    file = at.path / "tree/d00003/f"
    nextcloud_server.put("tree/d00003/f", b"one")
    cost(at.path, nextcloud_server)
    first = file.stat().st_ino
    nextcloud_server.put("tree/d00003/f", b"two")  # the file id stays
    cost(at.path, nextcloud_server)
    second = file.stat().st_ino
    assert file.read_bytes() == b"two"
    file.write_bytes(b"three, from here")
    at.cli("flush", str(at.path))
    assert file.stat().st_ino == second != first
    nextcloud_server.move("tree/d00003/f", "tree/d00005/f")
    cost(at.path, nextcloud_server)
    assert (at.path / "tree/d00005/f").read_bytes() == b"three, from here"
