"""`mountd tune`: root sets the kernel's levers of a mount whose daemon is not root."""

import os
from collections.abc import Sequence
from pathlib import Path

from mountd.cli.arguments import Parser, load_config
from mountd.cli.output import warn
from mountd.cli.umount import find_mount
from mountd.control.client import find_daemon, request
from mountd.errors import ExitCode, StartError

_TIMEOUT_S = 10.0


def run(arguments: Sequence[str]) -> int:
    """0 when the levers are set, or a warning has said which could not be. Nothing waits for the
    remote, and the mount itself is not touched."""
    parser = Parser(
        "tune", "Sets read_ahead_kb, max_ratio and max_background of a mount. Only root can."
    )
    parser.add_argument(
        "mount", metavar="MOUNTPOINT | NAME", help="NAME: a mount of the config file"
    )
    parser.add_config()
    parsed = parser.read(arguments)
    if os.geteuid() != 0:
        raise StartError("only root can set them; as root, type: mountd tune MOUNTPOINT")
    mount = find_mount(path_of(parsed.mount, parsed.config))
    from mountd.fusefs.kernel import tune

    warning = tune(Path(mount.path)).warning()
    if warning:
        warn(warning)
    daemon = find_daemon(mount.path, mount.owner_uid)
    if daemon is not None:
        request(daemon.socket_path, {"op": "tune"}, _TIMEOUT_S)
    return ExitCode.OK


def path_of(text: str, config_named: str | None) -> Path:
    """Of a mount point, or of the mount NAME of a config file."""
    if "/" in text:
        return Path(text)
    section = load_config(config_named).mounts.get(text)
    if section is None or not section.mountpoint:
        return Path(text)
    return Path(os.path.expanduser(section.mountpoint))
