"""`mountd status` as a person reads it: the answer first, then a table for each mount."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mountd.cli.idle_queues import NO_DAEMON
from mountd.cli.output import printable
from mountd.cli.queue_words import waiting_in
from mountd.cli.verdict import DEAD, Verdict, verdict, why_not_taken
from mountd.in_words import counted, human_bytes, human_seconds

if TYPE_CHECKING:  # rich takes 60 ms
    from rich.console import RenderableType

Status = Mapping[str, Any]
Line = tuple[str, str]  # words, and rich's style
Fact = tuple[str, str, str]  # what, its value, and rich's style

_PINS_SHOWN = 10
_STYLE_OF_STATE = {
    **{"ok": "green", "ready": "green", "degraded": "yellow", "unreachable": "bold red"},
    **{"denied": "bold red", "dead": "bold red", "not answering": "bold red"},
    **{"no daemon": "yellow", "stopping": "yellow", "starting": "yellow"},
}


def print_statuses(found: Sequence[Status]) -> None:
    """On stdout; colours only for a terminal."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(rendered(found))
        return
    for line, _ in verdicts(found):
        print(printable(line))
    for status in worst_first(found):
        rows = facts(status)
        width = max(len(what) for what, _, _ in rows)
        print()
        for what, value, _ in rows:
            print(printable(f"{what:{width}}  {value}".rstrip()))
        for line, _ in remarks(status):
            print(printable(line))


def rendered(found: Sequence[Status], more: Mapping[str, Sequence[Fact]] = {}) -> "RenderableType":
    """For rich. `more`: further rows, by mount point."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [
        Text(printable(line), style=style) for line, style in verdicts(found)
    ]
    for status in worst_first(found):
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for what, value, style in (*facts(status), *more.get(name_of(status), ())):
            table.add_row(what, Text(printable(value), style=style))
        notes = (Text(printable(line), style=style) for line, style in remarks(status))
        parts += [Text(), table, *notes]
    return Group(*parts)


def verdicts(found: Sequence[Status]) -> list[Line]:
    """One for each, the worst first: the first line is the answer."""
    if not found:
        return [("nothing is mounted", "")]
    said = [(one, verdict(one)) for one in worst_first(found)]
    return [(_named(words, one, found), words.style) for one, words in said]


def worst_first(found: Sequence[Status]) -> list[Status]:
    """Where they are equally well, as they are."""
    return sorted(found, key=lambda status: -verdict(status).rank)


def _named(said: Verdict, status: Status, found: Sequence[Status]) -> str:
    return said.line if len(found) == 1 else f"{name_of(status)}: {said.line}"


def name_of(status: Status) -> str:
    """What it is called here."""
    return str(status.get("mountpoint") or status.get("folder") or status.get("source") or "?")


def facts(status: Status) -> list[Fact]:
    """The rows of one mount's table."""
    state = str(status.get("state") or "?")
    pid = f", pid {status['pid']}" if status.get("pid") else ""
    rows = [("mount", f"{name_of(status)}  {state}{pid}", _STYLE_OF_STATE.get(state, ""))]
    rows.append(("remote", *_remote(status)))
    if cache := status.get("cache"):
        rows.append(("cache", _cache(cache), ""))
        rows += _pins(cache.get("pins") or [])
    if queue := status.get("queue"):
        rows += _queue(queue)
    transfer = status.get("transfer") or {}
    up, down = (transfer.get(f"{way}_bytes_per_s") for way in ("up", "down"))
    if up is not None:
        rows.append(("rates", f"up {human_bytes(up)}/s, down {human_bytes(down)}/s", ""))
    if status.get("metrics"):
        rows.append(("metrics", f"http://{status['metrics']}/metrics", ""))
    return rows


def _remote(status: Status) -> tuple[str, str]:
    source, remote = str(status.get("source") or "?"), status.get("remote") or {}
    state = str(remote.get("state") or "")
    if not state:
        return source, ""
    for_s = _age_s(remote.get("since"))
    since = f" for {human_seconds(for_s)}" if for_s is not None else ""
    return f"{source}  {state}{since}", _STYLE_OF_STATE.get(state, "")


def _cache(cache: Mapping[str, Any]) -> str:
    words = f"{human_bytes(cache.get('bytes'))} of {human_bytes(cache.get('limit_bytes'))}"
    hits, misses = cache.get("hits") or 0, cache.get("misses") or 0
    if hits + misses:
        words += f", {100 * hits // (hits + misses)} % of {hits + misses} reads from it"
    return words


def _pins(pins: Sequence[Mapping[str, Any]]) -> Iterator[Fact]:
    for pin in pins[:_PINS_SHOWN]:
        state, missing = str(pin.get("state")), pin.get("missing_bytes") or 0
        words = f"{pin.get('path') or 'all of it'}  {state}, {human_bytes(pin.get('bytes'))}"
        words += f", {human_bytes(missing)} not here" if missing else ""
        words += f": {pin['reason']}" if pin.get("reason") else ""
        yield f"{pin.get('mode')}", words, "" if state == "here" else "yellow"
    if len(pins) > _PINS_SHOWN:
        yield "pin", f"... and {len(pins) - _PINS_SHOWN} more", ""


def _queue(queue: Mapping[str, Any]) -> Iterator[Fact]:
    waiting, failed = waiting_in(dict(queue)), queue.get("failed") or 0
    words = "empty"
    if waiting + failed:
        words = f"{counted(waiting + failed, 'change')}, {human_bytes(queue.get('bytes'))}"
        if sending := queue.get("uploading"):
            words += f", {sending} on the way"
    if is_open := queue.get("open_for_writing"):
        words += f"; {counted(is_open, 'file')} open for writing"
    yield "queue", words, ""
    oldest_s, path = queue.get("oldest_s"), queue.get("oldest_path")
    if isinstance(oldest_s, int | float):
        named = f"{path}, " if path else ""
        yield "oldest unsent", f"{named}for {human_seconds(oldest_s)}", ""
    else:
        yield "oldest unsent", "not known" if waiting + failed else "none", ""
    yield "failed", str(failed), "bold red" if failed else ""
    conflicts = queue.get("conflicts") or 0
    yield "conflicts", str(conflicts), "yellow" if conflicts else ""


def _what_is_wrong(remote: Mapping[str, Any]) -> str:
    state, error = str(remote["state"]), str(remote["last_error"])
    kind, _, reason = error.partition(": ")
    return f"{state}: {reason if kind.lower() == state and reason else error}"


def remarks(status: Status) -> list[Line]:
    """Lines below the table."""
    remote, cache, queue = (status.get(key) or {} for key in ("remote", "cache", "queue"))
    found = []
    if status.get("error"):
        found.append((str(status["error"]), "bold red"))
    if remote.get("state") not in (None, "ok") and remote.get("last_error"):
        found.append((_what_is_wrong(remote), "red"))
    if why := why_not_taken(status):
        writes = remote["writes"]
        for_s = _age_s(writes.get("since"))
        since = f" for {human_seconds(for_s)}" if for_s is not None else ""
        found.append((f"{why}{since}: {writes.get('reason')}", "bold red"))
    if cache.get("disk_error"):
        words = f"the cache's disk: {cache['disk_error']}; what is on the remote is read past it, "
        found.append((words + "what can't be kept is not taken from programs (ENOSPC)", "bold red"))
    if cache.get("volatile"):
        words = "its cache does not survive a restart of the machine or container"
        found.append((words, "yellow"))
    if status.get("state") in (DEAD, NO_DAEMON):
        return [*found, *_idle_remarks(status, queue)]
    limit = cache.get("limit_bytes") or 0
    if limit and (queue.get("bytes") or 0) > 0.95 * limit:
        words = "the cache is full of what was not sent: who writes waits, and then gets ENOSPC"
        found.append((words, "bold red"))
    mountpoint = status.get("mountpoint")
    if queue.get("failed"):
        words = f"mountd queue {mountpoint} tells why; with --retry they are tried again"
        found.append((words, "red"))
    if queue.get("conflicts"):
        found.append((f"both versions are kept: mountd queue {mountpoint} names them", "yellow"))
    return found


def _idle_remarks(status: Status, queue: Mapping[str, Any]) -> Iterator[Line]:
    folder = status.get("folder")
    unsent = waiting_in(dict(queue)) + (queue.get("failed") or 0)
    if unsent:
        size = human_bytes(queue.get("bytes"))
        wait = "waits" if unsent == 1 else "wait"
        words = f"{counted(unsent, 'file')} ({size}) {wait} in {folder}; mount it again to send"
        yield f"{words} {'it' if unsent == 1 else 'them'}", "yellow"
    if aside := status.get("quarantined"):
        words = f"{len(aside)} set aside in {os.fspath(folder or '?')}; mountd doctor says how to "
        yield f"{words}get at {'it' if len(aside) == 1 else 'them'}", "yellow"


def _age_s(since: object) -> float | None:
    try:
        began = datetime.fromisoformat(str(since))
        return max(0.0, (datetime.now(UTC) - began).total_seconds())
    except (ValueError, TypeError):
        return None
