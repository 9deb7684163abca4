"""The kernel's levers for a FUSE mount: what they are now, and setting them.

Setting needs a writable sysfs and fusectl, which an unprivileged container has not: then the
mount works with the kernel's defaults, `notes` says what was not to be had, and `mountd doctor`
how to get it.
"""

import logging
import os
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mountd.mount_table import mount_at, read_mounts

log = logging.getLogger(__name__)

READ_AHEAD_KB = 1024
# Requests of read-ahead at once. Even a scattered read of 4 KiB is one: with the kernel's default
# of 12, 16 readers at 30 ms got 340 reads/s of the 480 that the remote gave.
MAX_BACKGROUND = 128
CONGESTION_THRESHOLD = 96
# Percent of the dirty pages that the kernel allows (20 % of free memory) that may be this mount's.
# FUSE has 1, and whoever writes is made to sleep as soon as that waits: 1 GiB at 84 to 731 MB/s and
# with 10 at 490 to 996, five runs in turn on a busy machine; 20 and 40 as 10. It stays a limit of
# its own: what the daemon writes to its disk must find room, or it would wait for itself.
MAX_RATIO = 10
PRIVATE_TIMEOUT_S = 5.0
CONNECTIONS = Path("/sys/fs/fuse/connections")


@dataclass(slots=True)
class KernelLevers:
    """As the kernel has them; None: can't be read here."""

    read_ahead_kb: int | None = None
    max_ratio: int | None = None
    max_background: int | None = None
    congestion_threshold: int | None = None
    writeback_cache: bool = False
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    def warning(self) -> str | None:
        """All notes as one line for the log; None where nothing was missed."""
        if not self.notes:
            return None
        return f"{'; '.join(self.notes)}; `mountd doctor` says how to get it"


def tune(mountpoint: Path) -> KernelLevers:
    """Sets the levers of the FUSE mount at `mountpoint`. Reads only /proc and /sys, never the
    mount itself, so it can't hang. Blocking, a few file operations."""
    levers = KernelLevers()
    mount = mount_at(str(mountpoint), read_mounts())
    if mount is None:
        levers.notes.append(f"{mountpoint} is not in /proc/self/mountinfo: nothing tuned")
        return levers
    bdi = Path("/sys/class/bdi") / mount.device
    levers.read_ahead_kb = _set(bdi / "read_ahead_kb", READ_AHEAD_KB, levers.notes)
    # One note is enough for both: they lie in one place and have one fix.
    notes = [] if levers.notes else levers.notes
    levers.max_ratio = _set(bdi / "max_ratio", MAX_RATIO, notes)
    number = mount.device.partition(":")[2]
    if not (CONNECTIONS / number).is_dir() and os.geteuid() == 0:
        _set_privately(number, levers)
    if levers.max_background is None:
        connection = CONNECTIONS / number
        levers.max_background = _set(connection / "max_background", MAX_BACKGROUND, levers.notes)
        levers.congestion_threshold = _set(
            connection / "congestion_threshold", CONGESTION_THRESHOLD, levers.notes
        )
    return levers


def _set_privately(number: str, levers: KernelLevers) -> None:
    """Where nobody has mounted fusectl, as in most containers: in a mount namespace of a child's
    own, which nobody else sees and which ends with it."""
    script = (
        f"echo {MAX_BACKGROUND} > max_background && "
        f"echo {CONGESTION_THRESHOLD} > congestion_threshold && "
        "cat max_background congestion_threshold"
    )
    try:
        background, threshold = map(int, _privately(number, script).split())
    except (OSError, subprocess.SubprocessError, ValueError) as exc:
        log.debug("fusectl could not be mounted privately: %s", exc)
        return
    levers.max_background, levers.congestion_threshold = background, threshold


def _privately(number: str, script: str) -> str:
    """What `script` says in the connection's folder. Raises OSError, SubprocessError."""
    enter = f"mount -t fusectl fusectl {CONNECTIONS} && cd {CONNECTIONS}/{number} && "
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", enter + script],
        capture_output=True,
        text=True,
        timeout=PRIVATE_TIMEOUT_S,
        check=True,
    )
    return done.stdout


def connection_of(mountpoint: Path) -> str:
    """The kernel's number of the FUSE mount at `mountpoint`, "" where there is none."""
    mount = mount_at(str(mountpoint), read_mounts())
    return mount.device.partition(":")[2] if mount is not None else ""


def abort(number: str) -> None:
    """Ends all that waits for an answer on that connection, with an error. Blocking, short; where
    neither way is allowed it does nothing."""
    try:
        (CONNECTIONS / number / "abort").write_text("1\n")
    except OSError as exc:
        log.debug("connection %s was not aborted: %s", number, exc)
        try:
            _privately(number, "echo 1 > abort")
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("requests that hang may keep this process from ending: %s", error)


def _set(path: Path, value: int, notes: list[str]) -> int | None:
    try:
        if path.read_text() == f"{value}\n":
            return value  # set by `mountd tune`, which may do it where we may not
        path.write_text(f"{value}\n")
    except OSError as exc:
        notes.append(f"{path} could not be set to {value}: {exc.strerror}")
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
