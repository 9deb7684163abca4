"""`mountd sidecar`: what a container's main process is: mounts what its environment says.

What: `MOUNTD_SOURCE`, else `REMOTE_PATH` (`NAME:PATH`), as images around `rclone mount` have it,
else the only remote of rclone. Where: `MOUNTD_MOUNTPOINT`, else `LOCAL_PATH`, else /storage.
"""

import os
import re
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from mountd.cli import mount
from mountd.cli.arguments import Parser
from mountd.cli.output import warn
from mountd.config.rclone_conf import RcloneConfig, read_rclone
from mountd.config.rclone_obscure import reveal
from mountd.errors import ExitCode, MountPointError, StartError, UsageError
from mountd.mount_table import Mount, mount_containing, read_mounts

DEFAULT_MOUNTPOINT = "/storage"
_SYS_ADMIN = 1 << 21  # CAP_SYS_ADMIN of linux/capability.h
_OF_RCLONE = re.compile(r"rclone:([^:/]+):.*", re.DOTALL)


def run(arguments: Sequence[str]) -> int:
    """The process is the daemon and ends with the mount, as `mountd mount --foreground` does. With
    --check: 0 where that daemon serves its path, 1 else; for HEALTHCHECK, which knows no other."""
    parser = Parser("sidecar", "In a container: mounts what the environment says (docs/docker.md).")
    parser.add_argument("--check", action="store_true", help="is it mounted, and does it answer?")
    parsed = parser.read(arguments)
    environ = os.environ
    path = mountpoint_of(environ)
    if parsed.check:
        return _check(path)
    source = source_of(environ, read_rclone(environ))
    take_plain_password(source, environ)
    # Whoever reads the files is somebody else, in another container.
    environ.setdefault("MOUNTD_ALLOW_OTHER", "true")
    make_mount_point(path)
    if not is_seen_outside(str(path), read_mounts()):
        warn(
            f"other containers will not see {path}: no mount above it is shared; bind a folder of "
            "the host there with propagation rshared (Kubernetes: Bidirectional)"
        )
    check_may_mount(Path("/proc/self/status").read_text())
    return mount.run([source, str(path), "--foreground", "--on-volume"])


def mountpoint_of(environ: MutableMapping[str, str]) -> Path:
    """An absolute path."""
    named = environ.get("MOUNTD_MOUNTPOINT") or environ.get("LOCAL_PATH") or DEFAULT_MOUNTPOINT
    return Path(os.path.abspath(named))


def source_of(environ: MutableMapping[str, str], config: RcloneConfig) -> str:
    """SOURCE. Raises UsageError where it is not clear which."""
    if named := environ.get("MOUNTD_SOURCE"):
        return named
    if named := environ.get("REMOTE_PATH"):
        return f"rclone:{named}"
    names = config.names()
    if len(names) == 1:
        return f"rclone:{names[0]}:"
    if not names:
        raise UsageError(
            "nothing to mount: set MOUNTD_SOURCE, or RCLONE_CONFIG_NAME_TYPE and its like"
        )
    raise UsageError(
        f"which of rclone's remotes ({', '.join(names)}) is to be mounted? "
        f"Set MOUNTD_SOURCE, for example MOUNTD_SOURCE=rclone:{names[0]}:"
    )


def take_plain_password(source: str, environ: MutableMapping[str, str]) -> None:
    """A `_PASS` that rclone didn't obscure counts as it is: images around rclone obscure it when
    they start, so their deployments set the password itself. One that could be either is obscured,
    as rclone has it; what Nextcloud makes as an app password can't be."""
    match = _OF_RCLONE.fullmatch(source)
    variable = f"RCLONE_CONFIG_{match[1].upper()}_PASS" if match else ""
    if not environ.get(variable):
        return
    try:
        reveal(environ[variable])
    except ValueError:
        plain = environ.pop(variable)
        if not (environ.get("MOUNTD_PASSWORD") or environ.get("MOUNTD_PASSWORD_FILE")):
            environ["MOUNTD_PASSWORD"] = plain


def make_mount_point(path: Path) -> None:
    """Closed to others where it is made: while nothing is mounted, they get an error there and no
    empty folder that looks like all is deleted. Raises MountPointError."""
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        pass  # perhaps a dead one's mount: `mount` looks closer, and does not hang
    except OSError as error:
        raise MountPointError(
            f"mount point {path} can't be made: {error.strerror}; make it on the host, "
            f"owned by user {os.geteuid()}"
        ) from error


def check_may_mount(process_status: str) -> None:
    """`process_status`: of proc_pid_status(5). Raises StartError with what the container lacks."""
    found = dict(line.split(":", 1) for line in process_status.splitlines())
    if not int(found.get("CapBnd", "-1"), 16) & _SYS_ADMIN:
        raise StartError(
            "this container may not mount: start it with --device /dev/fuse --cap-add SYS_ADMIN "
            "(and --security-opt apparmor=unconfined where there is AppArmor)"
        )
    if os.geteuid() != 0 and found.get("NoNewPrivs", "").strip() == "1":
        raise StartError(
            "no-new-privileges keeps fusermount3 from mounting for a user: leave it out "
            "(Kubernetes: allowPrivilegeEscalation: true), or run as root"
        )


def is_seen_outside(path: str, mounts: Sequence[Mount]) -> bool:
    """Whether what is mounted at `path` reaches the mount namespaces of others."""
    below = [one for one in mounts if not (one.is_ours and one.path == path)]
    found = mount_containing(os.path.realpath(os.path.dirname(path)), below)
    at_path = next((one for one in reversed(below) if one.path == path), found)
    return at_path is not None and at_path.is_shared


def _check(path: Path) -> int:
    from mountd.cli.status import status_at

    try:
        found = status_at(path)
    except MountPointError as error:
        print(error)
        return ExitCode.RUNTIME
    state = found.get("state")
    remote = found.get("remote") or {}
    more = found.get("error") or f"remote {remote.get('state', 'unknown')}"
    print(f"{path}: {state}; {more}")
    return ExitCode.OK if state == "ready" else ExitCode.RUNTIME
