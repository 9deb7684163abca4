"""How this very mountd is run as a child, by commands and by Python programs."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import mountd


def own_command() -> list[str]:
    """`mountd`, whichever way we were started."""
    # -P: a folder called mountd in the current directory is not to be run.
    return [sys.executable, "-P", "-m", "mountd"]


def own_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`environ`, with our package findable if it runs from a checkout that is not installed."""
    environment = dict(environ)
    root = Path(mountd.__file__).resolve().parent.parent
    if root.name not in ("site-packages", "dist-packages"):
        paths = [environment.get("PYTHONPATH", ""), str(root)]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment
