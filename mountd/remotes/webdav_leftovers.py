"""The names of mountd's own temporary files on a WebDAV server, and those that stayed behind."""

import re
import threading
import uuid
from collections import deque

TEMP_PREFIX = ".mountd-tmp-"
ODD_SUFFIX = "?a;b"  # of one probe
_OWN = re.compile(r"\.mountd-(?:tmp|probe)-[0-9a-f]{32}(?:\?a;b)?")
# An upload touches its temporary file all the time; one this old belongs to nobody.
_STALE_NS = 24 * 3600 * 1_000_000_000
_MAX_KEPT = 1000


def is_own(name: str) -> bool:
    """Whether a file of that name is ours, and so not shown."""
    return _OWN.fullmatch(name) is not None


def directory_of(key: str) -> str:
    """The key, with its slash, of the directory that has the file or directory `key`."""
    return key[: key.rfind("/", 0, -1) + 1]


def temporary_beside(key: str) -> str:
    """A new name in the directory of `key`."""
    return f"{directory_of(key)}{TEMP_PREFIX}{uuid.uuid4().hex}"


class Leftovers:
    """Keys of files to be removed when there is a write anyway. Thread-safe; lost with the
    process, and found again by listings."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: deque[str] = deque(maxlen=_MAX_KEPT)

    def add(self, key: str) -> None:
        with self._lock:
            if key not in self._keys:
                self._keys.append(key)

    def seen(self, key: str, mtime_ns: int, now_ns: int) -> None:
        """A listing has `key`. Both times are the server's; 0 is unknown."""
        if mtime_ns and now_ns and now_ns - mtime_ns > _STALE_NS:
            self.add(key)

    def take(self, most: int) -> list[str]:
        with self._lock:
            return [self._keys.popleft() for _ in range(min(most, len(self._keys)))]
