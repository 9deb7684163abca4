"""The queue that carries local changes to the remote.

The ledger is the queue: nothing here but backoffs and doubts, which a restart may forget. A look
at the whole ledger (schedule.py) takes microseconds for each change, so it is cut into pieces
between which the loop does other things, and takes a tenth of the time at most; what it found ready
is asked again before it goes.
"""

import contextlib
import logging
import math
import platform
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from mountd.errors import RemoteError
from mountd.origin import new as new_origin
from mountd.origin import origin
from mountd.remotes.base import RemoteStore
from mountd.remotes.optional_doors import prepare_changes_in
from mountd.sync.attempts import Asker, Doubts
from mountd.sync.base import NumberState, QueueCounts, QueueItem, QueueView, SyncJournal
from mountd.sync.bring_in import BringIn
from mountd.sync.by_hand import ByHand
from mountd.sync.call_threads import CallThreads
from mountd.sync.drain import Drain
from mountd.sync.failures import Failures
from mountd.sync.file_move import FileMoves
from mountd.sync.giving_way import POLL_S, GivingWay
from mountd.sync.lanes import Lanes
from mountd.sync.leftovers import Leftovers
from mountd.sync.lost_race import LostRaces
from mountd.sync.open_moves import OpenMoves
from mountd.sync.remote_names import NamespaceSender
from mountd.sync.retry import StillRead
from mountd.sync.schedule import Moment, Schedule, touches
from mountd.sync.sending import BaseGone, Conflict, FileSender, Landing
from mountd.sync.taking import Taking
from mountd.sync.tally import KINDS, Tally
from mountd.sync.unfinished import UnfinishedUploads
from mountd.sync.uploader import Uploader
from mountd.sync.whole_removal import WholeRemovals
from mountd_cache.changes import Base, Change, ChangeKind

log = logging.getLogger(__name__)

_PIECE: Final = 100  # changes that are looked at between two checkpoints: 1 ms
_REST: Final = 9.0  # times the processor time of a look: stalls are no work
_LONG_REST: Final = 40.0  # while programs or uploads are to have the processor
_MORE_REST_S: Final = 1.0
_POLL_S: Final = 5.0  # while the remote is not well; who knows better calls `wake`
_LONG_UPLOAD_S: Final = 6.0  # others don't change when a file that is open is sent


_Act = Callable[[Change], Awaitable[None]]


class SyncQueue:
    """Public methods belong to the loop's thread; those that aren't coroutines don't wait.

    `run` cancelled: uploads go on in their threads until the process ends, and may land; the
    journal has them PENDING then, and their upload ids are recognised.
    """

    def __init__(
        self,
        journal: SyncJournal,
        store: RemoteStore,
        view: QueueView,
        *,
        write_back_s: float,
        max_transfers: int,
        small_at_once: int = 0,
        small_now: Callable[[], int] | None = None,
        wall_clock: Callable[[], int] = time.time_ns,
        remote_is_well: Callable[[], bool] = lambda: True,
        host: str | None = None,
        jitter: Callable[[], float] = random.random,
        landing: Landing = lambda change, body, depth, version: None,
        pressed: Callable[[], bool] = lambda: False,
        spare: Callable[[Change], Awaitable[bool]] | None = None,
        unfinished: UnfinishedUploads | None = None,
        open_moves: OpenMoves | None = None,
        giving_way: GivingWay | None = None,
    ) -> None:
        """`small_at_once`: how many may be under way when they are small, if that is more than
        `max_transfers`; `small_now`: how many of these by now. `pressed`: whether there is so
        little room left for staged bytes that nothing may wait; who makes it so calls `wake`.
        `spare`: awaited before a change is sent,
        False where what it replaces is still read. `unfinished`, `open_moves`: uploads and renames
        that former processes have begun. `giving_way`: None to send whatever programs do."""
        self._pressed = pressed
        self._spare = spare
        self._journal = journal
        self._ledger = journal.ledger
        self._view = view
        self._write_back_s = write_back_s
        self._wall_clock = wall_clock
        self._remote_is_well = remote_is_well
        self._store = store
        self._real_directories = store.capabilities.real_directories
        unfinished = unfinished if unfinished is not None else UnfinishedUploads()
        unfinished.arrivals.retain(self._is_behind)
        self._doubts = Doubts(journal.id, wall_clock(), unfinished.arrivals)
        self._lanes = Lanes(self._ledger, max_transfers, small_at_once, small_now)
        self._in_flight = self._lanes.in_flight
        self._threads = CallThreads(self._lanes.at_once)
        asker = Asker(store, self._doubts, self._threads)
        host = host or platform.node() or "host"
        self._lost = LostRaces(
            *(journal, view),
            host=host,
            wall_clock=wall_clock,
            capabilities=lambda: store.capabilities,
        )
        self._sender = FileSender(
            journal,
            asker,
            view,
            wall_clock=wall_clock,
            sent_content=self._content_sent,
            landing=landing,
            unfinished=unfinished,
        )
        self._uploader = Uploader(
            journal, asker, self._sender, unfinished=unfinished, believed=view.believed
        )
        self._leftovers = Leftovers(unfinished, journal, asker, self._uploader.landed)
        self._failures = Failures(
            journal,
            remote_is_well=remote_is_well,
            jitter=jitter,
            waiting=self.counts,
            wall_clock=wall_clock,
        )
        self._namespace = NamespaceSender(journal, asker, view, self._lost, wall_clock=wall_clock)
        self._whole = WholeRemovals(
            self._ledger, asker, self._namespace, self._in_flight, self._failures.troubles
        )
        self._bring_in = BringIn(journal, asker, view)
        self._held: list[str] = []
        self._moves = FileMoves(
            *(journal, asker, view, open_moves or OpenMoves(), self._in_flight, self.holding),
            wall_clock=wall_clock,
        )
        self._contents_in_flight: dict[int, str] = {}
        self._troubles = self._failures.troubles
        self._tally = Tally(self._ledger, self._in_flight, self._troubles)
        self._by_hand = ByHand(journal, view, self._in_flight, self._failures, self._doubts)
        self._sent: dict[int, int] = {}  # see Drain
        self._took_s: dict[int, float] = {}  # by inode, where it was long
        self._schedule: Schedule | None = None
        self._drains: list[Drain] = []
        self._urgent: set[str] = set()  # what must go before what somebody waits for
        self._woken = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._look_cost_s = 0.0
        self._is_prepared = False
        self._giving_way = giving_way
        self._is_asked = trio.Event()  # somebody waits for what is sent, or for a look

    # -- doors

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. No error ends it."""
        try:
            await self._run(task_status)
        finally:
            self._threads.rest()

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._moves.begin(nursery)
            task_status.started()
            while True:
                await self._give_way()
                self._woken = trio.Event()
                self._look_cost_s = 0.0
                try:
                    wait_s = await self._look()
                    until_s = trio.current_time() + wait_s
                    pause_s = _REST * self._look_cost_s
                    self._failures.no_fault()
                except Exception as error:  # must not end what carries the data away
                    # Not to be woken from that: what fails wakes us again at once.
                    pause_s = self._failures.fault(error)
                    until_s = 0.0
                await trio.sleep(pause_s)
                await self._rest_more()
                with trio.move_on_at(until_s):
                    await self._woken.wait()

    async def _rest_more(self) -> None:
        """While much is ready, a look finds little that would go next, and costs uploads the
        processor: a tenth of the loop's time, with 1,500 files."""
        self._is_asked = trio.Event()
        if self._lanes.is_well_filled and not self._drains:
            with trio.move_on_after(min((_LONG_REST - _REST) * self._look_cost_s, _MORE_REST_S)):
                await self._is_asked.wait()

    async def _give_way(self) -> None:
        """Looks cost processor time, too: in pieces, because programs may end at any moment."""
        until_s = trio.current_time() + (_LONG_REST - _REST) * self._look_cost_s
        while (at_once := self._at_once()) is not None:
            if at_once and (self._is_quiet() or trio.current_time() >= until_s):
                return
            self._is_asked = trio.Event()
            with trio.move_on_after(POLL_S):
                await self._is_asked.wait()

    def _at_once(self) -> int | None:
        """How many may be under way beside what programs do; None: as many as there is room for."""
        if self._giving_way is None or self._drains or self._pressed():
            return None
        return self._giving_way.at_once(trio.current_time())

    def _is_behind(self, key: str) -> bool:
        change = self._ledger.changes.get(key)
        return change is not None and not change.is_clean

    def _is_quiet(self) -> bool:
        return self._giving_way is not None and self._giving_way.is_quiet

    def wake(self) -> None:
        """Something has changed: the ledger, an open file, or the remote's health."""
        self._woken.set()

    async def drain(
        self, below: str = "", timeout_s: float | None = None, *, began: int | None = None
    ) -> int:
        """Sends what is at or below a key (a directory's ends with a slash; "" is everything), also
        what is open or would have waited. Returns when it is on the remote as it was when this was
        called, when only FAILED is left, or after `timeout_s`: how many are left, FAILED included.
        `began`: the journal's sequence when it was called first, by who asks again and again.
        """
        began = self._journal.next_sequence() if began is None else began
        drain = Drain(below, began, self._sent)
        self._drains.append(drain)
        self._is_asked.set()
        self.wake()
        try:
            with trio.move_on_after(math.inf if timeout_s is None else timeout_s):
                await drain.is_done.wait()
            return len(drain.left(self._ledger))
        finally:
            self._drains.remove(drain)

    @property
    def full(self) -> bool:
        """Whether there was no room for a put and none has succeeded since."""
        return self._failures.full

    @property
    def denied(self) -> bool:
        """Whether a put was refused by Denied and none has succeeded since."""
        return self._failures.denied

    @property
    def taking(self) -> Taking:
        """How the remote takes what is written."""
        return self._failures.takes.now

    def counts(self) -> QueueCounts:
        """See `Tally`."""
        return self._tally.counts(self._wall_clock())

    def items(self, limit: int | None = None) -> list[QueueItem]:
        """See `Tally`."""
        return self._tally.items(trio.current_time(), limit)

    def state_of(self, number: int) -> NumberState | None:
        """Of an inode; None where the remote has what is here."""
        return self._tally.state_of(number)

    def retry(self, key: str | None = None) -> None:
        """See `ByHand`."""
        self._by_hand.retry(key)
        if self._giving_way is not None:
            self._giving_way.hurry()
        self.wake()

    def discard(self, key: str) -> None:
        """See `ByHand`."""
        self._by_hand.discard(key)
        self.wake()

    async def find_base(self, key: str, base: Base) -> bool:
        """For a reader of the change at `key`: see `FileSender.find_base`. Raises RemoteErrors."""
        return await self._moves.find(base) or await self._sender.find_base(key, base)

    def is_sending(self, *below: str) -> bool:
        """See `mountd.vfs.writes.Queue`."""
        flights = self._in_flight.values()
        is_sent = any(touches(self._ledger, flight.change, below) for flight in flights)
        return is_sent or self._moves.is_at(*below)

    @contextmanager
    def holding(self, *below: str) -> Iterator[None]:
        """See `mountd.vfs.writes.Queue`."""
        self._held += below
        try:
            yield
        finally:
            for key in below:
                self._held.remove(key)
            self.wake()

    # -- what goes when

    async def _look(self) -> float:
        """One look at the ledger; starts what may go. Seconds until the next."""
        schedule = self._schedule = await self._looked()
        began_s = time.thread_time()
        self._failures.look(is_idle=not schedule.failed and not self._woken.is_set())
        self._failures.prune()
        self._prepare()
        is_more = self._look_at_drains(schedule)
        self._whole.plan(schedule)
        self._lanes.fill(schedule.ready)
        if not schedule.ready and not self._in_flight:
            self._threads.expect(schedule.soon if self._remote_is_well() else 0)
        for change in schedule.stage:
            is_free = self._lanes.has_room(change) and not schedule.is_held(change)
            if self._remote_is_well() and is_free:
                self._begin(change, self._bring_in.stage)
        self._start()
        if self._giving_way is not None and not self._lanes.is_waiting:
            self._giving_way.kept_up()
        sweep_s = self._sweep()
        self._look_cost_s += time.thread_time() - began_s
        if is_more:
            return 0.0
        if self._lanes.is_waiting and not self._in_flight and self._remote_is_well():
            return POLL_S  # programs came in between, and nothing that ends will wake us
        return min(schedule.look_again_s, sweep_s) if self._remote_is_well() else _POLL_S

    def _prepare(self) -> None:
        """While the first change waits, its questions are asked."""
        if self._is_prepared or self._nursery is None or not self._remote_is_well():
            return
        if any(True for _ in self._ledger.unsent()):
            self._is_prepared = True
            self._nursery.start_soon(self._ask_ahead)

    async def _ask_ahead(self) -> None:
        with contextlib.suppress(RemoteError, RuntimeError):  # the first change meets it again
            await self._threads.run(prepare_changes_in, self._store)

    def _sweep(self) -> float:
        """Seconds until unfinished uploads are to be looked at again."""
        in_flight = self._contents_in_flight, self._in_flight
        again_s = self._leftovers.look_again_s(*in_flight)
        if again_s <= 0 and self._remote_is_well() and self._nursery is not None:
            self._nursery.start_soon(self._end_leftovers)
            return math.inf
        return again_s

    async def _end_leftovers(self) -> None:
        await self._leftovers.sweep(self._contents_in_flight, self._in_flight)
        self.wake()

    async def _looked(self) -> Schedule:
        schedule = Schedule(self._ledger, self._moment())
        began_s = time.thread_time()
        for count, change in enumerate(list(self._ledger.unsent())):
            if count % _PIECE == _PIECE - 1:
                self._look_cost_s += time.thread_time() - began_s
                await trio.lowlevel.checkpoint()
                began_s = time.thread_time()
            if self._ledger.changes.get(change.key) is change:
                schedule.look_at(change)
        schedule.finish()
        self._look_cost_s += time.thread_time() - began_s
        return schedule

    def _moment(self) -> Moment:
        return Moment(
            now_ns=self._wall_clock(),
            now_s=trio.current_time(),
            write_back_s=self._write_back_s,
            real_directories=self._real_directories,
            in_flight=self._in_flight,
            contents_in_flight=self._contents_in_flight,
            troubles=self._troubles,
            is_open=self._view.is_open_for_writing,
            is_hurried=self._is_hurried,
            upload_took_s=lambda number: self._took_s.get(number, 0.0),
            is_pressed=self._pressed(),
            takes_deltas=self._store.capabilities.put_delta,
            held=self._held,
        )

    def _is_hurried(self, change: Change) -> bool:
        if change.key in self._urgent:
            return True
        return any(drain.wants(change) for drain in self._drains)

    def _look_at_drains(self, schedule: Schedule) -> bool:
        """Whether something has become urgent that was not."""
        urgent: set[str] = set()
        for drain in self._drains:
            urgent.update(drain.look(self._ledger, schedule))
        is_more = not urgent <= self._urgent
        self._urgent = urgent
        return is_more

    def _start(self) -> None:
        """Starts what is ready, as far as there is room."""
        if self._schedule is None or not self._remote_is_well():
            return
        at_once = self._at_once()
        while at_once is None or len(self._in_flight) < at_once:
            if not self._lanes.is_well_filled:
                self._is_asked.set()
            change = self._lanes.next()
            if change is None:
                return
            if self._schedule.may_go(change):
                self._begin(change, self._send)

    # -- one change

    def _begin(self, change: Change, act: _Act) -> None:
        assert self._nursery is not None
        self._lanes.begin(change)
        if change.content:
            self._contents_in_flight[change.content] = change.key
        self._nursery.start_soon(self._one, change, act)

    async def _one(self, change: Change, act: _Act) -> None:
        origin.set(new_origin(KINDS[change.kind], change.key))  # this task's, and no more than that
        try:
            await self._try(change, act)
        except Exception as error:
            self._failures.failed(change, error, may_refuse=act == self._send)
        else:
            self._failures.succeeded(change)
        finally:
            self._lanes.end(change)
            self._contents_in_flight.pop(change.content, None)
            self.wake()
        try:
            self._start()
        except Exception as error:  # would end `run`; the next look does the same
            self._failures.fault(error)

    async def _try(self, change: Change, act: _Act) -> None:
        try:
            await act(change)
        except Conflict:
            if self._lost.needs_its_base(change):
                await self._bring_in.from_cache(change.key, change.key)
            self._lost.conflict(change)
            self._doubts.clear(change.key)
        except BaseGone as gone:
            if await self.find_base(change.key, gone.base):
                return
            if not await self._bring_in.from_cache(change.key, gone.base.key):
                self._lost.base_gone(change.key, gone.base)

    async def _make_way(self, change: Change) -> None:
        if self._spare is not None and not await self._spare(change):
            raise StillRead("what it replaces is too large to be kept, and is still read")
        await self._leftovers.clear_way(change)

    async def _send(self, change: Change) -> None:
        if self._whole.is_chosen(change):
            await self._whole.send(change, self._make_way)
            return
        await self._make_way(change)
        if self._ledger.changes.get(change.key) is not change:
            return
        if change.kind is not ChangeKind.FILE:
            await self._namespace.send(change)
            return
        is_moved = await self._moves.send(change, self._make_way)
        if is_moved or self._ledger.changes.get(change.key) is not change:
            return
        began_s = trio.current_time()
        await self._uploader.send(change)
        self._failures.put_went(began_s)
        took_s = trio.current_time() - began_s
        if took_s > _LONG_UPLOAD_S:
            self._took_s[change.number] = took_s
        else:
            self._took_s.pop(change.number, None)

    def _content_sent(self, content: int, sequence: int) -> None:
        if content in self._ledger.contents:
            self._sent[content] = sequence
        if len(self._sent) > 2 * len(self._ledger.contents) + 100:
            gone = [id_ for id_ in self._sent if id_ not in self._ledger.contents]
            for id_ in gone:
                del self._sent[id_]
