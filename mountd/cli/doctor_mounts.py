"""doctor's checks of what is mounted: dead daemons, queues, the kernel's levers, idle caches."""

from pathlib import Path
from typing import Any

from mountd.cache_folder import idle_folders
from mountd.cli.doctor_machine import BDI, FUSECTL
from mountd.cli.doctor_queues import check_idle, check_quarantine, check_queue
from mountd.cli.findings import Finding, ok, problem, warning
from mountd.cli.idle_queues import known_idle_queues, known_quarantines
from mountd.cli.status import all_statuses
from mountd.cli.verdict import OUT_OF_SIGHT, why_not_taken
from mountd.mount_table import Mount, read_mounts

_KERNELS_OWN_READ_AHEAD_KB = 128
_MOST_NAMES = 5


def check_mounts(cache_dir: Path) -> list[Finding]:
    """A finding per mount and per lever that is not set, and one on caches that nobody serves."""
    by_path = {mount.path: mount for mount in read_mounts() if mount.is_ours}
    findings: list[Finding] = []
    for status in all_statuses():
        findings += check_mount(status, by_path.get(str(status.get("mountpoint"))))
    findings += check_idle(known_idle_queues(cache_dir))
    findings += [check_quarantine(*one) for one in known_quarantines(cache_dir)]
    idle = list(idle_folders(cache_dir))
    if idle:
        # Of one SOURCE there are several where it was mounted by other users or endpoints.
        sources = list(dict.fromkeys(folder.source for folder in idle))
        names = ", ".join(sources[:_MOST_NAMES])
        more = f" and {len(sources) - _MOST_NAMES} more" if len(sources) > _MOST_NAMES else ""
        findings.append(ok("caches without a daemon", f"{len(idle)}, of {names}{more}"))
    return findings


def check_mount(status: dict[str, Any], mount: Mount | None) -> list[Finding]:
    """How one mount is, and which levers its kernel side really has."""
    check = f"mount {status.get('mountpoint') or '?'}"
    state, error = status.get("state"), status.get("error")
    if state == OUT_OF_SIGHT:
        return [ok(check, f"answers; {error}")]
    if error:
        fix = "mountd umount " + str(status.get("mountpoint") or "MOUNTPOINT")
        if state == "dead":
            return [problem(check, f"dead: {error}", fix)]
        return [problem(check, f"{state}: {error}", f"see its log, or {fix} --abandon")]
    remote = status.get("remote") or {}
    found = f"{state}, remote {remote.get('state', 'unknown')}"
    if remote.get("state") not in (None, "ok"):
        reason = remote.get("last_error") or "no reason given"
        first = warning(check, f"{found}: {reason}", f"mountd doctor {status.get('source')}")
    else:
        first = ok(check, found)
    trouble = _check_what_is_taken(check, status, remote)
    levers = _check_levers(check, status.get("kernel") or {}, mount)
    return [first, *trouble, *check_queue(status), *levers]


def _check_what_is_taken(
    check: str, status: dict[str, Any], remote: dict[str, Any]
) -> list[Finding]:
    """What keeps writes from the cache's disk, or from the remote."""
    found = []
    cache, mountpoint = status.get("cache") or {}, status.get("mountpoint")
    if cache.get("disk_error"):
        fix = f"make room on the disk of {cache.get('folder')}, or mend it"
        found.append(problem(f"{check}, cache", f"its disk: {cache['disk_error']}", fix))
    if why := why_not_taken(status):
        reason = (remote.get("writes") or {}).get("reason")
        fix = f"mend that there, then: mountd queue {mountpoint} --retry"
        found.append(problem(f"{check}, writes", f"{why}: {reason}", fix))
    return found


def _check_levers(check: str, kernel: dict[str, Any], mount: Mount | None) -> list[Finding]:
    told = {name: value for name, value in kernel.items() if name != "notes"}
    values = {name: value for name, value in told.items() if value is not None}
    if mount is not None:
        values |= read_levers(mount)
    findings = []
    if values:
        words = ", ".join(f"{name} {value}" for name, value in values.items())
        findings.append(ok(f"{check}, kernel", words))
    read_ahead = values.get("read_ahead_kb")
    if isinstance(read_ahead, int) and read_ahead <= _KERNELS_OWN_READ_AHEAD_KB:
        findings.append(
            warning(
                f"{check}, read_ahead_kb",
                f"{read_ahead}: sequential reads are several times slower than they could be",
                f"as root: echo 1024 > {BDI / mount.device if mount else BDI}/read_ahead_kb",
            )
        )
    notes = kernel.get("notes")
    for note in notes if isinstance(notes, list) else []:
        findings.append(warning(f"{check}, kernel", str(note), _fix_of(str(note))))
    return findings


def _fix_of(note: str) -> str:
    if str(FUSECTL) in note:
        return f"as root, and then mount again: mount -t fusectl fusectl {FUSECTL}"
    if str(BDI) in note:
        return "mount as root with /sys writable (docker: --privileged, or -v /sys:/sys)"
    return "the note says what is missing; the daemon's log may say more"


def read_levers(mount: Mount, bdi: Path = BDI, fusectl: Path = FUSECTL) -> dict[str, int]:
    """What the kernel really has for this mount; what can't be read is left out."""
    connection = fusectl / mount.device.partition(":")[2]
    files = {
        "read_ahead_kb": bdi / mount.device / "read_ahead_kb",
        "max_ratio": bdi / mount.device / "max_ratio",
        "max_background": connection / "max_background",
        "congestion_threshold": connection / "congestion_threshold",
    }
    found = {}
    for name, path in files.items():
        try:
            found[name] = int(path.read_text())
        except (OSError, ValueError):
            continue
    return found
