"""Times that are set after a file has arrived on a Nextcloud, through the real daemon."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mount.mounting import Mounted, mounted
from tests.servers.nextcloud.launch import NextcloudServer

pytestmark = [pytest.mark.fuse, pytest.mark.server]

Mount = Callable[..., Mounted]
NEW_S = 1_500_000_000
THEN_S = 1_400_000_000


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


def flush(mount: Mounted) -> None:
    mount.cli("flush", str(mount.path), "--timeout", "25")


def touch(path: Path, mtime_s: int = NEW_S) -> None:
    os.utime(path, (mtime_s, mtime_s))


def mtime_there(server: NextcloudServer, path: str) -> int:
    found = server.node(path)
    assert found is not None
    return int(found.mtime_s)


def until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 25
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_a_touch_of_a_file_that_is_there_arrives_and_leaves_its_bytes_and_inode(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("f", b"theirs", mtime_s=THEN_S)
    at = mount()
    number = (at.path / "f").stat().st_ino
    touch(at.path / "f")
    flush(at)
    assert mtime_there(nextcloud_server, "f") == NEW_S
    assert nextcloud_server.read("f") == b"theirs"
    assert nextcloud_server.log(op="Put") == []
    for _ in range(2):
        at.cli("refresh", str(at.path))
        found = (at.path / "f").stat()
        assert (found.st_mtime, found.st_ino) == (NEW_S, number)
        assert (at.path / "f").read_bytes() == b"theirs"
        at = mount()


def test_what_is_made_and_dated_before_it_is_sent_needs_no_request_of_its_own(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    at = mount()
    for number in range(20):
        (at.path / f"f{number}").write_bytes(b"%d" % number)
    touch(at.path / "f7")
    flush(at)
    (at.path / "f8").chmod(0o600)
    flush(at)
    assert mtime_there(nextcloud_server, "f7") == NEW_S
    assert nextcloud_server.log(op="Proppatch") == []


def test_a_touch_whose_answer_was_lost_is_settled_by_a_look(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("f", b"theirs", mtime_s=THEN_S)
    at = mount()
    nextcloud_server.faults({"op": "Proppatch", "times": 1, "lose_reply": True})
    touch(at.path / "f")
    flush(at)
    assert mtime_there(nextcloud_server, "f") == NEW_S
    assert len(nextcloud_server.log(op="Proppatch")) == 1


@pytest.mark.parametrize(
    ("then", "with_sum"),
    [("touch", True), ("nothing", False), ("edit", True), ("unlink", True), ("rename", False)],
)
def test_a_touch_that_arrived_as_the_daemon_was_killed_is_no_foreign_version(
    mount: Mount, nextcloud_server: NextcloudServer, then: str, with_sum: bool
) -> None:
    checksum = "MD5:ce97a90ef59e9c768263754682f68bd6" if with_sum else ""
    nextcloud_server.put("f", b"theirs", mtime_s=THEN_S, checksum=checksum)
    at = mount()
    assert (at.path / "f").read_bytes() == b"theirs"
    nextcloud_server.faults({"op": "Proppatch", "times": 1, "lose_reply": True})
    nextcloud_server.faults({"op": "Propfind", "path": "^f$", "skip": 1, "hold": True})
    touch(at.path / "f")
    until(lambda: mtime_there(nextcloud_server, "f") == NEW_S)
    at.kill()
    nextcloud_server.clear_faults()
    nextcloud_server.release()
    at = mount(write_back_s=3)
    wanted = NEW_S
    if then == "touch":
        wanted = NEW_S + 100
        touch(at.path / "f", wanted)
    elif then == "edit":
        with (at.path / "f").open("r+b") as file:
            file.write(b"OURS")
    elif then == "unlink":
        (at.path / "f").unlink()
    elif then == "rename":
        (at.path / "f").rename(at.path / "g")
    flush(at)
    assert nextcloud_server.tree() == {"unlink": [], "rename": ["g"]}.get(then, ["f"])
    if then == "edit":
        assert nextcloud_server.read("f") == b"OURSrs"
    elif then != "unlink":
        name = "g" if then == "rename" else "f"
        assert nextcloud_server.read(name) == b"theirs"
        assert mtime_there(nextcloud_server, name) == wanted


def test_what_a_desktop_put_there_while_the_daemon_was_down_is_not_removed(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    # Replaced in bulk, as desktop clients do: neither size, id, sum nor time of upload tells.
    nextcloud_server.configure(clock_s=2_000_000_000)
    nextcloud_server.put("f", b"theirs", mtime_s=THEN_S)
    at = mount(write_back_s=60)
    (at.path / "f").unlink()
    at.kill()
    newer = nextcloud_server.put("f", b"NEWER!", mtime_s=THEN_S + 9)
    at = mount()
    flush(at)
    assert nextcloud_server.node("f") == newer
    assert nextcloud_server.read("f") == b"NEWER!"


def test_somebody_elses_newer_version_is_not_touched_and_the_log_says_so(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("f", b"theirs", mtime_s=THEN_S)
    at = mount(write_back_s=2)
    touch(at.path / "f")
    newer = nextcloud_server.put("f", b"newer!", mtime_s=THEN_S + 9)
    flush(at)
    assert nextcloud_server.node("f") == newer
    at.cli("refresh", str(at.path))
    until(lambda: (at.path / "f").stat().st_mtime == THEN_S + 9)
    assert (at.path / "f").read_bytes() == b"newer!"


def test_a_rename_takes_a_new_time_along(mount: Mount, nextcloud_server: NextcloudServer) -> None:
    nextcloud_server.put("f", b"theirs", mtime_s=THEN_S)
    at = mount(write_back_s=2)
    touch(at.path / "f")
    (at.path / "f").rename(at.path / "g")
    flush(at)
    assert nextcloud_server.tree() == ["g"]
    assert mtime_there(nextcloud_server, "g") == NEW_S


def test_who_reads_a_file_while_its_time_is_set_reads_on(
    mount: Mount, nextcloud_server: NextcloudServer
) -> None:
    data = os.urandom(24 << 20)
    # With a sum: else what is fetched ahead asks, too, and has the look that is to be let through.
    checksum = f"MD5:{hashlib.md5(data).hexdigest()}"
    nextcloud_server.put("f", data, mtime_s=THEN_S, checksum=checksum)
    at = mount()
    fd = os.open(at.path / "f", os.O_RDONLY)
    try:
        assert os.pread(fd, 4096, 0) == data[:4096]
        nextcloud_server.faults({"op": "Propfind", "path": "^f$", "skip": 1, "hold": True})
        touch(at.path / "f")
        until(lambda: mtime_there(nextcloud_server, "f") == NEW_S)
        # Set there, and the daemon doesn't know yet; then it does.
        nextcloud_server.clear_faults()
        assert os.pread(fd, 4096, 12 << 20) == data[12 << 20 :][:4096]
        nextcloud_server.release()
        flush(at)
        assert os.pread(fd, 4096, 20 << 20) == data[20 << 20 :][:4096]
    finally:
        os.close(fd)
