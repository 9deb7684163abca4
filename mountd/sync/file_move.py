"""A file that was only renamed is moved by the remote, where that can (`Capabilities.moves_files`).

The file keeps there what it is: its id, and what hangs on that. In the ledger it is two changes,
one at the new key made from the version at the old one, and the removal there; both land together.
While that is under way nothing else goes to or comes from the old key. An answer that was lost is
settled by a look at both keys, and until then nothing goes to or from either of them. What can't
go this way goes as any copy.
"""

import logging
from collections.abc import Awaitable, Callable, Container
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from enum import Enum, auto
from typing import Final

import trio

from mountd.errors import (
    Denied,
    Locked,
    NameNotAllowed,
    NotFound,
    QuotaExceeded,
    RemoteError,
    SignInRefused,
    Throttled,
    Unreachable,
    Unsupported,
)
from mountd.remotes.base import RemoteStore
from mountd.remotes.optional_doors import move_file_in
from mountd.sync.attempts import Asker
from mountd.sync.base import QueueView, SyncJournal
from mountd.sync.landing import with_base
from mountd.sync.moved import moved_there
from mountd.sync.open_moves import Move, OpenMoves
from mountd.types import Entry, Kind
from mountd_cache.changes import ABSENT, Base, Change, ChangeKind, ChangeState

log = logging.getLogger(__name__)

_MAX_BACKOFF_S: Final = 60.0
_MOST_LATE: Final = 1024
_REFUSALS: Final = (Unsupported, Denied, NameNotAllowed, QuotaExceeded)
_UNSURE: Final = (Unreachable, Throttled, Locked)

_MakeWay = Callable[[Change], Awaitable[None]]


class _Became(Enum):
    MOVED = auto()
    NOTHING = auto()  # all is as before
    OTHER = auto()  # somebody else has been there


class FileMoves:
    """Belongs to the loop's thread. Raises RemoteErrors, and OSError from the local disk."""

    def __init__(
        self,
        journal: SyncJournal,
        asker: Asker,
        view: QueueView,
        open_moves: OpenMoves,
        in_flight: Container[str],
        holding: Callable[..., AbstractContextManager[None]],
        *,
        wall_clock: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._ledger = journal.ledger
        self._asker = asker
        self._store = asker.store
        self._doubts = asker.doubts
        self._view = view
        self._open = open_moves
        self._in_flight = in_flight
        self._holding = holding
        self._wall_clock = wall_clock
        self._over = {(move.source, move.version): trio.Event() for move in open_moves.all()}
        self._late: list[Move] = []  # without an answer, and not done so far
        self._nursery: trio.Nursery | None = None

    def begin(self, nursery: trio.Nursery) -> None:
        """Before anything is sent: what a former process had under way is looked at."""
        self._nursery = nursery
        for move in self._open.all():
            if self._is_open_still(move):
                self._settle_later(move)
            else:
                self._open.close(move)
                self._is_over(move, self._over[move.source, move.version])

    def _is_open_still(self, move: Move) -> bool:
        """Of one that was noted before a power cut. That may have taken that it was settled, and
        what is done with its names since is no part of it: a look at both would seem to tell that
        a file which was moved, known to a listing alone by now, is to be removed again."""
        changes = self._ledger.changes
        left, made = changes.get(move.source), changes.get(move.key)
        if left is not None and left.expect == move.version:
            return True
        if made is None or made.is_clean:
            return False
        content = self._ledger.content_of(made)
        return move.base in (made.base, content.base if content is not None else None)

    async def send(self, change: Change, make_way: _MakeWay) -> bool:
        """Whether the remote has it now; False: it is to be sent as any other. `make_way`: what
        has to be done before the old key is without that version."""
        gone = self._removal(change)
        if gone is None or change.base is None:
            return False
        move = Move.of(change, change.base, gone)
        with self._holding(move.source):
            await make_way(gone)
            if self._ledger.changes.get(change.key) is not change:
                return False
            if self._removal(change) is not gone:
                return False
            over = self._over[move.source, move.version] = trio.Event()
            try:
                return await self._send(move)
            finally:
                if self._open.is_open(move):
                    self._settle_later(move)
                else:
                    self._is_over(move, over)

    async def find(self, base: Base) -> bool:
        """Whether what was made from `base` is made from another key now, because it was moved
        there; waits where that is under way."""
        over = self._over.get((base.key, base.version))
        if over is not None:
            await over.wait()
            return True
        at = base.key, base.version
        for move in [late for late in self._late if (late.source, late.version) == at]:
            if await self._became(move) is not _Became.MOVED:
                continue
            if move in self._late:  # nobody has settled it meanwhile
                self._land(move, move.version)
            return True
        return False

    def is_at(self, *below: str) -> bool:
        """Whether one is under way to or from these directories or what is below them."""
        ends = (end for move in self._open.all() for end in (move.source, move.key))
        return any(end.startswith(below) for end in ends)

    def _removal(self, change: Change) -> Change | None:
        """The removal at the old key of a file that was renamed and nothing else, where nobody
        else needs what is there, and nothing is believed to be at the new one."""
        base = change.base
        if base is None or change.content or change.conflict or change.expect != ABSENT:
            return None
        if not self._store.capabilities.moves_files or base.key == change.key:
            return None
        gone = self._ledger.changes.get(base.key)
        if gone is None or gone.kind is not ChangeKind.GONE_FILE or gone.key in self._in_flight:
            return None
        is_it = (gone.expect, gone.number) == (base.version, change.number)
        if not is_it or gone.state is not ChangeState.PENDING or base.version == ABSENT:
            return None
        if self._ledger.depends.get(base.key) != {change.key}:
            return None
        return None if self._doubts.attempts(change.key) else gone

    async def _send(self, move: Move) -> bool:
        self._open.put(move)
        try:
            entry = await self._asker.call(
                move_file_in, self._store, move.source, move.version, move.key
            )
        except SignInRefused:
            self._open.close(move)
            raise
        except _REFUSALS as error:
            log.debug("%r is not moved but copied: %s", move.source, error)
            self._open.close(move)
            return False
        except RemoteError as error:
            return await self._after(move, error)
        self._land(move, entry.version)
        return True

    async def _after(self, move: Move, error: RemoteError) -> bool:
        """An error that doesn't say what is there now."""
        became = await self._became(move)
        if became is _Became.MOVED:
            self._land(move, move.version)
            return True
        self._may_come(move)
        self._open.close(move)
        if became is _Became.NOTHING and isinstance(error, _UNSURE):
            raise error
        return False

    async def _became(self, move: Move) -> _Became:
        there, left = await self._asker.call(_both, self._store, move)
        if there == move.version and left != move.version:
            if left != ABSENT:
                self._view.foreign(move.source)
            return _Became.MOVED
        is_nothing = (there, left) == (ABSENT, move.version)
        return _Became.NOTHING if is_nothing else _Became.OTHER

    def _land(self, move: Move, version: str) -> None:
        """Into the journal, synchronously. OSError: nothing has changed, and it stays open."""
        old, new = move.base, Base(move.key, version, move.size)
        rows = moved_there(self._ledger, move, version, self._wall_clock())
        nameless = tuple(with_base(content, new) for content in self._view.nameless_over(old))
        self._journal.commit(replace(rows, contents=rows.contents + nameless), reserve=True)
        self._open.close(move)
        self._late = [late for late in self._late if late.base != old]
        self._view.moved(old, new)
        for key in (move.source, move.key):
            self._doubts.clear(key)
            now = self._ledger.changes.get(key)
            if now is not None and now.is_clean:
                self._view.sent(now)

    def _settle_later(self, move: Move) -> None:
        assert self._nursery is not None
        self._over.setdefault((move.source, move.version), trio.Event())
        held = ExitStack()
        held.enter_context(self._holding(move.source, move.key))  # before the next look
        self._nursery.start_soon(self._settle, move, held)

    async def _settle(self, move: Move, held: ExitStack) -> None:
        with held:
            delay_s = 1.0
            while self._open.is_open(move):
                try:
                    became = await self._became(move)
                    if became is _Became.MOVED:
                        self._land(move, move.version)
                    else:
                        self._may_come(move)
                        self._open.close(move)
                except Exception as error:  # must not end the queue
                    log.debug("what became of %r is not known yet: %s", move.source, error)
                    if isinstance(error, Denied) and not isinstance(error, SignInRefused):
                        # Who sends to either name is told so, and a base that is gone looked for.
                        self._may_come(move)
                        self._open.close(move)
                        break
                    await trio.sleep(delay_s)
                    delay_s = min(2 * delay_s, _MAX_BACKOFF_S)
            self._is_over(move, self._over[move.source, move.version])

    def _is_over(self, move: Move, over: trio.Event) -> None:
        self._over.pop((move.source, move.version), None)
        over.set()

    def _may_come(self, move: Move) -> None:
        others = [late for late in self._late if (late.base, late.key) != (move.base, move.key)]
        self._late = [*others[1 - _MOST_LATE :], move]


def _both(store: RemoteStore, move: Move) -> tuple[str, str]:
    """The versions at the new key and at the old one. The new one first: what comes between these
    two looks is seen at the old one."""
    return _version_at(store, move.key), _version_at(store, move.source)


def _version_at(store: RemoteStore, key: str) -> str:
    try:
        found: Entry = store.identify(key).entry
    except NotFound:
        return ABSENT
    return found.version if found.kind is Kind.FILE else "/"
