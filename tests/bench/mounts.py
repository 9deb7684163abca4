"""One daemon's life: started, mounted, gone; whatever happens in between."""

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.contestants import Contestant, Target

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0


class MountFailed(Exception):
    """A daemon did not mount."""


class DaemonMount:
    """A contestant serving `target`. `stop` is idempotent and leaves neither mount nor process."""

    def __init__(self, contestant: Contestant, target: Target, log: Path) -> None:
        self.target = target
        self.unclean = ""
        self._name = contestant.name
        self._log = log
        target.mountpoint.mkdir(exist_ok=True)
        target.cache_dir.mkdir(exist_ok=True)
        command = contestant.command(target)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*_dies_with_us(), *command],
                env=contestant.environment(target),
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours; we end it in order
            )
        try:
            self._wait_until_mounted()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def log_tail(self) -> str:
        return self._log.read_bytes()[-1500:].decode(errors="replace")

    def stop(self) -> None:
        """SIGTERM, as systemd would; by force after 30 s, which `unclean` then tells."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.unclean = f"{self._name} did not end within {STOP_TIMEOUT_S:.0f} s of SIGTERM"
        finally:
            if is_mounted(self.target.mountpoint):
                self.unclean = self.unclean or f"{self._name} ended and left its mount"
                _detach(self.target.mountpoint)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def _wait_until_mounted(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not is_mounted(self.target.mountpoint):
            if self._process.poll() is not None:
                raise MountFailed(f"exit code {self._process.returncode}: {self.log_tail()}")
            if time.monotonic() > deadline_s:
                raise MountFailed(f"not mounted after {START_TIMEOUT_S:.0f} s: {self.log_tail()}")
            time.sleep(0.02)
        # Answers only when the daemon serves; the root's attributes tell it nothing new.
        root = str(self.target.mountpoint)
        subprocess.run(["stat", "-f", root], stdout=subprocess.DEVNULL, check=True, timeout=30)


def is_mounted(mountpoint: Path) -> bool:
    """Read from the table: the path itself may hang."""
    wanted = str(mountpoint)
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ", 5)[4] == wanted for line in lines)


def _detach(mountpoint: Path) -> None:
    subprocess.run(["fusermount3", "-uz", str(mountpoint)], check=False, timeout=30)


def _dies_with_us() -> Sequence[str]:
    """A prefix that keeps the process id: SIGTERM for the daemon when the bench is killed."""
    found = shutil.which("setpriv")
    return [found, "--pdeathsig", "TERM", "--"] if found else []
