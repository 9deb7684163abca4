"""`mountd umount`: drain, unmount, and wait until the daemon is gone."""

import errno
import os
import select
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mountd.cache_folder import holder_pid
from mountd.cli.arguments import Parser, seconds
from mountd.cli.by_path import asks_path
from mountd.cli.draining import Ask, Left, asks_daemon, drain, read_left
from mountd.cli.hand_over import HandOverFailed
from mountd.cli.holders import describe_holders
from mountd.cli.idle_queues import known_idle_queues, peek_journal
from mountd.cli.output import warn
from mountd.cli.progress import Progress, progress
from mountd.cli.successor import MOST_DAEMONS, WITHIN_S, daemon_at, next_daemon
from mountd.control.client import (
    Daemon,
    DaemonGone,
    Ended,
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
_GOODBYE_GRACE_S = 5.0
_PATIENCE_S = 1.0
_BUSY_AGAIN_S = 0.1
_WITH_ABANDON = "With --abandon it is, and what is open there is lost"


@dataclass(frozen=True, slots=True)
class Drained:
    """What is left unsent, the time that the daemon had for it, and the folder that keeps it
    (None where the daemon doesn't say). `is_sure`: the daemon lived to say the last word, or
    another umount ended it. `is_dead`: it ended before it said one."""

    left: Left
    timeout_s: float
    folder: Path | None = None
    is_sure: bool = True
    is_dead: bool = False


def run(arguments: Sequence[str]) -> int:
    """0 when all is on the remote and the mount is gone; 75 when something is left on disk."""
    parser = Parser("umount", "Waits until all is on the remote, then unmounts MOUNTPOINT.")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", type=Path)
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="how long to wait; default: stop_timeout_s",
    )
    parser.add_argument(
        "--abandon",
        action="store_true",
        help="do not wait; what is not sent stays on disk, and the next mount sends it. Unmounts "
        "although the mount is in use",
    )
    parsed = parser.read(arguments)
    mount = find_mount(parsed.mountpoint)
    within_s = WITHIN_S if parsed.timeout is None else min(WITHIN_S, parsed.timeout)
    daemon = daemon_at(mount, 0.0 if parsed.abandon else within_s)
    if daemon is None:
        return _unmount_without_daemon(mount, parsed.timeout, abandon=parsed.abandon)
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
    """Where the daemon dies before it has said what is left, the one that goes on is waited for."""
    for _ in range(MOST_DAEMONS):
        by_s = time.monotonic()
        with closing(DaemonProcess(daemon)) as process:
            drained = drain_mount(mount, daemon, timeout_s, abandon=abandon)
            by_s += drained.timeout_s
            successor = None
            if drained.is_dead and not abandon:
                successor = _successor(mount, by_s)
            if successor is None:
                return _unmount_drained(mount, process, drained, by_s, abandon=abandon)
        daemon, timeout_s = successor, max(by_s - time.monotonic(), 0.0)
    raise StartError(f"one daemon of {mount.path} after the other died; nothing was unmounted")


def _successor(mount: Mount, by_s: float) -> Daemon | None:
    try:
        return next_daemon(mount, by_s)
    except StartError as error:
        raise StartError(f"{error}; nothing was unmounted. {_WITH_ABANDON}") from error


def _unmount_drained(
    mount: Mount, process: "DaemonProcess", drained: Drained, by_s: float, *, abandon: bool
) -> int:
    """`by_s`, of time.monotonic: until then it may take."""
    _unmount_or_name_holders(mount.path, lazy=abandon)
    goodbye_s = max(by_s - time.monotonic() + _GOODBYE_GRACE_S, _SHORTEST_GOODBYE_S)
    if abandon:
        # A detached mount lives as long as a file in it is open; the second SIGTERM is for
        # a daemon that still waits for its queue.
        for _ in range(2):
            if not process.ends_within(_PATIENCE_S):
                process.terminate()
    if not process.ends_within(goodbye_s):
        raise StartError(
            f"{mount.path} is unmounted, but its daemon ({process.name}) still runs after "
            f"{goodbye_s:.0f} s; files of the mount may still be open"
        )
    if not abandon:
        _wait_for_who_came(mount, time.monotonic() + goodbye_s)
    if drained.is_dead and drained.is_sure:
        return _tell_of_idle_queue(mount.source)  # it died, or another umount ended it: who knows
    left = left_on_disk(drained)
    if not left.is_nothing:
        warn(kept(left, drained.folder))
        return ExitCode.LEFT_IN_QUEUE
    return ExitCode.OK


def _wait_for_who_came(mount: Mount, by_s: float) -> None:
    """A daemon that went on for one that died while it was unmounted; not one that mounts anew."""
    daemon = find_daemon(mount.path, mount.owner_uid)
    if daemon is None:
        return
    with closing(DaemonProcess(daemon)) as process:
        while mount_at(mount.path, read_mounts()) is None and time.monotonic() < by_s:
            if process.ends_within(_PATIENCE_S):
                return


def left_on_disk(drained: Drained) -> Left:
    """What the journal holds now that nobody has it open: unmounting may have added to what the
    daemon counted. Where it can't be read, the daemon's last word. Raises StartError without."""
    folder, told = drained.folder, drained.left
    found = None
    if folder is not None and holder_pid(folder) is None:
        with suppress(OSError, ValueError):  # doctor has more to say about it
            found = peek_journal(folder)
    if found is not None:
        return Left(found.unsent, found.failed, found.size_bytes, told.reasons)
    if not drained.is_sure:
        raise StartError(
            "the daemon ended while it was sending; what is not sent stays on disk, and mountd "
            "status lists it"
        )
    return told


def kept(left: Left, folder: Path | None) -> str:
    where = f" in {folder}" if folder else ""
    reason = f" ({left.reasons[0]})" if left.reasons else ""
    if left.is_only_failed:
        return f"the remote refused {left}{reason}; kept on disk{where} for the next mount"
    return f"not on the remote yet: {left}{reason}; kept on disk{where}, the next mount sends it"


def _unmount_without_daemon(mount: Mount, timeout_s: float | None, *, abandon: bool) -> int:
    """A dead daemon's mount is detached; one that answers is served by somebody we can't see."""
    found = probe(Path(mount.path))
    if found.error == errno.ETIMEDOUT and not abandon:
        raise StartError(
            f"{mount.path} waits for its next daemon; nothing was unmounted. {_WITH_ABANDON}"
        )
    if found.error in (errno.ENOTCONN, errno.ECONNABORTED, errno.ETIMEDOUT):
        unmount(mount.path, lazy=True)
        warn(f"the daemon of {mount.path} was dead; its mount is removed")
        return _tell_of_idle_queue(mount.source)
    left, ask = Left(), None
    if not abandon:
        try:
            ask = asks_path(mount)
        except StartError as error:  # another user's, say: it can be unmounted all the same
            warn(f"not waited for its queue: {error}")
    if ask is not None:
        wait_s = _DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
        left = _wait_for_queue(mount, ask, time.monotonic() + wait_s)
    _unmount_or_name_holders(mount.path, lazy=abandon)
    if not left.is_nothing:
        warn(kept(left, None))
        return ExitCode.LEFT_IN_QUEUE
    return ExitCode.OK


def _tell_of_idle_queue(source: str) -> int:
    waiting = [one for one in known_idle_queues() if one.source == source and one.unsent]
    for one in waiting:
        warn(kept(Left(one.unsent, one.failed, one.size_bytes), one.folder))
    return ExitCode.LEFT_IN_QUEUE if waiting else ExitCode.OK


def drain_mount(mount: Mount, daemon: Daemon, timeout_s: float | None, *, abandon: bool) -> Drained:
    """Waits until all is sent, at most `timeout_s` (default: what the daemon is set to), and
    tells the daemon that the mount is about to go."""
    start = time.monotonic()
    said: dict[str, Any] | None = None
    try:
        # A daemon that is stuck is found out here, not after the whole time for a queue.
        said = request(daemon.socket_path, {"op": "status"}, _STATUS_TIMEOUT_S)
        if timeout_s is None:
            found = said.get("stop_timeout_s")
            timeout_s = float(found) if isinstance(found, int | float) else _DEFAULT_TIMEOUT_S
        timeout_s = 0.0 if abandon else timeout_s
        ask = asks_daemon(daemon.socket_path, None)
        left = Left() if abandon else _wait_for_queue(mount, ask, start + timeout_s)
        unspent_s = max(start + timeout_s - time.monotonic(), 0.0)
        # The rest of the time is for what unmounting makes the kernel hand over.
        message: dict[str, Any] = {"op": "umount", "timeout_s": unspent_s, "abandon": abandon}
        answer = read_left(request(daemon.socket_path, message, unspent_s + _ANSWER_GRACE_S))
    except (DaemonGone, Ended):
        # It ended meanwhile; its mount may be left. Before the first answer another umount did it.
        if timeout_s is None:
            timeout_s = _DEFAULT_TIMEOUT_S
        folder = _folder_in(said, daemon)
        return Drained(Left(), timeout_s, folder, is_sure=said is None, is_dead=True)
    except (NotAnswering, Refused, HandOverFailed) as error:
        if abandon:
            warn(str(error))
            return Drained(Left(), 0.0)
        if isinstance(error, Refused):
            raise
        raise StartError(
            f"{error}; nothing was unmounted. With --abandon it is, and what is not sent stays on "
            "disk"
        ) from error
    return Drained(_newest(left, answer), timeout_s, _folder_in(said, daemon))


def _folder_in(status: dict[str, Any] | None, daemon: Daemon) -> Path | None:
    """Root reads no file that another user's daemon names."""
    cache = (status or {}).get("cache") if daemon.is_trusted else None
    folder = cache.get("folder") if isinstance(cache, dict) else None
    return Path(folder) if isinstance(folder, str) else None


def _wait_for_queue(mount: Mount, ask: Ask, deadline: float) -> Left:
    """What is left when the wait is over. The first Ctrl-C says how to end it; the second does,
    by KeyboardInterrupt. Raises what `drain` raises."""
    with progress() as shown, _only_the_second_interrupts(mount.path, shown):
        try:
            return drain(ask, mount, deadline, shown.show)
        except HandOverFailed as error:
            if error.number not in (errno.EACCES, errno.EPERM):
                raise  # the kernel tells a lost page once; whoever tries again gets on
            # Another user's mount. Unmounting makes the kernel hand over what it has.
            return drain(ask, None, deadline, shown.show)
        except Refused as error:
            if not str(error).startswith("unknown op"):
                raise
            return Left()  # a daemon of the version before there was a queue


@contextmanager
def _only_the_second_interrupts(path: str, shown: Progress) -> Iterator[None]:
    presses = 0

    def pressed(number: int, frame: object) -> None:
        nonlocal presses
        presses += 1
        if presses > 1:
            shown.say(f"{path} stays mounted")
            raise KeyboardInterrupt
        shown.say("still sending; Ctrl-C again stops waiting and leaves the mount as it is")

    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _newest(left: Left, answer: Left) -> Left:
    """The daemon's last word, with what only the longer answer of "flush" had."""
    if answer.files == left.files:
        return left
    return replace(answer, in_kernel=left.in_kernel, reasons=answer.reasons or left.reasons)


def _unmount_or_name_holders(path: str, *, lazy: bool) -> None:
    """Whoever only looks at it for a moment (`mountd status` in another container, say) is waited
    for."""
    until_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            unmount(path, lazy=lazy)
            return
        except Busy as error:
            if time.monotonic() < until_s:
                time.sleep(_BUSY_AGAIN_S)
                continue
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
        self.name = f"pid {daemon.pid}" if daemon.pid else str(daemon.socket_path)
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
