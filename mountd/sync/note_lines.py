"""Notes of what is under way in one file: a line when it begins, and another when it is settled.

A file for each cost a small upload 0.13 ms of CPU and a hop to a thread; a line takes 0.02. For who
is killed alone: nothing is synced, and a line that is torn says nothing.
"""

import contextlib
import errno
import json
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from crc32c import crc32c

from mountd_cache.durable_io import TEMP_PREFIX

log = logging.getLogger(__name__)

_ANEW_BYTES: Final = 1 << 20  # then, and when it has doubled, it is written with what is left
_EMPTY_BYTES: Final = 64 << 10  # with this much of what is over it is emptied
_MOST_BYTES: Final = 128 << 20
_encoded: Final = json.JSONEncoder(check_circular=False).encode  # ASCII, and no newline


class NoteLines:
    """By a number. Thread-safe; `put` and `drop` write to the page cache and wait for nothing else,
    and what the disk doesn't take is logged. None for `path`: nothing is written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._noted: dict[int, bytes] = {}
        self._fd = -1
        self._size = 0
        self._anew_at = _ANEW_BYTES

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def hold(self, values: Mapping[int, Mapping[str, Any]]) -> None:
        """What `read_notes` has found, and is to stay noted."""
        with self._lock:
            self._noted.update((n, _line([n, dict(value)])) for n, value in values.items())

    def put(self, number: int, value: Mapping[str, Any]) -> None:
        """From now on that is noted of `number`, until `drop`."""
        if self._path is None:
            return
        line = _line([number, dict(value)])
        with self._lock:
            self._noted[number] = line
            self._append(self._path, line)

    def drop(self, number: int) -> None:
        with self._lock:
            if self._noted.pop(number, None) is None or self._path is None:
                return
            if not self._noted and self._size > _EMPTY_BYTES:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, 0)
                    self._size = 0
                    return
            self._append(self._path, _line([number]))

    def _append(self, path: Path, line: bytes) -> None:
        try:
            if self._fd < 0 or self._size > self._anew_at:
                self._write_anew(path)
            self._size += os.write(self._fd, line)
        except OSError as error:
            log.info("%s can't be written: %s", path, error)

    def _write_anew(self, path: Path) -> None:
        """What was there and is to stay was given to `hold`."""
        new = path.with_name(TEMP_PREFIX + path.name)
        data = b"".join(self._noted.values())
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            if os.write(fd, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.replace(new, path)
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size = fd, len(data)
        self._anew_at = max(_ANEW_BYTES, 2 * len(data))


def read_notes(path: Path) -> dict[int, Mapping[str, Any]]:
    """What a former process has noted and not dropped. Raises OSError, FileNotFoundError too."""
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES)
    found: dict[int, Mapping[str, Any]] = {}
    for line in data.split(b"\n"):
        said = _said(line)
        if said is not None and len(said) == 1:
            found.pop(said[0], None)
        elif said is not None:
            found[said[0]] = said[1]
    return found


def _line(said: list[Any]) -> bytes:
    """Begins with the newline, so that a torn one spoils no other."""
    text = _encoded(said).encode("ascii")
    return b"\n%08x %b" % (crc32c(text), text)


def _said(line: bytes) -> list[Any] | None:
    if line[:9] != b"%08x " % crc32c(line[9:]):
        return None
    try:
        said = json.loads(line[9:])
    except (ValueError, RecursionError):
        return None
    is_list = isinstance(said, list) and 1 <= len(said) <= 2 and type(said[0]) is int
    return said if is_list and (len(said) == 1 or isinstance(said[1], dict)) else None
