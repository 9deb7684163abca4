"""Ends uploads that can never be finished: what they have left on the remote costs money there."""

import logging
import math
from collections.abc import Container
from typing import Final

import trio

from mountd.errors import Locked, RemoteError, Throttled, Unreachable
from mountd.sync.attempts import Asker
from mountd.sync.base import SyncJournal
from mountd.sync.unfinished import Unfinished, UnfinishedUploads
from mountd_cache.changes import Change

log = logging.getLogger(__name__)

_FIRST_REST_S: Final = 10.0
_LONGEST_REST_S: Final = 3600.0


class Leftovers:
    """Belongs to the loop's thread. Cheap where there are none."""

    def __init__(self, unfinished: UnfinishedUploads, journal: SyncJournal, asker: Asker) -> None:
        self._unfinished = unfinished
        self._journal = journal
        self._ledger = journal.ledger
        self._asker = asker
        self._until_s = 0.0
        self._rest_s = _FIRST_REST_S
        self._is_sweeping = False

    async def clear_way(self, change: Change) -> None:
        """Before `change` is sent: an upload to its key that isn't gone on with must not be
        completed any more, not even by a Complete that is still on its way. Raises Unreachable,
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
        log.info("the unfinished upload of %r was ended", upload.key)
        return True

    def _abandon(self, upload: Unfinished) -> None:
        self._asker.store.abandon(upload.key, upload.token)
        self._unfinished.forget(upload.content, upload.token)
