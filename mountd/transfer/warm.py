"""Filling the cache once, on somebody's behalf: as long as they go on asking how far it is.

What is fetched or was here already is held while it goes on, so that the end does not push out the
beginning; afterwards it is what was used last, and may be evicted like anything else.
"""

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from mountd.errors import FileSystemError, NoEntry, RemoteError
from mountd.transfer.means import Means
from mountd.transfer.pinned_tree import PinnedTree, Totals

log = logging.getLogger(__name__)

LEASE_S: Final = 15.0  # without a question; then nobody wants it any more
_KEPT_ENDS_S: Final = 60.0  # how long a job that ended can be asked about
NAMED: Final = 20
MAX_JOBS: Final = 32


@dataclass(eq=False)
class Warming:
    """One job. `state`: "looking", "filling", "done", "refused" (it doesn't fit), "stopped".
    `errors`: why a path could not be begun or listed, by path."""

    trees: list[PinnedTree]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    state: str = "looking"
    reason: str = ""
    errors: dict[str, str] = field(default_factory=dict)
    begun_with: list[Totals] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        totals = self.begun_with or [tree.totals for tree in self.trees]
        progress = [tree.progress for tree in self.trees]
        failures = [pair for one in progress for pair in one.failures.items()]
        gave_up = next((one.gave_up for one in progress if one.gave_up), "")
        return {
            "state": self.state,
            "reason": self.reason or gave_up or None,
            "files": sum(one.files for one in totals),
            "bytes": sum(one.size_bytes for one in totals),
            "missing_bytes": sum(one.missing_bytes for one in totals),
            "no_room_bytes": sum(one.no_room_bytes for one in totals),
            "fetched_files": sum(one.files for one in progress),
            "fetched_bytes": sum(one.bytes for one in progress),
            "failed": sum(one.failed for one in progress) + len(self.errors),
            "failures": [*self.errors.items(), *failures][:NAMED],
        }


class Warmings:
    """All jobs of a mount. Of the loop."""

    def __init__(self, means: Means, *, lease_s: float = LEASE_S) -> None:
        self._lease_s = lease_s
        self._means = means
        self._jobs: dict[int, Warming] = {}
        self._leases: dict[int, float] = {}
        self._numbers = itertools.count(1)
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                await trio.sleep(min(1.0, self._lease_s))
                self._end_leases()

    def begin(self, paths: Sequence[bytes], *, is_leased: bool = True) -> int:
        """The job's number. One that is leased is stopped when `find` isn't called any more."""
        if self._nursery is None or len(self._jobs) >= MAX_JOBS:
            raise NoEntry("too many are at it already")
        number = next(self._numbers)
        job = self._jobs[number] = Warming([PinnedTree(self._means, path) for path in paths])
        self._leases[number] = trio.current_time() + (self._lease_s if is_leased else math.inf)
        self._nursery.start_soon(self._warm, job)
        return number

    def find(self, number: int) -> Warming | None:
        """A job, which goes on for a lease more."""
        job = self._jobs.get(number)
        if job is not None:
            until_s = trio.current_time() + self._lease_s
            self._leases[number] = max(self._leases[number], until_s)
        return job

    def stop(self, number: int) -> None:
        """Nothing more is begun for it."""
        job = self._jobs.get(number)
        if job is not None:
            job.scope.cancel()

    def _end_leases(self) -> None:
        now_s = trio.current_time()
        for number, until_s in list(self._leases.items()):
            if until_s >= now_s:
                continue
            job = self._jobs[number]
            if not job.ended.is_set():
                log.info("nobody asks any more for what is being warmed; it is stopped")
                job.scope.cancel()
                self._leases[number] = now_s + _KEPT_ENDS_S
            else:
                del self._jobs[number], self._leases[number]

    async def _warm(self, job: Warming) -> None:
        end = "stopped"
        try:
            with job.scope:
                end = await self._bring(job)
        except Exception as error:
            log.exception("warming failed in an unforeseen way")
            job.reason = f"a defect: {error}"
        finally:
            with trio.CancelScope(shield=True):
                for tree in job.trees:
                    await tree.release()
            job.state = end
            job.ended.set()

    async def _bring(self, job: Warming) -> str:
        """How it ended."""
        await self._look(job)
        job.begun_with = [tree.totals for tree in job.trees]
        if any(one.no_room_bytes for one in job.begun_with):
            return "refused"
        job.state = "filling"
        async with trio.open_nursery() as nursery:
            for tree in job.trees:
                nursery.start_soon(self._fill, tree)
        return "done"

    async def _look(self, job: Warming) -> None:
        for tree in list(job.trees):
            where = tree.path.decode("utf-8", "surrogateescape")
            try:
                if not await tree.look():
                    job.errors[where] = f"a part could not be listed: {tree.reason}"
            except (RemoteError, FileSystemError, OSError, TimeoutError) as error:
                is_absent = isinstance(error, NoEntry)
                job.errors[where] = "no such file" if is_absent else str(error)
                job.trees.remove(tree)
                await tree.release()

    async def _fill(self, tree: PinnedTree) -> None:
        await self._means.filler.fill(tree.missing(), tree.progress)
