"""What we sent has taken the place of what is read: whoever was told so reads on from there."""

import logging

import trio

from mountd.errors import RemoteError
from mountd.vfs.files import OpenFiles
from mountd.vfs.tree import Tree
from mountd.vfs.writes import Writes
from mountd_cache.changes import Base

log = logging.getLogger(__name__)


class ReplacedByUs:
    """For who has just heard that a version is gone."""

    def __init__(self, tree: Tree, files: OpenFiles, writes: Writes) -> None:
        self._tree = tree
        self._files = files
        self._writes = writes

    async def found(self, number: int) -> bool:
        """Whether it was a state of this file, sent before a crash or without an answer, that
        replaced the version that the ledger believes in; now ledger and handles know it."""
        change = self._tree.ledger.by_number.get(number)
        if change is None:
            return await self._was_moved(number)
        if change.is_clean or change.is_directory:
            return False
        content = self._tree.ledger.content_of(change)
        base = content.base if content is not None else change.base
        if content is None and base is None:
            base = Base(change.key, change.expect, change.size)
        if base is None:
            return False
        is_found = await self._asked(change.key, base)
        if is_found and content is None and self._files.is_open(number):
            self._files.rebind(number, self._files.remote_file_of(self._tree.node(number)))
        return is_found

    async def _was_moved(self, number: int) -> bool:
        """Whether the remote has given what an open file without a name reads another key; waits
        where that is under way."""
        content = self._writes.unlinked(number)
        base = content.base if content is not None else None
        if content is None and (handles := self._files.handles_of(number)):
            file = handles[0].file
            base = Base(file.key, file.version, file.size)
        return base is not None and await self._asked("", base)

    async def _asked(self, key: str, base: Base) -> bool:
        try:
            with trio.move_on_after(self._tree.wait_s):
                return await self._writes.queue.find_base(key, base)
        except RemoteError as error:
            log.debug("whose %r is could not be asked: %s", base.key, error)
        return False
