"""The `sh` blocks of README.md and docs/*.md: which there are, and who runs them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Pages whose blocks, all of them, are run by a test of their own.
RUN_BY = {
    "docs/systemd.md": "tests/systemd/test_docs.py",
    "docs/nextcloud.md": "tests/mount/test_nextcloud_docs.py",
    "docs/docker.md": "tests/docker/test_docs.py",
    "docs/kubernetes.md": "tests/docker/test_docs.py",
}
# Blocks by a part of their text: nobody can run them here as they stand, and why.
NOT_RUN = {
    "scripts/run    # installs": "tests/unit/test_scripts_run.py runs it in a clone of its own",
}
# What a page takes for granted before its block of that number: lines for a shell.
BEFORE = {
    ("docs/pin.md", 0): "mountd mount s3://pins /storage  # s3://pins/imagenet/val s3://pins/set",
    # In the foreground: nobody goes on for it when it is killed.
    ("docs/troubleshooting.md", 0): (
        "setsid mountd mount s3://bucket/prefix /storage --foreground >daemon.log 2>&1 & "
        "until mountpoint -q /storage; do sleep 0.1; done"
    ),
    ("docs/troubleshooting.md", 1): (
        "echo new >/storage/new.txt; kill -9 $(mountd status /storage --json | python -c "
        "'import json, sys; print(json.load(sys.stdin)[0][\"pid\"])')"
    ),
}


@dataclass(frozen=True, slots=True)
class Block:
    """`number`: which of its page's, from 0."""

    page: str
    number: int
    text: str


def pages() -> list[Path]:
    """README.md and the pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks() -> list[Block]:
    """All `sh` blocks."""
    found = []
    for path in pages():
        texts = re.findall(r"^```sh\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
        name = str(path.relative_to(ROOT))
        found += [Block(name, number, text) for number, text in enumerate(texts)]
    return found


def is_run_here(block: Block) -> bool:
    """Whether `test_docs_commands` runs it."""
    return block.page not in RUN_BY and not any(part in block.text for part in NOT_RUN)
