"""`mountd upgrade MOUNTPOINT`: the daemon goes on with the code that is installed now."""

import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mountd.cli.arguments import Parser
from mountd.cli.refresh import daemon_of, locate
from mountd.control.client import request
from mountd.errors import ExitCode, StartError

_TIMEOUT_S = 30.0
_GOES_ON_WITHIN_S = 90.0
_LOOK_EVERY_S = 0.1


def run(arguments: Sequence[str]) -> int:
    """0 when the new code answers for the mount. Raises StartError; then the old code goes on,
    unless it had ended already."""
    parser = Parser(
        "upgrade",
        "Has the daemon of MOUNTPOINT go on with the code and the config file of now. The mount "
        "and open files stay; calls wait for a second or two.",
    )
    parser.add_argument("path", metavar="MOUNTPOINT", type=Path)
    parsed = parser.read(arguments)
    import_module("mountd.daemon")  # what can't be imported must not be gone on with
    mount, _ = locate(parsed.path)
    socket_path = daemon_of(mount).socket_path
    before = request(socket_path, {"op": "upgrade"}, _TIMEOUT_S)
    by_s = time.monotonic() + _GOES_ON_WITHIN_S
    while time.monotonic() < by_s:
        time.sleep(_LOOK_EVERY_S)
        if _goes_on(socket_path, before):
            return ExitCode.OK
    raise StartError(f"the new daemon of {mount.path} does not answer; its log tells why")


def _goes_on(socket_path: Path, before: dict[str, Any]) -> bool:
    try:
        now = request(socket_path, {"op": "upgrade", "only_look": True}, _TIMEOUT_S)
    except StartError:
        return False  # not there yet
    is_new: bool = now["generation"] != before["generation"]
    return is_new and now["state"] == "ready"
