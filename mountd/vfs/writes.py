"""Writing into files: staged contents, and what reads of them give.

The walk of a write: `write` -> the journal's data file, then its log -> reply. Nothing here waits
for the remote, except for room where the cache is full of what was not sent yet.
"""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Protocol

import trio
from typing_extensions import Buffer

from mountd.errors import Denied, IsADirectory, Lost, Stale
from mountd.vfs.file_clock import file_time_ns
from mountd.vfs.files import Handle, OpenFiles, RemoteFile
from mountd.vfs.names import shown_name
from mountd.vfs.nodes import Node
from mountd.vfs.overlay import is_hidden
from mountd.vfs.quota import RemoteQuota
from mountd.vfs.room_to_write import RoomToWrite
from mountd.vfs.tree import Tree
from mountd_cache.changes import BASE, ZERO, Base, Change, ChangeKind, ChangeState, Content, Rows
from mountd_cache.journal import Journal

log = logging.getLogger(__name__)


class Queue(Protocol):
    """What writing needs of the sync queue."""

    @property
    def denied(self) -> bool: ...

    @property
    def full(self) -> bool:
        """Whether the remote had no room for a put, and none has succeeded since."""
        ...

    def wake(self) -> None: ...

    async def find_base(self, key: str, base: Base) -> bool:
        """Whether a version that bytes are read from was replaced by a state of this same file
        that we had sent without learning of it; now it is known. May raise RemoteErrors."""
        ...

    def is_sending(self, *below: str) -> bool:
        """Whether anything is on its way to or from these directories or what is below them."""
        ...

    def holding(self, *below: str) -> AbstractContextManager[None]:
        """None of that begins meanwhile."""
        ...


class Writes:
    """All writing to contents of files. Raises what `Tree` does, NoSpace, and OSError from the
    local disk; cancelled, it leaves what it wrote so far."""

    def __init__(
        self,
        journal: Journal,
        tree: Tree,
        files: OpenFiles,
        *,
        limit_bytes: Callable[[], int],
        wait_s: float,
        wall_clock_ns: Callable[[], int] = file_time_ns,
    ) -> None:
        self.journal = journal
        self._ledger = journal.ledger
        self._tree = tree
        self._files = files
        self._now_ns = wall_clock_ns
        self.queue: Queue = _NoQueue()
        # Contents of files that have no name any more but are open, by inode.
        self._unlinked: dict[int, int] = {}
        self.quota = RemoteQuota(journal, lambda: self.queue.full)
        self.room = RoomToWrite(
            journal,
            self.quota,
            lambda: self.queue.wake(),
            limit_bytes=limit_bytes,
            wait_s=wait_s,
            remote_is_well=tree.remote_is_well,
        )
        self._told_lost: set[int] = set()
        self._writers: Counter[int] = Counter()
        self.opens = 0  # how many handles that may write were opened so far

    # -- handles

    def check_allowed(self) -> None:
        """Raises Denied where the remote refused our last put, until a retry succeeds."""
        if self.queue.denied:
            raise Denied("the remote refuses to be written to; `mountd queue` tells why")

    def opened(self, number: int) -> None:
        """A handle that may write was opened. Raises as `check_allowed`."""
        self.check_allowed()
        self.opens += 1
        self._writers[number] += 1

    def reopened(self, number: int) -> None:
        """A former process had such a handle."""
        self._writers[number] += 1

    def released(self, number: int) -> None:
        self._writers[number] -= 1
        if self._writers[number] <= 0:
            del self._writers[number]
            self.queue.wake()

    def is_open_for_writing(self, number: int) -> bool:
        return number in self._writers

    @property
    def open_files(self) -> int:
        """How many files are open for writing."""
        return len(self._writers)

    def last_release(self, number: int) -> None:
        """Nobody has the inode open any more."""
        content = self._unlinked.pop(number, None)
        if content is not None:
            self._files.notes.unlinked(number, 0)
            self.journal.commit(Rows(drop=(content,)), reserve=True)

    def keep_unlinked(self, number: int, content: int) -> None:
        """The content of an inode without a name lives until its last handle is closed."""
        self._unlinked[number] = content
        self._files.notes.unlinked(number, content)

    def unlinked(self, number: int) -> Content | None:
        """What was written into a file that has no name any more."""
        id_ = self._unlinked.get(number) if self._unlinked else None
        return self._ledger.contents.get(id_) if id_ is not None else None

    def unlinked_contents(self) -> list[tuple[int, Content]]:
        """By inode, what was written into files that have no name any more."""
        known = self._ledger.contents
        return [(number, known[id_]) for number, id_ in self._unlinked.items() if id_ in known]

    # -- contents

    def content_of(self, number: int) -> Content | None:
        """The staged content of an inode, if it has one."""
        change = self._ledger.by_number.get(number)
        if change is not None:
            return self._ledger.contents.get(change.content)
        return self._ledger.contents.get(self._unlinked.get(number, 0))

    def content_to_read(self, number: int) -> Content | None:
        """As `content_of`. Raises Lost where the bytes that were staged are not there any more."""
        change = self._ledger.by_number.get(number)
        if change is None:
            return self._ledger.contents.get(self._unlinked.get(number, 0))
        content = self._ledger.contents.get(change.content)
        if content is None and change.content:
            raise self._lost(change)
        return content

    def is_lost(self, change: Change) -> bool:
        """Whether bytes of it were lost on this disk, and not written again: it can't be sent."""
        if not change.content:
            return False
        return change.content not in self._ledger.contents or self.journal.is_torn(change.content)

    def _lost(self, change: Change) -> Lost:
        if change.content not in self._told_lost:
            self._told_lost.add(change.content)
            log.warning("%r can't be read: %s", change.key, change.reason or "its bytes are lost")
        return Lost(f"{change.key!r}: {change.reason}")

    def content_to_write(
        self, node: Node, opened: RemoteFile | None = None, *, anew: bool = False
    ) -> Content:
        """The staged content of a file, made where there is none; the file is dirty from now on,
        and where bytes of it are lost once those are written again. Raises Lost where all are.

        `opened`: the version that a handle has, for a file that has no name any more. `anew`: it is
        about to be emptied.
        """
        change = self._ledger.by_number.get(node.number)
        if change is None:
            unlinked = self._unlinked.get(node.number)
            if unlinked is not None:
                return self._ledger.contents[unlinked]
            return self._first_content(node, opened)
        if change.is_directory:
            raise IsADirectory(change.key)
        content = self._ledger.contents.get(change.content)
        if content is not None and (
            change.state is ChangeState.PENDING or self.journal.is_torn(content.id)
        ):
            return content
        if content is None and change.content:
            if not anew:  # over the remote's version it would be a file that never was
                raise self._lost(change)
            content = self.journal.new_content(None, 0, self._now_ns())
        if content is None:
            base = change.base or Base(change.key, change.expect, change.size)
            content = self.journal.new_content(base, change.size, change.mtime_ns)
        self._commit_content(change, content)
        return content

    def _first_content(self, node: Node, opened: RemoteFile | None) -> Content:
        """Of a file that is as the listing says, or that has lost its name while it is open."""
        assert node.parent is not None
        file, name, attributes = opened, b"", ""
        if not node.is_nameless:
            file, name, attributes = self._named(node, node.parent.key, opened)
        if file is None or (node.is_nameless and not self._files.is_open(node.number)):
            raise Stale(f"inode {node.number} has no name any more")
        base = Base(file.key, file.version, file.size)
        if node.is_nameless:
            return self.stage_nameless(node, base, file.mtime_ns)
        content = self.journal.new_content(base, file.size, file.mtime_ns)
        change = Change(
            key=file.key,
            directory=node.parent.key,
            name=name,
            number=node.number,
            kind=ChangeKind.FILE,
            expect=file.version,
            size=file.size,  # what it is if a power cut takes the content
            mtime_ns=file.mtime_ns,
            attributes=self._tree.known.carried_text(attributes),
        )
        self._commit_content(change, content)
        return content

    def stage_nameless(self, node: Node, base: Base, mtime_ns: int) -> Content:
        """A content for a file without a name, which goes with its last handle."""
        content = self.journal.new_content(base, base.size, mtime_ns)
        self.commit_new(content, Rows(contents=(content,)))
        self.keep_unlinked(node.number, content.id)
        return content

    def _named(
        self, node: Node, directory: str, opened: RemoteFile | None
    ) -> tuple[RemoteFile, bytes, str]:
        """The version that a file is, its name and its row's attributes. Where somebody else has
        replaced or removed it while it was open here, what is written now goes to its name all the
        same: the sync queue finds the other's version there, and keeps both."""
        try:
            cached, row = self._tree.locate(node)
        except Stale:
            if opened is None or opened.key in self._ledger.changes:
                raise
            raw = opened.key.removeprefix(directory)
            name = shown_name(raw, at_root=not directory)
            if (
                not opened.key.startswith(directory)
                or "/" in raw
                or self._is_taken(directory, name)
            ):
                raise
            return opened, name, ""
        if is_hidden(self._ledger, directory, cached.listing, row):
            raise Stale(f"inode {node.number} has no name any more")
        at = cached.listing.row(row)
        return self._files.remote_file_of(node), at.name, self._tree.known.of(at).attributes

    def _is_taken(self, directory: str, name: bytes) -> bool:
        """Whether a change or a directory has that name."""
        if name in self._ledger.shown.get(directory, ()):
            return True
        cached = self._tree.cache.get(directory)
        row = cached.listing.find(name) if cached is not None else -1
        return cached is not None and row >= 0 and cached.listing.is_dir(row)

    def commit_new(self, content: Content, rows: Rows) -> None:
        """A content that no record names must leave nothing behind."""
        try:
            self.journal.commit(rows)
        except BaseException:
            self.journal.discard(content)
            raise

    def _commit_content(self, change: Change, content: Content) -> None:
        self._tree.following.edited(change.number)
        now_ns = self._now_ns()
        is_behind = change.state is not ChangeState.CLEAN and change.since_ns
        self.commit_new(
            content,
            Rows(
                changes=(
                    replace(
                        change,
                        content=content.id,
                        base=None,
                        state=ChangeState.PENDING,
                        reason="",
                        sequence=self.journal.next_sequence(),
                        since_ns=change.since_ns if is_behind else now_ns,
                        changed_ns=now_ns,
                    ),
                ),
                contents=(content,),
            ),
        )
        self.queue.wake()

    # -- bytes

    def write(self, handle: Handle, offset: int, data: Buffer) -> None:
        """Stages bytes; what was asked for is on the local disk's file when this returns."""
        number = handle.node.number
        change = self._ledger.by_number.get(number)
        if change is not None and change.content and change.state is ChangeState.PENDING:
            self.journal.write(change.content, offset, data, self._now_ns())
            return
        content = self.content_to_write(handle.node, handle.file).id
        self.journal.write(content, offset, data, self._now_ns())
        self._mended(number)

    def make_ready(self, number: int) -> bool:
        """A step towards what the first write to a new file will want; whether there is another.
        Any time; never raises."""
        change = self._ledger.by_number.get(number)
        return change is not None and self.journal.make_ready(change.content)

    def _mended(self, number: int) -> None:
        """What FAILED for lost bytes is sent as soon as all of them are written again."""
        change = self._ledger.by_number.get(number)
        if change is None or change.state is not ChangeState.FAILED:
            return
        content = self._ledger.contents.get(change.content)
        if content is not None and not self.journal.is_torn(content.id):
            self._commit_content(change, content)

    def date(self, number: int, mtime_ns: int) -> None:
        """The kernel has that mtime of a file whose bytes have all come."""
        content = self.content_of(number)
        if content is not None and content.mtime_ns != mtime_ns:
            self.journal.set_mtime(content.id, mtime_ns)

    def truncate(self, node: Node, size: int, opened: RemoteFile | None = None) -> None:
        content = self.content_to_write(node, opened, anew=size == 0)
        if content.size == size:
            return
        shorter = content.copy()
        shorter.top.truncate(size)
        shorter.mtime_ns = shorter.changed_ns = self._now_ns()
        self.journal.commit(Rows(contents=(shorter,)))
        self._mended(node.number)

    async def read(self, node: Node, content: Content, start: int, size: int) -> bytes:
        """Up to `size` bytes at `start`, fewer only at the end of the file."""
        end = min(start + size, content.size)
        if start >= end:
            return b""
        parts: list[bytes] = []
        missing: list[tuple[int, int, int]] = []  # place in `parts`, start, end in the base
        base = content.base
        # Everything that is here first, in one step: a state that the file had at one instant.
        for piece in content.pieces(start, end):
            if piece.layer == BASE:
                missing.append((len(parts), piece.start, piece.end))
                parts.append(b"")
            elif piece.layer == ZERO:
                parts.append(bytes(piece.end - piece.start))
            else:
                try:
                    read = self.journal.read(content.id, piece.layer, piece.start, piece.end)
                except OSError as error:
                    self._check_lost(node.number, content.id, error)
                    raise
                parts.append(read)
        if missing:
            assert base is not None
            for place, at, stop in missing:
                parts[place] = bytes(await self._files.read_version(node, base, at, stop))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _check_lost(self, number: int, content: int, error: OSError) -> None:
        change = self._ledger.by_number.get(number)
        if change is not None and change.content == content and self.is_lost(change):
            raise self._lost(change) from error

    async def sync(self, number: int | None) -> None:
        """fsync(2): the inode's bytes and all names are on the local disk; None: names only."""
        content = self.content_of(number) if number is not None else None
        mark = self.journal.begin_sync([content.id] if content is not None else [])
        await trio.to_thread.run_sync(self.journal.make_durable, mark)
        self.journal.end_sync(mark)

    async def settle(self, number: int) -> None:
        """Before a file replaces another: a power cut leaves the one or the other, as on ext4, also
        where nobody called fsync. Best effort; never raises for the local disk."""
        content = self.content_of(number)
        mark = self.journal.begin_sync([content.id] if content is not None else [])
        if not mark.has_data:
            return
        try:
            await trio.to_thread.run_sync(self.journal.make_data_durable, mark)
        except OSError as error:
            log.info("what replaces another file is not on the disk yet: %s", error)


class _NoQueue:
    """Until the daemon puts the sync queue here."""

    denied = False
    full = False

    async def find_base(self, key: str, base: Base) -> bool:
        return False

    def wake(self) -> None: ...

    def is_sending(self, *below: str) -> bool:
        return False

    def holding(self, *below: str) -> AbstractContextManager[None]:
        return nullcontext()
