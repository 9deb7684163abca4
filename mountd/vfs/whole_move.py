"""Renaming a directory where the remote does it in one request, while the caller waits.

Only where nothing that is at or below either name waits to be sent: the answer is then all that
there is to know, and a crash at any instant leaves what somebody else's rename would. What is
written below meanwhile is held back from the remote, and goes to the new place.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial

import trio

from mountd.errors import Exists, NoEntry, NotFound, Unreachable, VersionChanged
from mountd.origin import begun
from mountd.remotes import call
from mountd.remotes.base import RemoteStore
from mountd.remotes.optional_doors import move_dir_in
from mountd.vfs.files import OpenFiles
from mountd.vfs.namespace import THERE, Found, Namespace
from mountd.vfs.nodes import Directory
from mountd_cache.changes import ABSENT, Base, Change, ChangeKind, ChangeState, Content, Rows
from mountd_cache.ledger import Ledger

_LOOK_S = 5.0  # of the time that a rename may take, for finding out what has become of it


class WholeMoves:
    """Raises RemoteErrors and NoEntry, and TimeoutError where there was no answer: the names are
    as before then, and if the remote does move it, both are listed anew."""

    def __init__(self, names: Namespace, files: OpenFiles, *, wait_s: float) -> None:
        self._names = names
        self._tree = names.tree
        self._ledger = names.ledger
        self._files = files
        self._wait_s = wait_s

    def is_possible(self, source: Found, key: str, expect: str) -> bool:
        """Whether a directory may go to `key`, where `expect` is believed to be."""
        tree, ledger = self._tree, self._ledger
        if not tree.store.capabilities.native_move or not tree.remote_is_well():
            return False
        if expect != ABSENT or source.version != THERE:
            return False
        ends = (source.key, key)
        beside = {directory for end in ends for directory in _above(end)}
        beside.add(key.removesuffix("/"))  # a file whose removal waits still has the name
        if any(c.key.startswith(ends) or c.key in beside for c in ledger.unsent()):
            return False
        if any(base.startswith(source.key) for base in ledger.depends):
            return False
        return not self._names.writes.queue.is_sending(*ends)

    async def rename(
        self, source: Found, from_parent: Directory, to_parent: Directory, key: str, name: bytes
    ) -> None:
        """After `is_possible`, without an await in between. Unsupported where the remote can't."""
        old = source.key
        with self._names.writes.queue.holding(old, key), self._tree.moving.begun(old):
            try:
                is_proved = await self._moved(old, key)
                self._settle(source, from_parent, to_parent, key, name)
            except BaseException as error:
                self._tree.expire(from_parent.key)
                self._tree.expire(to_parent.key)
                if isinstance(error, NotFound):
                    raise NoEntry(source.name) from error
                raise
            if not is_proved:
                self._tree.expire_below(key)

    async def was_done(
        self, number: int, old: str, from_parent: Directory, name: bytes, to_parent: Directory
    ) -> None:
        """A former process had the directory `number` moved from the key `old` to that name, and
        the remote is listed as it is since: all that is known goes along now. Nothing is done
        where nothing was, or where something waits at the new name."""
        names = self._names
        cached = await names.listing(to_parent)
        target = names.find(to_parent, cached, name)
        if target is None or not target.is_directory or target.number == number:
            return
        if old in self._ledger.changes or (target.change and not target.change.is_clean):
            return
        former = old.removesuffix("/").rpartition("/")[2]
        source = replace(target, key=old, number=number, name=os.fsencode(former), change=None)
        with suppress(Exists):
            self._settle(source, from_parent, to_parent, target.key, name)
            self._tree.expire_below(target.key)

    async def _moved(self, old: str, new: str) -> bool:
        """True after the remote's answer; False where it was lost, and a look shows the directory
        at its new place and nothing at the old one."""
        with begun("rename", old):
            return await self._try_to_move(old, new)

    async def _try_to_move(self, old: str, new: str) -> bool:
        store = self._tree.store
        look_s = min(_LOOK_S, self._wait_s / 4)
        lost: Exception = TimeoutError(f"{old!r} was not moved in {self._wait_s:g} s")
        try:
            with trio.move_on_after(self._wait_s - look_s):
                until_s = time.monotonic() + self._wait_s - look_s
                move = partial(_move, store, old, new, until_s)
                await trio.to_thread.run_sync(move, abandon_on_cancel=True)
                return True
        except (Unreachable, NotFound, VersionChanged) as error:
            lost = error  # a proxy may have sent it twice, and the second one tells
        with trio.move_on_after(look_s):
            if await trio.to_thread.run_sync(_is_moved, store, old, new, abandon_on_cancel=True):
                return False
        raise lost

    def _settle(
        self, source: Found, from_parent: Directory, to_parent: Directory, key: str, name: bytes
    ) -> None:
        """The remote has moved it: one record in the journal, and all that is known goes along.
        Raises Exists where something was made at its new name meanwhile, and that stays."""
        names, tree, old = self._names, self._tree, source.key
        if any(c.key.startswith(key) or c.key + "/" == key for c in self._ledger.unsent()):
            tree.expire_below(key)
            raise Exists(name)
        now = self._ledger.changes.get(old)
        if now is not None and now.is_directory:  # it may have got another mode meanwhile
            source = names.found(now)
        made = replace(
            names.change_at(key, to_parent.key, name, source.number, ChangeKind.DIRECTORY),
            expect=THERE,
            mtime_ns=source.mtime_ns,
            attributes=source.attributes,
            state=ChangeState.CLEAN,
        )
        gone = names.change_at(
            old, from_parent.key, source.name, source.number, ChangeKind.GONE_DIRECTORY
        )
        rows = moved_below(self._ledger, old, key)
        ends = (made, replace(gone, state=ChangeState.CLEAN))
        names.journal.commit(replace(rows, changes=(*rows.changes, *ends)), reserve=True)
        tree.moved_whole(source.number, to_parent, old, key)
        self._files.moved(old, key)


def moved_below(ledger: Ledger, old: str, new: str) -> Rows:
    """What the ledger has below a directory, or made from what is there, with its keys below
    another; what it had there is forgotten. Nothing but keys changes; pure."""

    def at(key: str) -> str:
        return new + key[len(old) :] if key.startswith(old) else key

    def based(base: Base | None) -> Base | None:
        is_below = base is not None and base.key.startswith(old)
        return replace(base, key=at(base.key)) if base is not None and is_below else base

    below = {change.key: change for change in ledger.below(old)}
    users = [ledger.changes[user] for base in ledger.depends for user in ledger.depends[base]]
    below.update((c.key, c) for c in users if c.base is not None and c.base.key.startswith(old))
    changes = [_placed(change, at, based(change.base)) for change in below.values()]
    contents: list[Content] = []
    for content in ledger.contents.values():
        if content.base is not None and content.base.key.startswith(old):
            made = content.copy()
            made.base = based(content.base)
            contents.append(made)
    forget = [key for key in below if key.startswith(old)]
    forget += [change.key for change in ledger.below(new)]
    return Rows(changes=tuple(changes), contents=tuple(contents), forget=tuple(forget))


def _placed(change: Change, at: Callable[[str], str], base: Base | None) -> Change:
    return replace(
        change,
        key=at(change.key),
        directory=at(change.directory),
        conflict=at(change.conflict),
        base=base,
    )


def _above(key: str) -> Iterator[str]:
    """The directories that `key` is in, innermost first, without the root."""
    at = key.rstrip("/").rfind("/")
    while at >= 0:
        yield key[: at + 1]
        at = key.rfind("/", 0, at)


def _move(store: RemoteStore, old: str, new: str, until_s: float) -> None:
    """It does not begin after `until_s`, however long it has to wait for other requests."""
    call.deadline_s.set(until_s)  # in this call's own copy of the context
    move_dir_in(store, old, new)


def _is_moved(store: RemoteStore, old: str, new: str) -> bool:
    try:
        store.stat(old)
    except NotFound:
        pass
    else:
        return False
    try:
        store.stat(new)
    except NotFound:
        return False
    return True
