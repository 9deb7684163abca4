"""durability = "remote": what returns is on the remote, or there is an errno."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mountd.remotes.object_store import PROBE_NAME
from tests.mount.mounting import Mounted, mounted
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]

TIMEOUT_S = 3.0


@pytest.fixture
def mount(s3_server: S3Server, tmp_path: Path) -> Iterator[Mounted]:
    s3_server.make_bucket("b")
    s3_server.put("b", "theirs", b"as we know it")
    s3_server.put("b", "ours", b"as we know it, too")
    with remote_mount(s3_server, tmp_path) as found:
        assert sorted(os.listdir(found.path)) == ["ours", "theirs"]
        yield found


@contextmanager
def remote_mount(server: S3Server, folder: Path, **options: object) -> Iterator[Mounted]:
    """One whose server's verbs are proved by now."""
    settings: dict[str, Any] = {"durability": "remote", "request_timeout_s": TIMEOUT_S, **options}
    with mounted("s3://b", folder, environment=server.environment(), **settings) as found:
        errno_of(lambda: (found.path / "first").write_bytes(b"which may take long"))
        found.cli("flush", str(found.path))
        (found.path / "first").unlink()
        yield found


def keys(server: S3Server) -> list[str]:
    return [key for key in server.keys("b") if not key.startswith(PROBE_NAME)]


def errno_of(act: Callable[[], object]) -> str:
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "none"


def test_a_change_of_names_is_done_by_the_remote_when_it_returns(
    s3_server: S3Server, mount: Mounted
) -> None:
    path = mount.path

    def there() -> list[str]:
        return [key for key in keys(s3_server) if key not in ("ours", "theirs")]

    (path / "d").mkdir()
    assert there() == ["d/"]
    (path / "l").symlink_to("d")
    assert there() == ["d/", "l.rclonelink"]
    os.mknod(path / "m")
    assert there() == ["d/", "l.rclonelink", "m"]
    (path / "m").write_bytes(b"bytes")
    os.truncate(path / "m", 2)
    assert s3_server.read("b", "m") == b"by"
    os.rename(path / "m", path / "d" / "n")
    assert there() == ["d/", "d/n", "l.rclonelink"]
    (path / "l").unlink()
    (path / "d" / "n").unlink()
    assert there() == ["d/"]
    (path / "d").rmdir()
    assert there() == []


def test_a_directory_that_the_remote_can_not_move_is_for_whoever_asks_to_copy(
    s3_server: S3Server, mount: Mounted
) -> None:
    (mount.path / "d").mkdir()
    (mount.path / "d" / "f").write_bytes(b"bytes")
    assert errno_of(lambda: os.rename(mount.path / "d", mount.path / "e")) == "EXDEV"
    shutil.move(mount.path / "d", mount.path / "e")
    assert keys(s3_server) == ["e/", "e/f", "ours", "theirs"]
    assert s3_server.read("b", "e/f") == b"bytes"


def test_what_somebody_else_has_changed_is_busy_and_stays(
    s3_server: S3Server, mount: Mounted
) -> None:
    """ESTALE would make the kernel do it again, then to what nobody here has seen."""
    (mount.path / "d").mkdir()
    s3_server.put("b", "theirs", b"another version")
    s3_server.put("b", "d/new", b"of others")
    assert errno_of((mount.path / "theirs").unlink) == "EBUSY"
    assert errno_of((mount.path / "d").rmdir) == "ENOTEMPTY"
    assert os.listdir(mount.path / "d") == ["new"]
    assert (mount.path / "theirs").read_bytes() == b"another version"
    s3_server.put("b", "theirs", b"and another, longer one")
    assert errno_of(lambda: os.rename(mount.path / "ours", mount.path / "theirs")) == "EBUSY"
    mount.cli("refresh", str(mount.path))
    assert (mount.path / "theirs").stat().st_size == len(b"and another, longer one")
    s3_server.put("b", "theirs", b"and a last one")
    assert errno_of(lambda: os.truncate(mount.path / "theirs", 0)) == "EBUSY"
    (mount.path / "just-made").write_bytes(b"which no listing has")
    s3_server.put("b", "just-made", b"of others")
    assert errno_of((mount.path / "just-made").unlink) == "EBUSY"
    s3_server.delete("b", "just-made")
    mount.cli("flush", str(mount.path))
    found = {key: s3_server.read("b", key) for key in keys(s3_server) if key[0] != "d"}
    assert found.pop("theirs") == b"and a last one"
    assert b"as we know it, too" in found.values()
    assert all("conflict" in key for key in found)


def test_no_name_is_changed_while_the_remote_is_away(s3_server: S3Server, mount: Mounted) -> None:
    s3_server.refuse_connections()
    path = mount.path
    assert errno_of(lambda: (path / "new").write_bytes(b"finds out that it is away")) == "ETIMEDOUT"
    assert errno_of((path / "d").mkdir) == "EIO"
    assert errno_of((path / "ours").unlink) == "EIO"
    assert errno_of(lambda: os.rename(path / "ours", path / "other")) == "EIO"
    assert sorted(os.listdir(path)) == ["new", "ours", "theirs"]
    s3_server.accept_connections()


def test_close_waits_as_long_as_its_file_is_being_sent(s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.make_bucket("b")
    with remote_mount(s3_server, tmp_path, bandwidth_up="3MiB") as mount:
        data = os.urandom(24 << 20)
        (mount.path / "big").write_bytes(data)  # it takes longer than the timeout
        assert s3_server.read("b", "big") == data
