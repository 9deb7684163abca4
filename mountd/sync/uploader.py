"""What is sent of a change to a file: staged bytes, a copy of what the remote has, or attributes.

sending.py sends it.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from mountd.errors import Denied, NotFound, Unsupported
from mountd.remotes.base import Upload
from mountd.sync.attempts import Asker, Attempt, sum_of
from mountd.sync.base import SyncJournal
from mountd.sync.body import StagedBody, base_body, frozen_body
from mountd.sync.delta import put_body
from mountd.sync.retry import ContentMissing
from mountd.sync.sending import FileSender, Sending
from mountd.sync.unfinished import MIN_BYTES, Unfinished, UnfinishedUploads
from mountd.sync.upload_id import UploadId
from mountd.types import Entry
from mountd.vfs.row_attributes import MTIME, MTIME_TOO, PARTIAL, known, known_there
from mountd_cache.changes import ABSENT, Base, Change, Content
from mountd_cache.recovery import TORN_REASON

SECOND_NS: Final = 1_000_000_000
_MOST_LAYERS: Final = 8  # after many failures an older state goes, rather than one more is frozen


class Uploader:
    """Owned by the queue; `sender` gets what is made here."""

    def __init__(
        self,
        journal: SyncJournal,
        asker: Asker,
        sender: FileSender,
        *,
        unfinished: UnfinishedUploads,
        believed: Callable[[str, str], tuple[Mapping[str, str], int] | None],
    ) -> None:
        """`believed`: see `QueueView`."""
        self._believed = believed
        self._journal = journal
        self._ledger = journal.ledger
        self._asker = asker
        self._store = asker.store
        self._sender = sender
        self._unfinished = unfinished

    async def send(self, change: Change) -> None:
        """A FILE. Raises BaseGone, Conflict, any RemoteError, and OSError from the local disk."""
        if change.content:
            attributes: Mapping[str, str] = known(change.attributes)
            if PARTIAL in change.attributes or self._is_worth_asking(change):
                attributes = await self._asked(change)
                if not self._sender.is_wanted(change):
                    return
            await self._send_content(change, attributes)
        elif change.base is not None:
            await self._send_copy(change, change.base, *self._without_content(change))
        else:
            await self._send_attributes(change)

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
                kept = known_there((there.version == base.version and there.attributes) or {})
        unset = self._unset(change, base)
        ours = known(change.attributes).items()
        return {**kept, **{n: v for n, v in ours if n not in unset or n not in kept}}

    def _is_worth_asking(self, change: Change) -> bool:
        """Whether one small request more counts for nothing: somebody may have changed what is
        beside the bytes of that version, which no listing tells. Else only copies, which look at
        their source anyway, notice that."""
        content = self._ledger.content_of(change)
        is_large = content is not None and content.base is not None and content.size >= MIN_BYTES
        return is_large and self._store.capabilities.keeps_attributes

    def _unset(self, change: Change, base: Base) -> frozenset[str]:
        """What nobody has set here of a change's attributes (and `mtime`): it is as it was in the
        version that it is made from."""
        found = self._believed(base.key, base.version)
        if found is None:
            return frozenset()
        before, mtime_ns = found
        unset = {n for n, v in known(change.attributes).items() if before.get(n) == v}
        if change.mtime_ns == mtime_ns:
            unset.add(MTIME)
        return frozenset(unset)

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
            is_hashed = self._sender.is_hashed
            body = frozen_body(self._journal, self._store, content, depth, hashed=is_hashed)
            sending = self._of_body(change, body, id_, upload, depth, state)
            is_settled = await self._sender.land(replace(sending, began=state.began))
            known = self._unfinished.of(state.content)
            if is_settled and known is not None and known.is_small:
                self._unfinished.forget(state.content, "")
            elif is_settled and known is not None and not known.token:
                await self._asker.call(self._unfinished.forget, state.content, "")

    def landed(self, change: Change, state: Unfinished, depth: int, entry: Entry) -> None:
        """An upload that a former try, perhaps of a former process, had under way is on the remote:
        into the journal, synchronously. `depth`: of that state, which is in the change still."""
        attempt = Attempt.noted(state)
        upload = Upload(state.id, state.mtime_ns, state.attributes)
        sending = Sending(change, attempt, upload, lambda expect: entry, None, depth, state.began)
        self._sender.settle(sending, entry.version, entry.attributes or state.attributes)

    def _state_to_send(self, change: Change, content: Content) -> tuple[Unfinished, UploadId, int]:
        """The one whose upload has begun (leftovers.py has ended what isn't worth it), or the file
        as it is now: then what it is known by has no token. With its depth."""
        begun = self._unfinished.of(content.id)
        depth = begun.depth_in(change, content) if begun is not None else 0
        id_ = UploadId.parse(begun.id) if begun is not None and begun.token and depth else None
        if begun is not None and id_ and not self._journal.is_torn(content.id, depth):
            return begun, id_, depth
        began = self._journal.next_sequence()
        depth = len(content.layers) - 1
        if depth < _MOST_LAYERS or self._journal.is_torn(content.id, depth):
            depth = self._journal.freeze(content.id)
            content = self._ledger.contents[content.id]
        layer = content.layers[depth - 1].number if depth else -1
        base_size = content.base.size if content.base is not None else 0
        size = content.layers[depth - 1].size if depth else base_size
        said = content.id, layer
        id_ = self._sender.new_id(change, *said, size=size, mtime_ns=content.mtime_ns)
        state = Unfinished(
            *(content.id, layer, change.key, str(id_), content.mtime_ns),
            *(change.attributes, began, size),
        )
        return state, id_, depth

    async def _send_copy(self, change: Change, base: Base, id_: UploadId, upload: Upload) -> None:
        """A file that the remote has, under another name."""
        store = self._store
        if store.capabilities.server_copy:
            attempt = Attempt(id_, base.size, lambda: self._sum_there(base))
            arriving = partial(self._asker.doubts.arrivals.note, change.key, upload.upload_id)
            noted = replace(upload, arriving=arriving)

            def copy(expect: str) -> Entry:
                return store.copy(base.key, base.version, change.key, expect, noted)

            try:
                await self._sender.land(Sending(change, attempt, upload, copy, source=base))
                return
            except Unsupported:
                pass  # too large to be copied, for one
        if PARTIAL in change.attributes:
            mtime_ns = upload.mtime_ns or change.mtime_ns
            attributes = await self._asked(change, base)
            upload = replace(upload, mtime_ns=mtime_ns, attributes=attributes)
            if not self._sender.is_wanted(change):
                return
        body = base_body(self._journal, store, change.content, base, hashed=self._sender.is_hashed)
        await self._sender.land(self._of_body(change, body, id_, upload, 0))

    def _sum_there(self, base: Base) -> str:
        """The sum of that version, for a remote that keeps no upload ids; "" where it has another
        by now. Blocking: what was put there without a sum is read."""
        if not self._sender.is_hashed:
            return ""
        try:
            found = self._store.identify(base.key)
        except NotFound:
            return ""
        return sum_of(self._store, base.key, found) if found.entry.version == base.version else ""

    async def _send_attributes(self, change: Change) -> None:
        """New attributes or times of a file that the remote has: a copy onto itself."""
        store = self._store
        id_, upload = self._without_content(change)
        attempt = Attempt(id_, change.size, lambda: "")
        able = store.capabilities

        def copy(expect: str) -> Entry:
            return store.copy(change.key, expect, change.key, expect, upload)

        base = Base(change.key, change.expect, change.size)
        sending = Sending(change, attempt, upload, copy, source=base)
        try:
            keeps = able.keeps_attributes or able.keeps_modes
            keeps = keeps or (able.sets_mtime and self._is_another_time(change, upload))
            if able.server_copy and keeps and change.expect != ABSENT:
                await self._sender.land(sending)
                return
        except Unsupported:
            pass
        # They are kept here, as long as the file is that one.
        self._sender.settle(sending, change.expect, change.attributes)

    def _is_another_time(self, change: Change, upload: Upload) -> bool:
        """Whether the remote may have another than that, in whole seconds: it keeps no more."""
        found = self._believed(change.key, change.expect)
        there_s = found[1] // SECOND_NS if found is not None else 0
        return upload.mtime_ns // SECOND_NS not in (0, there_s)

    def _without_content(self, change: Change) -> tuple[UploadId, Upload]:
        base = change.base or Base(change.key, change.expect, change.size)
        sets_mtime = self._store.capabilities.sets_mtime
        # A copy keeps its source's mtime where we know no more than when that arrived.
        is_kept = change.attributes.get(PARTIAL) == MTIME_TOO
        mtime_ns = 0 if is_kept else change.mtime_ns
        unset = self._unset(change, base)
        said_ns = mtime_ns if sets_mtime and change.base is None else 0
        id_ = self._sender.new_id(change, size=base.size, mtime_ns=said_ns)
        return id_, Upload(str(id_), mtime_ns, known(change.attributes), unset)

    def _of_body(
        self,
        change: Change,
        body: StagedBody,
        id_: UploadId,
        upload: Upload,
        depth: int,
        state: Unfinished | None = None,
    ) -> Sending:
        most = self._store.capabilities.max_put_bytes
        if most is not None and body.size > most:
            raise Unsupported(f"{body.size} bytes, and this remote takes files up to {most}")

        def put(expect: str) -> Entry:
            try:
                how = upload
                if state is not None and body.size >= MIN_BYTES:
                    how = self._unfinished.going_on(state, upload)
                elif state is not None and self._sender.is_hashed:
                    how = replace(upload, completing=partial(self._unfinished.completes, state))
                return put_body(self._store, change.key, body, expect, how)
            finally:
                if change.content:
                    self._journal.unpin(change.content)

        attempt = Attempt(id_, body.size, body.md5)
        return Sending(change, attempt, upload, put, body, depth)
