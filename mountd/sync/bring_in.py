"""Brings what a file still needs of its base onto the local disk.

For where the base can't wait: two files that were swapped each need what the other overwrites. And
for where the remote has it no longer, but the cache does.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import trio

from mountd.errors import NotFound, VersionChanged
from mountd.sync.attempts import Asker
from mountd.sync.base import QueueView, SyncJournal
from mountd.sync.sending import BaseGone
from mountd_cache.changes import BASE, Base, Change, Content, Rows

PIECE_BYTES: Final = 1 << 20  # written in the loop's thread: 0.5 ms


class BringIn:
    """Raises BaseGone, RemoteErrors, and OSError from the local disk; what has come stays."""

    def __init__(self, journal: SyncJournal, asker: Asker, view: QueueView) -> None:
        self._journal = journal
        self._asker = asker
        self._view = view

    async def stage(self, change: Change) -> None:
        """Afterwards the change needs no base. It stops where it became another meanwhile, also
        between the look that has found it and this call: what was written then is not here."""
        if self._journal.ledger.changes.get(change.key) is not change:
            return
        id_ = change.content or self._with_content(change)
        at = 0
        while True:
            content = self._content(change.key, id_)
            if content is None or content.base is None:
                return
            hole = _first_hole(content, at)
            if hole is None:
                break
            start, end = hole
            data = await self._read(content.base, start, end)
            self._fill(change.key, id_, start, data)
            at = end
        self._without_base(change.key, id_)

    async def from_cache(self, key: str, base_key: str) -> bool:
        """Whether the change at `key` needs nothing any more of the version at `base_key`, which
        is not there any longer: the cache had every byte of it that was not staged, or the remote
        keeps old versions. Raises RemoteErrors."""
        change = self._journal.ledger.changes.get(key)
        if change is None or change.is_clean or change.is_gone:
            return False
        content = self._journal.ledger.content_of(change)
        base = content.base if content is not None else change.base
        if base is None or base.key != base_key:
            return False
        if not await self._is_kept(change, base):
            return content is not None and await self._from_old_version(key)
        change = self._journal.ledger.changes.get(key)
        if change is None or not (change.content or change.base == base):
            return False  # it became another while the cache was looked through
        id_ = change.content or self._with_content(change)
        while (content := self._content(key, id_)) is not None and content.base == base:
            hole = _first_hole(content, 0)
            if hole is None:
                self._without_base(key, id_)
                return True
            data = self._view.kept(base, *hole)
            if data is None:
                return False  # it made room for what is staged
            self._fill(key, id_, hole[0], memoryview(data))
            await trio.lowlevel.checkpoint()
        return False

    async def _from_old_version(self, key: str) -> bool:
        change = self._journal.ledger.changes.get(key)
        if change is None or not change.content:
            return False
        try:
            await self.stage(change)
        except BaseGone:
            return False
        content = self._content(change.key, change.content)
        return content is not None and content.base is None

    async def _is_kept(self, change: Change, base: Base) -> bool:
        """Looked for before anything is staged: what is half there helps nobody."""
        content = self._journal.ledger.content_of(change)
        ends = [(0, min(base.size, change.size))] if content is None else _holes(content)
        for start, end in list(ends):
            for at in range(start, end, PIECE_BYTES):
                if self._view.kept(base, at, min(end, at + PIECE_BYTES)) is None:
                    return False
                await trio.lowlevel.checkpoint()
        return True

    def _with_content(self, change: Change) -> int:
        """A content for a change that had none, over the same base."""
        content = self._journal.new_content(change.base, change.size, change.mtime_ns)
        now = self._journal.ledger.changes[change.key]
        now = replace(now, content=content.id, base=None)
        try:
            self._journal.commit(Rows(changes=(now,), contents=(content,)))
        except BaseException:
            self._journal.discard(content)
            raise
        return content.id

    def _content(self, key: str, id_: int) -> Content | None:
        change = self._journal.ledger.changes.get(key)
        is_there = change is not None and change.content == id_
        return self._journal.ledger.contents.get(id_) if is_there else None

    async def _read(self, base: Base, start: int, end: int) -> memoryview:
        try:
            data = await self._asker.call(
                self._asker.store.read, base.key, start, end, base.version
            )
        except (NotFound, VersionChanged) as error:
            raise BaseGone(base) from error
        return memoryview(data)

    def _fill(self, key: str, id_: int, start: int, data: memoryview) -> None:
        """Only what is still a hole: the user may have written there meanwhile."""
        content = self._content(key, id_)
        if content is None:
            return
        end = min(start + len(data), content.size)
        holes = [(p.start, p.end) for p in content.pieces(start, end) if p.layer == BASE]
        for at, stop in holes:
            piece = data[at - start : stop - start]
            self._journal.write(id_, at, piece, content.mtime_ns)

    def _without_base(self, key: str, id_: int) -> None:
        """In the same step as the last look: from here on a hole is zeros."""
        content = self._content(key, id_)
        if content is None or _first_hole(content, 0) is not None:
            return
        made = content.copy()
        made.base = None
        self._journal.commit(Rows(contents=(made,)))


def _holes(content: Content) -> Iterator[tuple[int, int]]:
    return ((p.start, p.end) for p in content.pieces(0, content.size) if p.layer == BASE)


def _first_hole(content: Content, start: int) -> tuple[int, int] | None:
    for piece in content.pieces(start, content.size):
        if piece.layer == BASE:
            return piece.start, min(piece.end, piece.start + PIECE_BYTES)
    return None
