"""Renaming a directory. Where the remote moves none as a whole (whole_move.py) its subtree is known
before it returns.

Each file gets a change at its new key whose base is the version at the old one, and a tombstone at
the old one; all of it is one record in the journal. Until the remote has made the copies, the bytes
are read from the old keys, and no tombstone is sent before the copy that needs its object.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from mountd.errors import (
    CrossDevice,
    Exists,
    NoEntry,
    NotADirectory,
    NotFound,
    NotPossible,
    Unsupported,
    VersionChanged,
)
from mountd.types import Entry, Kind
from mountd.vfs.listing_rows import row_of, version_in
from mountd.vfs.names import shown_names
from mountd.vfs.namespace import THERE, Found, Namespace, made_from
from mountd.vfs.nodes import Directory
from mountd.vfs.overlay import is_change_of_link, key_of_row
from mountd.vfs.row_attributes import packed
from mountd.vfs.whole_move import WholeMoves
from mountd_cache.changes import ABSENT, Base, Change, ChangeKind, Rows
from mountd_cache.listing import Listing, Row
from mountd_cache.metadata_cache import CachedListing

MAX_ENTRIES = 200_000  # more is for whoever asks to copy


@dataclass(slots=True)
class Move:
    """One directory's rename while it is put together."""

    old: str
    new: str
    put: dict[str, Change] = field(default_factory=dict)
    names: dict[str, bytes] = field(default_factory=dict)  # of what was changed here, by old key
    forgotten: list[str] = field(default_factory=list)

    def target(self, key: str) -> str:
        return self.new + key[len(self.old) :]


class Subtree:
    """Raises what `Namespace` does, and CrossDevice where the subtree can't be known in time or is
    too large."""

    def __init__(self, names: Namespace, whole: WholeMoves, *, wait_s: float) -> None:
        self._names = names
        self._whole = whole
        # What is put together from listings must not be moved by the remote meanwhile.
        self._one_at_a_time = trio.Lock()
        self._tree = names.tree
        self._ledger = names.ledger
        self._wait_s = wait_s
        self.only_whole = False  # durability = "remote": what returns is done

    async def rename(
        self,
        from_parent: Directory,
        from_name: bytes,
        to_parent: Directory,
        to_name: bytes,
        *,
        replaces: bool = True,
    ) -> Found:
        ends = from_parent, from_name, to_parent, to_name
        with trio.move_on_after(self._wait_s) as scope:
            await self._one_at_a_time.acquire()
        if scope.cancelled_caught:
            raise TimeoutError("another directory is still being renamed")
        try:
            return await self._rename(*ends, replaces)
        finally:
            self._one_at_a_time.release()

    async def was_done(
        self, number: int, old: str, from_parent: Directory, name: bytes, to_parent: Directory
    ) -> None:
        """See `WholeMoves.was_done`."""
        if self._tree.store.capabilities.native_move:
            await self._whole.was_done(number, old, from_parent, name, to_parent)

    async def _rename(
        self,
        from_parent: Directory,
        from_name: bytes,
        to_parent: Directory,
        to_name: bytes,
        replaces: bool,
    ) -> Found:
        both = await self._both(from_parent, from_name, to_parent, to_name)
        source, target, key, expect, _ = both
        if target is not None and target.key == source.key:
            return source
        if target is not None:
            if not replaces:
                raise Exists(to_name)
            if not target.is_directory:
                raise NotADirectory(to_name)
            await self._names.check_empty(to_parent, target)
        if to_parent.key.startswith(source.key):
            raise NotPossible(f"{source.key!r} into itself")
        if target is None and self._whole.is_possible(source, key, expect):
            try:
                await self._whole.rename(source, from_parent, to_parent, key, to_name)
                return source
            except VersionChanged as error:
                raise Exists(to_name) from error
            except Unsupported:
                pass  # not that one, or no longer
        if self.only_whole:
            raise CrossDevice(f"the remote can't move {source.key!r} as a whole")
        entries = await self._on_remote(source, from_parent)
        source, target, key, expect, listing = await self._both(
            from_parent, from_name, to_parent, to_name
        )
        if target is not None and self._ledger.shown.get(target.key):
            raise Exists(to_name)
        move = Move(source.key, key)
        # The moved directory itself last: it replaces what was at the target.
        self._move_remote(move, entries)
        self._move_changes(move, entries)
        self._move_itself(move, source, from_parent, to_parent, to_name, expect)
        rows = Rows(changes=tuple(move.put.values()), forget=tuple(move.forgotten))
        self._names.commit(self._names.keeping(from_parent, listing, rows))
        self._tree.cache.forget_below(source.key)
        for change in move.put.values():
            if change.is_directory:
                self._tree.made(change.key)
        self._tree.moved(source.number, to_parent, source.key, key)
        return source

    async def _both(
        self, from_parent: Directory, from_name: bytes, to_parent: Directory, to_name: bytes
    ) -> tuple[Found, Found | None, str, str, Listing]:
        names = self._names
        from_cached = await names.listing(from_parent)
        to_cached = await names.listing(to_parent)
        from_cached = names.now(from_parent, from_cached)
        source = names.find(from_parent, from_cached, from_name)
        if source is None:
            raise NoEntry(from_name)
        if not source.is_directory:
            raise NotADirectory(from_name)
        names.rights.check_rename_directory(from_parent, from_name, source.number, to_parent)
        key = names.key_of_directory(to_parent, to_cached, to_name)
        expect = names.expected(to_parent, to_cached.listing, to_name, key)
        target = names.find(to_parent, to_cached, to_name)
        return source, target, key, expect, from_cached.listing

    # -- what the remote has

    async def _on_remote(self, source: Found, parent: Directory) -> list[tuple[str, Entry]]:
        """Everything below the directory, with keys."""
        change = source.change
        is_new = change is not None and not change.is_clean and change.expect == ABSENT
        directory = self._tree.held_directory(source.key)
        directory = directory or Directory(source.number, parent, -1, source.key)
        try:
            with trio.fail_after(self._wait_s):
                if is_new:  # made here, and not sent yet; what is in it may be
                    return await self._walk(directory)
                list_tree = partial(self._list_tree, source.key)
                ask = partial(trio.to_thread.run_sync, list_tree, abandon_on_cancel=True)
                try:
                    return await ask()
                except Unsupported:
                    return await self._walk(directory)
                except NotFound:
                    # Removed and made anew, and the remote may have done the first half only.
                    now = self._ledger.changes.get(source.key)
                    was_sent = change is None or change.is_clean
                    if now is None or not now.is_directory or (now.is_clean and was_sent):
                        raise
                    return await ask() if now.is_clean else []  # it has arrived since
        except trio.TooSlowError:
            raise CrossDevice(f"{source.key!r} could not be listed in time") from None

    def _list_tree(self, key: str) -> list[tuple[str, Entry]]:
        found: list[tuple[str, Entry]] = []
        for page in self._tree.store.list_tree(key):
            found.extend(page)
            if len(found) > MAX_ENTRIES:
                raise CrossDevice(f"{key!r} has more than {MAX_ENTRIES} entries")
        return found

    async def _walk(self, top: Directory) -> list[tuple[str, Entry]]:
        found: list[tuple[str, Entry]] = []
        waiting = [top]
        while waiting:
            directory = waiting.pop()
            try:
                listing = (await self._names.listing(directory)).listing
            except NotFound:
                listing = Listing.build(())  # it has gone since its parent was listed
            for row in range(len(listing)):
                at, key = listing.row(row), key_of_row(directory.key, listing, row)
                if key in self._ledger.changes:
                    continue
                kind = Kind.DIRECTORY if at.is_dir else Kind.FILE
                name = key.removesuffix("/")[len(directory.key) :]
                found.append((key, Entry(name, kind, at.size, at.mtime_ns, version_in(at.version))))
                if at.is_dir:
                    waiting.append(Directory(at.ino, directory, row, key))
            for change in self._ledger.shown.get(directory.key, {}).values():
                if change.is_directory:
                    waiting.append(Directory(change.number, directory, -1, change.key))
            if len(found) > MAX_ENTRIES:
                raise CrossDevice(f"{top.key!r} has more than {MAX_ENTRIES} entries")
        return found

    # -- what becomes of it

    def _move_remote(self, move: Move, entries: list[tuple[str, Entry]]) -> None:
        for directory, children in _by_directory(move.old, entries).items():
            cached = self._tree.cache.get(directory)
            # As the user sees it: what others have made beside ours since must not get its name.
            gone = self._ledger.gone.get(directory, {})
            there = [e for e in children.values() if directory + _segment(e) not in gone]
            for entry, name in shown_names([*there, *self._ours(directory)]):
                is_directory = entry.kind is Kind.DIRECTORY
                key = directory + _segment(entry)
                if key in self._ledger.changes:
                    move.names[key] = name
                    continue
                at = _row_of(cached, directory, key, name, entry)
                said = packed(entry.attributes) or (at.attributes if at else "")
                version = THERE if is_directory else entry.version
                number = at.ino if at else self._names.new_number()
                found = Found(
                    *(key, name, number, is_directory, version),
                    *(entry.size, (at.mtime_ns if at else 0) or entry.mtime_ns, None),
                    {} if is_directory else self._tree.known.carried_text(said),
                )
                self._move(move, directory, found)

    def _ours(self, directory: str) -> list[Entry]:
        """As the remote will have them; of a link the size only says that it is none of 0 bytes."""
        return [
            Entry(
                change.key.removesuffix("/")[len(directory) :],
                Kind.DIRECTORY if change.is_directory else Kind.FILE,
                *(int(is_change_of_link(change)), 0, ""),
            )
            for change in self._ledger.shown.get(directory, {}).values()
        ]

    def _move_changes(self, move: Move, entries: list[tuple[str, Entry]]) -> None:
        there = {move.old}
        for directory, children in _by_directory(move.old, entries).items():
            there.update(directory + _segment(entry) for entry in children.values())
        for change in list(self._ledger.below(move.old)):
            if change.is_gone:
                continue
            if self._is_away(change, there):
                move.forgotten.append(change.key)
            else:
                found = self._names.found(change)
                name = move.names.get(change.key, change.name)
                self._move(move, change.directory, replace(found, name=name))
        for change in self._ledger.below(move.new):  # the same of a former one of the new name
            is_kept = change.is_gone or change.content or change.key in move.put
            if change.is_clean and not is_kept:
                move.forgotten.append(change.key)

    def _is_away(self, change: Change, there: set[str]) -> bool:
        """Whether it was sent into a directory that is there no more, since others have moved or
        removed it, or a crash has cut the rename that did: here it would come back."""
        if not change.is_clean or change.content:
            return False
        return not self._is_there(change.directory, there)

    def _is_there(self, directory: str, there: set[str]) -> bool:
        """Whether the directory is there with all that it is in: what is known of one that has
        gone stays for a while."""
        if directory in there:
            return True
        made = self._ledger.changes.get(directory)
        if made is not None and not made.is_gone:
            return not made.is_clean or self._is_there(made.directory, there)
        parent = directory[: directory.rfind("/", 0, -1) + 1]
        known = self._tree.cache.get(parent)  # perhaps since the remote was asked
        if known is None or row_of(known.listing, parent, directory) < 0:
            return False
        return self._is_there(parent, there)

    def _move(self, move: Move, directory: str, found: Found) -> None:
        """One file or directory below the moved one."""
        key, change = move.target(found.key), found.change
        self._names.check_length(key)
        before = self._ledger.changes.get(key)
        kind = ChangeKind.DIRECTORY if found.is_directory else ChangeKind.FILE
        made = replace(
            self._names.change_at(key, move.target(directory), found.name, found.number, kind),
            expect=before.expect if before else ABSENT,
            size=found.size,
            mtime_ns=found.mtime_ns,
            attributes=found.attributes,
        )
        if change is not None:
            made = self._names.as_lost_as(change, made)
        if not found.is_directory and not made.content:
            base = change.base if change else None
            base = base or Base(found.key, found.version, found.size)
            made = made_from(base, made, before)
        move.put[key] = made
        self._leave(move, directory, found)

    def _leave(self, move: Move, directory: str, found: Found) -> None:
        move.put[found.key] = self._names.left_behind(found, directory)

    def _move_itself(
        self,
        move: Move,
        source: Found,
        from_parent: Directory,
        to_parent: Directory,
        to_name: bytes,
        expect: str,
    ) -> None:
        made = self._names.change_at(
            move.new, to_parent.key, to_name, source.number, ChangeKind.DIRECTORY
        )
        move.put[move.new] = replace(
            made, expect=expect, mtime_ns=source.mtime_ns, attributes=source.attributes
        )
        self._leave(move, from_parent.key, source)


def _segment(entry: Entry) -> str:
    return entry.name + ("/" if entry.kind is Kind.DIRECTORY else "")


def _row_of(
    cached: CachedListing | None, directory: str, key: str, name: bytes, entry: Entry
) -> Row | None:
    """The kept row of an entry, if it is of the same version: only then its inode number, which
    stands for these bytes in the kernel, and its times are the entry's, too."""
    row = cached.listing.find(name) if cached is not None else -1
    if cached is None or row < 0 or key_of_row(directory, cached.listing, row) != key:
        return None
    at = cached.listing.row(row)
    is_same = at.is_dir or (version_in(at.version), at.size) == (entry.version, entry.size)
    return at if is_same else None


def _by_directory(
    top: str, entries: list[tuple[str, Entry]]
) -> dict[str, dict[tuple[str, bool], Entry]]:
    """Entries by the directory that they are in, with the directories that their keys imply."""
    found: dict[str, dict[tuple[str, bool], Entry]] = {}
    for key, entry in entries:
        if key == top:
            continue  # its own marker
        for directory, child in _steps(top, key):
            is_last = directory + child == key
            is_directory = child.endswith("/")
            name = child.removesuffix("/")
            made = entry if is_last else Entry(name, Kind.DIRECTORY, 0, 0, "")
            found.setdefault(directory, {}).setdefault(
                (name, is_directory), replace(made, name=name)
            )
    return found


def _steps(top: str, key: str) -> Iterator[tuple[str, str]]:
    """(directory, child) on the way from `top` to `key`; a directory child with its slash."""
    at = len(top)
    while at < len(key):
        slash = key.find("/", at)
        end = len(key) if slash < 0 else slash + 1
        yield key[:at], key[at:end]
        at = end
