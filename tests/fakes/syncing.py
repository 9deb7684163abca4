"""A running sync queue over fakes: what tests of mountd.sync drive."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from mountd.remotes.base import RemoteStore
from mountd.sync.base import SyncJournal
from mountd.sync.queue import SyncQueue
from tests.fakes.fault_store import FaultStore
from tests.fakes.local_tree import LocalTree
from tests.fakes.memory_journal import MemoryJournal

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
) -> AsyncIterator[Syncing]:
    faults = FaultStore(store, hang_limit_s=10.0)
    journal = journal or MemoryJournal()
    tree = LocalTree(journal, store, now_ns)
    is_well = threading.Event()
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
    )
    tree.wake = queue.wake
    async with trio.open_nursery() as nursery:
        await nursery.start(queue.run)
        yield Syncing(tree, faults, queue, journal, is_well)
        nursery.cancel_scope.cancel()


async def reached(event: threading.Event) -> None:
    """Until a call has met its fault."""
    assert await trio.to_thread.run_sync(event.wait, 5.0)
