"""Whether other users of the machine could put something else where our files are."""

import os
import stat
from pathlib import Path


def why_not_safe(directory: Path) -> str:
    """Why what we make in `directory` (links resolved, existing) could be moved away and replaced
    by somebody else; "" where nobody but root could.

    A directory that everybody may write to must be sticky, as /tmp is: else a folder in it that is
    closed and ours can be renamed, and another put into its place. A volume of a container, often
    open to all in there, counts as given to us.
    """
    found = os.stat(directory)
    if found.st_uid not in (0, os.geteuid()) and not _is_volume(directory):
        return f"{directory} belongs to user {found.st_uid}, who could replace what is in it"
    for place in (directory, *directory.parents):
        mode = os.stat(place).st_mode
        is_open = mode & stat.S_IWOTH and not mode & stat.S_ISVTX
        if is_open and not _is_volume(place):
            return (
                f"everybody may rename what is in {place} (mode {stat.S_IMODE(mode):04o}); "
                f"type chmod o-w {place}, or chmod +t {place}"
            )
    return ""


def _is_volume(place: Path) -> bool:
    return os.path.ismount(place)
