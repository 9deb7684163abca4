"""The folder of block files: names, the calls that touch the disk, and how the disk is doing."""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from typing_extensions import Buffer

from mountd_cache.block_format import block_key
from mountd_cache.durable_io import make_private_dir

_NAME: Final = re.compile(r"([0-9a-f]{32})-([0-9a-f]{8})")
_SHARD: Final = re.compile(r"[0-9a-f]{2}")
_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW
RETRY_AFTER_S: Final = 10.0  # how long writing rests after the disk refused
FULL_ERRNOS: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Health:
    """How the cache's disk is doing. `resting`: writes are not even tried at the moment."""

    errors: int
    last_reason: str | None
    resting: bool


class BlockFolder:
    """`<folder>/<first 2 digits>/<file id>-<index>`, all in hex. Methods raise OSError."""

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        make_private_dir(folder, apart=True)
        self._folder = str(folder)
        self._clock = clock
        self._errors = 0
        self._last_reason: str | None = None
        self._retry_at_s = float("-inf")

    def path(self, key: bytes) -> str:
        """Where the block lies."""
        name = key.hex()
        return f"{self._folder}/{name[:2]}/{name[:32]}-{name[32:]}"

    def open(self, key: bytes, *, writable: bool = False) -> int:
        """A descriptor."""
        return os.open(self.path(key), (os.O_RDWR if writable else os.O_RDONLY) | _FLAGS)

    def create(self, key: bytes, more_flags: int = 0) -> int:
        """A descriptor of a new, empty file; one that is there already is replaced."""
        path = self.path(key)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS | more_flags
        for _ in range(2):
            try:
                return os.open(path, flags, 0o600)
            except FileNotFoundError:
                with suppress(FileExistsError):  # the other writer was faster
                    os.mkdir(os.path.dirname(path), 0o700)
            except FileExistsError:
                os.unlink(path)
        return os.open(path, flags, 0o600)

    def unlink(self, key: bytes) -> None:
        """Fine too when it is gone already."""
        with suppress(FileNotFoundError):
            os.unlink(self.path(key))

    def free_bytes(self, kept_free: float) -> int:
        """What may still be written, `kept_free` of the disk staying free; may be negative."""
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize - int(disk.f_blocks * disk.f_frsize * kept_free)

    def blocks(self) -> Iterator[tuple[bytes, os.stat_result]]:
        """The blocks on disk, by their names. What can't be read is reported and passed over."""
        for shard in self._listed(self._folder):
            if not _SHARD.fullmatch(shard.name):
                continue
            for file in self._listed(shard.path):
                match = _NAME.fullmatch(file.name)
                if match is None or not file.name.startswith(shard.name):
                    continue
                try:
                    found = file.stat(follow_symlinks=False)
                except OSError as error:
                    self.failed(error)
                    continue
                if stat.S_ISREG(found.st_mode):
                    yield block_key(bytes.fromhex(match[1]), int(match[2], 16)), found

    def _listed(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                yield from entries
        except OSError as error:
            self.failed(error)

    @property
    def resting(self) -> bool:
        """Whether the disk refused a write a short while ago."""
        return self._clock() < self._retry_at_s

    @property
    def health(self) -> Health:
        """Since the start."""
        return Health(self._errors, self._last_reason, self.resting)

    def failed(self, error: OSError, *, rest: bool = False) -> None:
        """Counts an error; `rest`: writing is tried again a while later."""
        self.refused(f"{error.strerror} ({errno.errorcode.get(error.errno or 0, '?')})")
        if rest:
            self._retry_at_s = self._clock() + RETRY_AFTER_S

    def refused(self, reason: str) -> None:
        """Counts something that is not kept."""
        self._errors += 1
        self._last_reason = reason


def write_all(fd: int, parts: Sequence[Buffer], offset: int) -> None:
    """A short write means that the disk is full: OSError."""
    size = sum(memoryview(part).nbytes for part in parts)
    if os.pwritev(fd, parts, offset) != size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
