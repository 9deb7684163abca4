"""A worker of pytest-xdist that dies: the run ends, and says at which test it was."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITE = """
import os, pytest

@pytest.mark.parametrize("i", range({before}))
def test_before(i): pass

@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("i", range(4))
def test_together(i):
    if i == {dies_at}: os._exit(1)

@pytest.mark.parametrize("i", range({after}))
def test_after(i): pass
"""


@pytest.mark.parametrize(
    ("before", "dies_at", "after"), [(20, 0, 10), (20, 3, 10), (20, 3, 0), (0, 0, 0), (0, 1, 1)]
)
def test_a_worker_that_dies_fails_one_test_and_the_run_goes_on_to_its_end(
    tmp_path: Path, before: int, dies_at: int, after: int
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_suite.py").write_text(SUITE.format(**locals()))
    command = [sys.executable, "-m", "pytest", "-p", "tests.scheduling", "-p", "no:cacheprovider"]
    command += [
        "-p",
        "xdist",
        "-q",
        "-n",
        "2",
        "--dist",
        "loadgroup",
        "--basetemp",
        str(tmp_path / "t"),
        ".",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # hypothesis and others: half of its time
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert f"1 failed, {before + 3 + after} passed" in done.stdout, done.stdout + done.stderr
    assert f"crashed while running 'test_suite.py::test_together[{dies_at}]" in done.stdout
