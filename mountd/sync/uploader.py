"""Sends one file: what it asks of the remote, and what it makes of each answer.

Nothing is sent without `expect`, and after every await the ledger is looked at again (landing.py).
A write whose answer was lost is never repeated before the remote was asked what is there.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from mountd.errors import (
    Corrupt,
    Denied,
    NotFound,
    RemoteError,
    Unreachable,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.base import Upload
from mountd.sync.attempts import Asker, Attempt, Found, Owner
from mountd.sync.base import QueueView, SyncJournal
from mountd.sync.body import StagedBody, base_body, frozen_body
from mountd.sync.delta import put_body
from mountd.sync.landing import Sent, base_moved, file_landed, remainder
from mountd.sync.retry import ContentMissing
from mountd.sync.unfinished import MIN_BYTES, Unfinished, UnfinishedUploads
from mountd.sync.upload_id import UploadId
from mountd.types import Entry
from mountd.vfs.row_attributes import MTIME_TOO, PARTIAL, known, known_there
from mountd_cache.changes import ABSENT, Base, Change, ChangeKind, Content, Rows
from mountd_cache.recovery import TORN_REASON

log = logging.getLogger(__name__)

_ROUNDS: Final = 4  # each adopts a version of ours that has landed meanwhile, and sends again
_MOST_LAYERS: Final = 8  # after many failures an older state goes, rather than one more is frozen


class BaseGone(Exception):
    """The remote no longer has the version that bytes were to be read or copied from."""

    def __init__(self, base: Base) -> None:
        super().__init__(f"{base.key}, version {base.version}")
        self.base = base


class Conflict(Exception):
    """Somebody else has put something where ours was to go."""


@dataclass(frozen=True, slots=True)
class _Sending:
    """One state of a file on its way. `write(expect)` blocks. `source`: the version that the
    remote is to copy, None where bytes are sent. `began`: it was frozen after that sequence."""

    change: Change
    attempt: Attempt
    upload: Upload
    write: Callable[[str], Entry]
    body: StagedBody | None = None
    depth: int = 0
    began: int = 0
    source: Base | None = None


# Told before staged bytes go: the change, what was sent, how many layers it has, its version.
Landing = Callable[[Change, StagedBody, int, str], None]


class Uploader:
    """Owned by the queue, which has one change per key and per content in flight.
    `sent_content(id, sequence)` is told that a state frozen after `sequence` is on the remote,
    of a content that has been written since."""

    def __init__(
        self,
        journal: SyncJournal,
        asker: Asker,
        view: QueueView,
        *,
        wall_clock: Callable[[], int],
        sent_content: Callable[[int, int], None] = lambda content, sequence: None,
        landing: Landing = lambda change, body, depth, version: None,
        unfinished: UnfinishedUploads | None = None,
    ) -> None:
        self._journal = journal
        self._ledger = journal.ledger
        self._asker = asker
        self._store = asker.store
        self._doubts = asker.doubts
        self._view = view
        self._wall_clock = wall_clock
        self._sent_content = sent_content
        self._landing = landing
        self._unfinished = unfinished if unfinished is not None else UnfinishedUploads()

    async def send(self, change: Change) -> None:
        """A FILE. Raises BaseGone, Conflict, any RemoteError, and OSError from the local disk."""
        if change.content:
            attributes: Mapping[str, str] = known(change.attributes)
            if PARTIAL in change.attributes:
                attributes = await self._asked(change)
                if not self._is_wanted(change):
                    return
            await self._send_content(change, attributes)
        elif change.base is not None:
            await self._send_copy(change, change.base, *self._without_content(change))
        else:
            await self._send_attributes(change)

    # -- what there is to send

    async def _asked(self, change: Change, base: Base | None = None) -> Mapping[str, str]:
        """With those that the version it is made from has on the remote, and that a put of the
        whole file would take away."""
        content = self._ledger.content_of(change)
        base = base or (content.base if content is not None else None)
        base = base or Base(change.key, change.expect, change.size)
        kept: Mapping[str, str] = {}
        if base.version != ABSENT:
            # What NotFound means is found out by the write itself; and whoever may write but not
            # read must still be able to replace a file.
            with suppress(NotFound, Denied):
                there = (await self._asker.call(self._store.identify, base.key)).entry
                kept = (there.version == base.version and there.attributes) or {}
        return {**known_there(kept), **known(change.attributes)}

    async def _send_content(self, change: Change, attributes: Mapping[str, str]) -> None:
        content = self._ledger.contents.get(change.content)
        if content is None:
            raise ContentMissing(f"the staged bytes of {change.key} are not there")
        if self._journal.is_torn(content.id):
            raise ContentMissing(TORN_REASON)
        state, id_, depth = self._state_to_send(change, content)
        content = self._ledger.contents[content.id]
        upload = Upload(state.id, state.mtime_ns, attributes)
        if depth == 0 and content.base is not None:
            await self._send_copy(change, content.base, id_, upload)
        else:
            body = frozen_body(self._journal, self._store, content, depth, hashed=self._hashed)
            sending = self._of_body(change, body, id_, upload, depth, state)
            await self._land(replace(sending, began=state.began))

    def _state_to_send(self, change: Change, content: Content) -> tuple[Unfinished, UploadId, int]:
        """The one whose upload has begun (leftovers.py has ended what isn't worth it), or the file
        as it is now: then what it is known by has no token. With its depth."""
        begun = self._unfinished.of(content.id)
        depth = begun.depth_in(change, content) if begun is not None else 0
        id_ = UploadId.parse(begun.id) if begun is not None and depth else None
        if begun is not None and id_ and not self._journal.is_torn(content.id, depth):
            return begun, id_, depth
        began = self._journal.next_sequence()
        depth = len(content.layers) - 1
        if depth < _MOST_LAYERS or self._journal.is_torn(content.id, depth):
            depth = self._journal.freeze(content.id)
            content = self._ledger.contents[content.id]
        layer = content.layers[depth - 1].number if depth else -1
        size = content.layers[depth - 1].size if depth else 0
        id_ = self._id(change, content.id, layer)
        state = Unfinished(
            *(content.id, layer, change.key, str(id_), content.mtime_ns),
            *(change.attributes, began, size),
        )
        return state, id_, depth

    async def _send_copy(self, change: Change, base: Base, id_: UploadId, upload: Upload) -> None:
        """A file that the remote has, under another name."""
        store = self._store
        if store.capabilities.server_copy:
            attempt = Attempt(id_, base.size, lambda: "")

            def copy(expect: str) -> Entry:
                return store.copy(base.key, base.version, change.key, expect, upload)

            try:
                await self._land(_Sending(change, attempt, upload, copy, source=base))
                return
            except Unsupported:
                pass  # too large to be copied, for one
        if PARTIAL in change.attributes:
            mtime_ns = upload.mtime_ns or change.mtime_ns
            attributes = await self._asked(change, base)
            upload = replace(upload, mtime_ns=mtime_ns, attributes=attributes)
            if not self._is_wanted(change):
                return
        body = base_body(self._journal, store, change.content, base, hashed=self._hashed)
        await self._land(self._of_body(change, body, id_, upload, 0))

    async def _send_attributes(self, change: Change) -> None:
        """New attributes or times of a file that the remote has: a copy onto itself."""
        store = self._store
        id_, upload = self._without_content(change)
        attempt = Attempt(id_, change.size, lambda: "")
        able = store.capabilities

        def copy(expect: str) -> Entry:
            return store.copy(change.key, expect, change.key, expect, upload)

        base = Base(change.key, change.expect, change.size)
        sending = _Sending(change, attempt, upload, copy, source=base)
        try:
            keeps = able.keeps_attributes or able.keeps_modes
            if able.server_copy and keeps and change.expect != ABSENT:
                await self._land(sending)
                return
        except Unsupported:
            pass
        # They are kept here, as long as the file is that one.
        self._settle(sending, change.expect, change.attributes)

    @property
    def _hashed(self) -> bool:
        # A remote that keeps upload ids needs no other proof of what it has.
        return not self._store.capabilities.keeps_attributes

    def _without_content(self, change: Change) -> tuple[UploadId, Upload]:
        id_ = self._id(change)
        # A copy keeps its source's mtime where we know no more than when that arrived.
        is_kept = change.attributes.get(PARTIAL) == MTIME_TOO
        mtime_ns = 0 if is_kept else change.mtime_ns
        return id_, Upload(str(id_), mtime_ns, known(change.attributes))

    def _id(self, change: Change, content: int = 0, layer: int = -1) -> UploadId:
        now_ns, sequence = self._wall_clock(), change.sequence
        return UploadId.of(self._journal.id, change.key, now_ns, sequence, content, layer)

    def _of_body(
        self,
        change: Change,
        body: StagedBody,
        id_: UploadId,
        upload: Upload,
        depth: int,
        state: Unfinished | None = None,
    ) -> _Sending:
        most = self._store.capabilities.max_put_bytes
        if most is not None and body.size > most:
            raise Unsupported(f"{body.size} bytes, and this remote takes files up to {most}")

        def put(expect: str) -> Entry:
            try:
                how = upload
                if state is not None and body.size >= MIN_BYTES:
                    how = self._unfinished.going_on(state, upload)
                return put_body(self._store, change.key, body, expect, how)
            finally:
                if change.content:
                    self._journal.unpin(change.content)

        attempt = Attempt(id_, body.size, body.md5)
        return _Sending(change, attempt, upload, put, body, depth)

    # -- sending it

    async def _land(self, sending: _Sending) -> None:
        """Unless nobody wants it there any more."""
        entry = await self._landed(sending)
        if entry is not None:
            there = entry.attributes
            if there is None:
                # A copy has its source's, too, and a put only what came with it.
                there = sending.change.attributes if sending.source else sending.upload.attributes
            self._settle(sending, entry.version, there)

    async def _landed(self, sending: _Sending) -> Entry | None:
        change = sending.change
        expect, found = change.expect, None
        if self._doubts.attempts(change.key):
            found = await self._whose(sending)
        for _ in range(_ROUNDS):
            if found is not None:
                if found.owner is Owner.SAME:
                    return found.entry
                if found.owner is Owner.OURS and found.entry is not None:
                    expect = found.entry.version
                if not self._is_wanted(change):
                    return None
            try:
                return await self._write(sending, expect)
            except VersionChanged as error:
                if sending.body is not None and sending.body.gone is not None:
                    raise BaseGone(sending.body.gone) from error
                found = await self._whose(sending)
                expect = self._next_expect(sending, found, expect)
        raise Unreachable(f"{change.key} changed {_ROUNDS} times while it was sent")

    async def _write(self, sending: _Sending, expect: str) -> Entry:
        try:
            return await self._write_once(sending, expect)
        except NotFound as error:
            if sending.body is not None and sending.body.gone is not None:
                raise BaseGone(sending.body.gone) from error
            if self._store.capabilities.real_directories:
                await self._make_parents(sending.change.key)
                return await self._write_again(sending, expect)
            if sending.source is not None:
                raise self._source_gone(sending) from error
            raise

    async def _write_again(self, sending: _Sending, expect: str) -> Entry:
        """After the parents were made."""
        try:
            return await self._write_once(sending, expect)
        except NotFound as error:
            if sending.source is not None:
                raise self._source_gone(sending) from error
            raise

    async def _write_once(self, sending: _Sending, expect: str) -> Entry:
        key, attempt = sending.change.key, sending.attempt
        is_new = self._doubts.add(key, attempt)
        if sending.body is not None and sending.change.content:
            self._journal.pin(sending.change.content)
        try:
            entry = await self._asker.call(sending.write, expect)
        except (Unreachable, VersionChanged):
            raise  # it, or an earlier one like it, may have landed
        except RemoteError:
            if is_new:
                self._doubts.remove(key, attempt)
            raise
        if entry.size != attempt.size:
            raise Corrupt(f"{attempt.size} bytes were sent and {entry.size} are there")
        return entry

    def _next_expect(self, sending: _Sending, found: Found, expect: str) -> str:
        """After "that is not the version": what to expect, or raises."""
        there = found.entry.version if found.entry is not None else ABSENT
        if there == expect and sending.source is not None:
            raise self._source_gone(sending)  # it was the source that had changed
        if there == expect:
            raise Unreachable(f"{sending.change.key}: refused, and yet it is as expected")
        if found.owner is Owner.FOREIGN:
            raise Conflict(sending.change.key)
        if found.owner is Owner.NOBODY and _is_onto_itself(sending):
            raise Conflict(sending.change.key)
        return there  # removed by somebody: there is nothing that could be overwritten

    def _source_gone(self, sending: _Sending) -> Exception:
        if sending.source is None or _is_onto_itself(sending):
            return Conflict(sending.change.key)
        return BaseGone(sending.source)

    async def _whose(self, sending: _Sending) -> Found:
        change = sending.change
        others = self._frozen_attempts(change) if self._hashed else ()
        return await self._asker.whose(change.key, change.since_ns, sending.attempt, *others)

    def _frozen_attempts(self, change: Change) -> list[Attempt]:
        """States that a former process may have sent, for a remote that keeps no ids."""
        content = self._ledger.content_of(change)
        found: list[Attempt] = []
        for depth in range(1, len(content.layers) if content is not None else 1):
            assert content is not None
            body = frozen_body(self._journal, self._store, content, depth, hashed=True)
            id_ = self._id(change, content.id, content.layers[depth - 1].number)
            found.append(Attempt(id_, body.size, body.md5))
        return found

    def _is_wanted(self, change: Change) -> bool:
        now = self._ledger.changes.get(change.key)
        return (
            now is not None
            and now.kind is ChangeKind.FILE
            and (now.content, now.base) == (change.content, change.base)
        )

    async def _make_parents(self, key: str) -> None:
        at = key.find("/")
        while at >= 0:
            await self._asker.call(self._store.make_dir, key[: at + 1])
            at = key.find("/", at + 1)

    # -- what it means

    def _settle(self, sending: _Sending, version: str, there: Mapping[str, str]) -> None:
        """The remote has it, with these attributes: into the journal, synchronously."""
        change = sending.change
        content, ledger = change.content, self._ledger
        is_all = content not in ledger.contents or self._journal.rest_adds_nothing(
            content, sending.depth
        )
        now_ns = self._wall_clock()
        mtime_ns = sending.upload.mtime_ns or change.mtime_ns
        sent = Sent(change, mtime_ns, sending.attempt.size, version, known_there(there))
        landed = file_landed(ledger, sent, is_all=is_all, now_ns=now_ns)
        if isinstance(landed, Base):
            left = remainder(ledger.changes[change.key], landed, now_ns)
            self._journal.release_frozen(content, sending.depth, landed, (left,))
            if left.attributes == change.attributes:
                self._sent_content(content, sending.began)
        else:
            if sending.body is not None:
                self._tell_landing(sending, sending.body, version)
            self._journal.commit(landed, reserve=True)
        self._doubts.clear(change.key)
        now = ledger.changes.get(change.key)
        if now is not None and now.is_clean:
            self._view.sent(now)

    def _tell_landing(self, sending: _Sending, body: StagedBody, version: str) -> None:
        try:
            self._landing(sending.change, body, sending.depth, version)
        except Exception:  # a cache that fails must not keep what was sent from being settled
            log.exception("what was sent is not kept: %r", sending.change.key)

    async def find_base(self, key: str, base: Base) -> bool:
        """Whether a base was replaced by a state of this same file that was sent without an
        answer; then what is still read from it is read from there. Raises as `send`."""
        change = self._ledger.changes.get(key)
        if change is None:
            return False
        behind = self._ledger.changes.get(base.key, change)
        others = self._frozen_attempts(change) if self._hashed else ()
        found = await self._asker.whose(base.key, behind.since_ns, None, *others)
        if found.owner is not Owner.OURS or found.entry is None or found.id is None:
            return False
        change = self._ledger.changes.get(key)  # what was done meanwhile stays
        if change is None:
            return False
        behind = self._ledger.changes.get(base.key, change)
        if found.id.content == 0:
            # A copy onto itself has the bytes of what it replaced, and what that was is in the
            # journal as long as nobody knows that it has landed.
            if behind.key != base.key or behind.expect != base.version:
                return False
        elif found.id.content != change.content:
            return False
        new = Base(base.key, found.entry.version, found.entry.size)
        rows = base_moved(self._ledger, base, new, [key])
        if base.key == key and _is_of_attributes(change) and change.expect == base.version:
            rows = Rows(changes=(replace(change, expect=new.version),))
        gone = self._ledger.changes.get(base.key)
        if rows == Rows() or new.version == base.version:
            return False
        if gone is not None and gone.is_gone and gone.expect == base.version:
            # The tombstone there is for what landed.
            rows = replace(rows, changes=(*rows.changes, replace(gone, expect=new.version)))
        self._journal.commit(rows, reserve=True)
        return True


def _is_of_attributes(change: Change) -> bool:
    """Of a file whose bytes are the remote's."""
    return change.kind is ChangeKind.FILE and not change.content and change.base is None


def _is_onto_itself(sending: _Sending) -> bool:
    return sending.source is not None and sending.source.key == sending.change.key
