"""`mountd pin PATH...`: has the daemon keep all of PATH on the local disk."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mountd.cli.arguments import Parser
from mountd.cli.keeping import (
    ASK_S,
    PIN,
    Target,
    files_and_bytes,
    find_target,
    get_by_path,
    how_far,
    number,
    set_by_path,
)
from mountd.cli.progress import Progress, progress
from mountd.errors import ExitCode, StartError
from mountd.in_words import human_bytes
from mountd.transfer.crew import Rate

_COUNTS_FOR_S = 3600.0  # listing a tree of a million files
_GOES_ON = "it stays pinned and is filled in the background; mountd unpin ends that"


def run(arguments: Sequence[str]) -> int:
    """0 when all of PATH is here; 1 where something isn't pinned, or isn't here in spite of it.
    Ctrl-C ends the waiting and not the pin."""
    parser = Parser("pin", "Keeps all that is at and below PATH on the local disk.")
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="in a mount")
    parser.add_argument(
        "--no-wait", action="store_true", help="return when it is pinned, before it is here"
    )
    parsed = parser.read(arguments)
    targets = [find_target(path) for path in parsed.paths]
    complaints: list[str] = []
    with progress() as shown:
        for target in targets:
            try:
                _pin(target, shown, waits=not parsed.no_wait)
            except StartError as error:
                complaints.append(str(error))
    if complaints:
        raise StartError("; ".join(complaints))
    return ExitCode.OK


def _pin(target: Target, shown: Progress, *, waits: bool) -> None:
    if target.daemon is None:
        _pin_by_path(target, shown, waits=waits)
        return
    try:
        answer = target.ask("pin", _COUNTS_FOR_S, path=target.below)
    except StartError as error:
        raise StartError(f"{target.path}: {error}") from error
    size, missing = number(answer, "bytes"), number(answer, "missing_bytes")
    words = files_and_bytes(number(answer, "files"), size)
    shown.say(
        f"{target.path}: pinned; {words}; {human_bytes(size - missing)} here already, "
        f"{human_bytes(missing)} to fetch"
    )
    if not waits:
        return
    try:
        _watch(target, answer, shown)
    except KeyboardInterrupt:
        shown.say(f"{target.path}: {_GOES_ON}")
        raise


def _watch(target: Target, answer: dict[str, Any], shown: Progress) -> None:
    whole, rate = number(answer, "missing_bytes"), Rate()
    while answer.get("state") in ("looking", "filling") or _is_between(answer):
        whole = max(whole, number(answer, "missing_bytes"))
        have = whole - number(answer, "missing_bytes")
        if whole:
            shown.show(f"{target.path}: {how_far(have, whole, rate)}")
        time.sleep(ASK_S / 4)
        answer = target.ask("pinned", path=target.below)
    if answer.get("state") != "here":
        missing = human_bytes(number(answer, "missing_bytes"))
        reason = answer.get("reason") or answer.get("state")
        raise StartError(f"{target.path}: {missing} are not here yet: {reason}; {_GOES_ON}")
    took_s = rate.elapsed_s
    words = files_and_bytes(number(answer, "files"), number(answer, "bytes"))
    shown.say(f"{target.path}: all here, {words}, after {took_s:.1f} s")


def _is_between(answer: dict[str, Any]) -> bool:
    """Whether nothing is amiss: it looks again soon."""
    return answer.get("state") == "waiting" and not answer.get("reason")


def _pin_by_path(target: Target, shown: Progress, *, waits: bool) -> None:
    set_by_path(target, PIN, b"1")
    while waits and (said := get_by_path(target, PIN)) != "1":
        if not said.endswith("%"):
            raise StartError(f"{target.path}: {said}; {_GOES_ON}")
        shown.show(f"{target.path}: {said}")
        time.sleep(ASK_S)
