"""`mountd unpin PATH...`: what is there may be evicted like anything else."""

from collections.abc import Sequence
from pathlib import Path

from mountd.cli.arguments import Parser
from mountd.cli.keeping import PIN, find_target, set_by_path
from mountd.errors import ExitCode, StartError


def run(arguments: Sequence[str]) -> int:
    """0 when none of PATH is pinned by itself any more; 1 naming what was not, or can't be."""
    parser = Parser("unpin", "Lets go of what `mountd pin PATH` keeps; nothing is deleted.")
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="in a mount")
    complaints: list[str] = []
    for path in parser.read(arguments).paths:
        target = find_target(path)
        try:
            if target.daemon is None:
                set_by_path(target, PIN, b"0")
            else:
                target.ask("unpin", path=target.below)
        except StartError as error:
            complaints.append(f"{target.path}: {error}")
    if complaints:
        raise StartError("; ".join(complaints))
    return ExitCode.OK
