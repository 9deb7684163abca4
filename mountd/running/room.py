"""How much room the remote has, for `statfs`, which never waits for the network."""

import logging
import time
from collections.abc import Callable

import trio

from mountd.errors import RemoteError
from mountd.remotes.base import Quota, RemoteStore
from mountd.remotes.optional_doors import quota_of

log = logging.getLogger(__name__)

TRUE_FOR_S = 60.0


class Room:
    """What was heard last. `keep` asks, at most once a minute and only after somebody looked."""

    def __init__(self, store: RemoteStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._quota: Quota | None = None
        self._asked_s = float("-inf")
        self._looked = trio.Event()

    def now(self) -> Quota | None:
        """None where nothing is known (yet). Any time, on the loop's thread."""
        if self._clock() - self._asked_s >= TRUE_FOR_S:
            self._looked.set()
        return self._quota

    def free_bytes(self) -> int | None:
        """As `now`."""
        quota = self.now()
        return quota.free_bytes if quota is not None else None

    async def keep(self) -> None:
        """Until cancelled; ends where the remote tells no room. Begins with a first question."""
        while self._store.capabilities.tells_quota:
            self._asked_s = self._clock()
            self._looked = trio.Event()
            try:
                self._quota = await trio.to_thread.run_sync(
                    quota_of, self._store, abandon_on_cancel=True
                )
            except RemoteError as error:
                log.info("the remote's room is not known: %s", error)
            except Exception:
                log.exception("asking for the remote's room failed in an unforeseen way")
            await self._looked.wait()
