"""`mountd status`: what is mounted, and how it is. Waits two seconds for each daemon at most."""

import errno
import json
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from mountd.cli.arguments import Parser, seconds
from mountd.cli.by_path import read_status
from mountd.cli.idle_queues import IdleQueue, as_status, known_idle_queues, queue_counts
from mountd.cli.status_table import facts, print_statuses, remarks
from mountd.cli.umount import find_mount
from mountd.cli.verdict import DEAD, NOT_ANSWERING, OUT_OF_SIGHT, verdict
from mountd.control.client import (
    Daemon,
    DaemonGone,
    NotAnswering,
    Refused,
    find_daemon,
    find_daemons,
    request,
)
from mountd.control.folder_note import noted_folder
from mountd.control.runtime_dir import socket_name
from mountd.errors import ExitCode
from mountd.mount_table import Mount, read_mounts

_TIMEOUT_S = 2.0
_SHORTEST_INTERVAL_S = 0.1
_IDLE_EVERY_S = 10.0
BAD = frozenset((NOT_ANSWERING, DEAD))


def run(arguments: Sequence[str]) -> int:
    """0; with MOUNTPOINT 1 where its daemon is dead or does not answer, 5 where none is mounted."""
    parser = Parser("status", "What is mounted, and how it is.")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", nargs="?", type=Path)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a list with an object per mount")
    form.add_argument("--watch", action="store_true", help="live, until Ctrl-C")
    parser.add_argument(
        "--interval", type=seconds, default=1.0, metavar="SECONDS", help="of --watch; default 1"
    )
    parsed = parser.read(arguments)
    if parsed.watch:
        from mountd.cli.watch import watch

        watch(_Looking(parsed.mountpoint), max(parsed.interval, _SHORTEST_INTERVAL_S))
        return ExitCode.OK
    found = look(parsed.mountpoint, known_idle_queues)
    if parsed.json:
        print(json.dumps(found, indent=2))
    else:
        print_statuses(found)
    if parsed.mountpoint and found[0].get("state") in BAD:
        return ExitCode.RUNTIME
    return ExitCode.OK


class _Looking:
    """`look` again and again; beside it, now and then, at the disks for queues without a daemon,
    which may take seconds."""

    def __init__(self, mountpoint: Path | None) -> None:
        self._mountpoint = mountpoint
        self._idle: list[IdleQueue] = []
        self._began_s = -math.inf
        self._thread = threading.Thread()

    def __call__(self) -> list[dict[str, Any]]:
        is_due = time.monotonic() - self._began_s > _IDLE_EVERY_S
        if is_due and not self._thread.is_alive():
            self._began_s = time.monotonic()
            self._thread = threading.Thread(target=self._look_at_disks, daemon=True)
            self._thread.start()
        return look(self._mountpoint, lambda: self._idle)

    def _look_at_disks(self) -> None:
        with suppress(OSError):  # a disk that goes just now
            self._idle = known_idle_queues()


def look(mountpoint: Path | None, idle: Callable[[], Sequence[IdleQueue]]) -> list[dict[str, Any]]:
    """The status of one mount or of all. Raises MountPointError where none is at `mountpoint`.
    `idle` may take seconds: for one mount that lives it is not asked."""
    found = [status_at(mountpoint)] if mountpoint else all_statuses()
    if mountpoint and found[0].get("state") != DEAD:
        return found
    return with_idle_queues(found, idle(), only_mounts=mountpoint is not None)


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
        # One source can have several folders (endpoints, accounts): which, its daemon has noted.
        noted = [one for one in of_source if os.fspath(one.folder) == status.get("folder")]
        if status.get("state") == DEAD and len(noted or of_source) == 1:
            only = (noted or of_source)[0]
            of_source.remove(only)
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
        found = request(daemon.socket_path, {"op": "status"}, _TIMEOUT_S)
    except DaemonGone:
        return None
    except (NotAnswering, Refused) as error:
        return _unknown(mount, daemon.pid, NOT_ANSWERING, str(error))
    if socket_name(str(found.get("mountpoint"))) != daemon.socket_path.name or not _is_told(found):
        # Another user's, perhaps, who speaks for a mount that isn't his.
        return _unknown(mount, daemon.pid, NOT_ANSWERING, "what its daemon says makes no sense")
    return found


def _is_told(found: dict[str, Any]) -> bool:
    """Whether it can be shown: who makes it up shall not keep the others from being seen."""
    try:
        return bool(verdict(found) and facts(found)) and remarks(found) is not None
    except (AttributeError, TypeError, ValueError, KeyError, IndexError, OverflowError):
        return False


def _without_daemon(mount: Mount) -> dict[str, Any]:
    """A mount whose socket can't be seen: a dead daemon's, or one of a container or another user.

    Whoever sees only the path gets the same object from a file in it, `.mountd/status.json`.
    """
    try:
        found = read_status(mount.path, _TIMEOUT_S)
        if found is not None and _is_told(found):  # else it answers with another version's
            is_ours = mount.owner_uid in (None, os.geteuid())
            return found if is_ours else found | {"mountpoint": mount.path}
    except TimeoutError:
        return _unknown(mount, None, NOT_ANSWERING, f"{mount.path} does not answer")
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            hint = f"no daemon serves it; type: mountd umount {mount.path}"
            noted = noted_folder(mount.path)
            folder = {"folder": os.fspath(noted)} if noted else {}
            return _unknown(mount, None, DEAD, hint) | folder
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
