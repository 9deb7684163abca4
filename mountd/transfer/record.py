"""What one copy has done so far, so that the next run of it goes on: an append-only log.

One folder per pair of SOURCE and DEST below `cache_dir`, held by one process at a time; and one
small file per pair of remotes, with the bytes per second of the last copy between them. A line is
a CRC32C and a JSON array. The log is only believed as far as it can be checked: a line that is cut
or makes no sense is left out, `same` counts only where both sides still have these very versions,
and bytes that `parts` says are here are compared with their CRC before they are used.

    ["same", path, source version, target version]   copied; both sides have these versions then
    ["part", path, source version, start, end, crc]  these bytes are in the partial file
    ["token", path, source version, token]           `Upload.resume` of an upload under way
    ["rate", bytes per second]                       how fast the run was
"""

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import crc32c

from mountd.errors import StartError
from mountd_cache.durable_io import DISK, make_private_dir

LOG: Final = "log"
_LOCK: Final = "lock"
_DIRECTORY: Final = "copies"
_RATE: Final = "rate-"

Span = tuple[int, int]
Parts = dict[Span, int]  # CRC32C by range


class Record:
    """The log of one pair. Thread-safe. A context manager; leaving it lets another run in."""

    def __init__(self, folder: Path, lock_fd: int, rates: Path) -> None:
        self.folder = folder
        self._rates = rates
        self.same: dict[str, tuple[str, str]] = {}
        self.parts: dict[tuple[str, str], Parts] = {}
        self.tokens: dict[str, tuple[str, str]] = {}
        self.rate: float = 0.0
        self._lock_fd = lock_fd
        self._lock = threading.Lock()
        self._read()
        self.rate = self.rate or self._rate_of_others()
        self._fd, self._end = self._opened()

    @classmethod
    def open(cls, cache_dir: Path, source: str, target: str) -> Self:
        """Raises StartError where another process copies the same, or the folder can't be used."""
        pair = json.dumps([source, target], ensure_ascii=True).encode()
        folder = cache_dir / _DIRECTORY / hashlib.sha256(pair).hexdigest()[:32]
        try:
            make_private_dir(folder)
            fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(
                f"the cache folder {folder} cannot be used: {error.strerror}"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            way = hashlib.sha256(f"{_end_of(source)} {_end_of(target)}".encode(errors="replace"))
            return cls(folder, fd, folder.parent / f"{_RATE}{way.hexdigest()[:32]}")
        except BlockingIOError as error:
            os.close(fd)
            raise StartError(f"{source} is being copied to {target} already") from error
        except BaseException:
            os.close(fd)
            raise

    def copied(self, path: str, source_version: str, target_version: str) -> None:
        """The target has it, or will have it as soon as its partial file is renamed."""
        with self._lock:
            self.same[path] = (source_version, target_version)
        self._append("same", path, source_version, target_version)

    def arrived(self, path: str, version: str, span: Span, crc: int) -> None:
        """These bytes are in the partial file."""
        self._append("part", path, version, *span, crc)

    def told(self, path: str, version: str, token: str) -> None:
        """An upload that may be gone on with; "" for none. On the disk when this returns: what a
        remote keeps must not be forgotten."""
        self._append("token", path, version, token)
        DISK.fdatasync(self._fd)

    def finish(self, keep: Iterable[str], rate: float) -> None:
        """Writes the log anew, with what is worth keeping: `same` of the paths `keep`. Raises
        OSError."""
        lines = [_line("same", path, *self.same[path]) for path in keep if path in self.same]
        if rate or self.rate:
            lines.append(_line("rate", rate or self.rate))
        DISK.write_file(self.folder / LOG, b"".join(lines))
        if rate:
            self._rates.write_text(f"{rate:.0f}\n")  # nothing hangs on it: no fsync

    def _rate_of_others(self) -> float:
        """How fast the last copy was between the same two ends, whatever it copied; 0 for none."""
        with suppress(OSError, ValueError):
            return max(0.0, min(float(self._rates.read_text()), 1e12))
        return 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        DISK.close(self._fd)
        os.close(self._lock_fd)

    def _append(self, *row: object) -> None:
        line = _line(*row)
        with self._lock:
            DISK.pwrite(self._fd, line, self._end)
            self._end += len(line)

    def _opened(self) -> tuple[int, int]:
        path = self.folder / LOG
        if not path.exists():
            DISK.write_file(path, b"")
        fd = DISK.open_file(path)
        end = os.fstat(fd).st_size
        # Whatever a crash has cut: the next line begins at a line's beginning.
        DISK.pwrite(fd, b"\n", end)
        return fd, end + 1

    def _read(self) -> None:
        with suppress(FileNotFoundError), open(self.folder / LOG, "rb") as file:
            for line in file:
                row = _row(line)
                if row:
                    with suppress(ValueError, TypeError):
                        self._take(row)

    def _take(self, row: list[Any]) -> None:
        match row:
            case ["same", str(path), str(source), str(target)]:
                self.same[path] = (source, target)
                self.tokens.pop(path, None)
            case ["part", str(path), str(version), int(start), int(end), int(crc)]:
                if 0 <= start <= end:
                    self.parts.setdefault((path, version), {})[start, end] = crc
            case ["token", str(path), str(version), str(token)]:
                self.tokens[path] = (version, token)
            case ["rate", int() | float() as rate]:
                self.rate = max(0.0, min(float(rate), 1e12))


def _end_of(text: str) -> str:
    """`s3://bucket` of what lies below it; all local directories are one."""
    scheme, is_url, rest = text.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if is_url else ""


def remembered(record: Record) -> Mapping[str, tuple[str, str]]:
    """`Rules.remembered`, as it is at the beginning of a run."""
    return dict(record.same)


def _line(*row: object) -> bytes:
    text = json.dumps(row, separators=(",", ":")).encode()
    return b"%08x %b\n" % (crc32c.crc32c(text), text)


def _row(line: bytes) -> list[Any] | None:
    crc, _, text = line.rstrip(b"\n").partition(b" ")
    if len(crc) != 8 or b"%08x" % crc32c.crc32c(text) != crc:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None
