"""Where daemons are found: one unix socket per mount point in a directory that is only ours."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mountd.errors import StartError
from mountd.safe_place import why_not_safe
from mountd.service.places import RUNTIME_DIR

SUFFIX = ".sock"
VARIABLE = "MOUNTD_RUNTIME_DIR"


def runtime_dir() -> Path:
    """`$MOUNTD_RUNTIME_DIR`, `/run/mountd` for root, `$XDG_RUNTIME_DIR/mountd`, `/tmp/mountd-UID`.

    The directory need not exist.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named).absolute()
    uid = os.geteuid()
    if uid == 0:
        return Path("/run/mountd")
    if (session := os.environ.get("XDG_RUNTIME_DIR")) and os.path.isabs(session):
        return Path(session) / "mountd"
    return Path(f"/tmp/mountd-{uid}")


def ensure_runtime_dir() -> Path:
    """Makes the directory (0700). Raises StartError where it isn't ours or others may enter."""
    directory = runtime_dir()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(directory)
        why = why_not_safe(directory.parent.resolve())
    except OSError as error:
        raise StartError(
            f"cannot make {directory} for the control socket: {error.strerror}; "
            "set MOUNTD_RUNTIME_DIR to a directory of yours"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise StartError(
            f"{directory} is not a directory that only this user may enter; remove it, or set "
            "MOUNTD_RUNTIME_DIR to another"
        )
    if why:
        raise StartError(f"{why}; or set MOUNTD_RUNTIME_DIR to another directory")
    return directory


def searched_dirs(uid: int | None = None) -> list[Path]:
    """Where to look for daemons: our own directory and that of systemd's units.

    With `uid` only where that user's daemons can be; root has to name a user to look at his:
    anybody can have something listen under any mount's name. Directories that the wrong user owns
    are left out.
    """
    own = os.geteuid()
    found = [(runtime_dir(), own)] if uid in (None, own) else []
    if own == 0 and uid:
        found += [(Path(f"/run/user/{uid}/mountd"), uid), (Path(f"/tmp/mountd-{uid}"), uid)]
    found += [(RUNTIME_DIR, owner) for owner in _owner_of_units(own) if uid in (None, owner)]
    return [directory for directory, owner in found if is_dir_of(directory, owner)]


def socket_name(mountpoint: str) -> str:
    """The socket's file name for an absolute mount point."""
    digest = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()
    return digest[:32] + SUFFIX


def socket_path(mountpoint: str) -> Path:
    """The socket of our own daemon at this absolute mount point."""
    return runtime_dir() / socket_name(mountpoint)


@contextmanager
def short_address(path: Path) -> Iterator[str]:
    """An address for bind or connect; valid inside the block.

    A unix socket's path is limited to 107 bytes (unix(7)), so it goes through the directory's fd.
    OSError where that is a link: another user may have put it there.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    directory_fd = os.open(path.parent, flags)
    try:
        yield f"/proc/self/fd/{directory_fd}/{path.name}"
    finally:
        os.close(directory_fd)


def _owner_of_units(own: int) -> list[int]:
    """The user that systemd's units run as, where we may ask them. Whoever owns that directory got
    it from root: nobody else makes one in /run."""
    try:
        owner = os.lstat(RUNTIME_DIR).st_uid
    except OSError:
        return []
    return [owner] if own in (0, owner) else []


def is_trusted(directory: Path) -> bool:
    """Whether what listens there is ours, or was set up by root: what it says is taken for true.
    Another user's daemon, which root may look at, can only speak for its own mount."""
    return directory in (runtime_dir(), RUNTIME_DIR)


def is_dir_of(directory: Path, uid: int) -> bool:
    """Whether it is a directory, no link, and this user's."""
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid
