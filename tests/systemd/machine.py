"""A machine whose init is a real systemd: in namespaces of its own, on an overlay of our disk.

The network is this machine's, so the test servers on 127.0.0.1 can be reached from there.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
REPOSITORY, BIN = "/opt/mountd-test/repository", "/opt/mountd/bin"
PYTHON = "/opt/mountd-test/venv/bin/python"
_BOOT_TIMEOUT_S = 60.0
_WAIT_S = 60.0  # for what is promised within seconds: the machines that test are busy
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Run with -m, so that no script's first line is needed. A sitecustomize.py that a test puts into
# `hooks` runs at the start of each Python.
_WRAPPER = """#!/bin/sh
export PYTHONPATH=/opt/mountd-test/hooks:{repository}:{repository}/cache PYTHONDONTWRITEBYTECODE=1
exec /opt/mountd-test/venv/bin/python -P {how} "$@"
"""
_HELPER = "-c 'import sys; from mountd.cli.mount_helper import {name}; sys.exit({name}())'"


class NoMachine(Exception):
    """What this machine lacks to boot one."""


class Machine:
    """A running one. Commands run in it as its root; mountd is in BIN, not yet installed."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._journal_from: tuple[str, ...] = ()

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 120
    ) -> "subprocess.CompletedProcess[str]":
        """One command in the machine. AssertionError with what it said where it fails."""
        enter = ["nsenter", "--target", str(self._pid), "--mount", "--uts", "--ipc", "--pid"]
        # Our own folder is none of the machine's.
        enter += ["--cgroup", "--", "sh", "-c", 'cd / && exec "$@"', "sh"]
        done = subprocess.run(
            [*enter, *command],
            cwd="/",
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def shell(self, script: str, *, check: bool = True) -> str:
        """What `script` writes."""
        return self.run("bash", "-euo", "pipefail", "-c", script, check=check).stdout

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """A file in the machine; folders are made."""
        self.run("mkdir", "-p", os.path.dirname(path))
        self.run("sh", "-c", 'printf %s "$2" >"$1" && chmod "$3" "$1"', "sh", path, text, mode)

    def unit(self, name: str, *properties: str) -> dict[str, str]:
        """`systemctl show`."""
        wanted = [f"--property={each}" for each in properties]
        lines = self.run("systemctl", "show", *wanted, name).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    def wait_for(self, name: str, restarts: int = 0, **wanted: str) -> dict[str, str]:
        """The unit's properties once each holds its text, after that many `restarts` or more;
        AssertionError with the journal."""
        until_s = time.monotonic() + _WAIT_S
        while True:
            found = self.unit(name, "NRestarts", *wanted)
            is_so = all(text in found[key] for key, text in wanted.items())
            if is_so and int(found.get("NRestarts") or 0) >= restarts:
                return found
            if time.monotonic() > until_s:
                raise AssertionError(f"{name}: {found}, not {wanted}\n{self.journal(name)}")
            time.sleep(0.2)

    def journal(self, name: str) -> str:
        """What the unit and systemd said about it since `begin_journal`."""
        command = ("journalctl", "--no-pager", "-o", "cat", "-u", name, *self._journal_from)
        return self.run(*command, check=False).stdout

    def begin_journal(self) -> None:
        """What was said until now is of no interest."""
        said = self.run("journalctl", "--no-pager", "-n1", "--show-cursor", check=False).stdout
        cursor = said.rpartition("-- cursor: ")[2].strip()
        self._journal_from = ("--after-cursor", cursor) if cursor else ()

    def put_mountd_there(self) -> None:
        """The programs of BIN, which run the code of this repository."""
        how = {"mountd": "-m mountd"}
        how |= {f"{name}.mountd": _HELPER.format(name=name) for name in ("mount", "umount")}
        for program, words in how.items():
            text = _WRAPPER.format(repository=REPOSITORY, how=words)
            self.write(f"{BIN}/{program}", text, "755")

    def kill(self, number: str, name: str) -> None:
        """A signal to the unit's main process alone."""
        self.run("systemctl", "kill", f"--signal={number}", "--kill-who=main", name)


@contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """Boots one, and takes it down with all that runs in it. Raises NoMachine."""
    _see_that_it_can_be()
    cgroup = _own_cgroup()
    try:
        scratch = folder / "machine"
        scratch.mkdir()
        starter = _start(cgroup, scratch)
        try:
            machine = Machine(_wait_for_init(starter, folder / "boot.log"))
            _wait_until_booted(machine, starter)
            machine.put_mountd_there()
            yield machine
        finally:
            starter.kill()  # --kill-child: its init goes too, and with that all the others
            starter.wait(30)
    finally:
        _remove_cgroup(cgroup)


def _see_that_it_can_be() -> None:
    if os.geteuid() != 0:
        raise NoMachine("only root can boot one")
    for program in ("unshare", "nsenter", "pivot_root"):
        if shutil.which(program) is None:
            raise NoMachine(f"{program} is missing")
    if not Path("/lib/systemd/systemd").exists():
        raise NoMachine("systemd is not installed")
    probe = subprocess.run(
        ["unshare", "--pid", "--mount", "--cgroup", "--ipc", "--uts", "--fork", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode:
        raise NoMachine(f"no namespaces: {probe.stderr.strip()}")


def _own_cgroup() -> Path:
    """A cgroup that the machine's systemd has for itself."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [line.split()[4] for line in lines if " - cgroup2 " in line]
    if not places:
        raise NoMachine("no cgroup2 is mounted")
    cgroup = Path(places[0]) / f"mountd-test-{os.getpid()}"
    try:
        cgroup.mkdir()
    except OSError as error:
        raise NoMachine(f"no cgroup can be made: {error}") from error
    return cgroup


def _start(cgroup: Path, scratch: Path) -> "subprocess.Popen[str]":
    script = 'echo $$ >"$1/cgroup.procs" && shift && exec unshare "$@"'
    kinds = ["--pid", "--mount", "--cgroup", "--ipc", "--uts", "--fork", "--kill-child"]
    boot = [str(ROOT / "tests/systemd/boot.sh"), str(scratch), str(ROOT), sys.prefix]
    with (scratch.parent / "boot.log").open("w") as log:
        return subprocess.Popen(
            ["sh", "-c", script, "sh", str(cgroup), *kinds, "--", "sh", *boot],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            text=True,
        )


def _wait_for_init(starter: "subprocess.Popen[str]", log: Path) -> int:
    children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children")
    until_s = time.monotonic() + _BOOT_TIMEOUT_S
    while time.monotonic() < until_s and starter.poll() is None:
        with suppress(OSError, IndexError):
            pid = int(children.read_text().split()[0])
            if "systemd" in Path(f"/proc/{pid}/comm").read_text():
                return pid
        time.sleep(0.02)
    said = log.read_text().strip().splitlines() or ["it said nothing"]
    raise NoMachine(f"systemd did not start as an init here: {said[-1]}")


def _wait_until_booted(machine: Machine, starter: "subprocess.Popen[str]") -> None:
    until_s = time.monotonic() + _BOOT_TIMEOUT_S
    while time.monotonic() < until_s and starter.poll() is None:
        done = machine.run("systemctl", "is-active", "basic.target", check=False)
        if done.stdout.strip() == "active":
            return
        time.sleep(0.1)
    raise NoMachine("systemd started here, and did not get to basic.target")


def _remove_cgroup(cgroup: Path) -> None:
    """Bottom up: what is left of the machine's units are empty groups."""
    until_s = time.monotonic() + 10
    while cgroup.exists() and time.monotonic() < until_s:
        for folder, _, _ in os.walk(cgroup, topdown=False):
            with suppress(OSError):  # a process of it has not quite ended
                os.rmdir(folder)
        time.sleep(0.02)
