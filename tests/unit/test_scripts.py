"""scripts/lib.sh with fake programs in PATH: what it installs, says and skips."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Machine:
    """A copy of the scripts, and a PATH that holds the programs that a test wants and no others."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "repository"
        self.bin = folder / "bin"
        self.bin.mkdir()
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        shutil.copy(ROOT / "pyproject.toml", self.root)
        self.has("bash", "basename", "cat", "dirname", "flock", "head", "mktemp", "readlink")
        self.has("rm", "sed", "sha256sum", "sort", "tail", "env")

    def has(self, *programs: str) -> None:
        """Real programs of this machine."""
        for program in programs:
            real = shutil.which(program)
            assert real, f"this machine lacks {program}"
            (self.bin / program).symlink_to(real)

    def fakes(self, program: str, body: str) -> None:
        """A program of the test's own, in sh. Its folder is $0's."""
        path = self.bin / program
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def is_run_by_user(self, uid: int) -> None:
        self.fakes("id", f"echo {uid}")

    def runs(self, command: str) -> "subprocess.CompletedProcess[str]":
        """`command` after lib.sh was sourced, as one of our scripts would."""
        script = f'set -euo pipefail; . "{self.root}/scripts/lib.sh"; {command}'
        return subprocess.run(
            [self.bin / "bash", "-c", script, "run"],
            env={"PATH": str(self.bin), "HOME": str(self.root)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def _os_release(folder: Path, text: str) -> Path:
    path = folder / "os-release"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('ID=ubuntu\nVERSION_ID="22.04"\n', "Ubuntu 22.04 is too old: 24.04 or newer is needed"),
        ('ID=debian\nVERSION_ID="11"\n', "Debian 11 is too old: 12 or newer is needed"),
    ],
)
def test_an_old_system_is_told_in_one_line(
    machine: Machine, tmp_path: Path, text: str, said: str
) -> None:
    done = machine.runs(f"require_supported_system {_os_release(tmp_path, text)}")
    assert done.returncode == 1
    assert done.stderr == f"scripts/run: {said}\n"


@pytest.mark.parametrize(
    "text",
    [
        'ID=ubuntu\nVERSION_ID="24.04"\n',
        'ID=ubuntu\nVERSION_ID="26.04"\n',
        'ID=debian\nVERSION_ID="12"\n',
        "ID=debian\nVERSION_CODENAME=forky\n",  # testing has no number
        "ID=arch\n",
    ],
)
def test_a_newer_or_another_system_passes(machine: Machine, tmp_path: Path, text: str) -> None:
    done = machine.runs(f"require_supported_system {_os_release(tmp_path, text)}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_user_without_sudo_gets_the_command_for_the_admin(machine: Machine) -> None:
    machine.is_run_by_user(1000)
    machine.fakes("apt-get", 'echo called >"$0.log"')
    done = machine.runs("install_packages fuse3 gcc")
    assert done.returncode == 1
    assert done.stderr == (
        "scripts/run: can't install fuse3 gcc: not root, and no sudo here. "
        "The admin's command: apt-get install -y --no-install-recommends fuse3 gcc\n"
    )
    assert not (machine.bin / "apt-get.log").exists()


def test_a_user_with_sudo_installs_through_it(machine: Machine) -> None:
    machine.is_run_by_user(1000)
    machine.fakes("sudo", 'echo "$@" >>"$0.log"')
    machine.fakes("apt-get", "exit 1")
    assert machine.runs("install_packages fuse3").returncode == 0
    assert "apt-get install" in (machine.bin / "sudo.log").read_text()


def test_where_there_is_no_apt_the_needed_packages_are_named(machine: Machine) -> None:
    machine.is_run_by_user(0)
    done = machine.runs("install_packages fuse3 gcc")
    assert done.returncode == 1
    assert done.stderr == (
        "scripts/run: this system has no apt; what is needed, by its Debian names: fuse3 gcc\n"
    )


def test_a_failed_installation_shows_why_and_the_command(machine: Machine) -> None:
    machine.is_run_by_user(0)
    machine.fakes("apt-get", "echo E: no such package fuse3; exit 100")
    done = machine.runs("install_packages fuse3")
    assert done.returncode == 1
    assert "E: no such package fuse3" in done.stderr
    assert "apt-get install -y --no-install-recommends fuse3" in done.stderr.splitlines()[-1]


def test_an_old_python_in_front_is_passed_over(machine: Machine) -> None:
    machine.fakes("python3", "exit 1")
    machine.fakes("python3.12", "exit 0")
    found = machine.runs("find_python").stdout.strip()
    assert found in ("/usr/bin/python3", str(machine.bin / "python3.12"))


# ---- the virtual environment


_FAKE_PYTHON = """
case "$*" in
    *"pip install"*) echo "$@" >>"{log}"; exit {code} ;;
esac
exit 0
"""


class Environment:
    """A machine with everything installed but the packages; its pip only takes notes."""

    def __init__(self, machine: Machine, log: Path) -> None:
        self.machine = machine
        self.log = log
        for program in ("fusermount3", "pkg-config", "cc", "python3"):
            machine.fakes(program, "exit 0")
        machine.is_run_by_user(0)
        machine.fakes("apt-get", "exit 0")
        (machine.root / ".venv" / "bin").mkdir(parents=True)
        self.pip_ends_with(0)

    def pip_ends_with(self, code: int) -> None:
        python = self.machine.root / ".venv" / "bin" / "python"
        python.write_text("#!/bin/sh\n" + _FAKE_PYTHON.format(log=self.log, code=code))
        python.chmod(0o755)

    def installs_when(self, command: str) -> int:
        """How many times pip installed while `command` ran."""
        self.log.write_text("")
        self.machine.runs(command)
        return len(self.log.read_text().splitlines())


@pytest.fixture
def environment(machine: Machine, tmp_path: Path) -> Environment:
    return Environment(machine, tmp_path / "pip.log")


def test_a_second_start_asks_neither_apt_nor_pip(environment: Environment) -> None:
    assert environment.installs_when("ensure_venv all") == 1
    environment.machine.fakes("apt-get", "exit 1")
    assert environment.installs_when("ensure_venv all") == 0


def test_another_pyproject_installs_again(environment: Environment) -> None:
    environment.installs_when("ensure_venv all")
    with (environment.machine.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert environment.installs_when("ensure_venv all") == 1


def test_what_pip_did_not_finish_is_done_again(environment: Environment) -> None:
    environment.pip_ends_with(1)
    done = environment.machine.runs("ensure_venv all")
    assert done.returncode == 1
    assert "pip could not install mountd[all]" in done.stderr
    environment.pip_ends_with(0)
    assert environment.installs_when("ensure_venv all") == 1


def test_whoever_has_the_developers_packages_can_run(environment: Environment) -> None:
    environment.installs_when("ensure_venv dev")
    assert environment.installs_when("ensure_venv all") == 0


def test_two_starts_at_once_install_once(environment: Environment) -> None:
    both = "ensure_venv all & first=$!; ensure_venv all; wait $first"
    assert environment.installs_when(both) == 1


def test_no_program_started_later_holds_the_lock(environment: Environment) -> None:
    environment.machine.has("ls")
    done = environment.machine.runs("ensure_venv all; ls /proc/self/fd")
    assert "9" not in done.stdout.split()
    assert done.stdout, "ls ran"


def test_every_package_of_pyproject_has_its_exact_version() -> None:
    """Without one pip searches; for botocore that took over nine minutes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[^A-Za-z0-9._-]", entry)[0].lower() for each in lists for entry in each}
    pinned = re.findall(r"^([a-z0-9._-]+)==", (ROOT / "scripts/constraints.txt").read_text(), re.M)
    missing = names - set(pinned) - {"mountd"}
    assert not missing, "run the command in the head of scripts/constraints.txt"
