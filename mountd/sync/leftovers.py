"""Ends uploads that can never be finished: what they have left on the remote costs money there.

One whose last request may have gone has perhaps made the file. What is there is looked at before
anything goes over it, and is ours if it has the sum of what was sent.
"""

import logging
import math
from collections.abc import Callable, Container
from dataclasses import replace
from typing import Final

import trio

from mountd.errors import Locked, NotFound, RemoteError, Throttled, Unreachable
from mountd.remotes.base import RemoteStore
from mountd.sync.attempts import Asker, Attempt, is_same
from mountd.sync.base import SyncJournal
from mountd.sync.landing import Sent, landed_before
from mountd.sync.unfinished import Unfinished, UnfinishedUploads
from mountd.types import Entry
from mountd_cache.changes import Change

log = logging.getLogger(__name__)

_FIRST_REST_S: Final = 10.0
_LONGEST_REST_S: Final = 3600.0


class Leftovers:
    """Belongs to the loop's thread. Cheap where there are none. `landed`: `Uploader.landed`."""

    def __init__(
        self,
        unfinished: UnfinishedUploads,
        journal: SyncJournal,
        asker: Asker,
        landed: Callable[[Change, Unfinished, int, Entry], None],
    ) -> None:
        self._landed = landed
        self._unfinished = unfinished
        self._journal = journal
        self._ledger = journal.ledger
        self._asker = asker
        self._until_s = 0.0
        self._rest_s = _FIRST_REST_S
        self._is_sweeping = False

    async def clear_way(self, change: Change) -> None:
        """Before `change` is sent: an upload to its key that isn't gone on with must not be
        completed any more, not even by a Complete that is still on its way. What has come to the
        key by one is in the journal then, which may have another change there. Raises Unreachable,
        Throttled and Locked."""
        if not len(self._unfinished):
            return
        content = self._ledger.content_of(change)
        known = self._unfinished.at(change.key)
        of_content = self._unfinished.of(change.content)
        if of_content is not None and of_content.key != change.key:
            known.append(of_content)
        for upload in known:
            depth = upload.depth_in(change, content) if content is not None else 0
            is_whole = depth and not self._journal.is_torn(upload.content, depth)
            if content is None or not is_whole or not upload.is_worth_it(content):
                await self._end(upload)
            elif await self._has_landed(upload):
                await self._asker.call(self._unfinished.forget, upload.content, upload.token)

    def look_again_s(self, contents: Container[int], keys: Container[str]) -> float:
        """Seconds until `sweep` has something to do, 0: now. `contents` and `keys` are in flight,
        and look after themselves."""
        if not len(self._unfinished) or self._is_sweeping or not self._impossible(contents, keys):
            return math.inf
        return max(0.0, self._until_s - trio.current_time())

    async def sweep(self, contents: Container[int], keys: Container[str]) -> None:
        """Ends all that is impossible now. What can't be ended rests. Never raises."""
        self._is_sweeping = True
        ended = True
        try:
            for upload in self._impossible(contents, keys):
                ended = await self._end(upload) and ended
        except RemoteError as error:
            log.info("unfinished uploads can't be ended now: %s", error)
            ended = False
        except Exception:
            log.exception("unfinished uploads can't be ended")
            ended = False
        finally:
            self._is_sweeping = False
        self._rest_s = _FIRST_REST_S if ended else min(_LONGEST_REST_S, 2 * self._rest_s)
        self._until_s = 0.0 if ended else trio.current_time() + self._rest_s

    def _impossible(self, contents: Container[int], keys: Container[str]) -> list[Unfinished]:
        return [
            upload
            for upload in self._unfinished.all()
            if upload.content not in contents
            and upload.key not in keys
            and not upload.is_possible(self._ledger)
        ]

    async def _end(self, upload: Unfinished) -> bool:
        """False where the remote doesn't let us; then it stays known."""
        try:
            await self._asker.call(self._abandon, upload)
        except (Unreachable, Throttled, Locked):
            raise
        except RemoteError as error:
            log.info("the unfinished upload of %r stays on the remote: %s", upload.key, error)
            return False
        if not await self._has_landed(upload):
            log.info("the unfinished upload of %r was ended", upload.key)
        await self._asker.call(self._unfinished.forget, upload.content, upload.token)
        return True

    def _abandon(self, upload: Unfinished) -> None:
        if upload.token:
            self._asker.store.abandon(upload.key, upload.token)

    async def _has_landed(self, upload: Unfinished) -> bool:
        """Whether what is at its key is what it was to make; into the journal, then. What nobody
        wants to change there is not asked for."""
        if self._unsettled(upload) is None:
            return False
        try:
            entry = await self._asker.call(_made, self._asker.store, upload)
        except (Unreachable, Throttled, Locked):
            raise
        except RemoteError as error:
            log.info("whether %r has arrived can't be seen: %s", upload.key, error)
            return False
        now = self._unsettled(upload)  # as it is after that question
        if entry is None or now is None:
            # A request of a process that was killed may still be on its way.
            self._asker.doubts.add(upload.key, Attempt.noted(upload))
            return False
        log.info("%r had arrived: its upload ended without an answer", upload.key)
        content = self._ledger.content_of(now)
        depth = upload.depth_in(now, content) if content is not None else 0
        if depth and not self._journal.is_torn(upload.content, depth):
            self._landed(now, upload, depth, entry)
        elif now.expect != entry.version:
            change = replace(now, content=upload.content)
            sent = Sent(change, upload.mtime_ns, upload.size, entry.version, upload.attributes)
            self._journal.commit(landed_before(now, sent, self._ledger), reserve=True)
        return True

    def _unsettled(self, upload: Unfinished) -> Change | None:
        """What waits to be done at its key, if the upload may have made a file there."""
        now = self._ledger.changes.get(upload.key) if upload.md5 else None
        return now if now is not None and not now.is_clean else None


def _made(store: RemoteStore, upload: Unfinished) -> Entry | None:
    """What is at its key, if that has the bytes that were sent. Blocking."""
    try:
        found = store.identify(upload.key)
    except NotFound:
        return None
    return found.entry if is_same(store, upload.key, found, Attempt.noted(upload)) else None
