"""`mountd refresh PATH`: the next look at PATH asks the remote."""

import os
from collections.abc import Sequence
from pathlib import Path

from mountd.cli.arguments import Parser
from mountd.cli.successor import daemon_at
from mountd.control.client import Daemon, request
from mountd.errors import ExitCode, MountPointError, StartError
from mountd.mount_point import probe
from mountd.mount_table import Mount, mount_containing, read_mounts

_TIMEOUT_S = 30.0


def run(arguments: Sequence[str]) -> int:
    """0 when the daemon has forgotten; nothing is asked of the remote yet."""
    parser = Parser("refresh", "The next look at PATH, or at what is below, asks the remote.")
    parser.add_argument("path", metavar="PATH", type=Path)
    parsed = parser.read(arguments)
    mount, relative = locate(parsed.path)
    request(daemon_of(mount).socket_path, {"op": "refresh", "path": relative}, _TIMEOUT_S)
    return ExitCode.OK


def daemon_of(mount: Mount) -> Daemon:
    """Who serves `mount`, or will in a moment. Raises StartError where that can't be seen."""
    daemon = daemon_at(mount)
    if daemon is None:
        raise StartError(
            f"no daemon of this user serves {mount.path}; if it is dead, type: "
            f"mountd umount {mount.path}"
        )
    return daemon


def locate(path: Path) -> tuple[Mount, str]:
    """Our mount that `path` lies in, and the path below it ("" for its root).

    What lies in one of our mounts by its spelling is not looked at. Raises MountPointError.
    """
    mounts = read_mounts()
    spelt = os.path.abspath(path)
    mount = mount_containing(spelt, mounts)
    if mount is None or not mount.is_ours:
        spelt = probe(Path(spelt)).real or spelt
        mount = mount_containing(spelt, mounts)
    if mount is None or not mount.is_ours:
        raise MountPointError(f"{path} is in no mount of mountd; mountd status lists them")
    return mount, spelt[len(mount.path) :].strip("/")
