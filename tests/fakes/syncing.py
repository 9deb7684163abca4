"""A running sync queue over fakes: what tests of mountd.sync drive."""

import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
import trio.testing
from trio.testing import MockClock

from mountd.remotes.base import RemoteStore
from mountd.sync.base import SyncJournal
from mountd.sync.giving_way import GivingWay
from mountd.sync.open_moves import OpenMoves
from mountd.sync.queue import SyncQueue
from mountd.sync.unfinished import UnfinishedUploads
from tests.fakes.fault_store import FaultStore
from tests.fakes.local_tree import LocalTree
from tests.fakes.memory_journal import MemoryJournal

HELD = 400  # times half a millisecond
EPOCH_S = 1_800_000_000


def now_ns() -> int:
    """The loop's clock as a wall clock."""
    return int((EPOCH_S + trio.current_time()) * 1e9)


@dataclass(eq=False, slots=True)
class Syncing:
    """`tree` is the user, `faults` what the queue sees of the remote."""

    tree: LocalTree
    faults: FaultStore
    queue: SyncQueue
    journal: SyncJournal
    is_well: threading.Event

    async def settled(self) -> None:
        """Until nothing is left that goes by itself."""
        await self.queue.drain()


@asynccontextmanager
async def syncing(
    store: RemoteStore,
    *,
    journal: SyncJournal | None = None,
    write_back_s: float = 1.0,
    max_transfers: int = 4,
    unfinished: UnfinishedUploads | None = None,
    open_moves: OpenMoves | None = None,
    giving_way: GivingWay | None = None,
    pressed: Callable[[], bool] = lambda: False,
    is_well: threading.Event | None = None,
) -> AsyncIterator[Syncing]:
    faults = FaultStore(store)
    journal = journal or MemoryJournal()
    tree = LocalTree(journal, store, now_ns)
    is_well = is_well or threading.Event()
    is_well.set()
    queue = SyncQueue(
        journal,
        faults,
        tree,
        write_back_s=write_back_s,
        max_transfers=max_transfers,
        wall_clock=now_ns,
        remote_is_well=is_well.is_set,
        host="box",
        jitter=lambda: 0.0,
        unfinished=unfinished,
        open_moves=open_moves,
        giving_way=giving_way,
        pressed=pressed,
    )
    tree.wake = queue.wake
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_jump_when_idle, queue, faults)
        await nursery.start(queue.run)
        yield Syncing(tree, faults, queue, journal, is_well)
        nursery.cancel_scope.cancel()


async def _jump_when_idle(queue: SyncQueue, faults: FaultStore) -> None:
    """Moves a mock clock on when nothing goes on but what the test itself holds. Trio's own
    autojump doesn't wait for threads, so that on a busy machine an hour passes during a request."""
    clock = trio.lowlevel.current_clock()
    idle = 0
    while isinstance(clock, MockClock):
        await trio.testing.wait_all_tasks_blocked()
        await trio.to_thread.run_sync(time.sleep, 0.0005)
        next_s = trio.lowlevel.current_statistics().seconds_to_next_deadline
        uploading = sum(item.state == "uploading" for item in queue.items())
        idle = idle + 1 if uploading > faults.hanging else HELD
        # What is still under way after so long is held by something else than a fault.
        if idle >= HELD and 0 < next_s < math.inf:
            clock.jump(next_s)
            idle = 0


async def reached(event: threading.Event) -> None:
    """Until a call has met its fault."""
    assert await trio.to_thread.run_sync(event.wait, 30.0)


async def in_flight(s: Syncing) -> threading.Event:
    """Set it, and the put of `a`, which is under way when this returns, goes on."""
    hang = threading.Event()
    fault = s.faults.add("put", hang=hang, key="a", calls=[1])
    await reached(fault.reached)
    return hang


def writes(requests: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The requests that change something, and the questions that go with them."""
    return [(call, key) for call, key in requests if call not in ("read", "list", "list_tree")]
