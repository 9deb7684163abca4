"""`mountd flush [PATH]`: returns when everything there is on the remote."""

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mountd.cli.arguments import Parser, seconds
from mountd.cli.by_path import asks_path
from mountd.cli.draining import Ask, Left, asks_daemon, drain
from mountd.cli.idle_queues import known_idle_queues
from mountd.cli.output import warn
from mountd.cli.progress import Progress, progress
from mountd.cli.refresh import daemon_of, locate
from mountd.cli.status import BAD, all_statuses
from mountd.cli.successor import MOST_DAEMONS, WITHIN_S, daemon_at, next_daemon
from mountd.control.client import DaemonGone, Ended, NotAnswering, find_daemon
from mountd.errors import ExitCode, StartError
from mountd.in_words import counted
from mountd.mount_point import PROBE_TIMEOUT_S, probe
from mountd.mount_table import Mount, is_below, mount_at, read_mounts

_SHORTEST_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Target:
    """One question: whom to `ask`, about which path below the mount; None for the whole of it.

    `mount` is None where the kernel has none at `mountpoint` that this process sees.
    """

    mountpoint: str
    ask: Ask
    mount: Mount | None = None
    path: str | None = None
    is_by_path: bool = False  # `ask` looks at the mount, whoever serves it

    @property
    def shown(self) -> str:
        return os.path.join(self.mountpoint, self.path or "").rstrip("/") or "/"


def run(arguments: Sequence[str]) -> int:
    """0 when everything at PATH is on the remote; 75 when the time is over or what the remote
    refused is left; 1 where a daemon is dead or does not answer."""
    parser = Parser("flush", "Returns when everything at PATH is on the remote.")
    parser.add_argument(
        "path", metavar="PATH", nargs="?", type=Path, help="in a mount; default: every mount"
    )
    parser.add_argument(
        "--timeout", type=seconds, metavar="SECONDS", help="how long to wait; default: for ever"
    )
    parsed = parser.read(arguments)
    deadline = None if parsed.timeout is None else time.monotonic() + parsed.timeout
    complaints: list[str] = []
    if parsed.path is None:
        targets = list(every_mount(complaints, deadline))
        if not any(mount.is_ours for mount in read_mounts()):
            print("nothing is mounted")
        for idle in known_idle_queues():
            if idle.unsent:
                files = counted(idle.unsent, "file")
                warn(f"{files} of {idle.source} in {idle.folder}, which no daemon serves, not sent")
    else:
        targets = list(targets_at(parsed.path, deadline))
    with progress() as shown:
        code = flush(targets, deadline, shown, complaints)
    if complaints:
        error = StartError("; ".join(complaints))
        error.exit_code = code
        raise error
    return ExitCode.OK


def flush(
    targets: Sequence[Target], deadline: float | None, shown: Progress, complaints: list[str]
) -> ExitCode:
    """Waits for one after the other (their daemons send at the same time). What is not on the
    remote goes to `complaints`, a line each; those that are there already are errors."""
    code = ExitCode.RUNTIME if complaints else ExitCode.OK
    for target in targets:
        try:
            left = _drained(target, deadline, partial(_show, shown, target.shown))
        except StartError as error:
            complaints.append(f"{target.shown}: {error}")
            code = ExitCode.RUNTIME
            continue
        if not left.is_nothing:
            complaints.append(complaint(target, left))
            code = code or ExitCode.LEFT_IN_QUEUE
    return code


def _drained(target: Target, deadline: float | None, show: Callable[[str], None]) -> Left:
    """As `drain`, with whoever goes on where a daemon dies meanwhile."""
    ask = target.ask
    for _ in range(MOST_DAEMONS):
        try:
            return drain(ask, target.mount, deadline, show)
        except (DaemonGone, NotAnswering) as error:
            is_dead = target.is_by_path or isinstance(error, DaemonGone | Ended)
            if target.mount is None or not is_dead:
                raise
            by_s = time.monotonic() + WITHIN_S
            daemon = next_daemon(target.mount, by_s if deadline is None else min(by_s, deadline))
            if daemon is not None:
                ask = asks_daemon(daemon.socket_path, target.path, deadline)
            elif not target.is_by_path:
                raise
    raise StartError("one daemon after the other died")


def _show(shown: Progress, where: str, text: str) -> None:
    shown.show(f"{where}: {text}")


def complaint(target: Target, left: Left) -> str:
    """One line: how much is left, why, and which command tells more."""
    reason = f": {left.reasons[0]}" if left.reasons else ""
    if left.is_only_failed:
        return (
            f"{target.shown}: the remote refused {left}{reason}; mountd queue {target.mountpoint} "
            "tells more, with --retry it is tried again"
        )
    return f"{target.shown}: not on the remote yet: {left}{reason}"


def every_mount(complaints: list[str], deadline: float | None) -> Iterator[Target]:
    """All daemons of ours (for root: of anybody) and the mounts seen from here whose daemons are
    not; a mount that has none is a complaint."""
    mounts = read_mounts()
    for status in all_statuses():
        mountpoint = str(status.get("mountpoint") or "?")
        mount = mount_at(mountpoint, mounts)
        daemon = find_daemon(mountpoint, mount.owner_uid if mount else None)
        if status.get("state") in BAD:
            complaints.append(f"{mountpoint}: {status.get('error')}")
        elif daemon is not None:
            yield Target(mountpoint, asks_daemon(daemon.socket_path, None, deadline), mount)
        elif mount is not None:
            ask = _asks_stranger(mount)
            if ask is not None:
                yield Target(mountpoint, ask, mount, is_by_path=True)


def _asks_stranger(mount: Mount) -> Ask | None:
    """Says on stderr where another user's mount can't be asked."""
    why = "its daemon cannot be seen from here"
    try:
        ask = asks_path(mount)
    except StartError as error:
        ask, why = None, str(error)
    if ask is None:
        warn(f"{mount.path} is not waited for: {why}")
    return ask


def targets_at(path: Path, deadline: float | None) -> Iterator[Target]:
    """`path` and, where it is or goes through a symlink, what that points to in the same mount:
    the daemon takes a path as it is spelt. `deadline`, of time.monotonic: who hangs is waited for
    until then. Raises MountPointError, StartError."""
    mount, relative = locate(path)
    daemon = daemon_at(mount, _within(WITHIN_S, deadline))
    if daemon is None:
        # A container that sees only the path: the whole queue is all that can be asked for there.
        by_path = asks_path(mount)
        ask = by_path or _no_daemon(mount)
        yield Target(mount.path, ask, mount, is_by_path=by_path is not None)
        return
    if not relative:
        yield Target(mount.path, asks_daemon(daemon.socket_path, None, deadline), mount)
        return
    spelt = os.path.join(mount.path, relative)
    found = probe(Path(spelt), _within(PROBE_TIMEOUT_S, deadline))
    if found.error == errno.ENOENT:
        warn(f"{path} does not exist; waiting for what happened to it and below")
    parent = probe(Path(spelt).parent, _within(PROBE_TIMEOUT_S, deadline)).real or os.path.dirname(
        spelt
    )
    places = {os.path.join(parent, os.path.basename(spelt)), found.real or spelt}
    inside = sorted(place for place in places if is_below(place, mount.path)) or [spelt]
    for place in inside:
        below = place[len(mount.path) :].strip("/") or None
        ask = asks_daemon(daemon.socket_path, below, deadline)
        yield Target(mount.path, ask, mount, below)


def _within(most_s: float, deadline: float | None) -> float:
    """What is left until then; never nothing."""
    left_s = most_s if deadline is None else deadline - time.monotonic()
    return max(_SHORTEST_LOOK_S, min(most_s, left_s))


def _no_daemon(mount: Mount) -> Ask:
    daemon = daemon_of(mount)  # raises, but for one that came just now
    return asks_daemon(daemon.socket_path, None)
