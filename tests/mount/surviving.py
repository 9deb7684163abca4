"""Mounts in the background, whose daemons die: with their keeper, and with programs that go on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mount.mounting import asked_status, is_mounted, socket_of

TIMEOUT_S = 30
CONNECTIONS = "/sys/fs/fuse/connections"


@dataclass
class Background:
    """A mount that `mountd mount` has put in the background."""

    path: Path
    cache: Path
    environment: dict[str, str]
    pid: int = 0
    keeper: int = 0
    device: int = 0  # the minor number

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mountd", *arguments],
            capture_output=True,
            timeout=2 * TIMEOUT_S,
            env=self.environment,
            text=True,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        return asked_status(socket_of(self.path, self.environment))

    def look(self) -> int:
        """The daemon's pid now; the keeper tells it as long as that lives."""
        if not self.keeper:
            self.pid = self.status()["pid"]
            stat = Path(f"/proc/{self.pid}/stat").read_text()
            self.keeper = int(stat.rpartition(")")[2].split()[1])
        self.pid = next(iter(children(self.keeper)), self.pid)
        return self.pid

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Ends the daemon that serves now, and waits until another one serves; its pid."""
        self.look()
        return self.after(lambda: os.kill(self.pid, number))

    def after(self, happens: Callable[[], object]) -> int:
        """The pid of the daemon that serves next, when `happens` has ended the present one."""
        served = self.log().count(" serves ")
        happens()
        until(lambda: self.log().count(" serves ") > served)
        return self.look()

    def waiting(self) -> int:
        """How many requests the kernel has no answer for yet."""
        return int(in_fusectl(f"cat {self.device}/waiting"))

    def record(self) -> Path:
        """What the daemon has noted for its successor, as the keeper holds it."""
        fds = Path(f"/proc/{self.keeper}/fd").iterdir()
        [found] = [fd for fd in fds if "mountd-kept" in os.readlink(fd)]
        return found

    def log(self) -> str:
        texts = (path.read_text(errors="replace") for path in self.cache.glob("*/log/*"))
        return "".join(texts)


@contextmanager
def in_background(
    source: str, folder: Path, environment: Mapping[str, str] | None = None, **options: object
) -> Iterator[Background]:
    """Mounts `source` at `folder`/mnt; whatever happens, nothing of it lives on."""
    path, cache, runtime = folder / "mnt", folder / "cache", folder / "run"
    path.mkdir()
    runtime.mkdir(mode=0o700)
    env = os.environ | {"MOUNTD_RUNTIME_DIR": str(runtime)} | dict(environment or {})
    mount = Background(path, cache, env)
    options = {"cache_dir": cache, "cache_size": "256MiB"} | options
    settings = ",".join(f"{name}={value}" for name, value in options.items())
    done = mount.cli("mount", source, str(path), "-o", settings)
    assert done.returncode == 0, done.stderr
    try:
        mount.look()
        mount.device = os.minor(path.stat().st_dev)
        yield mount
    finally:
        _end(mount)


def in_fusectl(script: str) -> str:
    """What a shell says there. Takes root."""
    script = f"mount -t fusectl none {CONNECTIONS} && cd {CONNECTIONS} && {script}"
    command = ["unshare", "-m", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=True, text=True)
    return done.stdout


def _end(mount: Background) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in (mount.keeper, *children(mount.keeper)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        with suppress(AssertionError):
            until(lambda: not is_alive(mount.keeper), 10)
            break
    if is_mounted(mount.path):
        subprocess.run(["fusermount3", "-uz", str(mount.path)], check=False, timeout=10)


def children(pid: int) -> list[int]:
    """Of a process that is alive, else none."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def is_alive(pid: int) -> bool:
    """Whether it runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Any, timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
