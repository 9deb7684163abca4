"""doctor's checks of the machine: FUSE and its tools, limits, kernel levers, the cache's disk."""

import os
import re
import resource
import subprocess
from pathlib import Path

from mountd.cache_folder import is_volatile
from mountd.cli.bounded import bounded
from mountd.cli.findings import Finding, ok, problem, warning
from mountd.errors import StartError
from mountd.in_words import human_bytes
from mountd.mount_point import check_fuse, fusermount, user_allow_other
from mountd.mount_table import Mount, mount_at, mount_containing, read_mounts

BDI = Path("/sys/class/bdi")
FUSECTL = Path("/sys/fs/fuse/connections")
_ENOUGH_FILES = 4096
_LITTLE_ROOM_BYTES = 1 << 30
_DISK_TIMEOUT_S = 5.0


def check_machine(cache_dir: Path) -> list[Finding]:
    """All of them; none waits longer than a few seconds."""
    mounts = read_mounts()
    return [
        check_device(),
        check_fusermount(),
        check_allow_other(),
        ok("kernel", f"Linux {os.uname().release}"),
        check_read_ahead(mounts),
        check_fusectl(mounts, is_root=os.geteuid() == 0),
        check_open_files(),
        *check_cache_dir(cache_dir),
    ]


def check_device() -> Finding:
    """Whether /dev/fuse can be opened."""
    try:
        check_fuse(allow_other=False)
    except StartError as error:
        what, _, fix = str(error).partition(":" if "/dev/fuse" in str(error) else ";")
        return problem("/dev/fuse", what, fix.strip())
    return ok("/dev/fuse", "can be opened")


def check_fusermount() -> Finding:
    """fusermount3 and with it libfuse's version; only users need the tool itself."""
    tool = fusermount()
    if tool is None:
        say = warning if os.geteuid() == 0 else problem
        return say("fusermount3", "missing; only root can mount", "install the package fuse3")
    try:
        run = subprocess.run([tool, "-V"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return problem("fusermount3", f"{tool} does not run: {error}", "reinstall fuse3")
    version = re.search(r"\d+(\.\d+)+", run.stdout + run.stderr)
    return ok("fusermount3", f"{tool}, libfuse {version[0] if version else 'of unknown version'}")


def check_allow_other() -> Finding:
    """Whether users may give allow_other."""
    if user_allow_other():
        return ok("allow_other", "/etc/fuse.conf has user_allow_other")
    if os.geteuid() == 0:
        return ok("allow_other", "root may give it; /etc/fuse.conf has no user_allow_other")
    return warning(
        "allow_other",
        "only for root: others will not see this user's mounts",
        "as root: echo user_allow_other >> /etc/fuse.conf",
    )


def check_read_ahead(mounts: list[Mount]) -> Finding:
    """Whether `read_ahead_kb` can be set: it is worth nine times the sequential speed."""
    sysfs = mount_at("/sys", mounts)
    if sysfs is None or not BDI.is_dir():
        return warning("read_ahead_kb", "no sysfs at /sys", "mount sysfs on /sys")
    read_only = "ro" in sysfs.options.split(",")
    if read_only or os.geteuid() != 0:
        why = "/sys is mounted read-only" if read_only else "only root can set it"
        return warning(
            "read_ahead_kb",
            f"{why}; sequential reads get the kernel's 128 KiB",
            "mount as root with /sys writable (docker: --privileged, or -v /sys:/sys), or have "
            "a udev rule set it",
        )
    return ok("read_ahead_kb", "can be set")


def check_fusectl(mounts: list[Mount], *, is_root: bool) -> Finding:
    """Whether max_background and congestion_threshold can be raised after mounting."""
    fusectl = mount_at(str(FUSECTL), mounts)
    fix = f"as root: mount -t fusectl fusectl {FUSECTL}"
    if fusectl is None and is_root:
        return ok("max_background", "can be raised (root mounts fusectl for itself alone)")
    if fusectl is None:
        return warning("max_background", f"fusectl is not mounted at {FUSECTL}", fix)
    if "ro" in fusectl.options.split(","):
        return warning("max_background", f"{FUSECTL} is read-only", f"{fix} -o remount,rw")
    return ok("max_background", "can be raised through fusectl")


def check_open_files() -> Finding:
    """RLIMIT_NOFILE: every open file of the mount and every cached block in use is a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    shown = "unlimited" if hard == unlimited else str(hard)
    if hard != unlimited and hard < _ENOUGH_FILES:
        return warning(
            "open files",
            f"at most {shown}",
            f"raise it: ulimit -Hn {_ENOUGH_FILES} or LimitNOFILE=",
        )
    return ok("open files", f"{soft}, can be raised to {shown}")


def check_cache_dir(cache_dir: Path) -> list[Finding]:
    """Permissions, kind and room of the cache's disk."""
    try:
        return bounded(lambda: _check_cache_dir(cache_dir), _DISK_TIMEOUT_S)
    except TimeoutError:
        fix = "give another with cache_dir"
        return [problem("cache_dir", f"{cache_dir} does not answer", fix)]
    except OSError as error:
        fix = "mend it, or give another with cache_dir"
        return [problem("cache_dir", f"{cache_dir}: {error.strerror}", fix)]


def _check_cache_dir(cache_dir: Path) -> list[Finding]:
    existing = next(path for path in (cache_dir, *cache_dir.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        what = "cannot be written" if existing.is_dir() else "is no directory"
        fix = "give another with cache_dir"
        return [problem("cache_dir", f"{existing} {what}", fix)]
    mount = mount_containing(os.path.realpath(existing), read_mounts())
    if mount is not None and mount.is_ours:
        what = f"{existing} lies inside the mountd mount at {mount.path}"
        return [problem("cache_dir", what, "give a cache_dir on a local disk")]
    disk = os.statvfs(existing)
    free = disk.f_bavail * disk.f_frsize
    kind = mount.fs_type if mount else "unknown file system"
    size = disk.f_blocks * disk.f_frsize
    found = f"{cache_dir}: {kind}, {human_bytes(free)} free of {human_bytes(size)}"
    if is_volatile(existing):
        fix = "give a cache_dir on a disk or a volume; what is not sent yet is lost with this one"
        return [warning("cache_dir", f"{found}; it does not survive a restart", fix)]
    if free < _LITTLE_ROOM_BYTES:
        return [warning("cache_dir", found, "free some space, or give another with cache_dir")]
    return [ok("cache_dir", found)]
