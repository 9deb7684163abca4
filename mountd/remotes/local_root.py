"""Whether the disk of a file:// directory is mounted.

A mount point without its disk is an empty directory, and looks as if all files had been deleted;
what is written there then is below the disk when that is back. So where the root was a mount point
once, and is none now but an empty directory, its disk is away. The mark of it is kept in the cache
folder, because the disk may be away after the machine has started.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from mountd.errors import ContainerMissing
from mountd.mount_table import mount_at, read_mounts
from mountd_cache.durable_io import DISK, DurableIO

log = logging.getLogger(__name__)

_MARK = b"the root was a mount point\n"


def _is_mount(path: str) -> bool:
    # Also a directory of the same disk that was bound there, which os.path.ismount doesn't see.
    return mount_at(path, read_mounts()) is not None


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


class RootDisk:
    """Of one root. Any thread. `mark`: the file that keeps what was seen, None to keep nothing."""

    def __init__(
        self,
        root: str,
        mark: Path | None = None,
        *,
        disk: DurableIO = DISK,
        is_mount: Callable[[str], bool] = _is_mount,
        identity: Callable[[str], tuple[int, int]] = _identity,
    ) -> None:
        self._root = root
        self._mark = mark
        self._disk = disk
        self._is_mount = is_mount
        self._identity_of = identity
        self._known: tuple[int, int] | None = None  # as which it was well
        self._was_mount = self._is_marked = mark is not None and mark.exists()

    def check(self) -> None:
        """One stat while nothing changes. Raises ContainerMissing, and OSError where the root is
        not there."""
        identity = self._identity_of(self._root)
        if identity == self._known:
            return
        is_mount = self._is_mount(os.path.realpath(self._root))
        if self._was_mount and not is_mount:
            if not os.listdir(self._root) and not self._is_meant():
                raise ContainerMissing(
                    f"{self._root} was a mount point and is an empty directory now: its disk is "
                    f"not mounted{self._if_meant()}"
                )
            log.info("%s is no mount point any more: it counts as it is", self._root)
        if is_mount != self._was_mount:
            self._remember(is_mount)
        self._known = identity

    def _is_meant(self) -> bool:
        """Whether somebody has removed the mark, as we say."""
        return self._is_marked and self._mark is not None and not self._mark.exists()

    def _if_meant(self) -> str:
        return f" (if that is meant, remove {self._mark})" if self._mark is not None else ""

    def _remember(self, is_mount: bool) -> None:
        self._was_mount = is_mount
        if self._mark is None:
            return
        try:
            if is_mount:
                self._disk.write_file(self._mark, _MARK)
            else:
                self._mark.unlink(missing_ok=True)
            self._is_marked = is_mount
        except OSError as error:
            log.info("whether %s is a mount point is not remembered: %s", self._root, error)
