"""Which block goes next: S3-FIFO, weighted by size.

New blocks pass through a small queue (a tenth of the cache) and go from its end, unless they were
visited again; the rest of the cache is a main queue with second chances. A ghost table remembers
what went from the small queue: who comes back from there goes to the main queue at once. While
the cache is not full yet everything goes to the main queue, so that what came first is not washed
out by the first scan that is larger than the cache.

Why not LRU: training reads a dataset in epochs, and LRU on a loop larger than the cache never
hits. Hits with a cache of 1,000 blocks (tests/unit/test_block_files_eviction.py), first pass
included:

    10 loops over 1,100 / 1,500 / 2,000 blocks       LRU 0 / 0 / 0 %   this 65 / 26 / 20 %
    10 shuffled passes over 2,000 blocks             LRU 14 %          this 18 %
    500 blocks again and again, 1,000 scanned once   LRU 0 %           this 32 % (of 33)
    skewed over 8,000 blocks                         LRU 36 %          this 41 %
    10 loops over 600 blocks, 10 over 600 others     LRU 90 %          this 88 %

Where it is known that what is read comes in cycles larger than the cache (`cycle_bytes`: epochs of
a training), coming back says nothing, since everything does: the main queue stays as it is, and the
rest passes through the small one. The best that can be is the cache's share of the cycle, whatever
the order: 10 shuffled passes over 2,000 blocks then hit 40 % instead of 18, 10 loops over 1,100 /
1,500 / 2,000 blocks 74 / 54 / 40 % instead of 62 / 29 / 20.

Pinned blocks (all of a file whose id is pinned) are in neither queue, so a victim costs the same
however many there are. Unpinned they go to the main queue's end, as what was just used.

Memory per block: 64 bytes of key, 24-50 of dict, 8 of queue; sizes and flags are shared ints
(measured with a million blocks: 120 bytes each). A pinned file's id takes 110 bytes more.
Not thread-safe, except that `key in order` may be asked at any time.
"""

from array import array
from collections import deque
from collections.abc import Iterable
from typing import Final

from mountd_cache.block_format import FILE_ID_SIZE

UNIT_BYTES: Final = 4096  # sizes are kept in this unit, rounded up
_VISITED: Final = 1
_MAIN: Final = 2
_PINNED: Final = 4
_SHIFT: Final = 3
_FLAGS: Final = (1 << _SHIFT) - 1
_SMALL_SHARE: Final = 10  # the small queue's share of the cache is one in ...


class EvictionOrder:
    """The blocks that are there, their sizes, and in which order they should go."""

    def __init__(self, *, limit_bytes: int, largest_bytes: int) -> None:
        self.bytes_used = 0
        # What is read comes in cycles of that many bytes; 0: it is not known to. May be set any
        # time, by any thread.
        self.cycle_bytes = 0
        self.pinned_bytes = 0
        self._pins: dict[bytes, int] = {}  # how often each file id is pinned
        self._limit_bytes = limit_bytes
        self._small_bytes = 0
        self._small: deque[bytes] = deque()
        self._main: deque[bytes] = deque()
        # key -> units << 3 | pinned | main | visited. CPython makes a new object of 32 bytes for
        # each int over 256, so all possible values exist once, here.
        self._index: dict[bytes, int] = {}
        self._values = list(range((-(-largest_bytes // UNIT_BYTES) + 1) << _SHIFT))
        # Slot by hash, so what is remembered goes when another key takes its slot.
        ghosts = min(1 << 22, max(1 << 10, limit_bytes // largest_bytes))
        self._ghosts = array("i", bytes(4 << ghosts.bit_length()))

    def __contains__(self, key: bytes) -> bool:
        return key in self._index

    def __len__(self) -> int:
        return len(self._index)

    def size(self, key: bytes) -> int:
        """Bytes that `key` takes; 0 when it is not there."""
        return (self._index.get(key, 0) >> _SHIFT) * UNIT_BYTES

    def add(self, key: bytes, size: int) -> None:
        """A new block, or a new size of one that is there."""
        old = self._index.get(key)
        if old is not None:
            self._account(old, -1)
            self._store(key, size, old & _FLAGS)
            return
        if self._is_pinned(key):
            self._store(key, size, _PINNED)
            return
        slot, fingerprint = self._ghost_slot(key)
        filling = self.bytes_used + size < self._limit_bytes - self._limit_bytes // _SMALL_SHARE
        is_cycle = self.cycle_bytes > self._limit_bytes
        to_main = filling or (not is_cycle and self._ghosts[slot] == fingerprint)
        self._store(key, size, _MAIN if to_main else 0)
        queue = self._main if to_main else self._small
        queue.append(key)
        self._forget_stale()

    def restore(self, blocks: Iterable[tuple[bytes, int]]) -> None:
        """Blocks found on disk, (key, size), the one to go first at the front."""
        for key, size in blocks:
            if self._is_pinned(key):
                self._store(key, size, _PINNED)
                continue
            self._store(key, size, _MAIN)
            self._main.append(key)

    def pin(self, file_id: bytes) -> bool:
        """No block of the file is a victim from now on; those that are there already are to be
        told to `pin_block`. Whether it was not pinned before: each `pin` wants an `unpin`."""
        count = self._pins.get(file_id, 0)
        self._pins[file_id] = count + 1
        return not count

    def pin_block(self, key: bytes) -> None:
        """A block of a pinned file, there or not."""
        value = self._index.get(key)
        if value is not None and not value & _PINNED:
            self._account(value, -1)
            self._store(key, (value >> _SHIFT) * UNIT_BYTES, _PINNED)

    def unpin(self, file_id: bytes) -> bool:
        """Whether it is pinned no more; then its blocks are to be told to `unpin_block`."""
        count = self._pins.get(file_id, 0)
        if count > 1:
            self._pins[file_id] = count - 1
        return count == 1 and bool(self._pins.pop(file_id))

    def unpin_block(self, key: bytes) -> None:
        """A block of a file that is not pinned any more, there or not."""
        value = self._index.get(key)
        if value is not None and value & _PINNED:
            self._account(value, -1)
            self._store(key, (value >> _SHIFT) * UNIT_BYTES, _MAIN)
            self._main.append(key)

    def _is_pinned(self, key: bytes) -> bool:
        return bool(self._pins) and key[:FILE_ID_SIZE] in self._pins

    def visit(self, key: bytes) -> None:
        """The block was used again; ignored when it is not there."""
        value = self._index.get(key)
        if value is not None:
            self._index[key] = self._values[value | _VISITED]

    def remove(self, key: bytes) -> int:
        """Takes the block out and returns its size; 0 when it is not there."""
        value = self._index.pop(key, None)
        if value is None:
            return 0
        self._account(value, -1)
        return (value >> _SHIFT) * UNIT_BYTES

    def victim(self) -> bytes | None:
        """The block that should go now; it is still there until `remove`. None when there is none
        but pinned ones."""
        while self._small or self._main:
            small_is_full = self._small_bytes * _SMALL_SHARE >= self.bytes_used - self.pinned_bytes
            if self._small and (small_is_full or not self._main):
                key = self._pop_small()
            else:
                key = self._pop_main()
            if key is not None:
                return key
        return None

    def _pop_small(self) -> bytes | None:
        key = self._small.popleft()
        value = self._index.get(key)
        if value is None or value & (_MAIN | _PINNED):
            return None  # was removed or pinned meanwhile
        if value & _VISITED:
            self._account(value, -1)
            self._store(key, (value >> _SHIFT) * UNIT_BYTES, _MAIN)
            self._main.append(key)
            return None
        slot, fingerprint = self._ghost_slot(key)
        self._ghosts[slot] = fingerprint
        self._small.appendleft(key)  # until it is removed
        return key

    def _pop_main(self) -> bytes | None:
        key = self._main.popleft()
        value = self._index.get(key)
        if value is None or not value & _MAIN:
            return None
        if value & _VISITED:
            self._index[key] = self._values[value & ~_VISITED]
            self._main.append(key)
            return None
        self._main.appendleft(key)
        return key

    def _store(self, key: bytes, size: int, flags: int) -> None:
        most = len(self._values) - _FLAGS - 1
        value = min(-(-size // UNIT_BYTES) << _SHIFT | flags, most | flags)
        self._index[key] = self._values[value]
        self._account(value, 1)

    def _account(self, value: int, sign: int) -> None:
        size = sign * (value >> _SHIFT) * UNIT_BYTES
        self.bytes_used += size
        if value & _PINNED:
            self.pinned_bytes += size
        elif not value & _MAIN:
            self._small_bytes += size

    def _ghost_slot(self, key: bytes) -> tuple[int, int]:
        digest = hash(key)
        fingerprint = digest >> 32 | 1  # never the 0 of an empty slot
        return digest & (len(self._ghosts) - 1), fingerprint

    def _forget_stale(self) -> None:
        """Queues also hold removed keys until their turn comes; many drops must not fill them."""
        if len(self._small) + len(self._main) <= 2 * len(self._index) + 1024:
            return
        live = [key for key in dict.fromkeys(self._main) if self._index.get(key, 0) & _MAIN]
        self._main = deque(live)
        live = [
            key
            for key in dict.fromkeys(self._small)
            if not self._index.get(key, _MAIN) & (_MAIN | _PINNED)
        ]
        self._small = deque(live)
