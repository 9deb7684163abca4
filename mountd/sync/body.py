"""The bytes of one upload: a state that a file had at one instant."""

import hashlib
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

from mountd.errors import NotFound, VersionChanged
from mountd.remotes.base import LIGHT_BYTES, RemoteStore
from mountd.sync.base import SyncJournal
from mountd_cache.changes import BASE, ZERO, Base, Content, Piece

RANGE_BYTES: Final = 8 << 20


class StagedBody:
    """A `Body`: staged bytes, zeros, and what the base on the remote has. Any thread.

    Where its pieces are is fixed here, on the loop's thread; a content that is pinned may change
    or be dropped meanwhile. `held`: all of its bytes, once a small one was read. `gone` is the base
    if the remote has that version no longer. With `hashed` it keeps an MD5 of what is read from the
    front to the end.
    """

    def __init__(
        self,
        journal: SyncJournal,
        store: RemoteStore,
        content_id: int,
        base: Base | None,
        pieces: Sequence[Piece],
        *,
        hashed: bool = False,
    ) -> None:
        self.gone: Base | None = None
        self.held: bytes | None = None
        self._journal = journal
        self._store = store
        self._content_id = content_id
        self._base = base
        self._pieces = pieces
        self._starts = [piece.start for piece in pieces]
        self._size = pieces[-1].end if pieces else 0
        self._lock = threading.Lock()
        self._hash = hashlib.md5(usedforsecurity=False) if hashed else None
        self._hashed = 0

    @property
    def size(self) -> int:
        return self._size

    @property
    def base(self) -> Base | None:
        return self._base

    @property
    def same(self) -> list[tuple[int, int]]:
        """Where the bytes are those of the base at the same offsets: sorted ranges with something
        else between them."""
        same: list[tuple[int, int]] = []
        for piece in self._pieces:
            if piece.layer != BASE:
                continue
            joins = bool(same) and same[-1][1] == piece.start
            same.append((same.pop()[0] if joins else piece.start, piece.end))
        return same

    def read(self, start: int, end: int) -> bytes | bytearray:
        parts = [
            self._bytes(piece.layer, max(piece.start, start), min(piece.end, end))
            for piece in self._between(start, end)
        ]
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if len(data) == self._size <= LIGHT_BYTES:
            self.held = bytes(data)
        if self._hash is not None:
            with self._lock:
                if start <= self._hashed < end:
                    self._hash.update(memoryview(data)[self._hashed - start :])
                    self._hashed = end
        return data

    def md5(self) -> str:
        """Of all bytes, in hex; "" where it can't be known. Reads what nobody has read yet."""
        if self._hash is None:
            return ""
        try:
            while self._hashed < self._size:
                self.read(self._hashed, min(self._hashed + RANGE_BYTES, self._size))
        except (VersionChanged, NotFound, OSError):
            return ""  # the base is gone, or the content
        return self._hash.hexdigest()

    def _between(self, start: int, end: int) -> Iterator[Piece]:
        at = max(0, bisect_right(self._starts, start) - 1)
        while start < end and at < len(self._pieces) and self._pieces[at].start < end:
            yield self._pieces[at]
            at += 1

    def _bytes(self, layer: int, start: int, end: int) -> bytes | bytearray:
        if layer == ZERO:
            return bytes(end - start)
        if layer != BASE:
            return self._journal.read_once(self._content_id, layer, start, end)
        assert self._base is not None
        return self._from_base(self._base, start, end)

    def _from_base(self, base: Base, start: int, end: int) -> bytes:
        parts: list[bytes] = []
        while start < end:
            stop = min(end, start + RANGE_BYTES)
            try:
                parts.append(bytes(self._store.read(base.key, start, stop, base.version)))
            except (VersionChanged, NotFound):
                self.gone = base
                raise
            start = stop
        return parts[0] if len(parts) == 1 else b"".join(parts)


def frozen_body(
    journal: SyncJournal, store: RemoteStore, content: Content, depth: int, *, hashed: bool
) -> StagedBody:
    """The file as its lowest `depth` layers say; 0: as its base is."""
    base_size = content.base.size if content.base is not None else 0
    size = content.layers[depth - 1].size if depth else base_size
    pieces = list(content.pieces(0, size, depth))
    return StagedBody(journal, store, content.id, content.base, pieces, hashed=hashed)


def base_body(
    journal: SyncJournal, store: RemoteStore, content: int, base: Base, *, hashed: bool
) -> StagedBody:
    """A version that is on the remote, through us. `content`: the id of who asks, or 0."""
    pieces = [Piece(0, base.size, BASE)] if base.size else []
    return StagedBody(journal, store, content, base, pieces, hashed=hashed)
