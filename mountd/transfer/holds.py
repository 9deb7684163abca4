"""Which files' blocks are not to be evicted, and how much of the cache they may take together.

At most nine tenths of `cache_size`: what is written here, and what else is read, always has the
rest. Counted is what the held files take when all of them are here, so that what was begun can be
ended. Pins hold for good, a `warm` while it runs, else its end would push out its beginning.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from mountd_cache.block_map import block_count
from mountd_cache.pin_record import HELD

_SHARE: Final = (9, 10)


class PinnedBlocks(Protocol):
    """What is asked of `BlockFiles`."""

    def pin(self, file_id: bytes, blocks: int) -> bool: ...
    def unpin(self, file_id: bytes, blocks: int) -> bool: ...
    def disk_bytes(self, size: int) -> int: ...


class Holds:
    """`hold` and `release` are called by one thread at a time."""

    def __init__(
        self, blocks: PinnedBlocks, *, block_size: int, limit_bytes: Callable[[], int]
    ) -> None:
        self.held_bytes = 0  # on disk, when all of it is here
        self._blocks = blocks
        self._block_size = block_size
        self._limit_bytes = limit_bytes

    @property
    def most_bytes(self) -> int:
        """What may be held in all."""
        return self._limit_bytes() * _SHARE[0] // _SHARE[1]

    @property
    def room_bytes(self) -> int:
        """What may be held beside what is."""
        return max(0, self.most_bytes - self.held_bytes)

    def disk_bytes(self, size: int) -> int:
        """What a file of that size takes."""
        return self._blocks.disk_bytes(size)

    def hold(self, file_id: bytes, size: int, *, always: bool = False) -> bool:
        """Whether it is held now, until as many calls of `release`; False where it doesn't fit,
        unless it is to be `always`."""
        if self._blocks.pin(file_id, block_count(size, self._block_size)):
            need = self._blocks.disk_bytes(size)
            if not always and need > self.room_bytes:
                self._blocks.unpin(file_id, block_count(size, self._block_size))
                return False
            self.held_bytes += need
        return True

    def release(self, held: Iterable[tuple[bytes, int]]) -> None:
        """(file id, size) of each."""
        for file_id, size in held:
            if self._blocks.unpin(file_id, block_count(size, self._block_size)):
                self.held_bytes -= self._blocks.disk_bytes(size)

    def release_packed(self, held: bytes) -> None:
        """As packed by `pin_record.HELD`."""
        self.release(HELD.iter_unpack(held))
