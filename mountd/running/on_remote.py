"""durability = "remote": what close, fsync and changes of names wait for.

A name is changed here first, and in the journal, as ever; the call returns when the remote has done
it, too. What fails stays queued, and is gone on with after the caller has heard of it.
"""

from collections.abc import Callable

from mountd.errors import ChangedElsewhere, FileSystemError, NotEmpty, NotSent, Stale, Unreachable
from mountd.sync.queue import SyncQueue
from mountd.vfs.filesystem import FileSystem
from mountd.vfs.nodes import Directory
from mountd_cache.changes import Change
from mountd_cache.journal import Journal


class OnRemote:
    """All raise TimeoutError after `wait_s` in which it is not being sent, or was sent in vain, and
    NotSent where the remote has refused it. Where somebody else's is there instead, `file` raises
    Stale and the others ChangedElsewhere: unlink(2), rename(2) and truncate(2) take ESTALE for a
    reason to look up the path and to do it again, then to the version that nobody here has seen.
    Cancelled, they change nothing: it goes on."""

    def __init__(
        self,
        journal: Journal,
        queue: SyncQueue,
        fs: FileSystem,
        *,
        wait_s: float,
        remote_is_up: Callable[[], bool],
    ) -> None:
        self._journal = journal
        self._queue = queue
        self._fs = fs
        self._ledger = journal.ledger
        self._wait_s = wait_s
        self._remote_is_up = remote_is_up
        # Keys that are to go, and whether somebody else's is there.
        self._awaited: dict[str, bool] = {}
        fs.queue_view.found_foreign = self._found_foreign

    def _found_foreign(self, key: str) -> None:
        if key in self._awaited:
            self._awaited[key] = True

    def check(self) -> None:
        """Before a name is changed. Raises Unreachable where the remote is known to be away: better
        than to do it here, wait, and say that it was not done."""
        if not self._remote_is_up():
            raise Unreachable("names are changed on the remote at once, and it is away")

    async def file(self, fh: int) -> None:
        """The file of that handle."""
        handle = self._fs.files.handle(fh)
        if handle.writes:
            await self._made(handle.node.number, Stale)

    async def node(self, number: int) -> None:
        """A file that was changed by its path."""
        await self._made(number, ChangedElsewhere)

    async def names(self, *where: tuple[Directory, bytes]) -> None:
        """What was just made, moved or removed under these names. NotEmpty where the remote has
        something in a directory that was to go."""
        for directory, name in where:
            gone = self._ledger.gone.get(directory.key, {}).values()
            for change in [change for change in gone if change.name == name]:
                await self._removed(change)
            shown = self._ledger.shown.get(directory.key, {}).get(name)
            if shown is not None:
                await self._made(shown.number, ChangedElsewhere)

    async def _made(self, number: int, lost: type[FileSystemError]) -> None:
        change = self._ledger.by_number.get(number)
        while change is not None and not change.is_clean:
            left = await self._sent(change.key)
            now = self._ledger.by_number.get(number)
            if now is not None and now.conflict:
                raise lost(f"{now.conflict!r} changed on the remote; this is {now.key!r} now")
            if left or now is None or now.key == change.key:
                self._check(left, change.key, now)
                return
            change = now  # renamed meanwhile: at its old name nothing is left of it to be sent

    async def _removed(self, change: Change) -> None:
        if change.is_clean:
            return
        key = change.key
        self._awaited[key] = False
        try:
            left = await self._sent(key)
        finally:
            is_lost = self._awaited.pop(key, False)
        self._check(left, key, self._ledger.changes.get(key))
        if is_lost:
            if key.endswith("/"):
                raise NotEmpty(change.name)
            raise ChangedElsewhere(f"{key!r} changed on the remote, and is not removed")

    def _check(self, left: int, key: str, now: Change | None) -> None:
        if left and now is not None and now.reason:
            raise NotSent(now.reason)
        if left:
            raise TimeoutError(f"{key!r} is not on the remote yet")

    async def _sent(self, key: str) -> int:
        """How many changes are left at (or below) it. Who sends is given the time that it takes: a
        request that hangs ends by itself, and its second try counts as no progress."""
        began = self._journal.next_sequence()
        while True:
            left = await self._queue.drain(key, self._wait_s, began=began)
            if not left or not self._is_sending(key):
                return left

    def _is_sending(self, key: str) -> bool:
        items = (item for item in self._queue.items() if item.key == key)
        return any(item.state == "uploading" and not item.attempts for item in items)
