"""`mountd umount`: drain, unmount, and wait until the daemon is gone."""

import errno
import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mountd.cli.arguments import Parser, seconds
from mountd.cli.holders import describe_holders
from mountd.cli.output import warn
from mountd.control.client import (
    Daemon,
    DaemonGone,
    NotAnswering,
    Refused,
    find_daemon,
    is_alive,
    request,
)
from mountd.errors import ExitCode, MountPointError, StartError
from mountd.mount_point import Busy, probe, real_path, unmount
from mountd.mount_table import Mount, mount_at, mount_containing, read_mounts

_ANSWER_GRACE_S = 15.0
_STATUS_TIMEOUT_S = 3.0
_DEFAULT_TIMEOUT_S = 300.0  # stop_timeout_s, for a daemon that doesn't say
_SHORTEST_GOODBYE_S = 10.0
_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Drained:
    """How many files are left unsent, and the time that the daemon had for them."""

    left: int
    timeout_s: float


def run(arguments: Sequence[str]) -> int:
    """0 when all is on the remote and the mount is gone; 75 when something is left on disk."""
    parser = Parser("umount", "Waits until all is on the remote, then unmounts MOUNTPOINT.")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", type=Path)
    parser.add_argument(
        "--timeout", type=seconds, metavar="SECONDS", help="how long to wait (stop_timeout_s)"
    )
    parser.add_argument(
        "--abandon",
        action="store_true",
        help="do not wait; what is not sent stays on disk. Unmounts although the mount is in use",
    )
    parsed = parser.read(arguments)
    mount = find_mount(parsed.mountpoint)
    daemon = find_daemon(mount.path, mount.owner_uid)
    if daemon is None:
        return _unmount_without_daemon(mount, abandon=parsed.abandon)
    return _unmount_with_daemon(mount, daemon, parsed.timeout, abandon=parsed.abandon)


def find_mount(path: Path) -> Mount:
    """Our mount exactly at `path`. Raises MountPointError for anything else."""
    mounts = read_mounts()
    real = real_path(path, mounts)
    mount = mount_at(real, mounts)
    if mount is not None and mount.is_ours:
        return mount
    if mount is not None:
        raise MountPointError(f"{real} is a mount of {mount.fs_type}, not of mountd; use umount")
    around = mount_containing(real, mounts)
    if around is not None and around.is_ours:
        raise MountPointError(f"{real} is no mount point; it lies in the mount at {around.path}")
    raise MountPointError(f"{real} is no mount point; mountd status lists what is mounted")


def _unmount_with_daemon(
    mount: Mount, daemon: Daemon, timeout_s: float | None, *, abandon: bool
) -> int:
    start = time.monotonic()
    with closing(DaemonProcess(daemon)) as process:
        drained = _drain(daemon, timeout_s, abandon=abandon)
        _unmount_or_name_holders(mount.path, lazy=abandon)
        spent_s = time.monotonic() - start
        goodbye_s = max(drained.timeout_s - spent_s, _SHORTEST_GOODBYE_S)
        if abandon:
            # A detached mount lives as long as a file in it is open; the second SIGTERM is for
            # a daemon that still waits for its queue.
            for _ in range(2):
                if not process.ends_within(_PATIENCE_S):
                    process.terminate()
        gone = process.ends_within(goodbye_s)
    if not gone:
        who = f"pid {daemon.pid}" if daemon.pid else str(daemon.socket_path)
        raise StartError(
            f"{mount.path} is unmounted, but its daemon ({who}) still runs after "
            f"{goodbye_s:.0f} s; files of the mount may still be open"
        )
    if drained.left:
        warn(
            f"{drained.left} files are not on the remote yet; they stay on disk for the next mount"
        )
        return ExitCode.LEFT_IN_QUEUE
    return ExitCode.OK


def _unmount_without_daemon(mount: Mount, *, abandon: bool) -> int:
    """A dead daemon's mount is detached; one that answers is served by somebody we can't see."""
    found = probe(Path(mount.path))
    if found.error in (errno.ENOTCONN, errno.ECONNABORTED, errno.ETIMEDOUT):
        unmount(mount.path, lazy=True)
        warn(f"the daemon of {mount.path} was dead; its mount is removed")
        return ExitCode.OK
    _unmount_or_name_holders(mount.path, lazy=abandon)
    return ExitCode.OK


def _drain(daemon: Daemon, timeout_s: float | None, *, abandon: bool) -> Drained:
    """Asks the daemon to send what it has within `timeout_s` (default: what it is set to)."""
    try:
        # A daemon that is stuck is found out here, not after the whole time for a queue.
        said = request(daemon.socket_path, {"op": "status"}, _STATUS_TIMEOUT_S)
        if timeout_s is None:
            found = said.get("stop_timeout_s")
            timeout_s = float(found) if isinstance(found, int | float) else _DEFAULT_TIMEOUT_S
        timeout_s = 0.0 if abandon else timeout_s
        message: dict[str, Any] = {"op": "umount", "timeout_s": timeout_s, "abandon": abandon}
        answer = request(daemon.socket_path, message, timeout_s + _ANSWER_GRACE_S)
    except DaemonGone:
        return Drained(0, 0.0)  # it ended meanwhile; its mount may be left
    except (NotAnswering, Refused) as error:
        if abandon:
            warn(str(error))
            return Drained(0, 0.0)
        if isinstance(error, Refused):
            raise
        raise StartError(
            f"{error}; nothing was unmounted. With --abandon it is, and what is not sent stays on "
            "disk"
        ) from error
    left = answer.get("left", 0)
    return Drained(left if isinstance(left, int) else 0, timeout_s)


def _unmount_or_name_holders(path: str, *, lazy: bool) -> None:
    try:
        unmount(path, lazy=lazy)
    except Busy as error:
        raise StartError(
            f"{path} is in use by {describe_holders(path)}; end that, or type: "
            f"mountd umount --abandon {path}"
        ) from error


class DaemonProcess:
    """The daemon's process, held by a pidfd, so that a signal can't meet another one.

    Where the kernel or a sandbox gives none, or the daemon lives in another pid namespace, its end
    is seen at its socket and it can't be signalled.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._pid_fd: int | None = None
        with suppress(OSError):
            self._pid_fd = os.pidfd_open(daemon.pid) if daemon.pid else None

    def close(self) -> None:
        """Lets go of the process."""
        if self._pid_fd is not None:
            os.close(self._pid_fd)

    def ends_within(self, timeout_s: float) -> bool:
        """Whether it has ended when `timeout_s` is over; returns as soon as it has."""
        if self._pid_fd is not None:
            return bool(select.select([self._pid_fd], [], [], timeout_s)[0])
        deadline = time.monotonic() + timeout_s
        while is_alive(self._daemon.socket_path):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def terminate(self) -> None:
        """SIGTERM, where it may be sent."""
        if self._pid_fd is not None:
            with suppress(OSError):
                signal.pidfd_send_signal(self._pid_fd, signal.SIGTERM)
