"""A daemon that is killed while the kernel keeps a thread of it waiting for its own mount."""

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mountd.kept.keeper import CONNECTIONS
from tests.mount.surviving import TIMEOUT_S, in_background, is_alive, until
from tests.mount.test_stopping import wait_until_told
from tests.mount.test_surviving import HOLD, ends, python
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]


def test_who_holds_a_directory_that_a_dead_daemon_waits_for_gets_an_error_and_all_else_goes_on(
    s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.put("b", "d/f", b"bytes")
    environment = s3_server.environment()
    with in_background("s3://b", tmp_path, environment, metadata_ttl_s=1) as mount:
        holding = python(HOLD.format(str(mount.path / "d" / "f")))
        assert holding.stdout is not None
        holding.stdout.readline()
        time.sleep(1.2)  # until the listing of the root is too old
        s3_server.clear_log()
        s3_server.faults({"op": "ListObjectsV2", "hold": True})
        looks = subprocess.Popen(["stat", str(mount.path / "new")], stderr=subprocess.DEVNULL)
        try:
            s3_server.wait_for_requests(1, op="ListObjectsV2")
            command = [sys.executable, "-m", "mountd", "refresh", str(mount.path / "d")]
            refresh = subprocess.Popen(command, env=mount.environment, stderr=subprocess.DEVNULL)
            wait_until_told(mount.pid)
            keeper, first = mount.keeper, mount.pid
            mount.after(lambda: os.kill(first, signal.SIGKILL))
        finally:
            s3_server.clear_faults()
            s3_server.release()
        assert looks.wait(TIMEOUT_S) == 1
        refresh.wait(TIMEOUT_S)
        assert "the kernel keeps a thread of it waiting" in mount.log()
        assert (mount.keeper, mount.pid != first) == (keeper, True)
        assert ends(holding) == 0
        assert (mount.path / "d" / "f").read_bytes() == b"bytes"


FILL = """
import os, sys
fd = os.open({!r}, os.O_CREAT | os.O_WRONLY)
print(flush=True)
for _ in range(64):
    os.write(fd, bytes(1 << 20))
"""


def test_a_daemon_that_is_killed_while_it_has_the_kernel_hand_over_pages_ends_at_once(
    s3_server: S3Server, tmp_path: Path
) -> None:
    """A thread of its own that waited there could not be killed."""
    s3_server.make_bucket("b")
    s3_server.faults({"method": "PUT", "hold": True}, {"method": "POST", "hold": True})
    environment = s3_server.environment()
    with in_background("s3://b", tmp_path, environment, cache_size="16MiB") as mount:
        writing = python(FILL.format(str(mount.path / "file")))
        try:
            # What is written finds no room until something is sent.
            until(lambda: {"folio_wait_bit", "balance_dirty_pages"} & {waits_in(writing.pid)})
            os.kill(mount.keeper, signal.SIGTERM)
            until(lambda: any(map(hands_over, children_of_threads(mount.pid))))
            os.kill(mount.pid, signal.SIGKILL)
            until(lambda: not is_alive(mount.keeper))
        finally:
            s3_server.clear_faults()
            s3_server.release()
        ends(writing)


def children_of_threads(pid: int) -> list[int]:
    """A thread may end while they are looked at."""
    texts = list[str]()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            texts.append((task / "children").read_text())
    return list(map(int, " ".join(texts).split()))


def hands_over(pid: int) -> bool:
    """Whether it waits in syncfs(2): for the flusher to send pages, or for what that has sent."""
    return waits_in(pid).startswith(("wb_wait", "folio_wait"))


def waits_in(pid: int) -> str:
    """Where in the kernel; "" for one that has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return ""


# Nobody reads this connection: its FUSE_INIT waits, and the child's call for that.
ABORT = """
import ctypes, os, sys, time
from pathlib import Path
from mountd.kept import keeper
path = sys.argv[1]
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,subtype=mountd"
libc = ctypes.CDLL(None, use_errno=True)
assert not libc.mount(b"stuck", path.encode(), b"fuse", 0, options.encode())
child = os.fork()
if not child:
    try:
        os.listdir(path)
    except OSError as error:
        os._exit(error.errno)
    os._exit(0)
info = Path(f"/proc/self/fdinfo/{fd}").read_text()
number = info.partition("fuse_connection:")[2].split()[0]
while int(Path(keeper.CONNECTIONS, number, "waiting").read_text()) < 2:
    time.sleep(0.01)
print(os.waitpid(child, os.WNOHANG)[0], flush=True)
keeper.abort(fd)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount by itself")
def test_where_nothing_else_helps_all_that_wait_on_the_mount_get_an_error(tmp_path: Path) -> None:
    script = f'mount -t fusectl none {CONNECTIONS} && exec "$@"'
    command = [sys.executable, "-c", ABORT, str(tmp_path)]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    waits, number = map(int, done.stdout.split())
    assert (waits, number) == (0, errno.ENOTCONN)
    assert "all calls on the mount get an error" in done.stderr


def test_an_upgrade_while_the_kernel_is_told_of_a_name_keeps_the_mount_and_what_is_open(
    s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.put("b", "d/f", b"bytes")
    environment = s3_server.environment()
    with in_background("s3://b", tmp_path, environment, metadata_ttl_s=1) as mount:
        holding = python(HOLD.format(str(mount.path / "d" / "f")))
        assert holding.stdout is not None
        holding.stdout.readline()
        time.sleep(1.2)  # until the listing of the root is too old
        s3_server.clear_log()
        s3_server.faults({"op": "ListObjectsV2", "hold": True})
        looks = subprocess.Popen(["stat", str(mount.path / "new")], stderr=subprocess.DEVNULL)
        try:
            s3_server.wait_for_requests(1, op="ListObjectsV2")
            command = [sys.executable, "-m", "mountd", "refresh", str(mount.path / "d")]
            refresh = subprocess.Popen(command, env=mount.environment, stderr=subprocess.DEVNULL)
            wait_until_told(mount.pid)
            command = [sys.executable, "-m", "mountd", "upgrade", str(mount.path)]
            upgrade = subprocess.Popen(command, env=mount.environment)
            with suppress(subprocess.TimeoutExpired):  # it waits for that, or does not
                upgrade.wait(5)
        finally:
            s3_server.clear_faults()
            s3_server.release()
        assert upgrade.wait(TIMEOUT_S) == 0
        assert looks.wait(TIMEOUT_S) == 1
        refresh.wait(TIMEOUT_S)
        mount.look()
        assert ends(holding) == 0
        assert (mount.path / "d" / "f").read_bytes() == b"bytes"
