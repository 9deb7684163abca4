"""`mountd status`: what is mounted, and how it is. Waits two seconds for each daemon at most."""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mountd.cli.arguments import Parser
from mountd.cli.by_path import read_status
from mountd.cli.idle_queues import NO_DAEMON, IdleQueue, as_status, known_idle_queues, queue_counts
from mountd.cli.output import counted, human_bytes, print_line, print_table
from mountd.cli.queue_words import describe_queue, waiting_in
from mountd.cli.umount import find_mount
from mountd.control.client import (
    Daemon,
    DaemonGone,
    NotAnswering,
    Refused,
    find_daemon,
    find_daemons,
    request,
)
from mountd.control.runtime_dir import socket_name
from mountd.errors import ExitCode
from mountd.mount_table import Mount, read_mounts

_TIMEOUT_S = 2.0
_NOT_ANSWERING, _DEAD, OUT_OF_SIGHT = "not answering", "dead", "out of sight"
BAD = frozenset((_NOT_ANSWERING, _DEAD))


def run(arguments: Sequence[str]) -> int:
    """0; with MOUNTPOINT 1 where its daemon is dead or does not answer, 5 where none is mounted."""
    parser = Parser("status", "What is mounted, and how it is.")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", nargs="?", type=Path)
    parser.add_argument("--json", action="store_true", help="a list with an object per mount")
    parsed = parser.read(arguments)
    found = [status_at(parsed.mountpoint)] if parsed.mountpoint else all_statuses()
    idle = known_idle_queues()
    found = with_idle_queues(found, idle, only_mounts=parsed.mountpoint is not None)
    if parsed.json:
        print(json.dumps(found, indent=2))
    elif found:
        _print(found)
    else:
        print("nothing is mounted")
    if parsed.mountpoint and found[0].get("state") in BAD:
        return ExitCode.RUNTIME
    return ExitCode.OK


def status_at(mountpoint: Path) -> dict[str, Any]:
    """The status of the mount at `mountpoint`. Raises MountPointError where there is none."""
    mount = find_mount(mountpoint)
    daemon = find_daemon(mount.path, mount.owner_uid)
    return _ask(daemon, mount) or _without_daemon(mount)


def all_statuses() -> list[dict[str, Any]]:
    """One object per daemon that lives and per mount of a dead one, by mount point."""
    mounts = [mount for mount in read_mounts() if mount.is_ours]
    by_socket = {socket_name(mount.path): mount for mount in mounts}
    daemons = find_daemons()
    asked = [(daemon, by_socket.pop(daemon.socket_path.name, None)) for daemon in daemons]
    with ThreadPoolExecutor(max_workers=32) as pool:
        answers = list(pool.map(lambda pair: _ask(*pair), asked))
    found = [answer for answer in answers if answer is not None]
    gone = [
        mount for (_, mount), answer in zip(asked, answers, strict=True) if not answer and mount
    ]
    with ThreadPoolExecutor(max_workers=8) as pool:
        found += pool.map(_without_daemon, (*by_socket.values(), *gone))
    return sorted(found, key=lambda status: str(status.get("mountpoint")))


def with_idle_queues(
    found: Sequence[dict[str, Any]], idle: Sequence[IdleQueue], *, only_mounts: bool = False
) -> list[dict[str, Any]]:
    """`found` with the queues that no daemon serves: a dead mount gets that of its source, the
    others follow as objects of their own, unless `only_mounts`."""
    by_source: dict[str, list[IdleQueue]] = {}
    for one in idle:
        by_source.setdefault(one.source, []).append(one)
    statuses = []
    for status in found:
        of_source = by_source.get(str(status.get("source")), [])
        # One source can have several folders (endpoints, accounts): then it can't be told which.
        if status.get("state") == _DEAD and len(of_source) == 1:
            only = by_source.pop(of_source[0].source)[0]
            status = {**status, "queue": queue_counts(only), "folder": os.fspath(only.folder)}
        statuses.append(status)
    if not only_mounts:
        statuses += [as_status(one) for group in by_source.values() for one in group]
    return statuses


def _ask(daemon: Daemon | None, mount: Mount | None) -> dict[str, Any] | None:
    """None where the daemon has gone."""
    if daemon is None:
        return None
    try:
        return request(daemon.socket_path, {"op": "status"}, _TIMEOUT_S)
    except DaemonGone:
        return None
    except (NotAnswering, Refused) as error:
        return _unknown(mount, daemon.pid, _NOT_ANSWERING, str(error))


def _without_daemon(mount: Mount) -> dict[str, Any]:
    """A mount whose socket can't be seen: a dead daemon's, or one of a container or another user.

    Whoever sees only the path gets the same object from a file in it (cli.md).
    """
    try:
        found = read_status(mount.path, _TIMEOUT_S)
        if found is not None:
            return found  # else it answers with something else: another version's
    except TimeoutError:
        return _unknown(mount, None, _NOT_ANSWERING, f"{mount.path} does not answer")
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            hint = f"no daemon serves it; type: mountd umount {mount.path}"
            return _unknown(mount, None, _DEAD, hint)
    owner = "another container"
    if mount.owner_uid not in (None, os.geteuid()):
        owner = f"user {mount.owner_uid}"
    return _unknown(mount, None, OUT_OF_SIGHT, f"its daemon cannot be seen from here; ask {owner}")


def _unknown(mount: Mount | None, pid: int | None, state: str, error: str) -> dict[str, Any]:
    """All keys of a status; null is what only the daemon could tell."""
    return {
        "mountpoint": mount.path if mount else None,
        "source": mount.source if mount else None,
        "pid": pid,
        "state": state,
        "error": error,
        "remote": None,
        "cache": None,
        "queue": None,
        "transfer": None,
    }


def _print(found: Sequence[dict[str, Any]]) -> None:
    headers = ("MOUNTPOINT", "SOURCE", "STATE", "REMOTE", "CACHE", "QUEUE", "PID")
    print_table(headers, [_row(status) for status in found])
    for status in found:
        where = status.get("mountpoint") or status.get("source") or "?"
        for line, style in remarks(status):
            print_line(f"{where}: {line}", style)


def _row(status: dict[str, Any]) -> tuple[str, ...]:
    remote, cache, queue = (status.get(key) or {} for key in ("remote", "cache", "queue"))
    cached = "-"
    if cache:
        cached = f"{human_bytes(cache.get('bytes'))} of {human_bytes(cache.get('limit_bytes'))}"
    queued = "-"
    if queue:
        waiting = waiting_in(queue) + (queue.get("failed") or 0)
        queued = f"{waiting} ({human_bytes(queue.get('bytes'))})" if waiting else "0"
    return (
        str(status.get("mountpoint") or "-"),
        str(status.get("source") or "?"),
        str(status.get("state") or "?"),
        str(remote.get("state") or "-"),
        cached,
        queued,
        str(status.get("pid") or "-"),
    )


def remarks(status: dict[str, Any]) -> list[tuple[str, str]]:
    """Lines below the table, with their style."""
    remote, cache, queue = (status.get(key) or {} for key in ("remote", "cache", "queue"))
    found = []
    if status.get("error"):
        found.append((str(status["error"]), "bold red"))
    if remote.get("state") not in (None, "ok") and remote.get("last_error"):
        words = f"{remote['state']} since {remote.get('since')}: {remote['last_error']}"
        found.append((words, "red"))
    if cache.get("volatile"):
        words = "its cache does not survive a restart of the machine or container"
        found.append((words, "yellow"))
    if status.get("state") in (_DEAD, NO_DAEMON):
        return [*found, *_idle_remarks(status, queue)]
    if queue:
        found += describe_queue(queue, str(status.get("mountpoint")))
    return found


def _idle_remarks(status: dict[str, Any], queue: dict[str, Any]) -> Iterator[tuple[str, str]]:
    folder = status.get("folder")
    unsent = waiting_in(queue) + (queue.get("failed") or 0)
    if unsent:
        size = human_bytes(queue.get("bytes"))
        wait = "waits" if unsent == 1 else "wait"
        words = f"{counted(unsent, 'file')} ({size}) {wait} in {folder}; mount it again to send"
        yield f"{words} {'it' if unsent == 1 else 'them'}", "yellow"
    if aside := status.get("quarantined"):
        words = f"{len(aside)} set aside in {folder}; mountd doctor says how to get at"
        yield f"{words} {'it' if len(aside) == 1 else 'them'}", "yellow"
