"""`mountd queue MOUNTPOINT`: what the remote doesn't have yet, one by one; retry and discard."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mountd.cli.arguments import Parser
from mountd.cli.idle_queues import IdleQueue, as_status, known_idle_queues
from mountd.cli.output import print_table, printable
from mountd.cli.refresh import daemon_of
from mountd.cli.umount import find_mount
from mountd.control.client import Daemon, find_daemon, request
from mountd.errors import ExitCode, MountPointError, StartError, UsageError
from mountd.in_words import counted, human_bytes, human_seconds
from mountd.mount_table import Mount, is_below

_TIMEOUT_S = 30.0
MOST_ROWS = 1000
_KIND_OF_LOSS = {
    "file": "what was written to it here is lost, the remote keeps the version that it has, if any",
    "directory": "the directory is not made on the remote",
    "deleted": "it is not deleted on the remote, and is here again",
    "deleted directory": "it is not removed on the remote, and is here again",
}

Item = dict[str, Any]


def run(arguments: Sequence[str]) -> int:
    """0; 1 where the daemon refuses or is dead, 2 for a discard that nobody confirmed, 5 where
    nothing is mounted and no queue waits for a daemon."""
    parser = Parser("queue", "What the remote of MOUNTPOINT doesn't have yet, the oldest first.")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", type=Path)
    parser.add_argument("--json", action="store_true", help="an object with items and counts")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--retry", action="store_true", help="try again what failed, at once")
    action.add_argument(
        "--discard", metavar="PATH", help="give up one change, for ever; PATH as the list shows it"
    )
    parser.add_argument("--yes", action="store_true", help="discard without asking")
    parsed = parser.read(arguments)
    if not (parsed.retry or parsed.discard is not None):
        return _show(parsed.mountpoint, as_json=parsed.json)
    mount = find_mount(parsed.mountpoint)
    daemon = daemon_of(mount)
    if parsed.retry:
        return retry(daemon, as_json=parsed.json)
    return discard(daemon, mount.path, parsed.discard, is_sure=parsed.yes, as_json=parsed.json)


def _show(mountpoint: Path, *, as_json: bool) -> int:
    mount: Mount | None = None
    try:
        mount = find_mount(mountpoint)
        daemon = find_daemon(mount.path, mount.owner_uid)
        if daemon is not None:
            return show(daemon, mount.path, as_json=as_json)
        idle = [one for one in known_idle_queues() if one.source == mount.source]
        if not idle:
            daemon_of(mount)  # raises
    except MountPointError:
        idle = known_idle_queues()
        if mount is not None or not idle:
            raise
    return show_idle(idle, str(mountpoint), as_json=as_json)


def show(daemon: Daemon, mountpoint: str, *, as_json: bool) -> int:
    """Prints the daemon's queue; as JSON all of it, else at most `MOST_ROWS`."""
    message: dict[str, Any] = {"op": "queue"} if as_json else {"op": "queue", "limit": MOST_ROWS}
    answer = request(daemon.socket_path, message, _TIMEOUT_S)
    if as_json:
        print(json.dumps(answer, indent=2))
        return ExitCode.OK
    items, kept = items_of(answer), _conflicts_of(answer)
    if not items:
        print("everything is on the remote")
        _print_conflicts(kept)
        return ExitCode.OK
    headers = ("PATH", "KIND", "STATE", "SIZE", "AGE", "TRIES", "REASON")
    print_table(headers, [_row(item) for item in items[:MOST_ROWS]])
    total = answer.get("total")
    more = max(len(items), total if isinstance(total, int) else 0) - min(len(items), MOST_ROWS)
    if more > 0:
        print(f"and {more} more; mountd queue {printable(mountpoint)} --json lists all")
    _print_conflicts(kept)
    return ExitCode.OK


def _print_conflicts(kept: Sequence[Item]) -> None:
    if not kept:
        return
    print("conflict copies; both versions are on the remote, keep one and remove the other:")
    rows = [(str(one.get("path")), str(one.get("conflict_of"))) for one in kept[:MOST_ROWS]]
    print_table(("PATH", "COPY OF"), rows)


def _conflicts_of(answer: dict[str, Any]) -> list[Item]:
    found = answer.get("conflicts")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def show_idle(idle: Sequence[IdleQueue], mountpoint: str, *, as_json: bool) -> int:
    """Prints queues that no daemon serves; what is in them, only a daemon tells one by one."""
    if as_json:
        statuses = [as_status(one) for one in idle]
        sums = {name: sum(one["queue"][name] for one in statuses) for name in _SUMMED}
        counts = {**sums, "oldest_s": None}
        print(json.dumps({"items": [], "counts": counts, "idle": statuses}, indent=2))
        return ExitCode.OK
    print(f"no daemon serves {printable(mountpoint)}; these queues wait for one:")
    rows = [
        (one.source, str(one.unsent), human_bytes(one.size_bytes), str(one.folder)) for one in idle
    ]
    print_table(("SOURCE", "FILES", "SIZE", "FOLDER"), rows)
    print("mount the source again, with the same cache_dir, and they are sent")
    return ExitCode.OK


def retry(daemon: Daemon, *, as_json: bool = False) -> int:
    """Everything that failed, or waits for its next try, is tried at once."""
    answer = request(daemon.socket_path, {"op": "retry", "path": None}, _TIMEOUT_S)
    if as_json:
        print(json.dumps(answer, indent=2))
        return ExitCode.OK
    retried = answer.get("retried")
    number = retried if isinstance(retried, int) else 0
    print(f"{counted(number, 'file')} tried again" if number else "nothing had failed")
    return ExitCode.OK


def discard(
    daemon: Daemon, mountpoint: str, named: str, *, is_sure: bool, as_json: bool = False
) -> int:
    """Gives up the change at `named`, once the user or `is_sure` says so.

    Raises UsageError where nobody can be asked, StartError where there is no such change or the
    daemon refuses.
    """
    items = items_of(request(daemon.socket_path, {"op": "queue"}, _TIMEOUT_S))
    item = find_item(items, named, mountpoint)
    if item is None:
        raise StartError(f"{named} is not in the queue; mountd queue {mountpoint} lists it")
    path = str(item.get("path"))
    if not is_sure and not _confirmed(path, item):
        print("nothing was discarded", file=sys.stderr)
        return ExitCode.RUNTIME
    answer = request(daemon.socket_path, {"op": "discard", "path": path}, _TIMEOUT_S)
    if as_json:
        print(json.dumps(answer, indent=2))
    if answer.get("discarded") is not True:
        raise StartError(f"{path} was not discarded: {answer.get('reason') or 'no reason given'}")
    if not as_json:
        print(f"discarded: {printable(path)}")
    return ExitCode.OK


def items_of(answer: dict[str, Any]) -> list[Item]:
    """The items of a "queue" answer, the oldest first."""
    found = answer.get("items")
    items = [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
    return sorted(items, key=lambda item: -(_float(item.get("age_s")) or 0.0))


def find_item(items: Sequence[Item], named: str, mountpoint: str) -> Item | None:
    """The item whose path is `named`: as listed, or absolute, or from the current directory."""
    by_path = {str(item.get("path")).rstrip("/"): item for item in items}
    spelt = os.path.abspath(named)
    names = [named.rstrip("/")]
    if is_below(spelt, mountpoint):
        names.append(spelt[len(mountpoint) :].strip("/"))
    return next((by_path[name] for name in names if name in by_path), None)


def loss_of(item: Item) -> str:
    """What is lost with a discard, in one sentence."""
    loss = _KIND_OF_LOSS.get(str(item.get("kind")), "what was done to it here is lost")
    size = item.get("size")
    if item.get("kind") == "file" and isinstance(size, int):
        return f"{loss} ({human_bytes(size)})"
    return loss


def _confirmed(path: str, item: Item) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"discarding {path} has to be confirmed with --yes: {loss_of(item)}")
    print(printable(f"{path}: {loss_of(item)}. This can't be undone."), file=sys.stderr)
    print("Discard it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _row(item: Item) -> tuple[str, ...]:
    size, age_s = item.get("size"), _float(item.get("age_s"))
    reason = str(item.get("reason") or "")
    next_try_s = _float(item.get("next_try_s"))
    if next_try_s is not None and next_try_s > 0 and item.get("attempts"):
        reason += f"{'; ' if reason else ''}again in {human_seconds(next_try_s)}"
    return (
        str(item.get("path") or "?"),
        str(item.get("kind") or "?"),
        str(item.get("state") or "?"),
        human_bytes(size) if isinstance(size, int) else "-",
        "-" if age_s is None else human_seconds(age_s),
        _tries(item),
        reason,
    )


def _tries(item: Item) -> str:
    """What was refused at once was tried, although nobody counts how often."""
    tries = item.get("attempts") or 0
    return "-" if item.get("state") == "failed" and not tries else str(tries)


def _float(found: object) -> float | None:
    return float(found) if isinstance(found, int | float) else None


_SUMMED = ("pending", "uploading", "failed", "conflicts", "bytes")
