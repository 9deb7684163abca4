"""A daemon whose service manager keeps the mount: with a manager of our own, so that it runs also
where no systemd can be booted (tests/systemd/test_surviving.py has that)."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fakes.service_manager import ServiceManager
from tests.mount.mounting import Mounted, is_mounted, mounted
from tests.mount.surviving import TIMEOUT_S, until

pytestmark = pytest.mark.fuse

# Three open files: one that is written, one to read, one without a name. What it finds in them
# once it is told to look.
HOLDS = """
import os, sys
mount = sys.argv[1]
reads = os.open(mount + "/file", os.O_RDONLY)
writes = os.open(mount + "/new", os.O_CREAT | os.O_RDWR | os.O_APPEND)
os.write(writes, b"before ")
gone = os.open(mount + "/gone", os.O_CREAT | os.O_RDWR)
os.write(gone, b"nameless")
os.fsync(gone)
os.unlink(mount + "/gone")
print("held", flush=True)
while sys.stdin.readline().strip():
    os.write(writes, b"after ")
    os.fstatvfs(reads)
    os.posix_fadvise(gone, 0, 0, os.POSIX_FADV_DONTNEED)
    print(os.pread(reads, 9, 0), os.pread(writes, 99, 0), os.pread(gone, 99, 0), flush=True)
"""


class Holder:
    """In a process of its own: a mount that nobody answers for would hold this one."""

    def __init__(self, mount: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(mount)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        assert self.stdout.readline() == "held\n"

    def look(self) -> None:
        """Begins to."""
        self.stdin.write("look\n")
        self.stdin.flush()

    def saw(self) -> str:
        return self.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate("\n", timeout=TIMEOUT_S)
        assert self.process.returncode == 0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path / "notify") as found:
        yield found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    found = tmp_path / "data"
    found.mkdir()
    (found / "file").write_bytes(b"bytes")
    return found


def started(stack: ExitStack, manager: ServiceManager, data: Path) -> Mounted:
    """A daemon with whatever is in the store."""
    launcher = manager.launcher() if manager.kept else ([], ())
    environment = {"NOTIFY_SOCKET": str(manager.path)}
    made = mounted(f"file://{data}", data.parent, environment=environment, launcher=launcher)
    return stack.enter_context(made)


@pytest.mark.parametrize("removes", [True, False], ids=["", "a-manager-that-removes-nothing"])
def test_open_files_go_on_with_a_daemon_that_the_manager_starts(
    manager: ServiceManager, data: Path, removes: bool
) -> None:
    manager.removes = removes
    with ExitStack() as stack:
        mount = started(stack, manager, data)
        holder = Holder(mount.path)
        for deaths in range(1, 3):
            mount.kill()
            holder.look()  # it waits
            mount = started(stack, manager, data)
            written = "before " + deaths * "after "
            assert holder.saw() == f"b'bytes' {written.encode()!r} b'nameless'"
            assert "going on for a daemon that ended" in mount.log.read_text()
            assert len(manager.names) == (2 if removes else 2 + deaths)
        holder.end()
        manager.removes = True
        assert mount.stop() == 0
        assert not [name for name in manager.names if "connection" in name]
        assert not is_mounted(mount.path)
    assert (data / "new").read_bytes() == written.encode()
    assert sorted(os.listdir(data)) == ["file", "new"]


def test_what_the_manager_has_let_go_is_mounted_again_in_the_place_of_the_dead_mount(
    manager: ServiceManager, data: Path
) -> None:
    with ExitStack() as stack:
        mount = started(stack, manager, data)
        mount.kill()
        for name in manager.names:
            manager.drop(name)  # as systemd does for a unit that has failed
        mount = started(stack, manager, data)
        assert "going on for" not in mount.log.read_text()
        assert (mount.path / "file").read_bytes() == b"bytes"
        assert mount.stop() == 0


def test_a_unit_that_ends_leaves_nothing_with_its_manager(
    manager: ServiceManager, data: Path
) -> None:
    with ExitStack() as stack:
        mount = started(stack, manager, data)
        until(lambda: len(manager.names) == 2)
        mount.cli("umount", str(mount.path))
        mount.process.wait(TIMEOUT_S)
        assert manager.names == []
