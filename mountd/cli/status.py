"""`mountd status`: what is mounted, and how it is. Waits two seconds for each daemon at most."""

import errno
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mountd.cli.arguments import Parser
from mountd.cli.output import human_bytes, print_table
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
from mountd.mount_point import read_guarded
from mountd.mount_table import Mount, read_mounts

_TIMEOUT_S = 2.0
STATUS_FILE = ".mountd/status.json"
_NOT_ANSWERING, _DEAD, OUT_OF_SIGHT = "not answering", "dead", "out of sight"
_BAD = frozenset((_NOT_ANSWERING, _DEAD))


def run(arguments: Sequence[str]) -> int:
    """0; with MOUNTPOINT 1 where its daemon is dead or does not answer, 5 where none is mounted."""
    parser = Parser("status", "What is mounted, and how it is.")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", nargs="?", type=Path)
    parser.add_argument("--json", action="store_true", help="a list with an object per mount")
    parsed = parser.read(arguments)
    found = [status_at(parsed.mountpoint)] if parsed.mountpoint else all_statuses()
    if parsed.json:
        print(json.dumps(found, indent=2))
    elif found:
        _print(found)
    else:
        print("nothing is mounted")
    if parsed.mountpoint and found[0].get("state") in _BAD:
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
        found = json.loads(read_guarded(Path(mount.path, STATUS_FILE), _TIMEOUT_S))
        if isinstance(found, dict):
            return found
    except TimeoutError:
        return _unknown(mount, None, _NOT_ANSWERING, f"{mount.path} does not answer")
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            hint = f"no daemon serves it; type: mountd umount {mount.path}"
            return _unknown(mount, None, _DEAD, hint)
    except ValueError:
        pass  # it answers, with something else: another version's
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
        for line in _remarks(status):
            print(f"{status.get('mountpoint') or '?'}: {line}")


def _row(status: dict[str, Any]) -> tuple[str, ...]:
    remote, cache, queue = (status.get(key) or {} for key in ("remote", "cache", "queue"))
    cached = "-"
    if cache:
        cached = f"{human_bytes(cache.get('bytes'))} of {human_bytes(cache.get('limit_bytes'))}"
    queued = "-"
    if queue:
        waiting = sum(queue.get(key) or 0 for key in ("pending", "uploading", "failed"))
        queued = f"{waiting} ({human_bytes(queue.get('bytes'))})" if waiting else "0"
    return (
        str(status.get("mountpoint") or "?"),
        str(status.get("source") or "?"),
        str(status.get("state") or "?"),
        str(remote.get("state") or "-"),
        cached,
        queued,
        str(status.get("pid") or "-"),
    )


def _remarks(status: dict[str, Any]) -> list[str]:
    remote, cache, queue = (status.get(key) or {} for key in ("remote", "cache", "queue"))
    remarks = []
    if status.get("error"):
        remarks.append(str(status["error"]))
    if remote.get("state") not in (None, "ok") and remote.get("last_error"):
        remarks.append(f"{remote['state']} since {remote.get('since')}: {remote['last_error']}")
    if cache.get("volatile"):
        remarks.append("its cache does not survive a restart of the machine or container")
    if queue.get("failed") or queue.get("conflicts"):
        remarks.append(f"{queue.get('failed', 0)} failed, {queue.get('conflicts', 0)} conflicts")
    return remarks
