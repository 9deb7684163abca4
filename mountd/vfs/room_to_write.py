"""Room in the cache for what is written here, until the remote has it: who waits for it, and for
how long."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from mountd.errors import NoSpace
from mountd.vfs.quota import RemoteQuota
from mountd_cache.journal import Journal

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.05  # while a writer waits for room
IN_TURN_BYTES = 128 << 10  # from here on no write overtakes one that waits for it


@dataclass(frozen=True, slots=True)
class _Vain:
    """A wait for room that nothing came of: with that many bytes given back until then, and with a
    remote like that. Until `until_s` (of trio's clock) another has no better prospect."""

    freed_bytes: int
    is_well: bool
    until_s: float


class RoomToWrite:
    """Of one mount, on its loop. `wake`: something should be sent."""

    def __init__(
        self,
        journal: Journal,
        quota: RemoteQuota,
        wake: Callable[[], None],
        *,
        limit_bytes: Callable[[], int],
        wait_s: float,
        remote_is_well: Callable[[], bool],
    ) -> None:
        self._journal = journal
        self._quota = quota
        self._wake = wake
        self._limit_bytes = limit_bytes
        self._wait_s = wait_s
        self._remote_is_well = remote_is_well
        self._was_full = False
        self._vain: _Vain | None = None
        self._turns = trio.StrictFIFOLock()

    @property
    def free_bytes(self) -> int:
        """How many bytes may still be staged."""
        return max(0, self._limit_bytes() - self._journal.staged_bytes)

    @property
    def is_pressed(self) -> bool:
        """More than half of the room is taken by what was not sent yet: it should go at once."""
        half = self._limit_bytes() // 2
        # The second costs microseconds, and is seldom needed.
        return self._journal.staged_bytes > half and self._journal.unsent_bytes > half

    @property
    def is_little(self) -> bool:
        """Whether what was not sent yet takes less than a quarter of the room."""
        quarter = self._limit_bytes() // 4
        return self._journal.staged_bytes < quarter or self._journal.unsent_bytes < quarter

    async def wait_for(self, size: int) -> None:
        """Returns when `size` more bytes may be staged. NoSpace where none came in time, and at
        once where somebody has just waited in vain; QuotaExceeded where the remote will not have
        it."""
        self._quota.check(size)
        staged, limit = self._journal.staged_bytes, self._limit_bytes()
        if staged + size <= limit and (size < IN_TURN_BYTES or not self._turns.locked()):
            if 2 * staged <= limit < 2 * (staged + size):
                self._wake()  # from now on `is_pressed`
            return
        freed_before = self._journal.freed_bytes
        with trio.move_on_after(self._wait_s):
            # Held while its holder waits for room, as all who want it do: as the kernel sent them,
            # so that what is staged of a large file lies side by side and is sent once.
            async with self._turns:
                while self._journal.staged_bytes + size > self._limit_bytes():
                    self._wake()
                    await self.give_back()
                    if self._is_in_vain():
                        raise self._no_space()
                    await trio.sleep(LOOK_AGAIN_S)
                self._was_full = False
                return
        if self._journal.freed_bytes == freed_before:
            until_s = trio.current_time() + self._wait_s
            self._vain = _Vain(freed_before, self._remote_is_well(), until_s)
        error = self._no_space()
        if not self._was_full:
            self._was_full = True
            log.warning("writers get ENOSPC: %s", error)
        raise error

    def _is_in_vain(self) -> bool:
        """Whether a whole wait has just ended without room, and nothing has changed since. The
        kernel brings a large file piece by piece: each would wait, and its writer for all."""
        vain = self._vain
        return (
            vain is not None
            and vain.freed_bytes == self._journal.freed_bytes
            and vain.is_well == self._remote_is_well()
            and trio.current_time() < vain.until_s
        )

    def _no_space(self) -> NoSpace:
        return NoSpace(
            f"{self._journal.staged_bytes} bytes wait for the remote, and cache_size allows "
            f"{self._limit_bytes()}"
        )

    async def give_back(self) -> None:
        """The room of what was sent is free now, and not only with the next checkpoint, for which a
        full disk may have no room. Raises OSError."""
        mark = self._journal.begin_sync([])
        if mark.gone:
            await trio.to_thread.run_sync(self._journal.make_durable, mark)
            self._journal.end_sync(mark)
