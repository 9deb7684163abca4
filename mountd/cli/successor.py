"""A mount whose daemon has just died: its keeper starts another one, which takes a moment."""

import time
from pathlib import Path

from mountd.control.client import Daemon, find_daemon
from mountd.errors import StartError
from mountd.mount_table import Mount, mount_at, read_mounts
from mountd.running.own_mount import answer

WITHIN_S = 90.0  # longer a keeper doesn't wait for one either (mountd/kept/keeper.py)
MOST_DAEMONS = 10  # one after the other; a keeper gives up before
_LOOK_WITHIN_S = 0.5


def daemon_at(mount: Mount, within_s: float = WITHIN_S) -> Daemon | None:
    """Who serves `mount`, or will in a moment. None where that can't be seen from here, and as soon
    as the mount is dead: then nobody comes."""
    by_s = time.monotonic() + within_s
    while True:
        daemon = find_daemon(mount.path, mount.owner_uid)
        if daemon is not None or time.monotonic() >= by_s:
            return daemon
        if not waits(mount):
            return find_daemon(mount.path, mount.owner_uid)  # it may have come just now


def next_daemon(mount: Mount, by_s: float) -> Daemon | None:
    """Who goes on with `mount`, whose daemon has died; None as soon as it is known that nobody
    does. Waits until `by_s` (of time.monotonic) at most, and not longer than a keeper; raises
    StartError where calls on the mount still wait then."""
    daemon = daemon_at(mount, min(WITHIN_S, max(0.0, by_s - time.monotonic())))
    if daemon is None and is_there(mount) and waits(mount):
        raise StartError(f"the daemon of {mount.path} ended, and no other one has come yet")
    return daemon


def is_there(mount: Mount) -> bool:
    """Whether it is still mounted."""
    found = mount_at(mount.path, read_mounts())
    return found is not None and found.device == mount.device


def waits(mount: Mount) -> bool:
    """Whether calls there wait for somebody."""
    try:
        answer(Path(mount.path), _LOOK_WITHIN_S)
    except TimeoutError:
        return is_there(mount)
    except OSError:
        return False
    return False
