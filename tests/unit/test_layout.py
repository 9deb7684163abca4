"""Modules: none is longer than can be read, and which is imported first changes nothing."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

MOST_LINES = 500

# A child each, forked from one that has what they all import from elsewhere.
_EACH_ALONE = """
import importlib, os, sys, traceback
import trio
failed = []
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
sys.exit(", ".join(failed) or 0)
"""


def test_each_module_at_the_top_and_each_package_can_be_the_first_that_is_imported() -> None:
    top = ROOT / "mountd"
    names = [f"mountd.{path.stem}" for path in sorted(top.glob("*.py")) if path.stem[0] != "_"]
    names += [f"mountd.{path.parent.name}" for path in sorted(top.glob("*/__init__.py"))]
    command = [sys.executable, "-c", _EACH_ALONE, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_no_file_is_longer_than_500_lines() -> None:
    files = [
        path
        for folder in ("mountd", "cache", "scripts", "tests", "examples")
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(files) > 700
    assert [str(path) for path in files if len(path.read_text().splitlines()) > MOST_LINES] == []
