"""`.mountd/status.json` below the mount's root: the status for whoever sees only the path.

Not listed, not cached by the kernel, read as it was when it was opened.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mountd.vfs.nodes import ROOT, Attributes

# Above every number that the metadata cache hands out.
DIRECTORY = (1 << 63) + 1
STATUS = (1 << 63) + 2
FIRST_HANDLE = 1 << 62  # its handles, and those of no other file, are at or above it


@dataclass(frozen=True, slots=True)
class VirtualFile:
    """A name below `.mountd` and what makes its content."""

    number: int
    content: Callable[[], bytes]


class VirtualFiles:
    """The reserved directory. Never waits; `content` functions must not wait either."""

    def __init__(self, status_json: Callable[[], bytes]) -> None:
        self._files = {b"status.json": VirtualFile(STATUS, status_json)}
        self._open: dict[int, bytes] = {}
        self._next = FIRST_HANDLE

    def lookup(self, parent: int, name: bytes) -> Attributes | None:
        if parent == ROOT and name == b".mountd":
            return _attributes(DIRECTORY, True, 0)
        if parent == DIRECTORY and name in self._files:
            return _attributes(STATUS, False, 0)
        return None

    def attributes(self, number: int) -> Attributes | None:
        if number < DIRECTORY:
            return None
        return _attributes(number, number == DIRECTORY, 0)

    def is_directory(self, number: int) -> bool:
        return number == DIRECTORY

    def open(self, number: int) -> int | None:
        for file in self._files.values():
            if file.number == number:
                handle = self._next
                self._next += 1
                self._open[handle] = file.content()
                return handle
        return None

    def read(self, handle: int, offset: int, size: int) -> bytes:
        return self._open[handle][offset : offset + size]

    def release(self, handle: int) -> None:
        self._open.pop(handle, None)


def _attributes(number: int, is_dir: bool, size: int) -> Attributes:
    return Attributes(number, is_dir, size, 0, "", 0.0)
