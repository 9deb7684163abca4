"""When names in a directory were changed here: its mtime, as on a local disk.

Remotes date directories late or never, and programs believe that nothing is new in one that has
the time that it had: Python's import, git's untracked cache. Kept in memory only: a later daemon
tells what the remote has, or the time of the mkdir.
"""

from typing import Final

from mountd.vfs.file_clock import file_time_ns

MOST_KEPT: Final = 1 << 16


class DirectoryTimes:
    """By inode number."""

    def __init__(self) -> None:
        self._changed_ns: dict[int, int] = {}

    def changed(self, number: int, at_ns: int = 0) -> None:
        """A name was made, moved or taken away in it just now, or at that time."""
        self._changed_ns.pop(number, None)  # the one that rests longest goes first, not the first
        self._changed_ns[number] = at_ns or file_time_ns()
        if len(self._changed_ns) > MOST_KEPT:
            del self._changed_ns[next(iter(self._changed_ns))]

    def dated(self, number: int) -> None:
        """Somebody has set its time."""
        self._changed_ns.pop(number, None)

    def of(self, number: int, mtime_ns: int) -> int:
        """Its mtime; `mtime_ns` is the one that is known otherwise."""
        return max(mtime_ns, self._changed_ns.get(number, 0))
