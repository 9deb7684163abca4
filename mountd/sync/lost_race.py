"""When the remote has moved on: both versions stay, and the user is told."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from mountd.remotes.base import Capabilities
from mountd.sync.base import THERE, QueueView, SyncJournal
from mountd.sync.conflict import (
    BASE_GONE,
    NO_NAME,
    WHAT_TO_DO,
    conflict_name,
    moved_aside,
    needs_base,
)
from mountd.types import Entry, Kind
from mountd.vfs.names import shown_names
from mountd.vfs.overlay import is_change_of_link
from mountd_cache.changes import Base, Change, ChangeKind, ChangeState, Rows

log = logging.getLogger(__name__)


class LostRaces:
    """Synchronous. What it does is one commit, which may raise OSError: then nothing has changed,
    and the same will be found out again."""

    def __init__(
        self,
        journal: SyncJournal,
        view: QueueView,
        *,
        host: str,
        wall_clock: Callable[[], int],
        capabilities: Callable[[], Capabilities],
    ) -> None:
        self._capabilities = capabilities
        self._journal = journal
        self._view = view
        self._host = host
        self._wall_clock = wall_clock

    def conflict(self, change: Change) -> None:
        """Something else is where `change` was to go."""
        now = self._still(change)
        if now is None:
            return
        content = self._journal.ledger.content_of(now)
        is_bare = content is None and now.base is None
        if content is not None and content.base is not None and content.base.key == now.key:
            is_bare = content.rest_adds_nothing(0)
        if is_bare:
            self.give_up(now, "it changed on the remote, and its new attributes are dropped")
            return
        base = content.base if content is not None else None
        if content and base and base.key == now.key and needs_base(content):
            self.base_gone(now.key, base)
            return
        name = self._name(now)
        if name is None:
            failed = replace(now, state=ChangeState.FAILED, reason=NO_NAME)
            self._journal.commit(Rows(changes=(failed,)), reserve=True)
            log.warning("%r can't be sent: %s", now.key, NO_NAME)
            return
        shown = self._shown(now, name)
        rows, ours = moved_aside(now, name, shown)
        self._journal.commit(rows, reserve=True)
        log.warning("conflict: %r changed on the remote; ours becomes %r", now.key, ours.key)
        self._view.foreign(now.key)

    def needs_its_base(self, change: Change) -> bool:
        """Whether a conflict copy of it would need bytes that only the version had which was at
        its own key."""
        now = self._still(change)
        content = self._journal.ledger.content_of(now) if now is not None else None
        if content is None or content.base is None or content.base.key != change.key:
            return False
        return needs_base(content) and not content.rest_adds_nothing(0)

    def base_gone(self, key: str, base: Base) -> None:
        """The bytes that the change at `key` is made from are no longer on the remote."""
        ledger = self._journal.ledger
        now = ledger.changes.get(key)
        if now is None or now.is_clean or now.is_gone:
            return
        content = ledger.content_of(now)
        if base != (content.base if content is not None else now.base):
            return
        reason = f"{BASE_GONE} ({base.key}, version {base.version}); {WHAT_TO_DO}"
        failed = replace(now, state=ChangeState.FAILED, reason=reason)
        # A tombstone for exactly that version has nothing to remove any more.
        gone = ledger.changes.get(base.key)
        is_tombstone = gone is not None and gone.kind is ChangeKind.GONE_FILE and not gone.is_clean
        is_void = is_tombstone and gone is not None and gone.expect == base.version
        forget = (base.key,) if is_void else ()
        self._journal.commit(Rows(changes=(failed,), forget=forget), reserve=True)
        log.warning("%r can't be sent: %s", now.key, failed.reason)
        if is_void:
            self._view.foreign(base.key)

    def give_up(self, change: Change, what: str) -> None:
        """The remote keeps what it has at that key, and the change is forgotten."""
        now = self._still(change)
        if now is None:
            return
        drop = (now.content,) if now.content else ()
        there = self._with_new_number(now) if now.kind is ChangeKind.GONE_DIRECTORY else None
        rows = Rows(forget=(now.key,), drop=drop) if there is None else Rows(changes=(there,))
        self._journal.commit(rows, reserve=True)
        log.warning("%r: %s", now.key, what)
        self._view.foreign(now.key)
        if there is not None:
            self._view.sent(there)

    def _with_new_number(self, gone: Change) -> Change:
        """The directory that is still there. A listing on disk may have it with the inode that has
        moved away, and for a directory no later listing would tell the two apart: so its new number
        is in the journal until it is in the listing."""
        return replace(
            gone,
            kind=ChangeKind.DIRECTORY,
            number=self._view.new_number(),
            expect=THERE,
            state=ChangeState.CLEAN,
            reason="",
        )

    def _still(self, change: Change) -> Change | None:
        """The change at that key if it still asks for what was tried."""
        now = self._journal.ledger.changes.get(change.key)
        if now is None or now.is_clean or now.kind is not change.kind:
            return None
        alike = now.content == change.content and now.base == change.base
        return now if alike and now.expect == change.expect else None

    def _name(self, change: Change) -> str | None:
        first = change.conflict or change.key
        taken = self._view.shown_names(change.directory)

        def is_taken(name: str) -> bool:
            is_waiting = change.directory + name in self._journal.ledger.changes
            return is_waiting or self._shown(change, name) in taken

        when = datetime.fromtimestamp(self._wall_clock() / 1e9)
        name = first.rpartition("/")[2]
        return conflict_name(
            name, self._host, when, is_taken, lambda made: self._fits(change.directory, made)
        )

    def _fits(self, directory: str, name: str) -> bool:
        able = self._capabilities()
        limit, rules = able.key_limit, able.name_rules
        if rules is not None and len(name.encode("utf-8", "surrogatepass")) > rules.max_bytes:
            return False
        return limit is None or limit.allows(directory + name)

    def _shown(self, change: Change, name: str) -> bytes:
        entry = Entry(name, Kind.FILE, int(is_change_of_link(change)), 0, "")
        return shown_names([entry], at_root=not change.directory).names[0]
