"""Containers without an engine: mount and pid namespaces, a root of their own, the capabilities
that docker leaves, and folders of a "host", with the propagation that the manifests ask for.

The network is this machine's, so the test servers on 127.0.0.1 can be reached from there.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
USER = 10001  # the image's user mountd
_WAIT_S = 60.0  # for what takes a second: the machines that test are busy
_PATH = "/opt/mountd/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# docker's own set (its documentation, "Runtime privilege and Linux capabilities").
DEFAULT_CAPABILITIES = (
    *("chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap"),
    *("net_bind_service", "net_raw", "sys_chroot", "mknod", "audit_write", "setfcap"),
)


class NoContainers(Exception):
    """What this machine lacks to run them."""


class Container:
    """One that runs, or ran. `said` is what it wrote to both of its outputs."""

    def __init__(
        self, runner: "subprocess.Popen[bytes]", log: Path, user: int, environment: dict[str, str]
    ) -> None:
        self._runner = runner
        self._log = log
        self._user = user
        self._environment = environment
        self._init_pid = 0

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Its process 1, as this machine numbers it."""
        children = Path(f"/proc/{self._runner.pid}/task/{self._runner.pid}/children")
        until_s = time.monotonic() + _WAIT_S
        while not self._init_pid and time.monotonic() < until_s and self._runner.poll() is None:
            with suppress(OSError, IndexError):
                self._init_pid = int(children.read_text().split()[0])
            time.sleep(0.01)
        assert self._init_pid, self.said
        return self._init_pid

    def run(self, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """`docker exec`: as the container's user, with its environment."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--"]
        done = subprocess.run(
            [*enter, *_as_user(self._user, None), *command],
            cwd="/",
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.said}"
        return done

    def shell(self, script: str) -> str:
        """What it writes."""
        return self.run("sh", "-euc", script).stdout

    def status(self) -> dict[str, object]:
        found: list[dict[str, object]] = json.loads(self.run("mountd", "status", "--json").stdout)
        return next(one for one in found if one["state"] != "no daemon")

    def wait_until(self, *command: str) -> str:
        """Tries `command` until it succeeds, as an engine does with its health check."""
        until_s = time.monotonic() + _WAIT_S
        while True:
            assert self._runner.poll() is None, f"it ended: {self.said}"
            done = self.run(*command, check=False)
            if done.returncode == 0:
                return done.stdout
            if time.monotonic() > until_s:
                raise AssertionError(f"{command}: {done.stdout}{done.stderr}\n{self.said}")
            time.sleep(0.1)

    def healthy(self) -> "Container":
        """The sidecar, once its health check is content."""
        self.wait_until_it_says(" serves ")
        self.run("mountd", "sidecar", "--check")
        return self

    def wait_until_it_says(self, words: str) -> None:
        until_s = time.monotonic() + _WAIT_S
        while words not in self.said:
            assert self._runner.poll() is None, f"it ended: {self.said}"
            assert time.monotonic() < until_s, self.said
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        """To its process 1, which is all that an engine does."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code; -9 where it was killed."""
        return self._runner.wait(_WAIT_S)

    def end(self) -> None:
        if self._runner.poll() is None:
            # --kill-child is not enough: the kernel forgets it when process 1 becomes another user
            # (prctl(2), PR_SET_PDEATHSIG). With process 1 all others of its namespace go.
            with suppress(AssertionError, ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._runner.kill()
            self._runner.wait(30)


class Host:
    """A mount namespace in which `folder` is a shared mount, as all is on a host with systemd."""

    def __init__(self, holder: "subprocess.Popen[bytes]", folder: Path, scratch: Path) -> None:
        self._holder = holder
        self.folder = folder
        self._scratch = scratch
        self._containers: list[Container] = []

    def run(self, *command: str) -> str:
        """As root of the host."""
        enter = ["nsenter", f"--target={self._holder.pid}", "--mount", "--"]
        done = subprocess.run(
            [*enter, *command], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def path(self, path: str, mode: str = "755") -> str:
        """Where this machine has the host's `path`; made, as root's, if it isn't there."""
        where = f"{self.folder}{path}"
        self.run("sh", "-c", 'mkdir -pm "$1" "$2"', "sh", mode, where)
        return where

    def start(
        self,
        *command: str,
        volumes: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        user: int = 0,
        capabilities: Sequence[str] | None = DEFAULT_CAPABILITIES,
        prepare: str = "",
    ) -> Container:
        """One container. `volumes`: HOST:TARGET:PROPAGATION. `environment` is all that it gets;
        `capabilities` None: privileged. `prepare`: what its image's Dockerfile has run."""
        number = len(self._containers)
        scratch = self._scratch / f"container{number}"
        scratch.mkdir()
        log = self._scratch / f"container{number}.log"
        given = {"PATH": _PATH, "MOUNTD_CACHE_DIR": "/var/cache/mountd", **(environment or {})}
        image = os.environ.get("MOUNTD_TEST_IMAGE", "/")
        enter = ["nsenter", f"--target={self._holder.pid}", "--mount", "--"]
        unshare = ["unshare", "--mount", "--propagation", "unchanged", "--pid", "--fork"]
        script = [
            str(ROOT / "tests/docker/container.sh"),
            str(scratch),
            image,
            str(ROOT),
            sys.prefix,
        ]
        image_made = ["sh", "-ec", f'{prepare}\nexec "$@"', "sh"]
        words = ["sh", *script, *volumes, "--", *image_made]
        words += [*_as_user(user, capabilities), *command]
        with log.open("wb") as out:
            runner = subprocess.Popen(
                [*enter, *unshare, "--kill-child", "--", *words],
                cwd="/",
                env=given,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        container = Container(runner, log, user, given)
        self._containers.append(container)
        return container

    def end(self) -> None:
        for container in reversed(self._containers):
            container.end()
        self._holder.kill()
        self._holder.wait(30)


def _as_user(user: int, capabilities: Sequence[str] | None) -> list[str]:
    """What an engine takes away before it starts a container's process."""
    command = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"]
    if capabilities is not None:
        kept = ",".join(["-all", *(f"+{name.lower()}" for name in capabilities)])
        command += ["--inh-caps=-all", f"--bounding-set={kept}"]
    return [*command, "--"]


@contextmanager
def running_host(folder: Path) -> Iterator[Host]:
    """Raises NoContainers."""
    _see_that_it_can_be()
    shared = folder / "host"
    shared.mkdir()
    script = 'mount -t tmpfs -o mode=755 tmpfs "$1"; mount --make-rshared "$1"; echo; exec cat'
    unshare = ["unshare", "--mount", "--propagation", "private"]
    holder = subprocess.Popen(
        [*unshare, "sh", "-ec", script, "sh", str(shared)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    host = Host(holder, shared, folder)
    try:
        if not holder.stdout.readline():
            raise NoContainers("no mount namespace can be made")
        yield host
    finally:
        host.end()
        holder.stdin.close()
        holder.stdout.close()


def _see_that_it_can_be() -> None:
    if os.geteuid() != 0:
        raise NoContainers("only root can make them")
    for program in ("unshare", "nsenter", "pivot_root", "setpriv", "tini"):
        if shutil.which(program) is None:
            raise NoContainers(f"{program} is missing")
