"""Files that are whole after a power cut: the only place that knows how.

`DurableIO` is the door: everything that must survive goes through an instance of it, so that a
test can hand in one that forgets what was not fsynced. `DISK` is the real one.
"""

import os
import stat
import tempfile
from pathlib import Path
from typing import Final, Protocol

from typing_extensions import Buffer

TEMP_PREFIX: Final = ".tmp-"


class DirectoryNotPrivate(Exception):
    """A directory that must be ours alone is not; the message names the path and the fix."""


class DurableIO(Protocol):
    """What makes a change to the disk survive a power cut."""

    def write_file(self, path: Path, data: Buffer) -> None:
        """`path` holds `data`, whole, when this returns; before that its old content, whole.

        Mode 0600. Raises OSError, and then leaves the old content and no temporary file (a
        SIGKILL can leave one, its name starts with `TEMP_PREFIX`).
        """
        ...

    def replace(self, source: Path, target: Path) -> None:
        """Renames `source`, whose content is fsynced first, over `target`; survives a power cut."""
        ...

    def fsync_dir(self, path: Path) -> None:
        """The names in the directory `path` survive a power cut once this returned."""
        ...


class _Disk:
    """`DurableIO` on a real file system."""

    def write_file(self, path: Path, data: Buffer) -> None:
        fd, temp_name = tempfile.mkstemp(prefix=TEMP_PREFIX, dir=path.parent)
        temp = Path(temp_name)
        try:
            with open(fd, "wb", buffering=0) as file:
                left = memoryview(data).cast("B")
                while left:
                    left = left[file.write(left) :]
                os.fsync(fd)
            os.rename(temp, path)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        self.fsync_dir(path.parent)

    def replace(self, source: Path, target: Path) -> None:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(source, target)
        self.fsync_dir(target.parent)
        if source.parent != target.parent:
            self.fsync_dir(source.parent)

    def fsync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


DISK: Final[DurableIO] = _Disk()


def make_private_dir(path: Path) -> None:
    """`path` is a directory of ours with mode 0700; missing parents are made too.

    Raises DirectoryNotPrivate when it is a symlink or no directory, belongs to somebody else, or
    others may enter it: what lies there is trusted (names, sizes) and may be secret, and a
    directory that was open may have been filled by others. Raises OSError when it can't be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    else:
        os.chmod(path, 0o700)  # a umask may have taken bits away
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise DirectoryNotPrivate(f"{path} is not a directory: remove it or name another")
    if found.st_uid != os.geteuid():
        raise DirectoryNotPrivate(
            f"{path} belongs to uid {found.st_uid}, not to you (uid {os.geteuid()}): name another"
        )
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise DirectoryNotPrivate(
            f"{path} is open to other users (mode {mode:04o}): chmod 700 {path}"
        )
