"""Names that are made, moved and taken away: each is one record in the journal, then the reply.

Every operation first waits for the listings it needs, and then decides and commits in one step
without an await: whatever the ledger and the listings say then is what holds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from mountd.errors import (
    Exists,
    IsADirectory,
    NameNotAllowed,
    NameTooLong,
    NoEntry,
    NotADirectory,
    NotEmpty,
    NotPossible,
    Stale,
)
from mountd.remotes.base import KeyLimit, NameRules
from mountd.vfs import new_keys
from mountd.vfs.file_clock import file_time_ns
from mountd.vfs.files import OpenFiles
from mountd.vfs.listing_rows import version_in
from mountd.vfs.nodes import Directory, Node
from mountd.vfs.overlay import is_change_of_link, is_empty, is_hidden, key_of_row
from mountd.vfs.rights import Rights
from mountd.vfs.tree import Tree
from mountd.vfs.writes import Writes
from mountd_cache.changes import ABSENT, Base, Change, ChangeKind, ChangeState, Rows
from mountd_cache.listing import Listing
from mountd_cache.metadata_cache import CachedListing

# Directories have no version. That one is believed to be on the remote:
THERE: Final = "/"
NUMBERS_AT_ONCE: Final = 1024


@dataclass(frozen=True, slots=True)
class Found:
    """What the user sees under a name. `change` is None where it is as the listing says."""

    key: str
    name: bytes
    number: int
    is_directory: bool
    version: str
    size: int
    mtime_ns: int
    change: Change | None
    attributes: Mapping[str, str]
    is_link: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """`found` is None where a name was known to be free."""

    found: Found | None


class Namespace:
    """All changes of names. Coroutines may raise what `Tree` raises, Exists, NoEntry, NotEmpty,
    IsADirectory, NotADirectory, NameNotAllowed, and OSError from the local disk; cancelled, they
    have changed nothing or all."""

    def __init__(
        self,
        tree: Tree,
        files: OpenFiles,
        writes: Writes,
        *,
        keeps_empty_directories: bool,
        name_rules: Callable[[], NameRules | None] = lambda: None,
        key_limit: KeyLimit | None = None,
        wall_clock_ns: Callable[[], int] = file_time_ns,
    ) -> None:
        self._ask_name_rules = name_rules
        self._name_rules: NameRules | None = None
        self._key_limit = key_limit
        self.tree = tree
        self.ledger = tree.ledger
        self.rights = Rights(tree)
        self.writes = writes
        self.journal = writes.journal
        self._files = files
        self._keeps_empty_directories = keeps_empty_directories
        self._now_ns = wall_clock_ns
        self._next_number = self._last_number = 0

    # -- what is there

    async def listing(self, directory: Directory) -> CachedListing:
        return self.tree.fresh(directory) or await self.tree.listing(directory)

    def now(self, directory: Directory, cached: CachedListing) -> CachedListing:
        """What `cached` has become while something else was waited for: what was sent meanwhile is
        in there, and no longer in the ledger."""
        return self.tree.cache.get(directory.key) or cached

    def find(self, parent: Directory, cached: CachedListing, name: bytes) -> Found | None:
        """What the user sees under `name` now."""
        change = self.ledger.shown.get(parent.key, {}).get(name)
        if change is not None:
            return self.found(change)
        listing = cached.listing
        row = listing.find(name)
        if row < 0 or is_hidden(self.ledger, parent.key, listing, row):
            return None
        at = self.tree.known.of(listing.row(row))
        key, version = key_of_row(parent.key, listing, row), version_in(at.version)
        if at.is_dir:
            version = THERE
        return Found(
            *(key, name, at.ino, at.is_dir, version, at.size, at.mtime_ns, None),
            self.tree.known.carried(at),
            at.is_link,
        )

    def told(self, parent: Directory, name: bytes) -> Told | None:
        """What `name` is without a request: what the kernel has been told, which comes here with
        no more than the name. None where nothing is known."""
        cached = self.tree.cache.get(parent.key)
        if cached is not None:
            return Told(self.find(parent, cached, name))
        change = self.ledger.shown.get(parent.key, {}).get(name)
        return Told(self.found(change)) if change is not None else None

    def _as_told(self, told: Told | None, found: Found) -> Found | None:
        """What an operation takes away: `found`, unless others have put that where the kernel was
        `told` of something else, or of nothing, while a listing was waited for. Nobody here knows
        theirs, and the remote then finds that it has another version than the one meant."""
        if told is None or found.change is not None or self.tree.has_node(found.number):
            return found
        was = told.found
        if was is None:
            return None
        is_same = was.number == found.number or was.is_directory or not self.tree.holds(was.number)
        return found if is_same else replace(was, change=None)

    def found(self, change: Change) -> Found:
        size, mtime_ns = self.ledger.size_of(change), self.ledger.mtime_ns_of(change)
        return Found(
            *(change.key, change.name, change.number, change.is_directory),
            *(change.expect, size, mtime_ns, change),
            change.attributes,
            is_change_of_link(change),
        )

    def expected(self, parent: Directory, listing: Listing, name: bytes, key: str) -> str:
        """The version that the remote is believed to have at `key`."""
        change = self.ledger.changes.get(key)
        if change is not None:
            return change.expect
        row = listing.find(name)
        if row < 0 or key_of_row(parent.key, listing, row) != key:
            return ABSENT
        if name in self.ledger.shown.get(parent.key, ()):
            return ABSENT  # ours was seen in its place: nobody here knows that one
        return THERE if listing.is_dir(row) else version_in(listing.row(row).version)

    # -- making

    async def create(
        self, parent: Directory, name: bytes, attributes: Mapping[str, str]
    ) -> tuple[Node, Change]:
        """A new empty file, counted as one look-up."""
        cached = await self.listing(parent)
        if self.find(parent, cached, name) is not None:
            raise Exists(name)
        self.rights.check_make(parent, is_directory=False)
        key = self.key_of_file(parent, cached, name)
        before, now_ns = self.ledger.changes.get(key), self._now_ns()
        content = self.journal.new_content(None, 0, now_ns)
        change = Change(  # at once: each `replace` costs 5 us
            key=key,
            directory=parent.key,
            name=name,
            number=self.new_number(),
            kind=ChangeKind.FILE,
            expect=self.expected(parent, cached.listing, name, key),
            content=content.id,
            sequence=self.journal.next_sequence(),
            since_ns=before.since_ns if before and not before.is_clean else now_ns,
            changed_ns=now_ns,
            attributes=attributes,
        )
        self.writes.commit_new(content, Rows(changes=(change,), contents=(content,)))
        self.writes.queue.wake()
        return self.tree.remember_change(parent, change), change

    async def make_directory(
        self, parent: Directory, name: bytes, attributes: Mapping[str, str]
    ) -> tuple[Node, Change]:
        """A new empty directory, counted as one look-up."""
        cached = await self.listing(parent)
        if self.find(parent, cached, name) is not None:
            raise Exists(name)
        self.rights.check_make(parent, is_directory=True)
        key = self.key_of_directory(parent, cached, name)
        before, now_ns = self.ledger.changes.get(key), self._now_ns()
        change = Change(  # as in `create`
            key=key,
            directory=parent.key,
            name=name,
            number=self.new_number(),
            kind=ChangeKind.DIRECTORY,
            expect=self.expected(parent, cached.listing, name, key),
            mtime_ns=now_ns,
            sequence=self.journal.next_sequence(),
            since_ns=before.since_ns if before and not before.is_clean else now_ns,
            changed_ns=now_ns,
            attributes=attributes,
        )
        # Sent into one of that name, which others have moved or removed since.
        there = self.ledger.shown.get(key, {}).values()
        away = [c.key for c in there if c.is_clean and not c.content]
        self.commit(Rows(changes=(change,), forget=tuple(away)))
        self.tree.made(key)
        return self.tree.remember_change(parent, change), change

    # -- taking away

    async def unlink(self, parent: Directory, name: bytes) -> None:
        told, cached = None, self.tree.fresh(parent)
        if cached is None:
            told = self.told(parent, name)
            cached = await self.tree.listing(parent)
        found = self.find(parent, cached, name)
        if found is None:
            raise NoEntry(name)
        if found.is_directory:
            raise IsADirectory(name)
        self.rights.check_remove(parent, name, found.number)
        found = self._as_told(told, found) or found
        self._note_nameless(found)
        self.commit(self.keeping(parent, cached.listing, self.without(parent, found)))
        self._keep_if_open(found)

    async def remove_directory(self, parent: Directory, name: bytes) -> None:
        cached = await self.listing(parent)
        found = self.find(parent, cached, name)
        if found is None:
            raise NoEntry(name)
        if not found.is_directory:
            raise NotADirectory(name)
        await self.check_empty(parent, found)
        cached = self.now(parent, cached)
        now = self.find(parent, cached, name)
        if now is None or now.key != found.key:
            raise NoEntry(name)
        self._check_empty_now(found)
        self.rights.check_remove(parent, name, found.number)
        self.commit(self.keeping(parent, cached.listing, self.without(parent, found)))
        self.tree.removed(found.key)

    async def check_empty(self, parent: Directory, found: Found) -> None:
        """Raises NotEmpty unless the directory is known to be empty. Waits for its listing."""
        directory = self.tree.held_directory(found.key)
        if directory is None:
            directory = Directory(found.number, parent, -1, found.key)
        cached = await self.listing(directory)
        if not is_empty(self.ledger, found.key, cached.listing):
            raise NotEmpty(found.name)

    def _check_empty_now(self, found: Found) -> None:
        if self.ledger.shown.get(found.key):
            raise NotEmpty(found.name)

    def without(self, parent: Directory, found: Found) -> Rows:
        """What takes `found` away."""
        kind = ChangeKind.GONE_DIRECTORY if found.is_directory else ChangeKind.GONE_FILE
        change = replace(
            self._change(found.key, parent, found.name, found.number, kind), expect=found.version
        )
        content = found.change.content if found.change else 0
        drop = (content,) if content and not self._files.is_open(found.number) else ()
        return Rows(changes=(change,), drop=drop)

    def _note_nameless(self, found: Found) -> None:
        """Before its name goes: a successor's recovery drops contents that nobody names, and no
        listing has its inode any more."""
        self.tree.notes.nameless(found.number)
        if found.change and found.change.content and self._files.is_open(found.number):
            self._files.notes.unlinked(found.number, found.change.content)

    def _keep_if_open(self, found: Found) -> None:
        self.tree.unnamed(found.number)
        self._files.note(found.number)
        if found.change and found.change.content and self._files.is_open(found.number):
            self.writes.keep_unlinked(found.number, found.change.content)

    def keeping(self, directory: Directory, listing: Listing, rows: Rows) -> Rows:
        """`rows`, and where they leave a directory empty that exists only by its objects, its
        marker with them: a crash in between would lose the directory."""
        if directory.parent is None or self._keeps_empty_directories:
            return rows
        gone: set[str] = set()
        for change in rows.changes:
            if change.directory == directory.key:
                if not change.is_gone:
                    return rows
                gone.add(change.key)
        if not gone or not is_empty(self.ledger, directory.key, listing, gone):
            return rows
        own = self.ledger.changes.get(directory.key)
        if own is not None and not own.is_clean:
            return rows
        if own is None:
            try:
                cached, row = self.tree.locate(directory)
            except Stale:
                return rows  # it is gone itself
            name = cached.listing.name(row)
            kind = ChangeKind.DIRECTORY
            own = self._change(directory.key, directory.parent, name, directory.number, kind)
        sequence = self.journal.next_sequence()
        own = replace(own, state=ChangeState.PENDING, sequence=sequence, expect=THERE)
        return replace(rows, changes=(*rows.changes, own))

    # -- moving

    async def rename(
        self,
        from_parent: Directory,
        from_name: bytes,
        to_parent: Directory,
        to_name: bytes,
        *,
        replaces: bool = True,
        told: Told | None = None,
    ) -> Found:
        """Moves a file; a directory is subtree.py's, which calls this with its rows. Returns what
        was moved, as it was. `told`: of its new name, when this was asked for."""
        from_cached = await self.listing(from_parent)
        to_cached = await self.listing(to_parent)
        from_cached = self.now(from_parent, from_cached)
        source = self.find(from_parent, from_cached, from_name)
        if source is None:
            raise NoEntry(from_name)
        if source.is_directory:
            raise IsADirectory(from_name)
        target = self.find(to_parent, to_cached, to_name)
        if target is not None:
            if not replaces:
                raise Exists(to_name)
            if target.key == source.key:
                return source
            if target.is_directory:
                raise IsADirectory(to_name)
            self.rights.check_replace(to_parent, to_name, target.number)
        self.rights.check_rename(from_parent, from_name, source.number, to_parent)
        key = self.key_of_file(to_parent, to_cached, to_name, is_link=source.is_link)
        expect = self.expected(to_parent, to_cached.listing, to_name, key)
        if target is not None and target.key != key and target.is_link == source.is_link:
            raise NotPossible(to_name)  # the suffixed name of a file beside a directory
        if target is not None and (was := self._as_told(told, target)) is not target:
            target, expect = was, was.version if was and was.key == key else ABSENT
        moved, away = self.moved(source, from_parent, key, to_parent, to_name, expect)
        replaced = self.without(to_parent, target) if target is not None else Rows()
        if target is not None and target.key != key:  # a link and a file have two keys
            away = (*away, *replaced.changes)
        rows = Rows(changes=(moved, *away), drop=replaced.drop)
        if target is not None:
            self._note_nameless(target)
        self.tree.notes.owes_times(source.number)
        self.commit(self.keeping(from_parent, from_cached.listing, rows))
        if target is not None:
            self._keep_if_open(target)
        self.tree.moved(source.number, to_parent, source.key, key)
        return source

    def moved(
        self,
        source: Found,
        from_parent: Directory,
        key: str,
        to_parent: Directory,
        name: bytes,
        expect: str,
    ) -> tuple[Change, tuple[Change, ...]]:
        """A file's change at its new key, and what is left at the old one."""
        made = replace(
            self._change(key, to_parent, name, source.number, ChangeKind.FILE),
            expect=expect,
            size=source.size,
            mtime_ns=source.mtime_ns,
            attributes=source.attributes,
        )
        change = source.change
        if change is not None:
            made = self.as_lost_as(change, made)
        if not made.content:
            base = change.base if change is not None and change.base else None
            base = base or Base(source.key, source.version, source.size)
            made = made_from(base, made, self.ledger.changes.get(key))
        return made, (self.left_behind(source, from_parent.key),)

    def left_behind(self, source: Found, directory: str) -> Change:
        """What is at the key that a file or directory was renamed from."""
        kind = ChangeKind.GONE_DIRECTORY if source.is_directory else ChangeKind.GONE_FILE
        gone = self.change_at(source.key, directory, source.name, source.number, kind)
        gone = replace(gone, expect=source.version)
        if source.change is None or source.change.is_clean:
            # As the remote has them: see `made_from`.
            gone = replace(gone, mtime_ns=source.mtime_ns, attributes=source.attributes)
        return gone

    def as_lost_as(self, change: Change, made: Change) -> Change:
        """`made` with the content of `change`. Where a power cut took that it can't be sent."""
        if self.writes.is_lost(change):
            made = replace(made, state=ChangeState.FAILED, reason=change.reason)
        return replace(made, content=change.content)

    # -- common

    def commit(self, rows: Rows) -> None:
        self.journal.commit(rows)
        self.writes.queue.wake()

    def new_number(self) -> int:
        if self._next_number >= self._last_number:
            self._next_number = self.tree.new_numbers(NUMBERS_AT_ONCE)
            self._last_number = self._next_number + NUMBERS_AT_ONCE
        self._next_number += 1
        return self._next_number - 1

    def key_of_file(
        self, parent: Directory, cached: CachedListing, name: bytes, *, is_link: bool = False
    ) -> str:
        """Where a new file or link goes; raises as `new_keys.key_of_file`."""
        key_of = new_keys.key_of_link if is_link else new_keys.key_of_file
        key = key_of(parent, name, lambda beside: self.find(parent, cached, beside))
        return self._allowed(parent, key)

    def key_of_directory(self, parent: Directory, cached: CachedListing, name: bytes) -> str:
        """Where a new directory goes; raises as `new_keys.key_of_directory`."""
        key_of = new_keys.key_of_directory
        key = key_of(parent, name, lambda beside: self.find(parent, cached, beside))
        return self._allowed(parent, key)

    def check_length(self, key: str) -> None:
        """Raises NameTooLong where the remote takes no key of this length."""
        if self._key_limit is not None and not self._key_limit.allows(key):
            raise NameTooLong(f"{key!r}: the remote takes no path as long as that")

    def _allowed(self, parent: Directory, key: str) -> str:
        """The same key. Raises NameNotAllowed where the remote would refuse its name."""
        self.check_length(key)
        rules = self._name_rules
        if rules is None:  # the remote tells them with its first answer, if at all
            rules = self._name_rules = self._ask_name_rules()
        raw = key[len(parent.key) :].removesuffix("/")
        if rules is not None and not rules.allow(raw):
            raise NameNotAllowed(f"{raw!r}: the remote forbids the name")
        return key

    def _change(
        self, key: str, parent: Directory, name: bytes, number: int, kind: ChangeKind
    ) -> Change:
        return self.change_at(key, parent.key, name, number, kind)

    def change_at(
        self, key: str, directory: str, name: bytes, number: int, kind: ChangeKind
    ) -> Change:
        """A new one at `key`; how long the remote has been behind there is kept."""
        before, now_ns = self.ledger.changes.get(key), self._now_ns()
        return Change(
            key=key,
            directory=directory,
            name=name,
            number=number,
            kind=kind,
            sequence=self.journal.next_sequence(),
            since_ns=before.since_ns if before and not before.is_clean else now_ns,
            changed_ns=now_ns,
        )


def made_from(base: Base, made: Change, before: Change | None) -> Change:
    """A renamed file without staged bytes. Where it is back at its old key, no bytes have to
    travel, and others' there are no conflict; CLEAN unless its time or attributes have changed
    since. `before`: what was at its key."""
    if (base.key, base.version) != (made.key, made.expect):
        return replace(made, base=base)
    is_same = before is not None and (before.mtime_ns, before.attributes) == (
        made.mtime_ns,
        made.attributes,
    )
    return replace(made, state=ChangeState.CLEAN) if is_same else made
