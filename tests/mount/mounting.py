"""Mounts for tests: the real daemon in a process of its own, always unmounted at the end."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mountd.control.client import request
from mountd.control.runtime_dir import socket_name

START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 60
ANSWER_TIMEOUT_S = 60


@dataclass
class Mounted:
    """One running daemon. `log` is what it wrote to standard error."""

    path: Path
    process: subprocess.Popen[bytes]
    log: Path
    environment: dict[str, str]
    socket: Path

    def status(self) -> dict[str, Any]:
        return asked_status(self.socket)

    def requests(self) -> dict[str, int]:
        """What went to the remote so far, by kind."""
        counts: dict[str, int] = self.status()["transfer"]["requests"]
        return counts

    def cli(self, *arguments: str) -> str:
        """Runs `mountd ARGUMENTS`; CalledProcessError where it fails."""
        return subprocess.run(
            [sys.executable, "-m", "mountd", *arguments],
            check=True,
            stdout=subprocess.PIPE,
            timeout=90,
            env=self.environment,
            text=True,
        ).stdout

    def kill(self) -> None:
        """SIGKILL: what a crash leaves behind."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.process.wait(STOP_TIMEOUT_S)


def asked_status(socket: Path) -> dict[str, Any]:
    """What `mountd status --json` says of that daemon, however long it needs to answer: the command
    gives up after two seconds, and costs half a second of CPU, where tests ask again and again."""
    return request(socket, {"op": "status"}, ANSWER_TIMEOUT_S)


def socket_of(path: Path, environment: Mapping[str, str]) -> Path:
    """Where the daemon of the mount at `path` answers."""
    return Path(environment["MOUNTD_RUNTIME_DIR"]) / socket_name(os.fspath(path))


@contextmanager
def small_disk(path: Path, mib: int) -> Iterator[Path]:
    """A tmpfs of that size at `path`, which is made. Takes root."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "t", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=10)


@contextmanager
def mounted(
    source: str,
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    **options: object,
) -> Iterator[Mounted]:
    """Mounts `source` at `folder`/mnt with its cache in `folder`/cache; the same folder again is
    a remount. Fails with the daemon's log when it doesn't come up. Options as of `-o`. The option
    `config` is what the config file says below `[mounts.m]`, which is mounted by its name then.
    `launcher`: a command that runs the daemon, and the descriptors that it inherits."""
    config = options.pop("config", None)
    launcher: Any = options.pop("launcher", ([], ()))
    path = folder / "mnt"
    if not is_mounted(path):  # else it may be a dead one's, which can't be looked at
        path.mkdir(parents=True, exist_ok=True)
    options.setdefault("cache_dir", folder / "cache")
    options.setdefault("cache_size", "256MiB")
    runtime = folder / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    env = os.environ | {"MOUNTD_RUNTIME_DIR": str(runtime)} | dict(environment or {})
    command = [sys.executable, "-m", "mountd", "mount", source, str(path), "--foreground"]
    if config is not None:
        file = folder / "config.toml"
        file.write_text(f'[mounts.m]\nsource = "{source}"\nmountpoint = "{path}"\n{config}')
        command[4:6] = ["m", "--config", str(file)]
    settings = ",".join(f"{k}={str(v).replace(',', chr(92) + ',')}" for k, v in options.items())
    log = folder / f"daemon-{time.monotonic_ns()}.log"
    with log.open("wb") as log_file:
        process = subprocess.Popen(
            [*launcher[0], *command, "-o", settings],
            stdout=log_file,
            stderr=subprocess.STDOUT,
            env=env,
            pass_fds=launcher[1],
        )
    try:
        _wait_until_mounted(path, process, log)
        yield Mounted(path, process, log, env, socket_of(path, env))
    finally:
        _end(path, process)


def is_mounted(path: Path) -> bool:
    """From the kernel's table: the mount itself is not touched."""
    return f" {path} " in Path("/proc/self/mountinfo").read_text()


def _wait_until_mounted(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if is_mounted(path) and b" serves " in log.read_bytes():
            return
        time.sleep(0.01)
    raise AssertionError(f"the daemon did not come up:\n{log.read_text()}")


def _end(path: Path, process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
    if is_mounted(path):
        subprocess.run(["fusermount3", "-uz", str(path)], check=False, timeout=10)
