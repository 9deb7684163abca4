"""What runs beside a mount and which the mount can do without: none of it ends in an exception.

A defect here is logged and costs what the task is for, never the mount.
"""

import contextlib
import logging
import math
from collections.abc import Callable

import trio

from mountd.allocator import return_freed_memory
from mountd.remotes.base import RemoteStore
from mountd.remotes.counting import TransferCounts
from mountd.remotes.health import HealthSnapshot, HealthState, RemoteHealth
from mountd.remotes.optional_doors import TellsChanges
from mountd_cache.block_cache import CacheCounters

log = logging.getLogger(__name__)

TIDY_EVERY_S = 20.0
PROBE_AFTER_A_DEFECT_S = 30.0
HURRIED_S = 1.0  # between probes while somebody waits
HURRIED_DENIED_S = 10.0


async def scan_cache(scan: Callable[[], None]) -> None:
    """Counts what the cache holds on disk; blocking, so in a thread."""
    try:
        await trio.to_thread.run_sync(scan, abandon_on_cancel=True)
    except Exception:
        log.exception("the cache could not be scanned")


class Prober:
    """Brings an unreachable remote back to everybody; idle while it is well. Loop's thread."""

    def __init__(self, health: RemoteHealth, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called after each change of the remote's state."""
        self._health = health
        self._on_change = changed
        self._wakes = trio.Event()
        self._probed_s = -math.inf
        self._is_owed = False

    async def run(self) -> None:
        """Until cancelled."""
        token = trio.lowlevel.current_trio_token()

        def tell_the_loop(snapshot: HealthSnapshot) -> None:  # in whatever thread noticed
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(self._state_changed)

        self._health.subscribe(tell_the_loop)
        while True:
            self._wakes = trio.Event()  # before the probe: a change during it must not be missed
            delay_s = await self._probe()
            with trio.move_on_after(delay_s):
                await self._wakes.wait()

    def hurry(self, *, is_first: bool) -> None:
        """Somebody waits for the remote: one that is unreachable is looked at now, unless it just
        was. One that denies is looked at once for each who waits, as soon as that may be: servers
        lock accounts out."""
        state = self._health.state
        since_s = trio.current_time() - self._probed_s
        self._is_owed = state is HealthState.DENIED and (is_first or self._is_owed)
        if state is HealthState.UNREACHABLE and since_s >= HURRIED_S:
            self._wakes.set()
        if self._is_owed and since_s >= HURRIED_DENIED_S:
            self._is_owed = False
            self._wakes.set()

    async def _probe(self) -> float:
        try:
            return await trio.to_thread.run_sync(self._health.probe_once, abandon_on_cancel=True)
        except Exception:
            log.exception("a probe of the remote failed in an unforeseen way")
            return PROBE_AFTER_A_DEFECT_S
        finally:
            self._probed_s = trio.current_time()

    def _state_changed(self) -> None:
        self._wakes.set()
        self._on_change()


def tells_state(source: str) -> Callable[[HealthSnapshot], None]:
    """A line in the log for each change of the remote's state; in whatever thread noticed."""
    former = HealthState.OK

    def tell(snapshot: HealthSnapshot) -> None:
        nonlocal former
        if snapshot.state is former:
            return  # it was closed
        former = snapshot.state
        if snapshot.state is HealthState.OK:
            log.info("%s is ok", source)
        else:
            log.warning("%s is %s: %s", source, snapshot.state, snapshot.last_error)

    return tell


async def listen_for_changes(native: RemoteStore, changed: Callable[[], None]) -> None:
    """Where the remote tells of changes: sooner than they would be found. Until cancelled."""
    if not isinstance(native, TellsChanges):
        return
    try:
        await native.listen(changed)
    except Exception:
        log.exception("listening for changes failed in an unforeseen way")


def moved(read: CacheCounters, sent: TransferCounts) -> int:
    """Grows with all that goes through memory, reads and writes."""
    return read.hits + read.misses + sent.put + sent.up_bytes


async def tidy_memory(
    moved: Callable[[], int], give_back: Callable[[], object] = return_freed_memory
) -> None:
    """Memory that nothing has gone through for a while goes back to the machine. `moved` grows
    with whatever does. Until cancelled."""
    moved_before = given_back_at = -1
    while True:
        await trio.sleep(TIDY_EVERY_S)
        try:
            now = moved()
            if now == moved_before and now != given_back_at:
                given_back_at = now
                await trio.to_thread.run_sync(give_back, abandon_on_cancel=True)
            moved_before = now
        except Exception:
            log.exception("freed memory could not be given back")
