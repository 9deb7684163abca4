"""A mount outlives its daemon: what programs see of a crash and of an upgrade, through the kernel.

Programs run in processes of their own, with a timeout: a mount that nobody answers for holds them.
"""

import errno
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mountd.fusefs.takeover import Greeting
from mountd.kept.record import Record
from tests.mount.mounting import is_mounted, mounted
from tests.mount.surviving import TIMEOUT_S, Background, in_background, is_alive, until

pytestmark = pytest.mark.fuse

PROGRAMS = Path(__file__).with_name("surviving_programs.py")


def filled(folder: Path) -> Path:
    data = folder / "data"
    (data / "many").mkdir(parents=True)
    (data / "large").write_bytes(random.Random(1).randbytes(8 << 20))
    (data / "doomed").write_bytes(b"0123456789" * 1000)
    for i in range(300):
        (data / "many" / f"name-{i:05}").touch()
    return data


def under_load(mount: Background, stop: Path, happens: Callable[[], None]) -> dict[str, Any]:
    """What the programs say that ran meanwhile."""
    running = subprocess.Popen(
        [sys.executable, str(PROGRAMS), str(mount.path), str(stop)], stdout=subprocess.PIPE
    )
    try:
        until(lambda: (mount.path / "made").exists() and not (mount.path / "doomed").exists())
        happens()
    finally:
        stop.touch()
        try:
            out, _ = running.communicate(timeout=2 * TIMEOUT_S)
        except subprocess.TimeoutExpired:
            running.kill()
            raise
    told: dict[str, Any] = json.loads(out)
    assert not [program for program in told.values() if "error" in program], told
    return told


SYNCFS = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open({!r}, os.O_RDONLY)
print(flush=True)
sys.stdin.readline()
assert not libc.syncfs(fd), os.strerror(ctypes.get_errno())
"""

HOLD = """
import os, sys
fd = os.open({!r}, os.O_RDONLY)
print(flush=True)
sys.stdin.readline()
try:
    os.fstat(fd)
    os.pread(fd, 1, 0)
except OSError as error:
    os._exit(error.errno)
"""


def python(code: str) -> "subprocess.Popen[bytes]":
    """Runs it beside this process, which must not touch a mount that nobody answers for."""
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def ends(process: "subprocess.Popen[bytes]") -> int:
    process.communicate(b"go\n", timeout=TIMEOUT_S)
    return process.returncode


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The end of `tmp_path`/notify that a service manager has."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(tmp_path / "notify"))
        found.setblocking(False)
        yield found


def heard_by(manager: socket.socket) -> list[str]:
    """The lines that a service manager has got."""
    lines: list[str] = []
    with suppress(BlockingIOError):
        while True:
            lines += manager.recv(1 << 16).decode().splitlines()
    return lines


def is_left_over(folder: Path) -> bool:
    """A put that was killed leaves its temporary file for a day, and with it the directory."""
    names = list(folder.iterdir())
    return bool(names) and all(path.name.startswith(".mountd-tmp-") for path in names)


def check_remote(data: Path, told: dict[str, Any]) -> None:
    """All that was acknowledged is there, and nothing else."""
    lines = (data / "appended").read_bytes()
    assert lines == b"".join(b"%08d\n" % i for i in range(told["append"]["lines"]))
    kept = {str(i) for i in range(0, told["make_and_remove"]["made"], 2)}
    assert {path.name for path in (data / "made").iterdir() if not is_left_over(path)} == kept
    for name in kept:
        assert (data / "made" / name / "b").read_bytes() == name.encode()
    names = {path.name for path in data.iterdir()}
    assert names == {"large", "many", "made", "appended"}


def test_nobody_notices_that_the_daemon_was_killed_again_and_again(tmp_path: Path) -> None:
    data = filled(tmp_path)
    with in_background(f"file://{data}", tmp_path) as mount:

        def crashes() -> None:
            for _ in range(3):
                mount.kill()

        told = under_load(mount, tmp_path / "stop", crashes)
        done = mount.cli("umount", str(mount.path))
        assert (done.returncode, done.stderr) == (0, ""), f"{done.stderr}\n{mount.log()}"
        until(lambda: not is_alive(mount.keeper))
        assert not is_mounted(mount.path)
    check_remote(data, told)


def test_times_that_the_kernel_still_owes_of_a_removed_file_fail_no_syncfs_and_no_umount(
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    source = f"file://{tmp_path / 'data'}"
    with in_background(source, tmp_path, log_level="debug") as mount:
        (mount.path / "f").write_bytes(b"bytes")
        (mount.path / "f").rename(mount.path / "g")  # the kernel keeps what that makes of its times
        syncing = python(SYNCFS.format(str(mount.path)))
        assert syncing.stdout is not None
        assert syncing.stdin is not None
        syncing.stdout.readline()
        os.kill(mount.pid, signal.SIGSTOP)
        removing = python(f"import os; os.unlink({str(mount.path / 'g')!r})")
        until(lambda: mount.waiting() >= 1)
        syncing.stdin.write(b"go\n")
        syncing.stdin.flush()
        until(lambda: mount.waiting() >= 2)
        os.kill(mount.pid, signal.SIGKILL)
        assert (ends(removing), ends(syncing)) == (0, 0)
        assert ends(python(SYNCFS.format(str(mount.path)))) == 0
        done = mount.cli("umount", str(mount.path))
        assert (done.returncode, done.stderr) == (0, "")
        assert "came late" in mount.log()
    assert os.listdir(tmp_path / "data") == []


def test_nobody_notices_an_upgrade(tmp_path: Path) -> None:
    data = filled(tmp_path)
    with in_background(f"file://{data}", tmp_path) as mount:
        pid = mount.pid

        def upgrades() -> None:
            for _ in range(2):
                done = mount.cli("upgrade", str(mount.path))
                assert (done.returncode, done.stderr) == (0, "")

        told = under_load(mount, tmp_path / "stop", upgrades)
        assert mount.look() == pid  # it is the same process with new code
        assert mount.cli("umount", str(mount.path)).returncode == 0
    check_remote(data, told)


def test_a_mount_in_the_foreground_can_be_upgraded_too(
    tmp_path: Path, manager: socket.socket
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(b"bytes")
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    with mounted(f"file://{tmp_path / 'data'}", tmp_path, environment=environment) as mount:
        with (mount.path / "file").open("rb", buffering=0) as file:
            mount.cli("upgrade", str(mount.path))
            assert file.read() == b"bytes"
        assert mount.status()["pid"] == mount.process.pid
        heard = heard_by(manager)
        assert heard.count("READY=1") == 2
        assert "STOPPING=1" not in heard  # systemd would end the process
        assert mount.stop() == 0
        assert "STOPPING=1" in heard_by(manager)
    assert not is_mounted(mount.path)


def test_a_mount_that_is_taken_away_while_no_daemon_is_there_stays_away(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with in_background(f"file://{tmp_path / 'data'}", tmp_path) as mount:
        os.kill(mount.pid, signal.SIGSTOP)
        subprocess.run(["umount", "-l", mount.path], check=True, timeout=TIMEOUT_S)
        os.kill(mount.pid, signal.SIGKILL)
        until(lambda: not is_alive(mount.keeper))
        assert not is_mounted(mount.path)
        assert "was unmounted while no daemon was there" in mount.log()


def zeros(record: bytes) -> bytes:
    return bytes(len(record))


def other_answer(record: bytes) -> bytes:
    """As if this libfuse answered FUSE_INIT in another way than the one of the former process."""
    with tempfile.TemporaryFile() as file:
        file.write(record)
        file.flush()
        found = Record.read(file.fileno())
    answer = bytearray(found.greeting.answer)
    answer[-1] ^= 1
    other = Record(Greeting(found.greeting.request, bytes(answer)), found.terms)
    return os.pread(other.fd, len(record), 0)


@pytest.mark.parametrize(
    ("damage", "says"), [(zeros, "can't be read"), (other_answer, "answers FUSE_INIT in another")]
)
def test_what_can_not_be_gone_on_with_is_mounted_again_by_the_successor(
    tmp_path: Path, damage: Callable[[bytes], bytes], says: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(b"bytes")
    with in_background(f"file://{tmp_path / 'data'}", tmp_path) as mount:
        (mount.path / "new").write_bytes(b"acknowledged")
        holding = python(HOLD.format(str(mount.path / "file")))
        assert holding.stdout is not None
        holding.stdout.readline()
        with mount.record().open("r+b", buffering=0) as record:
            found = record.read()
            record.seek(0)
            record.write(damage(found))
        keeper = mount.keeper
        mount.kill()
        assert re.search(rf"{says}.*it is mounted again", mount.log())
        assert ends(holding) in (errno.ENOTCONN, errno.ECONNABORTED)
        assert (mount.path / "file").read_bytes() == b"bytes"
        assert (mount.path / "new").read_bytes() == b"acknowledged"
        holding = python(HOLD.format(str(mount.path / "file")))
        assert holding.stdout is not None
        holding.stdout.readline()
        mount.kill()  # that one is gone on with
        assert ends(holding) == 0
        assert mount.keeper == keeper
        assert mount.cli("umount", str(mount.path)).returncode == 0


def test_a_daemon_that_dies_at_each_start_is_given_up_and_calls_get_an_error(
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    site = tmp_path / "site"
    site.mkdir()
    dies = tmp_path / "dies"
    (site / "sitecustomize.py").write_text(
        f"import os, sys\nif os.path.exists({str(dies)!r}) and 'mount' in sys.orig_argv and "
        "'MOUNTD_ONLY_LOOK' not in os.environ:\n    os.kill(os.getpid(), 11)\n"
    )
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    with in_background(f"file://{tmp_path / 'data'}", tmp_path, {"PYTHONPATH": path}) as mount:
        dies.touch()
        upgraded = mount.cli("upgrade", str(mount.path))
        assert upgraded.returncode == 1
        assert "died, and nobody goes on" in upgraded.stderr
        assert not is_alive(mount.keeper)
        looked = subprocess.run(
            [sys.executable, "-c", f"import os; os.listdir({str(mount.path)!r})"],
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert os.strerror(errno.ENOTCONN).encode() in looked.stderr
        assert "giving up" in mount.log()
        dies.unlink()
        settings = f"cache_dir={mount.cache}"
        assert mount.cli(
            "mount", f"file://{tmp_path / 'data'}", str(mount.path), "-o", settings
        ).returncode == 0  # fmt: skip
        mount.keeper = 0
        mount.look()
        assert os.listdir(mount.path) == []


def test_sigterm_to_the_keeper_unmounts_and_ends_both(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with in_background(f"file://{tmp_path / 'data'}", tmp_path) as mount:
        os.kill(mount.keeper, signal.SIGTERM)
        until(lambda: not is_alive(mount.keeper) and not is_alive(mount.pid))
        assert not is_mounted(mount.path)


WRITE_AND_HOLD = """
import os, sys
fd = os.open({!r}, os.O_CREAT | os.O_WRONLY)
for _ in range(16):
    os.write(fd, bytes(1 << 20))
print(flush=True)
sys.stdin.readline()
"""


def test_sigterm_to_keeper_and_daemon_at_once_loses_nothing_of_files_that_are_open(
    tmp_path: Path,
) -> None:
    """The end of a session or of the machine."""
    (tmp_path / "data").mkdir()
    with in_background(f"file://{tmp_path / 'data'}", tmp_path) as mount:
        writing = python(WRITE_AND_HOLD.format(str(mount.path / "file")))
        assert writing.stdout is not None
        writing.stdout.readline()
        for pid in (mount.pid, mount.keeper):
            os.kill(pid, signal.SIGTERM)
        until(lambda: not is_alive(mount.keeper) and not is_alive(mount.pid))
        assert ends(writing) == 0
        assert (tmp_path / "data" / "file").stat().st_size == 16 << 20
        assert "ending at once" not in mount.log()


def test_a_daemon_that_was_told_to_end_is_not_started_again(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with in_background(f"file://{tmp_path / 'data'}", tmp_path) as mount:
        new = mount.kill()
        os.kill(new, signal.SIGTERM)
        until(lambda: not is_alive(mount.keeper) and not is_alive(new))
        assert not is_mounted(mount.path)


def test_a_killed_keeper_does_not_take_the_mount_with_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(b"bytes")
    with in_background(f"file://{tmp_path / 'data'}", tmp_path) as mount:
        os.kill(mount.keeper, signal.SIGKILL)
        until(lambda: not is_alive(mount.keeper))
        assert (mount.path / "file").read_bytes() == b"bytes"
        assert mount.cli("umount", str(mount.path)).returncode == 0
        until(lambda: not is_alive(mount.pid))
