"""Who still reads a version that the sync queue is about to delete or to overwrite.

Where the remote keeps versions it is read there, by its id. Else, and where little of it is
missing, the rest of it is staged first, under the inode that lost its name, and goes with its last
handle. What is too large for that makes the queue wait for the last release instead.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from mountd.errors import Locked, RemoteError, Stale, Throttled, Unreachable
from mountd.vfs.files import Handle, OpenFiles
from mountd.vfs.writes import Writes
from mountd_cache.changes import ABSENT, BASE, Base, Change, ChangeKind, Content, Rows

log = logging.getLogger(__name__)

MAX_BYTES = 256 << 20
WAIT_S = 600.0
READ_BYTES = 8 << 20
WRITE_BYTES = 1 << 20  # in the loop's thread: 0.5 ms


Keeps = Callable[[Base], Awaitable[bool]]


async def keeps_none(base: Base) -> bool:
    return False


class LastReaders:
    """`is_over`: the mount is about to go, so nobody reads on."""

    def __init__(
        self,
        files: OpenFiles,
        writes: Writes,
        *,
        keeps: Keeps = keeps_none,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """`keeps`: whether the remote will have that version when it was replaced; it may raise
        RemoteErrors. `clock`: seconds."""
        self._keeps = keeps
        self.is_over = False
        self._files = files
        self._writes = writes
        self._journal = writes.journal
        self._ledger = writes.journal.ledger
        self._clock = clock
        self._waiting_since_s: dict[str, float] = {}

    async def spare(self, change: Change) -> bool:
        """Whether what `change` replaces on the remote may go; False: it is too much to be brought
        here, and who reads it has some time left. Raises RemoteErrors that are worth a retry, and
        TimeoutError; what has come stays."""
        is_file = change.kind in (ChangeKind.FILE, ChangeKind.GONE_FILE)
        if self.is_over or not is_file or change.expect == ABSENT:
            return True
        try:
            for handle in self._readers(change):
                if not await self._stage(handle, change):
                    return self._has_waited(change.key)
        except (Unreachable, Throttled, Locked, TimeoutError):
            raise
        except (RemoteError, Stale) as error:
            log.debug("the rest of %r can't be kept for who reads it: %s", change.key, error)
        except OSError as error:
            log.info("no room for the rest of %r, which is still read: %s", change.key, error)
            return self._has_waited(change.key)
        self._waiting_since_s.pop(change.key, None)
        return True

    def _readers(self, change: Change) -> list[Handle]:
        """Of each inode without a name of which something is still to be read from that version.
        Those with a name move to the version that is sent. What was written is over the version
        that we sent last, which the handles of an inode that has lost its name don't know of."""
        found: dict[int, Handle] = {}
        for handle in self._files.handles_at(change.key):
            number = handle.node.number
            if handle.file.version == change.expect and number not in self._ledger.by_number:
                found[number] = handle
        for number, content in self._writes.unlinked_contents():
            if _is_over(content, change):
                for handle in self._files.handles_of(number):
                    found[number] = handle
        return list(found.values())

    async def _stage(self, handle: Handle, change: Change) -> bool:
        """False where it is too large."""
        node, file = handle.node, handle.file
        if not self._files.is_open(node.number):
            return True  # it was closed while another reader's bytes came
        base = Base(file.key, file.version, file.size)
        content = self._writes.unlinked(node.number)
        at = content.base if content is not None and _is_over(content, change) else base
        missing = base.size if content is None else _missing(content)
        if at is not None and missing > WRITE_BYTES and await self._is_kept(at):
            return True
        if not self._files.is_open(node.number):
            return True
        content = self._writes.unlinked(node.number)  # it may have been written to meanwhile
        if content is None:
            if base.size > self._most_bytes:
                return False
            content = self._writes.stage_nameless(node, base, file.mtime_ns)
        elif content.base is not None and _is_over(content, change):
            base = content.base
        id_ = content.id
        while (content := self._ledger.contents.get(id_)) is not None:
            hole = _first_hole(content)
            if hole is None:
                self._without_base(content)
                return True
            if content.base != base:
                return True
            if _missing(content) > self._most_bytes:
                return False
            start, end = hole
            data = await self._files.read_version(node, base, start, end)
            await self._fill(id_, start, memoryview(data))
        return True

    async def _is_kept(self, base: Base) -> bool:
        try:
            return await self._keeps(base)
        except (Unreachable, Throttled, Locked):
            raise
        except RemoteError as error:
            log.debug("whether %r stays could not be asked: %s", base.key, error)
            return False

    @property
    def _most_bytes(self) -> int:
        return min(MAX_BYTES, self._writes.room.free_bytes // 2)

    async def _fill(self, id_: int, start: int, data: memoryview) -> None:
        """Only what is still a hole: whoever has it open may have written there meanwhile."""
        for at in range(0, len(data), WRITE_BYTES):
            content = self._ledger.contents.get(id_)
            if content is None:
                return
            piece = data[at : at + WRITE_BYTES]
            first, last = start + at, min(start + at + len(piece), content.size)
            holes = [(p.start, p.end) for p in content.pieces(first, last) if p.layer == BASE]
            for begin, end in holes:
                part = piece[begin - first : end - first]
                self._journal.write(id_, begin, part, content.mtime_ns)
            await trio.lowlevel.checkpoint()

    def _without_base(self, content: Content) -> None:
        if content.base is not None:
            made = content.copy()
            made.base = None
            self._journal.commit(Rows(contents=(made,)))

    def _has_waited(self, key: str) -> bool:
        now_s = self._clock()
        for gone in self._waiting_since_s.keys() - self._ledger.changes.keys():
            del self._waiting_since_s[gone]
        if now_s - self._waiting_since_s.setdefault(key, now_s) < WAIT_S:
            return False
        del self._waiting_since_s[key]
        return True


def _is_over(content: Content, change: Change) -> bool:
    """Whether it was written on the version that `change` takes away."""
    base = content.base
    return base is not None and (base.key, base.version) == (change.key, change.expect)


def _missing(content: Content) -> int:
    return sum(p.end - p.start for p in content.pieces(0, content.size) if p.layer == BASE)


def _first_hole(content: Content) -> tuple[int, int] | None:
    for piece in content.pieces(0, content.size):
        if piece.layer == BASE:
            return piece.start, min(piece.end, piece.start + READ_BYTES)
    return None
