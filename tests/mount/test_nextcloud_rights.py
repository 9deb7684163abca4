"""What a Nextcloud's oc:permissions deny is EACCES at once, for root, too."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.mounting import Mounted, mounted
from tests.servers.nextcloud.launch import NextcloudServer

pytestmark = [pytest.mark.fuse, pytest.mark.server]


@pytest.fixture
def at(nextcloud_server: NextcloudServer, tmp_path: Path) -> Iterator[Mounted]:
    """A share that can be read only, one whose files can be changed but not named, and one that
    takes everything."""
    for top in ("read", "change", "all"):
        nextcloud_server.put(f"{top}/f", b"1")
        nextcloud_server.put(f"{top}/sub/f", b"1")
    nextcloud_server.mount("read", "shared")
    nextcloud_server.mount("change", "group")
    nextcloud_server.deny("read", "DNVWCK")
    nextcloud_server.deny("change", "DNVCK")
    with mounted(
        f"nextcloud://{nextcloud_server.user}@cloud/",
        tmp_path,
        environment={"MOUNTD_PASSWORD": nextcloud_server.password},
        endpoint=nextcloud_server.url,
    ) as mount:
        yield mount


def refused(call: Callable[..., object], *arguments: object) -> bool:
    try:
        call(*arguments)
    except OSError as error:
        return error.errno == errno.EACCES
    return False


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_modes_show_what_may_be_written(at: Mounted) -> None:
    for look in (mode, lambda path: mode(next(p for p in path.parent.iterdir() if p == path))):
        assert look(at.path / "all/f") == 0o644
        assert look(at.path / "all/sub") == 0o755
        assert look(at.path / "change/f") == 0o644
        assert look(at.path / "change/sub") == 0o555
        assert look(at.path / "read/f") == 0o444
        assert look(at.path / "read") == 0o555


def test_what_is_denied_is_eacces_at_once(at: Mounted, nextcloud_server: NextcloudServer) -> None:
    read, change = at.path / "read", at.path / "change"
    assert (read / "f").read_bytes() == b"1"
    nextcloud_server.clear_log()
    for top in (read, change):
        assert refused((top / "new").touch)
        assert refused((top / "dir").mkdir)
        assert refused((top / "link").symlink_to, "f")
        assert refused((top / "f").unlink)
        assert refused((top / "f").rename, top / "g")
        assert refused((top / "f").rename, at.path / "g")
        assert refused((top / "sub").rename, top / "dir")
        assert refused((at.path / "all/f").rename, top / "new")
        assert refused((at.path / "all/sub").rename, top / "new")
    assert refused(lambda: (read / "f").open("r+b"))
    assert refused(lambda: os.truncate(read / "f", 0))
    assert refused(lambda: os.utime(read / "f"))
    assert refused(lambda: (at.path / "all/f").rename(read / "f"))
    assert {entry.method for entry in nextcloud_server.log()} <= {"PROPFIND"}


def test_what_is_allowed_is_done_and_stays_denied_what_it_was(
    at: Mounted, nextcloud_server: NextcloudServer
) -> None:
    changed = at.path / "change/f"
    changed.write_bytes(b"changed")
    at.cli("flush", str(at.path), "--timeout", "20")
    assert nextcloud_server.read("change/f") == b"changed"
    assert refused(changed.unlink)
    (at.path / "all/sub/f").rename(at.path / "all/f")
    (at.path / "all/sub").rename(at.path / "all/there")
    at.cli("flush", str(at.path), "--timeout", "20")
    assert {"all/f", "all/there/"} <= set(nextcloud_server.tree())
