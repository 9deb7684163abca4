"""The command line on real mounts: start, status, busy, dead and stuck daemons, exit codes."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mountd.cache_folder import holder_pid
from mountd.mount_table import mount_at, read_mounts
from tests.fakes.stopwatch import fastest_s
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]

STATUS = {
    "mountpoint": None,
    "source": None,
    "pid": None,
    "state": None,
    "remote": {"state", "since", "last_error"},
    "cache": {"bytes", "limit_bytes", "volatile", "hits", "misses", "pinned_bytes"},
    "queue": {"pending", "uploading", "failed", "conflicts", "bytes", "oldest_s"},
    "transfer": {"down_bytes", "up_bytes", "requests"},
}

KEPT = ("PATH", "HOME", "LANG", "PYTHONPATH")


@dataclass
class Machine:
    """One user's machine: a mount point, a cache, a runtime directory, and the real command."""

    root: Path
    environment: dict[str, str]
    stopped: list[int] = field(default_factory=list)
    patience_s: float = 90  # for a command

    @property
    def mountpoint(self) -> Path:
        return self.root / "storage"

    def run(self, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mountd", *map(str, arguments)],
            env=self.environment | more,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=self.patience_s,
            check=False,
        )

    def mount(self, source: str = "s3://lab") -> int:
        """Mounts, and returns the daemon's pid."""
        done = self.run("mount", source, self.mountpoint)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
        return int(self.status()["pid"])

    def status(self) -> dict[str, Any]:
        (found,) = json.loads(self.run("status", self.mountpoint, "--json").stdout)
        assert isinstance(found, dict)
        return found

    def is_mounted(self) -> bool:
        return mount_at(str(self.mountpoint), read_mounts()) is not None

    def stop(self, pid: int) -> None:
        """SIGSTOP; undone at the test's end."""
        os.kill(pid, signal.SIGSTOP)
        self.stopped.append(pid)


@pytest.fixture
def machine(tmp_path: Path, s3_server: S3Server) -> Iterator[Machine]:
    s3_server.put("lab", "a.txt", b"hello")
    s3_server.put("lab", "d/b.txt", b"b")
    kept = {name: value for name, value in os.environ.items() if name in KEPT}
    environment = kept | s3_server.environment()
    environment["MOUNTD_RUNTIME_DIR"] = str(tmp_path / "run")
    environment["MOUNTD_CACHE_DIR"] = str(tmp_path / "cache")
    environment["MOUNTD_CACHE_SIZE"] = "64MiB"
    environment["MOUNTD_REQUEST_TIMEOUT_S"] = "5"
    environment["XDG_CONFIG_HOME"] = str(tmp_path / "no-config")
    (tmp_path / "storage").mkdir()
    machine = Machine(tmp_path, environment)
    yield machine
    for pid in machine.stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    if machine.is_mounted():
        machine.run("umount", machine.mountpoint, "--abandon")
    assert not machine.is_mounted()


@pytest.fixture
def holder(machine: Machine) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a process that keeps a file of the mount open until its stdin closes."""
    children: list[subprocess.Popen[bytes]] = []

    def hold() -> subprocess.Popen[bytes]:
        script = "import sys; f = open(sys.argv[1]); print(1, flush=True); sys.stdin.read()"
        child = subprocess.Popen(
            [sys.executable, "-c", script, machine.mountpoint / "a.txt"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == b"1\n"
        return child

    yield hold
    for child in children:
        child.communicate(timeout=20)


def is_running(pid: int) -> bool:
    """False too for a zombie that init hasn't fetched yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill(machine: Machine, pid: int) -> None:
    """The daemon, and its keeper first: else that starts another one."""
    os.kill(parent_of(pid), signal.SIGKILL)
    pid_fd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([pid_fd], [], [], 20)[0]
    os.close(pid_fd)
    assert machine.is_mounted()


def test_mount_returns_when_the_path_is_usable_and_umount_when_all_is_gone(
    machine: Machine,
) -> None:
    pid = machine.mount()
    assert (machine.mountpoint / "a.txt").read_bytes() == b"hello"
    assert os.getsid(pid) == parent_of(pid)  # a terminal that closes doesn't end it
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    done = machine.run("umount", machine.mountpoint)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
    assert not machine.is_mounted()
    assert not is_running(pid)
    assert os.listdir(machine.root / "run") == []
    (folder,) = (machine.root / "cache").iterdir()
    assert holder_pid(folder) is None
    assert "serves s3://lab" in (folder / "log/mountd.log").read_text()


def test_status_is_the_object_of_cli_md(machine: Machine) -> None:
    pid = machine.mount()
    done = machine.run("status", "--json")
    (status,) = [one for one in json.loads(done.stdout) if one["pid"] == pid]
    for key, parts in STATUS.items():
        assert key in status
        assert parts is None or parts <= set(status[key]), key
    assert set(status["transfer"]["requests"]) >= {"get", "put", "list", "stat"}
    assert status["mountpoint"] == str(machine.mountpoint)
    assert (status["source"], status["state"]) == ("s3://lab", "ready")
    assert status["remote"]["state"] == "ok"
    assert status["cache"]["limit_bytes"] == 64 << 20
    plain = machine.run("status", machine.mountpoint).stdout.splitlines()
    assert plain[0] == "everything is on s3://lab"
    assert plain[2].split() == ["mount", str(machine.mountpoint), "ready,", "pid", str(pid)]
    assert plain[3].split()[:3] == ["remote", "s3://lab", "ok"]
    assert all(line.isascii() for line in plain)


def test_who_sees_only_the_path_gets_the_same_status(machine: Machine) -> None:
    pid = machine.mount()
    elsewhere = {"MOUNTD_RUNTIME_DIR": str(machine.root / "another-container")}
    done = machine.run("status", machine.mountpoint, "--json", **elsewhere)
    (status,) = json.loads(done.stdout)
    assert (done.returncode, status["pid"], status["state"]) == (0, pid, "ready")
    done = machine.run("mount", "s3://lab/d", machine.mountpoint, **elsewhere)
    assert done.returncode == 5
    assert "already mounted" in done.stderr
    assert (machine.mountpoint / "a.txt").exists()


def test_a_second_mount_of_the_same_source_names_the_pid_of_the_first(machine: Machine) -> None:
    pid = machine.mount()
    (machine.root / "second").mkdir()
    for flags in ((), ("--foreground",)):
        done = machine.run("mount", "s3://lab", machine.root / "second", *flags)
        assert done.returncode == 1
        assert f"already served by pid {pid}" in done.stderr
        assert done.stderr.count("\n") == 1
    done = machine.run("mount", "s3://lab/d", machine.mountpoint)
    assert done.returncode == 5
    assert f"already mounted by pid {pid}" in done.stderr
    assert machine.status()["state"] == "ready"


def test_umount_of_a_busy_mount_names_who_holds_it_and_leaves_it_working(
    machine: Machine, holder: Callable[[], subprocess.Popen[bytes]]
) -> None:
    machine.mount()
    child = holder()
    done = machine.run("umount", machine.mountpoint)
    assert done.returncode == 1
    assert f"pid {child.pid} (" in done.stderr
    assert f"at {machine.mountpoint}/a.txt" in done.stderr
    assert (machine.mountpoint / "d/b.txt").read_bytes() == b"b"
    assert machine.status()["state"] == "ready"
    child.communicate(timeout=20)
    assert machine.run("umount", machine.mountpoint).returncode == 0


def test_abandon_unmounts_although_the_mount_is_in_use(
    machine: Machine, holder: Callable[[], subprocess.Popen[bytes]]
) -> None:
    pid = machine.mount()
    holder()
    done = machine.run("umount", machine.mountpoint, "--abandon")
    assert (done.returncode, done.stderr) == (0, "")
    assert not machine.is_mounted()
    assert not is_running(pid)


def test_a_killed_daemons_mount_is_seen_and_repaired_by_the_next_mount(machine: Machine) -> None:
    pid = machine.mount()
    kill(machine, pid)
    done = machine.run("status", machine.mountpoint)
    assert done.returncode == 1
    assert f"{machine.mountpoint}  dead\n" in done.stdout
    assert f"mountd umount {machine.mountpoint}" in done.stdout
    assert machine.run("refresh", machine.mountpoint / "d").returncode == 1
    assert "dead" in machine.run("doctor").stdout
    again = machine.mount()
    assert again != pid
    assert (machine.mountpoint / "a.txt").read_bytes() == b"hello"


def test_umount_removes_the_mount_of_a_killed_daemon(machine: Machine) -> None:
    kill(machine, machine.mount())
    done = machine.run("umount", machine.mountpoint)
    assert done.returncode == 0
    assert "was dead; its mount is removed" in done.stderr
    assert not machine.is_mounted()


def test_a_stuck_daemon_is_shown_within_seconds_and_never_unmounted_by_a_mount(
    machine: Machine,
) -> None:
    pid = machine.mount()
    machine.stop(pid)
    told: list[subprocess.CompletedProcess[str]] = []
    assert (
        fastest_s(lambda: told.append(machine.run("status", machine.mountpoint, "--json")), 5) < 5
    )
    done = told[-1]
    (status,) = json.loads(done.stdout)
    assert (status["state"], status["pid"], done.returncode) == ("not answering", pid, 1)
    assert set(status) >= set(STATUS)
    done = machine.run("mount", "s3://lab/d", machine.mountpoint)
    assert (done.returncode, f"pid {pid}" in done.stderr) == (5, True)
    assert machine.is_mounted()
    done = machine.run("umount", machine.mountpoint, "--timeout", "0")
    assert done.returncode == 1
    assert "does not answer; nothing was unmounted" in done.stderr


def test_flush_and_upgrade_of_a_stuck_daemon_name_it_and_do_not_outlive_their_time(
    machine: Machine,
) -> None:
    pid = machine.mount()
    machine.stop(pid)
    for words, machine.patience_s in ((("flush", "--timeout", "1"), 15), (("upgrade",), 60)):
        done = machine.run(*words, machine.mountpoint)
        assert done.returncode == 1
        assert f"{machine.mountpoint}: the daemon (pid {pid}) does not answer" in done.stderr
    os.kill(pid, signal.SIGCONT)
    assert machine.run("flush", machine.mountpoint, "--timeout", "30").returncode == 0
    assert machine.is_mounted()


@pytest.mark.parametrize(
    ("source", "more", "code", "words"),
    [
        ("s3://lab", {"AWS_SECRET_ACCESS_KEY": "WRONGSECRET"}, 3, "s3://lab refuses"),
        ("s3://no-such-bucket", {}, 4, "s3://no-such-bucket does not exist"),
        ("s3://lab", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, 4, "s3://lab does not answer"),
        ("s3://lab", {"MOUNTD_ENGINE": "natif"}, 2, "engine takes native or fsspec"),
    ],
)
def test_a_mount_that_cannot_be_ends_with_one_line_and_its_code(
    machine: Machine, source: str, more: dict[str, str], code: int, words: str
) -> None:
    done = machine.run("mount", source, machine.mountpoint, **more)
    assert words in done.stderr
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (code, 1, "")
    assert "WRONGSECRET" not in done.stderr
    assert not machine.is_mounted()


def test_an_empty_prefix_is_an_empty_directory(machine: Machine) -> None:
    machine.mount("s3://lab/nothing/here")
    assert os.listdir(machine.mountpoint) == []


def test_a_known_source_is_mounted_although_its_remote_is_away(
    machine: Machine, s3_server: S3Server
) -> None:
    machine.mount()
    assert (machine.mountpoint / "a.txt").read_bytes() == b"hello"
    assert machine.run("umount", machine.mountpoint).returncode == 0
    s3_server.refuse_connections()
    machine.mount()
    assert sorted(os.listdir(machine.mountpoint)) == ["a.txt", "d"]
    assert (machine.mountpoint / "a.txt").read_bytes() == b"hello"


def test_a_local_directory_that_is_away_is_mounted_where_something_waits_for_it(
    machine: Machine, tmp_path: Path
) -> None:
    disk, away = tmp_path / "disk", tmp_path / "away"
    disk.mkdir()
    (disk / "f").write_bytes(b"1")
    machine.mount(f"file://{disk}")
    pid = machine.status()["pid"]
    assert os.listdir(machine.mountpoint) == ["f"]
    disk.rename(away)
    (machine.mountpoint / "new").write_bytes(b"waits")
    kill(machine, pid)
    done = machine.run("mount", f"file://{disk}", machine.mountpoint)
    assert (done.returncode, "disk does not exist" in done.stderr) == (0, True)
    assert (machine.mountpoint / "new").read_bytes() == b"waits"
    away.rename(disk)
    assert machine.run("flush", machine.mountpoint, "--timeout", "25").returncode == 0
    assert (disk / "new").read_bytes() == b"waits"
    assert (disk / "f").read_bytes() == b"1"


def test_a_mount_point_whose_disk_is_not_mounted_is_no_empty_directory(
    machine: Machine, tmp_path: Path
) -> None:
    disk, place = tmp_path / "disk", tmp_path / "place"
    disk.mkdir()
    place.mkdir()
    (disk / "f").write_bytes(b"1")
    subprocess.run(["mount", "--bind", disk, place], check=True)
    try:
        machine.environment["MOUNTD_METADATA_TTL_S"] = "0"
        machine.mount(f"file://{place}")
        assert os.listdir(machine.mountpoint) == ["f"]
        subprocess.run(["umount", place], check=True)
        (machine.mountpoint / "new").write_bytes(b"waits")
        assert machine.run("flush", machine.mountpoint, "--timeout", "3").returncode == 75
        assert sorted(os.listdir(machine.mountpoint)) == ["f", "new"]
        kill(machine, machine.status()["pid"])
        done = machine.run("mount", f"file://{place}", machine.mountpoint)
        assert (done.returncode, "its disk is not mounted" in done.stderr) == (0, True)
        assert (machine.mountpoint / "new").read_bytes() == b"waits"
        assert sorted(os.listdir(machine.mountpoint)) == ["f", "new"]
        assert os.listdir(place) == []
        subprocess.run(["mount", "--bind", disk, place], check=True)
        assert machine.run("flush", machine.mountpoint, "--timeout", "25").returncode == 0
        assert (disk / "new").read_bytes() == b"waits"
    finally:
        subprocess.run(["umount", "-l", place], check=False, stderr=subprocess.DEVNULL)


def test_refresh_shows_what_is_new_before_its_time(machine: Machine, s3_server: S3Server) -> None:
    machine.environment["MOUNTD_METADATA_TTL_S"] = "3600"
    machine.mount()
    assert os.listdir(machine.mountpoint / "d") == ["b.txt"]
    s3_server.put("lab", "d/new.txt", b"new")
    assert os.listdir(machine.mountpoint / "d") == ["b.txt"]
    done = machine.run("refresh", machine.mountpoint / "d")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(machine.mountpoint / "d")) == ["b.txt", "new.txt"]


def test_a_mount_point_may_be_named_through_a_link_or_relatively(machine: Machine) -> None:
    (machine.root / "link").symlink_to(machine.mountpoint)
    assert machine.run("mount", "s3://lab", "link").returncode == 0
    assert machine.status()["mountpoint"] == str(machine.mountpoint)
    assert machine.run("refresh", "link/d/b.txt").returncode == 0
    assert machine.run("umount", "./link/").returncode == 0
    assert not machine.is_mounted()


def test_a_relative_runtime_directory_is_below_where_mount_was_typed(machine: Machine) -> None:
    """The daemon in the background leaves for `/`, and its successor begins there."""
    machine.environment["MOUNTD_RUNTIME_DIR"] = "of-the-sockets"
    pid = machine.mount()
    assert len(list((machine.root / "of-the-sockets").glob("*.sock"))) == 1
    environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert f"MOUNTD_RUNTIME_DIR={machine.root / 'of-the-sockets'}".encode() in environ
    assert machine.run("umount", machine.mountpoint).returncode == 0


def test_a_mount_of_the_config_file_is_mounted_by_its_name(machine: Machine) -> None:
    config = machine.root / "config.toml"
    config.write_text(
        '[remotes.lab]\nsource = "s3://lab"\n'
        f'[mounts.data]\nsource = "lab:d"\nmountpoint = "{machine.mountpoint}"\n'
    )
    done = machine.run("mount", "data", "--config", "config.toml")
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(machine.mountpoint) == ["b.txt"]
    done = machine.run("remotes", "--check", "--config", "config.toml")
    assert done.returncode == 0
    assert [line.split()[4] for line in done.stdout.splitlines()] == ["CHECK", "ok", "ok"]
    done = machine.run(
        "remotes", "--check", "--config", "config.toml", AWS_SECRET_ACCESS_KEY="WRONGSECRET"
    )
    assert done.returncode == 3
    assert "denied" in done.stdout


def test_wrong_keys_for_what_was_mounted_before_are_told_and_the_cache_is_served(
    machine: Machine,
) -> None:
    machine.mount()
    assert os.listdir(machine.mountpoint / "d") == ["b.txt"]
    assert machine.run("umount", machine.mountpoint).returncode == 0
    done = machine.run("mount", "s3://lab", "storage", AWS_SECRET_ACCESS_KEY="WRONGSECRET")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "warning: s3://lab refuses these credentials: " in done.stderr
    assert "WRONGSECRET" not in done.stderr
    assert os.listdir(machine.mountpoint / "d") == ["b.txt"]
    assert machine.status()["remote"]["state"] == "denied"


def test_doctor_tells_a_source_that_works_from_one_that_does_not(machine: Machine) -> None:
    done = machine.run("doctor", "s3://lab", "--json")
    found = {one["check"]: one for one in json.loads(done.stdout)}
    assert found["listing"]["state"] == "ok"
    assert found["connection"]["state"] == "ok"
    assert found["clock"]["state"] == "ok"
    done = machine.run("doctor", "s3://no-such-bucket")
    assert done.returncode == 4
    done = machine.run("doctor", "s3://lab", AWS_SECRET_ACCESS_KEY="WRONGSECRET")
    assert done.returncode == 3
    assert "WRONGSECRET" not in done.stdout + done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_the_foreground_a_signal_is_umount(machine: Machine, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "mountd", "mount", "s3://lab", "storage", "--foreground"]
    child = subprocess.Popen(
        command, cwd=machine.root, env=machine.environment, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    for line in child.stderr:
        if "serves s3://lab" in line:
            break
    assert machine.status()["pid"] == child.pid
    child.send_signal(number)
    _, rest = child.communicate(timeout=20)
    assert (child.returncode, "Traceback" in rest) == (0, False)
    assert not machine.is_mounted()


def test_a_daemon_in_the_background_tells_nothing_to_the_service_that_mounted(
    machine: Machine, tmp_path: Path
) -> None:
    """READY=1 of a mount that it makes on its way would be taken for its own."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        machine.environment |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1"}
        machine.mount()
        assert machine.run("umount", machine.mountpoint).returncode == 0
        with pytest.raises(BlockingIOError):
            manager.recv(1)
