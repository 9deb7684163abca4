"""What a file that was renamed leaves on a Nextcloud when the daemon dies as it arrives there."""

import pytest

from tests.mount.test_nextcloud_times import THEN_S, Mount, flush, mount, until
from tests.servers.nextcloud.launch import NextcloudServer

__all__ = ["mount"]
pytestmark = [pytest.mark.fuse, pytest.mark.server]


@pytest.mark.parametrize("checksum", ["MD5:ce97a90ef59e9c768263754682f68bd6", ""])
@pytest.mark.parametrize("then", ["unlink", "rename", "rename its directory", "replace", "nothing"])
def test_a_renamed_file_that_arrived_as_the_daemon_was_killed_is_where_it_was_put_last(
    mount: Mount, nextcloud_server: NextcloudServer, then: str, checksum: str
) -> None:
    nextcloud_server.put("a", b"theirs", mtime_s=THEN_S, checksum=checksum)
    nextcloud_server.put("d/other", b"other", mtime_s=THEN_S)
    at = mount()
    nextcloud_server.faults({"op": "Move", "times": 1, "lose_reply": True})
    (at.path / "a").rename(at.path / "d/f")
    nextcloud_server.faults({"op": "Propfind", "path": "^d/f$", "skip": 1, "hold": True})
    until(lambda: "d/f" in nextcloud_server.tree())
    if then == "unlink":
        (at.path / "d/f").unlink()
    elif then == "rename":
        (at.path / "d/f").rename(at.path / "g")
    elif then == "rename its directory":
        (at.path / "d").rename(at.path / "e")
    elif then == "replace":
        (at.path / "new").write_bytes(b"ours")
        (at.path / "new").rename(at.path / "d/f")
    at.kill()
    nextcloud_server.clear_faults()
    nextcloud_server.release()
    at = mount()
    flush(at)
    wanted = {
        "unlink": ["d", "d/other"],
        "rename": ["d", "d/other", "g"],
        "rename its directory": ["e", "e/f", "e/other"],
    }.get(then, ["d", "d/f", "d/other"])
    assert sorted(name.rstrip("/") for name in nextcloud_server.tree()) == wanted
    assert sorted(str(p.relative_to(at.path)) for p in at.path.rglob("*")) == wanted
    if then == "replace":
        assert nextcloud_server.read("d/f") == b"ours"
