"""Whole files that are brought into the cache for later, a few at a time.

What is fetched for the next moment waits in memory (`OpenFiles.fetch_ahead`); this is for what
somebody will want within minutes, nobody knows when: it goes to the disk, beside readers that do
not wait for it, and only while nothing has to leave the cache for it.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING

from mountd_cache.block_cache import BlockCache
from mountd_cache.cached_file import CachedFile

if TYPE_CHECKING:
    from mountd.vfs.files import RemoteFile

FILES_AT_ONCE = 48
BYTES_AT_ONCE = 16 << 20


class Found(Enum):
    """What became of a file."""

    HERE = auto()  # or on its way before
    BEGUN = auto()
    NO_ROOM = auto()  # now: in memory, on the disk, or among the requests


class FillAhead:
    """Starts fetches and does not wait for them; called again whenever somebody reads."""

    def __init__(self, cached: "Callable[[RemoteFile], CachedFile]", blocks: BlockCache) -> None:
        """`cached`: as `OpenFiles.cached`."""
        self._cached = cached
        self._blocks = blocks
        self._running: deque[CachedFile] = deque()

    @property
    def running_bytes(self) -> int:
        """On their way."""
        for _ in range(len(self._running)):
            cached = self._running.popleft()
            if cached.running_bytes:
                self._running.append(cached)
            else:
                cached.close()
        return sum(cached.running_bytes for cached in self._running)

    def begin(self, file: "RemoteFile") -> Found:
        """Begins to bring a whole file onto the disk."""
        cached = self._cached(file)
        found = self._begin(cached)
        if found is Found.BEGUN:
            self._running.append(cached)
        else:
            cached.close()
        return found

    def _begin(self, cached: CachedFile) -> Found:
        if not cached.lacks(0, cached.size):
            return Found.HERE
        if not self._has_room(cached.size):
            return Found.NO_ROOM
        cached.keep(0, cached.size)
        return Found.BEGUN if cached.running_bytes else Found.NO_ROOM

    def _has_room(self, size: int) -> bool:
        begun = size + self.running_bytes
        if len(self._running) >= FILES_AT_ONCE or begun > max(BYTES_AT_ONCE, size):
            return False
        blocks = self._blocks
        waiting = blocks.backlog_limit - blocks.backlog_room
        return begun <= blocks.backlog_room and begun + waiting <= blocks.blocks.room_left()
