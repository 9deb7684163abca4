"""scripts/run with the real mountd: a new user's first minute, and the second start."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOUNTD = Path(sys.executable).with_name("mountd")

pytestmark = pytest.mark.fuse


class Clone:
    """A copy of the repository's scripts beside this environment's Python and mountd."""

    def __init__(self, root: Path, cache_dir: Path) -> None:
        self.root = root
        self.storage = root / "storage"
        self.environment = {**os.environ, "MOUNTD_CACHE_DIR": str(cache_dir)}
        shutil.copytree(ROOT / "scripts", root / "scripts")
        shutil.copy(ROOT / "pyproject.toml", root)
        programs = root / ".venv" / "bin"
        programs.mkdir(parents=True)
        (programs / "python").symlink_to(sys.executable)
        (programs / "mountd").symlink_to(MOUNTD)
        # As if everything had been installed: these tests are about what comes after.
        self.runs("bash", "-c", '. scripts/lib.sh; stamp_of >"$venv/.stamp-all"', "run")

    def runs(self, *command: str) -> "subprocess.CompletedProcess[str]":
        # Files, not pipes: a daemon that kept them open would otherwise be waited for.
        out = self.root / "out.txt"
        with out.open("w") as file:
            done = subprocess.run(
                command,
                cwd=self.root,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=60,
                check=False,
            )
        return subprocess.CompletedProcess(command, done.returncode, out.read_text())


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    clone = Clone(tmp_path / "a clone", tmp_path / "cache")
    yield clone
    for mountpoint in (clone.storage, clone.root / "elsewhere"):
        clone.runs(str(MOUNTD), "umount", "--abandon", str(mountpoint))


def test_the_sample_mounts_and_reads_back_whole(clone: Clone) -> None:
    first = clone.runs("scripts/run")
    assert first.returncode == 0, first.stdout
    assert "find storage" in first.stdout
    sums = (clone.storage / "SHA256SUMS").read_text("utf-8")
    checked = subprocess.run(
        ["sha256sum", "-c", "--quiet"], input=sums, cwd=clone.storage, text=True, check=False
    )
    assert checked.returncode == 0
    found = {str(path.relative_to(clone.storage)) for path in clone.storage.rglob("*")}
    assert {line.partition("  ")[2] for line in sums.splitlines()} < found


def test_a_second_start_says_so_and_succeeds(clone: Clone) -> None:
    clone.runs("scripts/run")
    second = clone.runs("scripts/run")
    assert second.returncode == 0, second.stdout
    assert second.stdout.startswith("already mounted on storage:\n")
    assert "ready" in second.stdout


def test_the_same_source_named_twice_says_so_and_succeeds(clone: Clone) -> None:
    data, mountpoint = clone.root / "data", clone.root / "elsewhere"
    data.mkdir()
    mountpoint.mkdir()
    (data / "a").write_text("a")
    command = ("scripts/run", f"file://{data}", "elsewhere")
    first, second = clone.runs(*command), clone.runs(*command)
    assert (first.returncode, second.returncode) == (0, 0), first.stdout + second.stdout
    assert second.stdout.startswith("already mounted on elsewhere:\n")
    assert (mountpoint / "a").read_text() == "a"


def test_another_source_on_the_same_mount_point_is_refused(clone: Clone) -> None:
    clone.runs("scripts/run")
    done = clone.runs("scripts/run", f"file://{clone.root}/scripts", "storage")
    assert done.returncode == 5
    assert "already mounted" in done.stdout


def test_the_exit_code_of_a_failed_mount_comes_through(clone: Clone) -> None:
    done = clone.runs("scripts/run", "nosuch://bucket", "storage")
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
