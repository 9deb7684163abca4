"""Modes and owners of a file system's own files, as attributes; and setting them, as far as the
file system lets us.

What is as any file of ours would be says nothing, so that the mount's own `umask`, `uid` and `gid`
hold for it.
"""

import contextlib
import os
import stat as modes
from collections.abc import Mapping
from typing import Final

from mountd.remotes.object_metadata import GID, MODE, UID, attributes_of

_PERMISSIONS: Final = 0o777  # a set-user-id file of the daemon's user is nobody's to make
USUAL_FILE: Final = 0o644
_USUAL_DIRECTORY: Final = 0o755


def attributes_in(status: os.stat_result) -> dict[str, str]:
    """`Entry.attributes`."""
    found: dict[str, str] = {}
    usual = _USUAL_DIRECTORY if modes.S_ISDIR(status.st_mode) else USUAL_FILE
    if status.st_mode & _PERMISSIONS != usual:
        found[MODE] = str(modes.S_IFMT(status.st_mode) | status.st_mode & _PERMISSIONS)
    if status.st_uid != os.geteuid():
        found[UID] = str(status.st_uid)
    if status.st_gid != os.getegid():
        found[GID] = str(status.st_gid)
    return found


def set_attributes(file: int | str, attributes: Mapping[str, str]) -> None:
    """Of a file by its descriptor, or by a path that leads to exactly that file. What we may not
    set stays as it is."""
    wanted = attributes_of(attributes)
    uid, gid = int(wanted.get(UID, -1)), int(wanted.get(GID, -1))
    # Each by itself: somebody who may not give a file away may yet choose its group.
    for owner in ((uid, -1), (-1, gid)):
        if owner != (-1, -1):
            with contextlib.suppress(OSError):
                os.chown(file, *owner)
    if MODE in wanted:
        with contextlib.suppress(OSError):
            os.chmod(file, int(wanted[MODE]) & _PERMISSIONS)
