#!/usr/bin/env python3
"""Writes docs/config-reference.md and docs/commands.md from the code.

.venv/bin/python scripts/make_reference.py            writes them
.venv/bin/python scripts/make_reference.py --check    1 where they are not what it would write
"""

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from mountd.cli import COMMANDS, main
from mountd.cli.option_words import default_of
from mountd.config import CopiedSubtree
from mountd.config.credentials import CREDENTIALS, env_name
from mountd.config.options import OPTIONS
from mountd.errors import ExitCode

DOCS = Path(__file__).resolve().parents[1] / "docs"
_MADE = "<!-- Made by scripts/make_reference.py from the code: change it there. -->"

_EXIT_CODES = {
    ExitCode.OK: "done",
    ExitCode.RUNTIME: "it failed; the line on standard error says how",
    ExitCode.USAGE: "a wrong option, argument or config file; nothing was tried",
    ExitCode.CREDENTIALS: "the remote refuses the credentials, or there are none",
    ExitCode.UNREACHABLE: "the remote does not answer, or has no such bucket",
    ExitCode.MOUNT_POINT: "the mount point can't be used, or is no mount",
    ExitCode.LEFT_IN_QUEUE: "something is not on the remote yet; it is safe on this disk",
}


def config_reference() -> str:
    """Every option, credential and key of a subtree."""
    return "\n".join(
        [
            "# Configuration reference",
            "",
            _MADE,
            "",
            "What each means, where it may stand, and which place wins: [config.md](config.md).",
            "",
            "## Options",
            "",
            "| in the config file | environment | command line | takes | default | meaning |",
            "| --- | --- | --- | --- | --- | --- |",
            *_options(),
            "",
            "## Credentials",
            "",
            "Which remote takes which: [config.md](config.md#credentials). Each may be a file:",
            "`NAME_file` in the config file or with `-o`, `MOUNTD_NAME_FILE` in the environment,",
            "`mountd.NAME` as a credential of systemd.",
            "",
            "| in the config file | environment | command line |",
            "| --- | --- | --- |",
            *_credentials(),
            "",
            "## Subtrees",
            "",
            "Keys of `[[mounts.NAME.subtree]]`, see [pin.md](pin.md#mode--copy).",
            "",
            "| key | takes | default |",
            "| --- | --- | --- |",
            *_subtrees(),
            "",
        ]
    )


def _options() -> Iterator[str]:
    for name, option in OPTIONS.items():
        shown = [name, env_name(name), f"-o {name}="]
        cells = [*(f"`{text}`" for text in shown), option.expects, default_of(name), option.meaning]
        yield f"| {' | '.join(cells)} |"


def _credentials() -> Iterator[str]:
    for name, is_secret in CREDENTIALS.items():
        typed = f"`-o {name}_file=`" if is_secret else f"`-o {name}=`"
        yield f"| `{name}` | `{env_name(name)}` | {typed} |"


def _subtrees() -> Iterator[str]:
    said = {"path": 'a path below the mount; `""` is all of it', "recheck_s": "seconds, 1 or more"}
    for field in dataclasses.fields(CopiedSubtree):
        default = "-" if field.default is dataclasses.MISSING else f"{field.default:g}"
        yield f"| `{field.name}` | {said[field.name]} | {default} |"
        if field.name == "path":
            yield '| `mode` | `"copy"` | - |'


def command_reference() -> str:
    """`mountd COMMAND --help` of every command."""
    lines = ["# Commands", "", _MADE, "", "## Exit codes", "", "| code | |", "| --- | --- |"]
    lines += [f"| {int(code)} | {_EXIT_CODES[code]} |" for code in ExitCode]
    for name in ["", *COMMANDS]:
        title = f"mountd {name}".strip()
        lines += ["", f"## {title}", "", "```", _help_of(name).rstrip(), "```"]
    return "\n".join([*lines, ""])


def _help_of(command: str) -> str:
    printed = io.StringIO()
    os.environ["COLUMNS"] = "100"
    with contextlib.redirect_stdout(printed):
        main([command, "--help"] if command else ["--help"])
    return printed.getvalue()


def is_stale(path: Path, text: str) -> bool:
    """Releases of Python fold the lines of --help in different places."""
    return not path.exists() or path.read_text().split() != text.split()


def run(arguments: list[str]) -> int:
    """The exit code."""
    pages = {"config-reference.md": config_reference(), "commands.md": command_reference()}
    if arguments == ["--check"]:
        stale = [f"docs/{name}" for name, text in pages.items() if is_stale(DOCS / name, text)]
        for page in stale:
            print(f"{page} is not what the code says; type: python scripts/make_reference.py")
        return 1 if stale else 0
    if arguments:
        print(__doc__)
        return 2
    for name, text in pages.items():
        (DOCS / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
