"""Sends one file until it is on the remote: what it asks, and what it makes of each answer.

uploader.py says what is sent. Nothing goes without `expect`, and after every await the ledger is
looked at again (landing.py). A write whose answer was lost is never repeated before the remote was
asked what is there.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from mountd.errors import Corrupt, NotFound, RemoteError, Unreachable, VersionChanged
from mountd.remotes.base import Upload
from mountd.sync.attempts import Asker, Attempt, Found, Owner, with_another_time
from mountd.sync.base import QueueView, SyncJournal
from mountd.sync.body import StagedBody, frozen_body
from mountd.sync.landing import Sent, base_moved, file_landed, remainder
from mountd.sync.unfinished import UnfinishedUploads
from mountd.sync.upload_id import UploadId
from mountd.types import Entry
from mountd.vfs.row_attributes import known_there
from mountd_cache.changes import ABSENT, Base, Change, ChangeKind, Rows

log = logging.getLogger(__name__)

_ROUNDS: Final = 4  # each adopts a version of ours that has landed meanwhile, and sends again


class BaseGone(Exception):
    """The remote no longer has the version that bytes were to be read or copied from."""

    def __init__(self, base: Base) -> None:
        super().__init__(f"{base.key}, version {base.version}")
        self.base = base


class Conflict(Exception):
    """Somebody else has put something where ours was to go."""


@dataclass(frozen=True, slots=True)
class Sending:
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


class FileSender:
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

    @property
    def is_hashed(self) -> bool:
        """Whether what is sent needs an MD5, to be known by when the answer is lost."""
        # A remote that keeps upload ids needs no other proof of what it has.
        return not self._store.capabilities.keeps_attributes

    def new_id(
        self,
        change: Change,
        content: int = 0,
        layer: int = -1,
        *,
        size: int | None = None,
        mtime_ns: int = 0,
    ) -> UploadId:
        """What a state that is sent from now on is known by; `layer`: its uppermost one. `mtime_ns`
        where it goes as it is, and not as the remote's source has it."""
        now_ns, sequence = self._wall_clock(), change.sequence
        said = content, layer, size, mtime_ns
        return UploadId.of(self._journal.id, change.key, now_ns, sequence, *said)

    async def land(self, sending: Sending) -> bool:
        """Sends it and settles it: True; or nobody wants it there any more. Raises as
        `Uploader.send`."""
        entry = await self._landed(sending)
        if entry is None:
            return False
        there = entry.attributes
        if there is None:
            # A copy has its source's, too, and a put only what came with it.
            there = sending.change.attributes if sending.source else sending.upload.attributes
        self.settle(sending, entry.version, there)
        return True

    async def _landed(self, sending: Sending) -> Entry | None:
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
                if not self.is_wanted(change):
                    return None
            try:
                return await self._write(sending, expect)
            except VersionChanged as error:
                if sending.body is not None and sending.body.gone is not None:
                    raise BaseGone(sending.body.gone) from error
                found = await self._whose(sending)
                expect = self._next_expect(sending, found, expect)
        raise Unreachable(f"{change.key} changed {_ROUNDS} times while it was sent")

    async def _write(self, sending: Sending, expect: str) -> Entry | None:
        """None where nobody wants it any more."""
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

    async def _write_again(self, sending: Sending, expect: str) -> Entry | None:
        """After the parents were made: meanwhile it may have gone, and its staged bytes."""
        if not self.is_wanted(sending.change):
            return None
        try:
            return await self._write_once(sending, expect)
        except NotFound as error:
            if sending.source is not None:
                raise self._source_gone(sending) from error
            raise

    async def _write_once(self, sending: Sending, expect: str) -> Entry:
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
            self._doubts.came_wrong(key, entry.version)
            raise Corrupt(f"{attempt.size} bytes were sent and {entry.size} are there")
        return entry

    def _next_expect(self, sending: Sending, found: Found, expect: str) -> str:
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

    def _source_gone(self, sending: Sending) -> Exception:
        if sending.source is None or _is_onto_itself(sending):
            return Conflict(sending.change.key)
        return BaseGone(sending.source)

    async def _whose(self, sending: Sending) -> Found:
        change = sending.change
        others = self._frozen_attempts(change) if self.is_hashed else ()
        return await self._asker.whose(change.key, change.since_ns, sending.attempt, *others)

    def _frozen_attempts(self, change: Change) -> list[Attempt]:
        """States that a former process may have sent, for a remote that keeps no ids."""
        content = self._ledger.content_of(change)
        found: list[Attempt] = []
        if self._doubts.may_be_there(change):
            id_ = self.new_id(change)
            found += with_another_time(self._store, id_, change.expect, change.mtime_ns)
        for depth in range(1, len(content.layers) if content is not None else 1):
            assert content is not None
            body = frozen_body(self._journal, self._store, content, depth, hashed=True)
            id_ = self.new_id(change, content.id, content.layers[depth - 1].number)
            found.append(Attempt(id_, body.size, body.md5))
        return found

    def is_wanted(self, change: Change) -> bool:
        """Whether the ledger still wants these bytes at that key."""
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

    def settle(self, sending: Sending, version: str, there: Mapping[str, str]) -> None:
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

    def _tell_landing(self, sending: Sending, body: StagedBody, version: str) -> None:
        try:
            self._landing(sending.change, body, sending.depth, version)
        except Exception:  # a cache that fails must not keep what was sent from being settled
            log.exception("what was sent is not kept: %r", sending.change.key)

    async def find_base(self, key: str, base: Base) -> bool:
        """Whether a base was replaced by a state of this same file that was sent without an
        answer; then what is still read from it is read from there. Raises RemoteErrors, and
        OSError from the local disk."""
        change = self._ledger.changes.get(key)
        if change is None:
            return False
        behind = self._ledger.changes.get(base.key, change)
        others = self._frozen_attempts(change) if self.is_hashed else []
        # The bytes of what was frozen can't be read any more where their base was replaced.
        noted = self._unfinished.at(base.key)
        others += [Attempt.noted(n) for n in noted if n.md5 and n.content == change.content]
        if behind is not change and self._doubts.may_be_there(behind):
            id_ = self.new_id(behind)
            others += with_another_time(self._store, id_, behind.expect, change.mtime_ns)
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


def _is_onto_itself(sending: Sending) -> bool:
    return sending.source is not None and sending.source.key == sending.change.key
