"""`mountd upgrade MOUNTPOINT`: the daemon goes on with the code that is installed now."""

import errno
import os
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from mountd.cli.arguments import Parser
from mountd.cli.refresh import daemon_of, locate
from mountd.cli.successor import is_there
from mountd.cli.tune import path_of
from mountd.control.client import Daemon, DaemonGone, Ended, NotAnswering, request
from mountd.errors import ExitCode, StartError
from mountd.mount_point import probe
from mountd.mount_table import Mount, mount_at, read_mounts

_TIMEOUT_S = 30.0
_HANGS_AFTER_S = 15.0
_LOOKS_WITHIN_S = 60.0  # the daemon, whether the new code can be started
_GOES_ON_WITHIN_S = 90.0
_DEAD = (errno.ENOTCONN, errno.ECONNABORTED)
_LOOK_EVERY_S = 0.1


def run(arguments: Sequence[str]) -> int:
    """0 when the new code answers for the mount; where its daemon has just died, first another one
    comes. Raises StartError; then the old code goes on, unless it had ended already."""
    parser = Parser(
        "upgrade",
        "Has the daemon of a mount go on with the code and the config file of now. The mount "
        "and open files stay; calls wait for a second or two.",
    )
    parser.add_argument(
        "mount", metavar="MOUNTPOINT | NAME", help="NAME: a mount of the config file"
    )
    parser.add_config()
    parsed = parser.read(arguments)
    import_module("mountd.daemon")  # what can't be imported must not be gone on with
    mount, _ = locate(path_of(parsed.mount, parsed.config))
    by_s = time.monotonic() + _GOES_ON_WITHIN_S
    with ExitStack() as held:
        daemon, before, processes = _begin(mount, by_s, held)
        by_s = max(by_s, time.monotonic() + _GOES_ON_WITHIN_S)
        while time.monotonic() < by_s:
            time.sleep(_LOOK_EVERY_S)
            if _goes_on(daemon.socket_path, before):
                return ExitCode.OK
            if not is_there(mount):
                raise StartError(_what_came(mount))
            if all(map(_has_ended, processes)) and probe(Path(mount.path)).error in _DEAD:
                raise StartError(
                    f"the new daemon of {mount.path} died, and nobody goes on: the mount is dead, "
                    "and what was open there is lost. Its log tells why; what was not sent is "
                    "kept, and sent when it is mounted again"
                )
    raise StartError(f"the new daemon of {mount.path} does not answer; its log tells why")


def _begin(
    mount: Mount, by_s: float, held: ExitStack
) -> tuple[Daemon, dict[str, Any], Sequence[int]]:
    """The daemon, what it says that goes on with new code from now on, and by a pidfd who may go
    on where it dies: itself and its keeper. `held` closes those."""
    while True:
        daemon = daemon_of(mount)
        socket_path = daemon.socket_path
        try:
            now = _look_at(mount, daemon)
            if now["state"] != "starting" or time.monotonic() > by_s:
                processes = list(_pid_fds(daemon, now, held))
                message = {"op": "upgrade", "timeout_s": _LOOKS_WITHIN_S}
                answer = request(socket_path, message, _LOOKS_WITHIN_S + _TIMEOUT_S)
                return daemon, answer, processes
        except (DaemonGone, NotAnswering):  # it has just died
            if time.monotonic() > by_s:
                raise
        time.sleep(_LOOK_EVERY_S)


def _look_at(mount: Mount, daemon: Daemon) -> dict[str, Any]:
    """Raises DaemonGone, Ended, and StartError where the daemon hangs: it can't hand over."""
    try:
        return request(daemon.socket_path, {"op": "upgrade", "only_look": True}, _HANGS_AFTER_S)
    except Ended:
        raise
    except NotAnswering as error:
        raise StartError(
            f"{mount.path}: {error}; nothing was changed. If it hangs for good, end it (kill -9), "
            "and another one goes on with the code that is installed now"
        ) from error


def _pid_fds(daemon: Daemon, said: dict[str, Any], held: ExitStack) -> Iterator[int]:
    # Only where its own word for itself is ours, too: else it lives in another pid namespace.
    pids = (daemon.pid, said.get("keeper")) if daemon.pid == said["pid"] else (daemon.pid,)
    for pid in pids:
        with suppress(OSError):
            if pid:
                fd = os.pidfd_open(pid)
                held.callback(os.close, fd)
                yield fd


def _has_ended(pid_fd: int) -> bool:
    return bool(select.select([pid_fd], [], [], 0)[0])


def _what_came(mount: Mount) -> str:
    """Of a mount that is there no more."""
    found = mount_at(mount.path, read_mounts())
    if found is not None and found.is_ours:
        return (
            f"the new code could not go on with {mount.path} and has mounted it anew: what was "
            "open there is lost. Its log tells why"
        )
    return f"{mount.path} was unmounted meanwhile"


def _goes_on(socket_path: Path, before: dict[str, Any]) -> bool:
    try:
        now = request(socket_path, {"op": "upgrade", "only_look": True}, _TIMEOUT_S)
    except StartError:
        return False  # not there yet
    is_new: bool = now["generation"] != before["generation"]
    return is_new and now["state"] == "ready"
