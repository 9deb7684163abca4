"""The daemon that is killed, and the workers that outlive it."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.mount.mounting import is_mounted

START_WITHIN_S = 60.0
ANSWER_WITHIN_S = 60.0
END_WITHIN_S = 20.0
BUCKET = "b"


class Broken(Exception):
    """The run can't go on: something hangs, or did not come up."""


class Daemon:
    """`mountd mount s3://b FOLDER/mnt` with its cache in FOLDER/cache, again and again."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.mountpoint = folder / "mnt"
        self.cache = folder / "cache"
        self._folder = folder
        self._environment = os.environ | environment | {"MOUNTD_RUNTIME_DIR": str(folder / "run")}
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._starts = 0
        self.log = folder / "daemon.log"
        self.mountpoint.mkdir(exist_ok=True)
        (folder / "run").mkdir(mode=0o700, exist_ok=True)

    def start(self, **options: object) -> None:
        """Returns at once; `wait_ready` waits."""
        self._starts += 1
        self.log = self._folder / f"daemon-{self._starts % 4}.log"
        options = {"cache_dir": self.cache, "cache_size": "1GiB", **options}
        settings = ",".join(f"{name}={value}" for name, value in options.items())
        command = [sys.executable, "-m", "mountd", "mount", f"s3://{BUCKET}"]
        command += [str(self.mountpoint), "--foreground", "-o", settings]
        self._started_s = time.monotonic()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )

    def wait_ready(self) -> float:
        """Seconds from its start until the path answered. Raises Broken."""
        assert self._process is not None
        while b" serves " not in self.log.read_bytes():
            took_s = time.monotonic() - self._started_s
            if self._process.poll() is not None or took_s > START_WITHIN_S:
                raise Broken(f"the daemon did not come up in {took_s:.1f} s:\n{self.tail()}")
            time.sleep(0.005)
        return time.monotonic() - self._started_s

    def kill(self) -> None:
        """SIGKILL, and it is gone."""
        assert self._process is not None
        self._process.kill()
        self._wait()

    def terminate(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.terminate()
        return self._wait()

    def _wait(self) -> int:
        assert self._process is not None
        try:
            return self._process.wait(END_WITHIN_S + 40)
        except subprocess.TimeoutExpired as error:
            raise Broken(f"pid {self._process.pid} does not end") from error

    def command(self, *arguments: str) -> subprocess.Popen[str]:
        """`mountd ARGUMENTS`, begun."""
        return subprocess.Popen(
            [sys.executable, "-m", "mountd", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            text=True,
        )

    def source_folder(self) -> Path:
        """The folder of this source below `cache`."""
        [found] = self.cache.glob("*/journal")
        return found.parent

    def tail(self) -> str:
        return self.log.read_bytes()[-4000:].decode(errors="replace")

    def clean_up(self) -> None:
        """Nothing of it runs or is mounted any more."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(END_WITHIN_S)
        if is_mounted(self.mountpoint):
            subprocess.run(["umount", "-l", str(self.mountpoint)], check=False, timeout=20)


class WorkerProcess:
    """One `kill_loop_worker`, and its answers."""

    def __init__(self, name: str, mountpoint: Path, folder: Path, seed: int) -> None:
        self.name = name
        command = [sys.executable, "-m", "tests.crash.kill_loop_worker", name]
        self._process = subprocess.Popen(
            [*command, str(mountpoint), str(folder), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, what: str, **arguments: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self, within_s: float = ANSWER_WITHIN_S) -> dict[str, Any]:
        """Of the last `ask`. Raises Broken."""
        assert self._process.stdout is not None
        pipe = self._process.stdout
        if not select.select([pipe], [], [], within_s)[0]:
            raise Broken(f"worker {self.name} hangs: {self._where()}")
        line = pipe.readline()
        if not line:
            raise Broken(f"worker {self.name} ended with {self._process.wait(END_WITHIN_S)}")
        found: dict[str, Any] = json.loads(line)
        return found

    def _where(self) -> str:
        """What the kernel knows of the call that it is in."""
        try:
            folder = Path(f"/proc/{self._process.pid}")
            return f"{(folder / 'wchan').read_text()} {(folder / 'syscall').read_text()}"
        except OSError as error:
            return str(error)

    def clean_up(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            try:
                self._process.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                print(f"worker {self.name}, pid {self._process.pid}, is stuck in the kernel")
        self._process.stdout.close()
