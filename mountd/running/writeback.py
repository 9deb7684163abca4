"""What the write side runs as long as the mount lives: journal, queue, folding, draining."""

import contextlib
import logging
import os
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Protocol

import trio

from mountd.config import Settings
from mountd.errors import StartError
from mountd.logs import Blotter, secrets_of
from mountd.remotes.health import HealthState
from mountd.remotes.stack import RemoteStack
from mountd.repeated_warnings import GoesOn
from mountd.sync.base import QueueItem
from mountd.sync.giving_way import GivingWay
from mountd.sync.open_moves import OpenMoves
from mountd.sync.queue import SyncQueue
from mountd.sync.unfinished import UnfinishedUploads
from mountd.vfs.filesystem import FileSystem
from mountd_cache.changes import ChangeState
from mountd_cache.journal import Journal

log = logging.getLogger(__name__)

CHECKPOINT_EVERY_S = 5.0
TELL_EVERY_S = 10.0
HURRY_EVERY_S = 1.0
MAX_REASONS = 5
_MOST_LOOKED_AT = 100
UP = frozenset((HealthState.OK, HealthState.DEGRADED))
KINDS = {"delete": "deleted", "rmdir": "deleted directory"}


class Hurry(Protocol):
    """`mountd.running.upkeep.Prober.hurry`."""

    def __call__(self, *, is_first: bool) -> None: ...


def _nobody_hurries(*, is_first: bool) -> None:
    pass


class WriteBack:
    """The queue of one mount and what keeps it durable. `run` owns its tasks."""

    def __init__(
        self,
        journal: Journal,
        fs: FileSystem,
        remote: RemoteStack,
        settings: Settings,
        unfinished: UnfinishedUploads | None = None,
        open_moves: OpenMoves | None = None,
    ) -> None:
        self._journal = journal
        self._fs = fs
        self._read_only = settings.read_only
        self._health = remote.health.snapshot
        self._blot = Blotter(secrets_of(settings))
        self.queue = SyncQueue(
            journal,
            remote.store,
            fs.queue_view,
            write_back_s=settings.write_back_s,
            max_transfers=settings.max_transfers,
            small_at_once=remote.most_small_uploads,
            small_now=remote.small_uploads,
            remote_is_well=lambda: remote.health.state in UP,
            landing=fs.queue_view.landing,
            pressed=lambda: fs.writes.room.is_pressed,
            spare=fs.last_readers.spare,
            unfinished=unfinished,
            open_moves=open_moves,
            giving_way=GivingWay(
                lambda: fs.writes.opens,
                lambda: fs.writes.room.is_little,
                write_back_s=settings.write_back_s,
            ),
        )
        self.hurry: Hurry = _nobody_hurries
        fs.writes.queue = self.queue
        fs.state_of = self.queue.state_of

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. A read-only mount sends nothing, and shows what waits."""
        async with trio.open_nursery() as nursery:
            if not self._read_only:
                await nursery.start(self.queue.run)
            nursery.start_soon(self._fold)
            nursery.start_soon(self._checkpoint)
            task_status.started()

    async def _fold(self) -> None:
        while True:
            try:
                await self._fs.folding.run()
            except Exception:
                log.exception("folding failed in an unforeseen way; it is begun again")
                await trio.sleep(1)

    async def _checkpoint(self) -> None:
        """Puts the log into the database. What fails is tried again: the log has it all. A line
        for each reason, and one when it goes again."""
        going = GoesOn(
            log,
            "the journal's database could not be written: %s",
            "the journal's database is written again",
        )
        while True:
            await trio.sleep(CHECKPOINT_EVERY_S)
            try:
                if await self._checkpointed():
                    going.worked()
            except OSError as exc:
                going.failed(exc)
                # The disk may be full, and of what was sent.
                with contextlib.suppress(OSError):
                    await self._fs.writes.room.give_back()
            except Exception as exc:
                going.failed(exc)

    async def _checkpointed(self) -> bool:
        """Whether there was something to write."""
        checkpoint = self._journal.begin_checkpoint()
        if checkpoint is None:
            return False
        # Not to be abandoned: one thread at a time may have the database.
        await trio.to_thread.run_sync(self._journal.write_checkpoint, checkpoint)
        self._journal.end_checkpoint(checkpoint)
        return True

    # -- going down

    @property
    def left(self) -> int:
        """How many changes are not on the remote."""
        counts = self.queue.counts()
        return counts.pending + counts.uploading + counts.failed

    async def drain(self, timeout_s: float) -> None:
        """Waits until everything is on the remote, or what is left was refused; tells how far it
        is."""
        if self._read_only:
            return
        until_s = trio.current_time() + timeout_s
        is_first = True
        while True:
            left_s = until_s - trio.current_time()
            round_s = max(0.0, min(left_s, TELL_EVERY_S))
            left = await self._drained("", round_s, is_first=is_first)
            is_first = False
            counts = self.queue.counts()
            if not left or not counts.pending + counts.uploading or left_s <= TELL_EVERY_S:
                return
            log.info("%d changes (%d bytes) are not on the remote yet", left, counts.bytes)

    async def _drained(
        self, below: str, timeout_s: float, began: int | None = None, *, is_first: bool
    ) -> int:
        """`SyncQueue.drain`; a remote that is away is looked at again and again meanwhile."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hurry, is_first)
            left = await self.queue.drain(below, timeout_s, began=began)
            nursery.cancel_scope.cancel()
        return left

    async def _hurry(self, is_first: bool) -> None:
        while True:
            self.hurry(is_first=is_first)
            is_first = False
            await trio.sleep(HURRY_EVERY_S)

    # -- what is asked through the control socket

    async def on_flush(self, request: dict[str, Any]) -> dict[str, Any]:
        path, timeout_s = request.get("path"), request.get("timeout_s")
        if path is not None and not isinstance(path, str):
            raise StartError('flush needs a "path"')
        below = self._fs.key_of_path(os.fsencode(path)) if path else ""
        wait_s = float(timeout_s) if isinstance(timeout_s, int | float) else 2.0
        since = request.get("since")
        began = since if isinstance(since, int) else self._journal.next_sequence()
        left = self.left
        if not self._read_only:
            is_first = not isinstance(since, int)
            left = await self._drained(below, wait_s, began, is_first=is_first)
        changes = self._journal.ledger.unsent()
        failed = [c for c in changes if c.state is ChangeState.FAILED and _is_at(c.key, below)]
        reasons = [self._blot(change.reason) for change in failed[:MAX_REASONS]]
        if left and not failed:
            reasons = self._what_waits_for(below)
        size = self.queue.counts().bytes
        return {
            **{"left": left, "failed": len(failed), "reasons": reasons},
            **{"bytes": size, "since": began},
        }

    async def on_queue(self, request: dict[str, Any]) -> dict[str, Any]:
        asked = request.get("limit")
        limit = max(0, asked) if isinstance(asked, int) else None
        down = self._why_nothing_goes()
        items = [
            {
                "path": item.key,
                "kind": KINDS.get(item.kind, item.kind),
                "state": item.state,
                "size": item.size,
                "reason": self._blot(self._reason(item, down)),
                "attempts": item.attempts,
                "next_try_s": item.next_try_s,
                "age_s": max(0.0, (time.time_ns() - item.since_ns) / 1e9),
                "conflict_of": item.conflict or None,
            }
            for item in self.queue.items(limit)
        ]
        kept = [
            {"path": change.key, "conflict_of": change.conflict}
            for change in self._journal.ledger.changes.values()
            if change.conflict and change.is_clean
        ]
        total = sum(1 for _ in self._journal.ledger.unsent())
        return {"items": items, "total": total, "counts": self.counts(), "conflicts": kept}

    def _why_nothing_goes(self) -> str:
        """What keeps the whole queue; "" for nothing."""
        if self._read_only:
            return "this mount is read_only, and sends nothing"
        found = self._health()
        if found.state in UP:
            return ""
        return f"the remote is {found.state} since {found.since}: {found.last_error}"

    def _what_waits_for(self, below: str) -> list[str]:
        """What the oldest that waits at `below` waits for; empty where all just takes its time."""
        down = self._why_nothing_goes()
        oldest = (item for item in self.queue.items(_MOST_LOOKED_AT) if _is_at(item.key, below))
        said = (self._reason(item, down) for item in oldest)
        return [self._blot(reason) for reason in said if reason][:1]

    def _reason(self, item: QueueItem, down: str) -> str:
        """Why it is not on the remote; "" where it goes just now or soon."""
        reasons = [f"copy of {item.conflict}, which changed on the remote"] if item.conflict else []
        if item.reason:
            reasons.append(item.reason)
        elif item.state != "uploading":
            change = self._journal.ledger.changes.get(item.key)
            if down:
                reasons.append(down)
            elif change is not None and self._fs.queue_view.is_open_for_writing(change.number):
                reasons.append("open for writing")
        return "; ".join(reasons)

    async def on_retry(self, request: dict[str, Any]) -> dict[str, Any]:
        path, counts = request.get("path"), self.queue.counts()
        self.hurry(is_first=True)
        if not isinstance(path, str):
            self.queue.retry()
            return {"retried": counts.pending + counts.failed}
        try:
            self.queue.retry(self._fs.key_of_path(os.fsencode(path)))
        except KeyError:
            return {"retried": 0}
        return {"retried": 1}

    async def on_discard(self, request: dict[str, Any]) -> dict[str, Any]:
        path = request.get("path")
        if not isinstance(path, str):
            raise StartError('discard needs a "path"')
        try:
            self.queue.discard(self._fs.key_of_path(os.fsencode(path)))
        except KeyError:
            return {"discarded": False, "reason": "nothing of it waits in the queue"}
        except (ValueError, OSError) as exc:
            return {"discarded": False, "reason": str(exc)}
        return {"discarded": True, "reason": ""}

    def counts(self) -> dict[str, Any]:
        """The `queue` of the status."""
        return asdict(self.queue.counts())

    def taking(self) -> dict[str, Any]:
        """`remote.writes` of the status."""
        found = self.queue.taking
        since = datetime.fromtimestamp(found.since_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "state": found.state.value,
            "since": since if found.since_ns else None,
            "reason": self._blot(found.reason) if found.reason else None,
        }


def _is_at(key: str, below: str) -> bool:
    return key == below or not below or key.startswith(below.rstrip("/") + "/")
