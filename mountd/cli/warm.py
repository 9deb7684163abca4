"""`mountd warm PATH...`: has the daemon fill its cache with all of PATH."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mountd.cli.arguments import Parser
from mountd.cli.keeping import (
    ASK_S,
    WARM,
    Target,
    files_and_bytes,
    find_target,
    get_by_path,
    how_far,
    number,
    set_by_path,
)
from mountd.cli.output import warn
from mountd.cli.progress import Progress, progress
from mountd.cli.report import Report
from mountd.errors import ExitCode, StartError
from mountd.in_words import counted, human_bytes
from mountd.transfer.crew import Rate


def run(arguments: Sequence[str]) -> int:
    """0 when all of PATH is in the cache; else 1, naming what is not. Ctrl-C ends it, in the
    daemon, too."""
    parser = Parser("warm", "Fills the cache with all that is at and below PATH.")
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="in a mount")
    parser.add_report()
    parsed = parser.read(arguments)
    report = Report(parsed.report_fd)
    targets = [find_target(path) for path in parsed.paths]
    by_mount: dict[str, list[Target]] = {}
    for target in targets:
        by_mount.setdefault(target.mount.path, []).append(target)
    complaints: list[str] = []
    ends: list[tuple[Target, dict[str, Any], float]] = []
    with progress() as shown:
        for group in by_mount.values():
            try:
                if group[0].daemon is None:
                    for target in group:
                        _warm_by_path(target, shown)
                else:
                    ends.append((group[0], *_warm(group, shown, report)))
            except StartError as error:
                complaints.append(str(error))
    for end in ends:
        try:
            _end(*end)
        except StartError as error:
            complaints.append(str(error))
    if complaints:
        raise StartError("; ".join(complaints))
    return ExitCode.OK


def _warm(group: list[Target], shown: Progress, report: Report) -> tuple[dict[str, Any], float]:
    """How it ended, and after how many seconds."""
    first = group[0]
    job = first.ask("warm", paths=[target.below for target in group])["job"]
    is_told, rate = False, Rate()
    shown.show(f"{first.mount.path}: listing")
    try:
        while True:
            answer = first.ask("warming", ASK_S, job=job)
            state = answer.get("state")
            if state != "looking" and not is_told:
                is_told = True
                if state == "filling":  # else it was quicker than we ask
                    rate = Rate()
                shown.say(f"{first.mount.path}: {foretold(answer)}")
            if state not in ("looking", "filling"):
                break
            if state == "filling":
                have, whole = number(answer, "fetched_bytes"), number(answer, "missing_bytes")
                shown.show(f"{first.mount.path}: {how_far(have, whole, rate)}{_failed(answer)}")
                report.going(_going_facts(answer, rate))
    except BaseException:
        first.ask("warm_stop", job=job)
        raise
    names = ("files", "bytes", "fetched_files", "fetched_bytes")
    report.going(_going_facts(answer, rate), is_last=True)
    report.ended({name: number(answer, name) for name in names})
    return answer, rate.elapsed_s


def foretold(answer: dict[str, Any]) -> str:
    """What will be done."""
    size, missing = number(answer, "bytes"), number(answer, "missing_bytes")
    words = files_and_bytes(number(answer, "files"), size)
    return f"{words}; {human_bytes(size - missing)} here already, {human_bytes(missing)} to fetch"


def _going_facts(answer: dict[str, Any], rate: Rate) -> dict[str, object]:
    """For a program (`mountd.WarmProgress`)."""
    have = number(answer, "fetched_bytes")
    return {
        "bytes": have,
        "total_bytes": number(answer, "missing_bytes"),
        "bytes_per_s": rate.now(have),
        "failed": number(answer, "failed"),
    }


def _end(target: Target, answer: dict[str, Any], took_s: float) -> None:
    """Says it. Raises StartError for what is not in the cache."""
    where = target.mount.path
    if answer.get("state") == "refused":
        lacking = human_bytes(number(answer, "no_room_bytes"))
        raise StartError(
            f"{where}: it does not fit, {lacking} are too much for nine tenths of cache_size and "
            "what is pinned already: warm less, unpin, or give a larger cache_size"
        )
    if answer.get("state") == "stopped":
        raise StartError(f"{where}: it was stopped: {answer.get('reason') or 'by another command'}")
    fetched = number(answer, "fetched_bytes")
    per_s = f" ({human_bytes(fetched / took_s)}/s)" if fetched and took_s > 0 else ""
    words = f"fetched {files_and_bytes(number(answer, 'fetched_files'), fetched)}"
    print(f"{where}: {words} in {took_s:.1f} s{per_s}")
    failed = number(answer, "failed")
    if not failed:
        if answer.get("reason"):
            raise StartError(f"{where}: {answer['reason']}")
        return
    failures = answer.get("failures")
    for pair in failures if isinstance(failures, list) else []:
        if isinstance(pair, list) and len(pair) == 2:
            warn(f"{pair[0]}: {pair[1]}")
    raise StartError(f"{where}: {counted(failed, 'file')} could not be fetched")


def _failed(answer: dict[str, Any]) -> str:
    failed = number(answer, "failed")
    return f", {failed} failed" if failed else ""


def _warm_by_path(target: Target, shown: Progress) -> None:
    set_by_path(target, WARM, b"1")
    try:
        while (said := get_by_path(target, WARM)) != "1":
            if not said.endswith("%"):
                raise StartError(f"{target.path}: {said}")
            shown.show(f"{target.path}: {said}")
            time.sleep(ASK_S)
    except BaseException:
        set_by_path(target, WARM, b"0")
        raise
