"""The path that we mount on: what must hold before, how to get rid of a mount, and of a dead one.

A path is only ever touched from a child process, with a deadline (in_a_child.py); what the kernel
can tell without asking the daemon comes from mountinfo.
"""

import errno
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mountd.config import MountPlan
from mountd.control.client import find_daemon, request
from mountd.errors import MountPointError, StartError
from mountd.in_a_child import abandon, run_in_child
from mountd.mount_table import Mount, is_below, mount_at, read_mounts

PROBE_TIMEOUT_S = 3.0
_STATUS_TIMEOUT_S = 3.0
_UNMOUNT_TIMEOUT_S = 20.0
FUSE_DEVICE = Path("/dev/fuse")
_DEAD = frozenset((errno.ENOTCONN, errno.ECONNABORTED, errno.ETIMEDOUT))
_PROBE_SCRIPT = """
import json, os, stat, sys
os.write(1, b".")
path = sys.argv[1]
found = {"real": "", "kind": "other", "error": 0, "empty": True, "writable": True}
try:
    found["real"] = os.path.realpath(path)
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        found["kind"] = "directory"
        with os.scandir(path) as names:
            found["empty"] = next(names, None) is None
        found["writable"] = os.access(path, os.W_OK | os.X_OK)
except OSError as error:
    found["error"] = error.errno
print(json.dumps(found))
"""


_READ_SCRIPT = """
import os, sys
os.write(1, b".")
try:
    with open(sys.argv[1], "rb") as file:
        sys.stdout.buffer.write(file.read(1 << 24))
except OSError as error:
    sys.exit(f"{error.errno}")
"""


class Busy(StartError):
    """The kernel refused to unmount because the mount is in use."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a look at a path gave. `error` is an errno, 0 for none, ETIMEDOUT for no answer."""

    real: str
    kind: Literal["directory", "other"]
    error: int
    empty: bool
    writable: bool


def probe(path: Path, timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Looks at `path` from a child process; returns within `timeout_s` whatever is there. (The time
    in which a busy machine starts that child says nothing about the path, and doesn't count.)"""
    try:
        return Probe(**json.loads(run_in_child(_PROBE_SCRIPT, path, timeout_s)))
    except TimeoutError:
        return Probe(str(path), "other", errno.ETIMEDOUT, empty=False, writable=False)
    except ValueError as error:
        raise StartError(f"could not look at {path}: the child process failed") from error


def read_guarded(path: Path, timeout_s: float = PROBE_TIMEOUT_S) -> bytes:
    """The start of a file (16 MiB) that may lie in a dead mount. Raises OSError, TimeoutError."""
    return run_in_child(_READ_SCRIPT, path, timeout_s)


def check_mount_point(plan: MountPlan, *, replaces: bool = False) -> Path:
    """The real path of `plan.mountpoint`, fit to be mounted on; or with a dead daemon's mount on
    it, which `clear_dead_mount` takes away.

    A mount that answers is refused, but for what `plan.on_volume` allows; and so is one that lets
    callers wait, unless it `replaces` that: it has no daemon for a moment, and open files would be
    lost. Raises MountPointError.
    """
    path = plan.mountpoint
    found = probe(path)
    mount = mount_at(found.real or str(path), read_mounts())
    if mount and (mount.is_ours or not plan.on_volume):
        _refuse_unless_dead(mount, found)
        if found.error == errno.ETIMEDOUT and not replaces:
            raise MountPointError(
                f"mount point {mount.path} is mounted ({mount.source}) and waits for its next "
                f"daemon; where none comes, type: mountd umount --abandon {mount.path}"
            )
        _check_no_loop(plan, mount.path)
        return Path(mount.path)
    if found.error == errno.ENOENT:
        raise MountPointError(f"mount point {path} does not exist; type: mkdir -p {path}")
    if found.error == errno.ETIMEDOUT:
        raise MountPointError(f"mount point {path} does not answer; what it lies on hangs")
    if found.error:
        raise MountPointError(f"mount point {path}: {os.strerror(found.error)}")
    if found.kind != "directory":
        raise MountPointError(f"mount point {path} is not a directory; give an empty directory")
    if not found.empty:
        raise MountPointError(f"mount point {path} is not empty; give an empty directory")
    if not found.writable and os.geteuid() != 0:
        raise MountPointError(f"mount point {path} is not writable for this user; fuse wants that")
    _check_no_loop(plan, found.real)
    return Path(found.real)


def clear_dead_mount(path: Path, *, on_volume: bool = False) -> None:
    """Takes a dead daemon's mount away, if one is at `path` (absolute, real).

    To be called when all else is ready and the mount comes next: until then a program gets an
    error, and in the empty folder below it would find everything deleted, or write what nobody
    sends. Blocking. Raises MountPointError where the mount isn't dead after all, or where that
    folder isn't empty.
    """
    mount = mount_at(str(path), read_mounts())
    if mount is None or (on_volume and not mount.is_ours):
        return
    if not mount.is_ours or probe(path).error not in _DEAD:
        raise MountPointError(f"mount point {path} is already mounted ({mount.source})")
    unmount(str(path), lazy=True)
    try:
        with os.scandir(path) as names:
            is_empty = next(names, None) is None
    except OSError as error:
        raise MountPointError(f"mount point {path}: {error.strerror}") from error
    if not is_empty:
        raise MountPointError(f"mount point {path} is not empty; give an empty directory")


def held_by_another(path: Path) -> MountPointError:
    """Who answers for `path` (absolute, real) although nothing need be mounted there: it comes up,
    or ends. The error tells that and what to do. Blocking; some seconds where it is stuck."""
    daemon = find_daemon(str(path))
    if daemon is None:
        return MountPointError(f"mount point {path} was held by a daemon that has ended; try again")
    who = f"pid {daemon.pid}" if daemon.pid else "another daemon"
    try:
        said = request(daemon.socket_path, {"op": "status"}, _STATUS_TIMEOUT_S)
    except StartError:
        end = f"; end it: kill -9 {daemon.pid}" if daemon.pid else ""
        return MountPointError(f"mount point {path} is held by {who}, which does not answer{end}")
    who += f" ({said.get('source')})"
    if said.get("state") == "starting":
        return MountPointError(
            f"mount point {path} is just being mounted by {who}; wait for that mount and use it, "
            f"or then type: mountd umount {path}"
        )
    if said.get("state") == "stopping":
        return MountPointError(
            f"mount point {path} was unmounted, but {who} still sends what was written there; "
            f"wait until mountd status {path} does not show it any more, and mount again"
        )
    return MountPointError(
        f"mount point {path} is held by {who}, perhaps in another container; unmount it there, or "
        "give another directory"
    )


def check_fuse(allow_other: bool, device: Path = FUSE_DEVICE) -> None:
    """Raises StartError with the fix where this machine or container has no usable FUSE."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        # A user's too: libfuse opens it before it asks fusermount3 for anything.
        raise StartError(_no_device(error)) from error
    if os.geteuid() == 0:
        return  # root mounts and unmounts by itself
    if fusermount() is None:
        raise StartError("fusermount3 is missing; install the package fuse3")
    if allow_other and not user_allow_other():
        raise StartError(
            "allow_other is only for root as long as /etc/fuse.conf has no line user_allow_other; "
            "add it, or leave allow_other out"
        )


def _no_device(error: OSError) -> str:
    in_container = "in a container start it with --device /dev/fuse --cap-add SYS_ADMIN"
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return f"/dev/fuse is missing: as root type modprobe fuse; {in_container}"
    if error.errno == errno.EACCES:
        return (
            "/dev/fuse may not be opened by this user: as root type chmod 666 /dev/fuse, or add "
            "the user to the group that owns it"
        )
    return f"/dev/fuse cannot be opened ({error.strerror}): {in_container}"


def unmount(path: str, *, lazy: bool) -> None:
    """Unmounts the topmost mount at `path`; `lazy` detaches it although it is in use.

    Returns too where nothing is mounted there any more. Raises Busy, or StartError.
    """
    tool = fusermount()
    if os.geteuid() == 0:
        command = ["umount", "-i", *(["-l"] if lazy else []), "--", path]
    elif tool is None:
        raise StartError("fusermount3 is missing; install the package fuse3")
    else:
        command = [tool, "-u", *(["-z"] if lazy else []), "--", path]
    error = _run_unmount(command)
    if error is None or mount_at(path, read_mounts()) is None:
        return
    if "busy" in error.lower():
        raise Busy(f"{path} is busy")
    raise StartError(f"cannot unmount {path}: {error}")


def fusermount() -> str | None:
    """The path of fusermount3 (or of its elder), or None."""
    places = [*os.environ.get("PATH", "").split(":"), "/usr/bin", "/bin", "/usr/local/bin"]
    names = [
        f"{place}/{name}" for name in ("fusermount3", "fusermount") for place in places if place
    ]
    return next((name for name in names if os.access(name, os.X_OK)), None)


def user_allow_other(text: str | None = None) -> bool:
    """Whether /etc/fuse.conf (or `text`) lets users give allow_other."""
    try:
        lines = (Path("/etc/fuse.conf").read_text() if text is None else text).splitlines()
    except OSError:
        return False
    return any(line.partition("#")[0].strip() == "user_allow_other" for line in lines)


def real_path(path: Path, mounts: Sequence[Mount]) -> str:
    """`path` without symlinks. One that is a mount point as it is spelt is not looked at."""
    spelt = os.path.abspath(path)
    if mount_at(spelt, mounts):
        return spelt
    return probe(Path(spelt)).real or spelt


def _refuse_unless_dead(mount: Mount, found: Probe) -> None:
    if not mount.is_ours:
        raise MountPointError(
            f"mount point {mount.path} is already a mount ({mount.fs_type} of {mount.source}); "
            "give an empty directory that is none"
        )
    daemon = find_daemon(mount.path, mount.owner_uid)
    if daemon is not None:
        who = f"pid {daemon.pid}" if daemon.pid else "another daemon"
        raise MountPointError(
            f"mount point {mount.path} is already mounted by {who} ({mount.source}); "
            f"type: mountd umount {mount.path}"
        )
    if found.error not in _DEAD:
        raise MountPointError(
            f"mount point {mount.path} is already mounted ({mount.source}) by a daemon that "
            f"cannot be seen from here; type: mountd umount {mount.path}"
        )


def _check_no_loop(plan: MountPlan, real: str) -> None:
    if plan.source.scheme != "file":
        return
    directory = os.path.realpath("/" + plan.source.prefix)
    if is_below(real, directory) or is_below(directory, real):
        raise MountPointError(
            f"mount point {plan.mountpoint} and SOURCE {plan.source.text} lie in one another; "
            "give a directory elsewhere"
        )


def _run_unmount(command: list[str]) -> str | None:
    """What it complained about, or None. LC_ALL=C: the answer is read for `busy`."""
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
            cwd="/",
            text=True,
            errors="replace",
        )
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    try:
        _, complaint = child.communicate(timeout=_UNMOUNT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        abandon(child)
        return f"{command[0]} does not come back"
    if child.returncode == 0:
        return None
    return complaint.strip().replace("\n", "; ") or f"{command[0]} failed"
