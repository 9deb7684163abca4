"""`mountd upgrade MOUNTPOINT`: the daemon goes on with the code that is installed now."""

import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mountd.cli.arguments import Parser
from mountd.cli.refresh import daemon_of, locate
from mountd.cli.successor import is_there
from mountd.cli.tune import path_of
from mountd.control.client import DaemonGone, NotAnswering, request
from mountd.errors import ExitCode, StartError
from mountd.mount_table import Mount

_TIMEOUT_S = 30.0
_GOES_ON_WITHIN_S = 90.0
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
    socket_path, before = _begin(mount, by_s)
    by_s = max(by_s, time.monotonic() + _GOES_ON_WITHIN_S)
    while time.monotonic() < by_s and is_there(mount):
        time.sleep(_LOOK_EVERY_S)
        if _goes_on(socket_path, before):
            return ExitCode.OK
    raise StartError(f"the new daemon of {mount.path} does not answer; its log tells why")


def _begin(mount: Mount, by_s: float) -> tuple[Path, dict[str, Any]]:
    """Where the daemon listens, and what it says that goes on with new code from now on."""
    while True:
        socket_path = daemon_of(mount).socket_path
        try:
            now = request(socket_path, {"op": "upgrade", "only_look": True}, _TIMEOUT_S)
            if now["state"] != "starting" or time.monotonic() > by_s:
                return socket_path, request(socket_path, {"op": "upgrade"}, _TIMEOUT_S)
        except (DaemonGone, NotAnswering):  # it has just died
            if time.monotonic() > by_s:
                raise
        time.sleep(_LOOK_EVERY_S)


def _goes_on(socket_path: Path, before: dict[str, Any]) -> bool:
    try:
        now = request(socket_path, {"op": "upgrade", "only_look": True}, _TIMEOUT_S)
    except StartError:
        return False  # not there yet
    is_new: bool = now["generation"] != before["generation"]
    return is_new and now["state"] == "ready"
