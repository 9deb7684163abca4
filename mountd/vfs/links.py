"""Symbolic links: small files on the remote whose content is the target (names.py says which).

mountd gives targets back as they are and never follows one: the kernel resolves them where the
program that asks is, and nothing that a remote says is opened here.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import trio

from mountd.errors import Exists, NameTooLong, NoEntry, NotPossible
from mountd.vfs.names import TARGET_MAX_BYTES
from mountd.vfs.namespace import Namespace
from mountd.vfs.nodes import Directory
from mountd.vfs.overlay import is_change_of_link
from mountd_cache.changes import Change, ChangeKind, Rows

# With targets of 512 bytes at most: 8 MiB where a remote is made to take much.
MAX_KNOWN = 1 << 14
KNOWN_MAX_BYTES = 512

ReadStart = Callable[[int, int], Awaitable[bytes]]


class Links:
    """`read_start(number, size)` gives the beginning of a file's content."""

    def __init__(self, names: Namespace, read_start: ReadStart) -> None:
        self._names = names
        self._ledger = names.ledger
        self._journal = names.journal
        self._read_start = read_start
        # An inode number stands for one version for ever, and a link is never written to; each
        # path through a link asks again. Oldest first.
        self._known: dict[int, bytes] = {}

    async def make(
        self, parent: Directory, name: bytes, target: bytes, attributes: Mapping[str, str]
    ) -> Change:
        """A new link, counted as one look-up. Raises as `Namespace.create`; cancelled or killed,
        there is no link or a whole one."""
        if not target:
            raise NoEntry(name)
        if len(target) > TARGET_MAX_BYTES:
            raise NameTooLong(f"{len(target)} bytes of target")
        names = self._names
        cached = await names.listing(parent)
        if names.find(parent, cached, name) is not None:
            raise Exists(name)
        names.rights.check_make(parent, is_directory=False)
        key = names.key_of_file(parent, cached, name, is_link=True)
        change = names.change_at(key, parent.key, name, names.new_number(), ChangeKind.FILE)
        expect = names.expected(parent, cached.listing, name, key)
        change = replace(change, expect=expect, size=len(target), attributes=attributes)
        self._commit(change, target)
        made = self._ledger.changes[key]
        names.tree.remember_change(parent, made)
        self._know(made.number, target)
        return made

    def _commit(self, change: Change, target: bytes) -> None:
        """The target first: a content that no change names is dropped after a crash."""
        writes = self._names.writes
        content = self._journal.new_content(None, 0, change.changed_ns)
        writes.commit_new(content, Rows(contents=(content,)))
        try:
            self._journal.write(content.id, 0, target, change.changed_ns)
            self._journal.commit(Rows(changes=(replace(change, content=content.id),)))
        except BaseException:
            self._journal.commit(Rows(drop=(content.id,)), reserve=True)
            raise
        writes.queue.wake()

    async def read(self, number: int) -> bytes:
        """The target of a link. NotPossible where what the remote has is none."""
        target = self._known.get(number)
        if target is None:
            target = await self._read_start(number, TARGET_MAX_BYTES + 1)
            if not 0 < len(target) <= TARGET_MAX_BYTES or b"\0" in target:
                raise NotPossible(f"inode {number}: what it has is not the target of a link")
            self._know(number, target)
        return target

    async def sync_directory(self, directory: Directory) -> None:
        """fsync(2) of a directory: all names are on the local disk, and the targets of the links
        in it, since nobody can open a link to fsync it."""
        changes = self._ledger.shown.get(directory.key, {}).values()
        contents = [c.content for c in changes if c.content and is_change_of_link(c)]
        mark = self._journal.begin_sync(contents)
        await trio.to_thread.run_sync(self._journal.make_durable, mark)
        self._journal.end_sync(mark)

    def _know(self, number: int, target: bytes) -> None:
        if len(target) > KNOWN_MAX_BYTES:
            return
        self._known[number] = target
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
