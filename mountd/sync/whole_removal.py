"""Which removed directories go by one request, with all that was removed below them.

`rm -r` leaves a change for each file and directory. On a remote that can remove a tree whose every
entry is told beforehand (`Capabilities.removes_trees`), these go together: the topmost directory
that is not too large and of which nothing else is to be said. What the remote won't have, for
whatever reason, goes one by one as elsewhere; so nothing here has to succeed.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from enum import Enum, auto
from typing import Final

from mountd.errors import Locked, NotFound, RemoteError, Throttled, Unreachable, Unsupported
from mountd.remotes.optional_doors import remove_tree_in
from mountd.sync.attempts import Asker
from mountd.sync.remote_names import NamespaceSender
from mountd.sync.retry import StillRead, Trouble
from mountd.sync.schedule import Schedule
from mountd_cache.changes import ABSENT, Change, ChangeKind, ChangeState
from mountd_cache.ledger import Ledger

log = logging.getLogger(__name__)

LEAST_CHANGES: Final = 3  # below it: fewer are as soon sent one by one
MOST_DIRECTORIES: Final = 200  # each is listed once more, one after another
MOST_CHANGES: Final = 5_000
_MOST_REFUSED: Final = 4096


class _Fate(Enum):
    ALONE = auto()  # its changes go one by one
    WAITS = auto()
    GOES = auto()


class WholeRemovals:
    """Belongs to the loop's thread."""

    def __init__(
        self,
        ledger: Ledger,
        asker: Asker,
        namespace: NamespaceSender,
        in_flight: Collection[str],
        troubles: Mapping[str, Trouble],
    ) -> None:
        self._ledger = ledger
        self._asker = asker
        self._namespace = namespace
        self._in_flight = in_flight
        self._troubles = troubles
        self._chosen: set[str] = set()
        self._refused: dict[str, int] = {}  # key -> the change's sequence

    def plan(self, schedule: Schedule) -> None:
        """Takes from what is ready what goes with a directory above it, or waits for that."""
        self._chosen.intersection_update(self._in_flight)
        if not self._asker.store.capabilities.removes_trees:
            return
        if not any(change.is_gone for change in schedule.ready):
            return
        tops = _Tops(self._ledger, self._may_be_top)
        fates: dict[str, _Fate] = {}
        kept: list[Change] = []
        for change in schedule.ready:
            top = tops.above(change) if change.is_gone else None
            if top is None:
                kept.append(change)
                continue
            if top.key not in fates:
                fates[top.key] = self._fate(top, schedule)
                if fates[top.key] is _Fate.GOES:
                    self._chosen.add(top.key)
                    schedule.whole.add(top.key)
                    kept.append(top)
            if fates[top.key] is _Fate.ALONE:
                kept.append(change)
        schedule.ready = kept

    async def send(self, change: Change, make_way: Callable[[Change], Awaitable[None]]) -> None:
        """Removes it with all that is below, or sees to it that this is not tried again.
        `make_way`: what has to be done before something is removed. Raises RemoteErrors."""
        try:
            below = self._below(change)
            if below is None:
                raise Unsupported("something else has come in meanwhile")
            for each in below:
                await make_way(each)
            if self._are_still((change, *below)):
                await self._remove(change, below)
        except (Unreachable, Throttled, Locked, TimeoutError, OSError):
            self._refuse(change)
            raise
        except (RemoteError, StillRead) as error:
            log.debug("what is in %r is removed one by one: %s", change.key, error)
            self._refuse(change)
        finally:
            self._chosen.discard(change.key)

    def is_chosen(self, change: Change) -> bool:
        """Whether it is to go by `send`."""
        return change.key in self._chosen

    def _are_still(self, removals: Sequence[Change]) -> bool:
        """Whether they are wanted as they were, and nothing else is done about them."""
        changes, top = self._ledger.changes, removals[0].key
        return all(
            changes.get(each.key) is each and (each.key == top or each.key not in self._in_flight)
            for each in removals
        )

    async def _remove(self, change: Change, below: list[Change]) -> None:
        inside = {
            each.key: each.expect if each.kind is ChangeKind.GONE_FILE else ""
            for each in below
            if each.expect != ABSENT
        }
        try:
            store = self._asker.store
            await self._asker.call(remove_tree_in, store, change.key, inside)
        except NotFound:
            pass  # somebody was faster, or it is the answer to our own request that was lost
        self._namespace.gone_whole(change, below)

    def _refuse(self, change: Change) -> None:
        if len(self._refused) >= _MOST_REFUSED:
            self._refused.clear()
        self._refused[change.key] = change.sequence

    def _may_be_top(self, change: Change) -> bool:
        return (
            change.state is ChangeState.PENDING
            and change.expect != ABSENT
            and change.key not in self._troubles
            and self._refused.get(change.key) != change.sequence
        )

    def _fate(self, top: Change, schedule: Schedule) -> _Fate:
        if top.key in self._in_flight:
            return _Fate.WAITS if top.key in self._chosen else _Fate.ALONE
        below = self._below(top)
        if below is None or len(below) < LEAST_CHANGES:
            return _Fate.ALONE
        due_s = schedule.due_in_s(top)
        if due_s > 0:
            schedule.look_again_s = min(schedule.look_again_s, due_s)
            return _Fate.WAITS
        if schedule.is_held(top) or any(each.key in self._in_flight for each in below):
            return _Fate.WAITS  # who holds it or brings that to its end wakes the queue
        return _Fate.GOES

    def _below(self, top: Change) -> list[Change] | None:
        """What is to be removed below it; None where there is anything else to be said of what is
        there."""
        found: list[Change] = []
        directories = [top.key]
        while directories:
            key = directories.pop()
            if self._ledger.shown.get(key):
                return None
            for change in self._ledger.gone.get(key, {}).values():
                if change.is_clean:
                    continue
                if not self._is_plain(change):
                    return None
                found.append(change)
                if change.kind is ChangeKind.GONE_DIRECTORY:
                    directories.append(change.key)
        return found

    def _is_plain(self, change: Change) -> bool:
        """Whether it is a removal like any other: nothing is built on what goes, nothing of ours
        may yet arrive there, and nobody has refused it."""
        return (
            change.state is ChangeState.PENDING
            and change.key not in self._troubles
            and not self._ledger.depends.get(change.key)
            and (change.expect != ABSENT or not self._asker.doubts.may_be_there(change))
        )


class _Tops:
    """For each removal the directory that it may go with: the topmost of those above it that were
    removed, too, and are not too large. For one look."""

    def __init__(self, ledger: Ledger, may_be: Callable[[Change], bool]) -> None:
        self._ledger = ledger
        self._may_be = may_be
        self._of: dict[str, Change | None] = {}
        self._sizes: dict[str, list[int]] = {}  # directories and all, below each removed directory
        for change in ledger.unsent():
            if change.is_gone:
                for above in self._chain(change.directory):
                    size = self._sizes.setdefault(above.key, [1, 1])
                    size[0] += change.kind is ChangeKind.GONE_DIRECTORY
                    size[1] += 1

    def above(self, change: Change) -> Change | None:
        directory = change.key if change.kind is ChangeKind.GONE_DIRECTORY else change.directory
        if directory not in self._of:
            fitting = [each for each in self._chain(directory) if self._fits(each)]
            self._of[directory] = fitting[-1] if fitting else None
        found = self._of[directory]
        return None if found is change else found

    def _chain(self, directory: str) -> list[Change]:
        """Removed directories, from this one upwards."""
        found: list[Change] = []
        while directory:
            change = self._ledger.changes.get(directory)
            if change is None or change.is_clean or change.kind is not ChangeKind.GONE_DIRECTORY:
                break
            found.append(change)
            directory = change.directory
        return found

    def _fits(self, change: Change) -> bool:
        directories, changes = self._sizes.get(change.key, [1, 1])
        is_small = directories <= MOST_DIRECTORIES and changes <= MOST_CHANGES
        return is_small and self._may_be(change)
