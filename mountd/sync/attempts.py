"""What was sent without an answer: it may have arrived, or may still arrive.

An upload id says what is there (upload_id.py). A remote that keeps no ids is asked for size and
checksum, and at last for the bytes themselves.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final, Self, TypeVar

from mountd.errors import NotFound, VersionChanged
from mountd.remotes.base import Identity, RemoteStore
from mountd.remotes.object_metadata import mtime_ns_of
from mountd.sync.arrivals import Arrivals
from mountd.sync.body import RANGE_BYTES
from mountd.sync.call_threads import CallThreads
from mountd.sync.unfinished import Unfinished
from mountd.sync.upload_id import UploadId
from mountd.types import Entry
from mountd_cache.changes import Change

_T = TypeVar("_T")
_MOST_PER_KEY: Final = 8
SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One state that was sent, or is about to be. `md5`: of its bytes, blocking; "" for unknown.
    `says`: what a version of it says of them (`Capabilities.bytes_in`); "" for nothing. `mtime_s`:
    the time that such a version must have, 0 for any."""

    id: UploadId
    size: int
    md5: Callable[[], str]
    says: str = ""
    mtime_s: int = 0

    @classmethod
    def noted(cls, upload: Unfinished) -> Self:
        """What it was to make, perhaps by a former process."""
        id_ = UploadId.parse(upload.id)
        assert id_ is not None  # it is proved when it is read
        return cls(id_, upload.size, lambda: upload.md5)


def with_another_time(
    store: RemoteStore, id_: UploadId, version: str, mtime_ns: int = 0
) -> list[Attempt]:
    """What a version has become if all that was sent of it, by a process that is no more, is a new
    time: the same bytes, under another version. Nothing but the bytes tells, where the remote keeps
    no ids; so this is empty where nobody here has asked for a time.

    Without a sum, other bytes may be told by the same word (a desktop client's bulk upload leaves
    a Nextcloud's time of upload as it was), so the file must have the time that was asked for,
    `mtime_ns`; with 0 it is nobody's that is known."""
    bytes_in = store.capabilities.bytes_in
    says = bytes_in(version) if bytes_in is not None and store.capabilities.sets_mtime else ""
    if not says:
        return []
    size, _, word = says.partition(";")
    algorithm, is_sum, digits = word.partition(":")
    mtime_s = 0 if is_sum else mtime_ns // SECOND_NS
    if not is_sum and not mtime_s:
        return []
    md5 = digits.lower() if algorithm == "MD5" else ""
    return [Attempt(id_, int(size), lambda: md5, says, mtime_s)]


class Owner(Enum):
    """Who put what is at a key. SAME: the attempt itself. OURS: another state of the same file,
    sent by us. FOREIGN: anybody else."""

    SAME = auto()
    OURS = auto()
    FOREIGN = auto()
    NOBODY = auto()


class Doubts:
    """Attempts whose outcome is not in the journal, by key. A former process may have left some:
    then only their upload ids tell."""

    def __init__(self, journal_id: str, born_ns: int, arrivals: Arrivals | None = None) -> None:
        self.arrivals = arrivals or Arrivals()
        self._journal_id = journal_id
        self._born_ns = born_ns
        self._attempts: dict[str, list[Attempt]] = {}
        self._wrong: dict[str, str] = {}

    def add(self, key: str, attempt: Attempt) -> bool:
        """False if a like one was there already."""
        known = self._attempts.setdefault(key, [])
        others = [a for a in known if not a.id.is_same_state(attempt.id)]
        is_new = len(others) == len(known)
        known[:] = [*others[-_MOST_PER_KEY + 1 :], attempt]
        return is_new

    def remove(self, key: str, attempt: Attempt) -> None:
        """This one did not arrive, and won't."""
        known = [a for a in self._attempts.get(key, ()) if a is not attempt]
        if known:
            self._attempts[key] = known
        else:
            self._attempts.pop(key, None)

    def attempts(self, key: str) -> list[Attempt]:
        """What this process has sent there without knowing what became of it."""
        return list(self._attempts.get(key, ()))

    def may_be_there(self, change: Change) -> bool:
        """Whether anything of ours may have arrived at its key."""
        return change.key in self._attempts or change.since_ns < self._born_ns

    def came_wrong(self, key: str, version: str) -> None:
        """This version is what became of something that we have sent, and is not that."""
        self._wrong[key] = version

    def is_wrong(self, key: str, version: str) -> bool:
        """See `came_wrong`."""
        return self._wrong.get(key) == version

    def clear(self, key: str) -> None:
        """What the remote has at `key` is known."""
        self._attempts.pop(key, None)
        self._wrong.pop(key, None)
        self.arrivals.forget(key)

    def is_ours(self, key: str, upload_id: UploadId, since_ns: int) -> bool:
        """Whether we have sent it to `key`. `since_ns`: when the remote fell behind there."""
        known = self._attempts.get(key, ())
        return upload_id.was_sent_here(self._journal_id, key, since_ns) or any(
            attempt.id.is_same_state(upload_id) for attempt in known
        )


def is_same(store: RemoteStore, key: str, found: Identity, attempt: Attempt) -> bool:
    """Whether this is what was sent. Blocking: without an upload id and a checksum it is read."""
    if found.entry.size != attempt.size:
        return False
    if found.upload_id:
        id_ = UploadId.parse(found.upload_id)
        return id_ is not None and id_.is_same_upload(attempt.id) and _can_be(store, found, id_)
    bytes_in = store.capabilities.bytes_in
    if attempt.says and bytes_in is not None and bytes_in(found.entry.version) == attempt.says:
        return attempt.mtime_s in (0, found.entry.mtime_ns // SECOND_NS)
    sent = attempt.md5()
    if not sent:
        return False
    return sent == sum_of(store, key, found)


def _can_be(store: RemoteStore, found: Identity, id_: UploadId) -> bool:
    """Whether what is there can be what had that id when it was sent.

    Where no metadata is kept, the store tells an id of the version alone that it has made, and its
    time may be another: a Nextcloud takes none of 1970-01-01, which reproducible builds have.
    """
    entry, able = found.entry, store.capabilities
    mtime_ns = mtime_ns_of(entry.attributes or {})  # where a listing has that of the arrival
    if mtime_ns is None and able.keeps_mtime and able.keeps_attributes:
        mtime_ns = entry.mtime_ns
    return id_.can_be(entry.size, mtime_ns)


def sum_of(store: RemoteStore, key: str, found: Identity) -> str:
    """The MD5 of what was found at a key: the remote's own where it has one, else of its bytes,
    which are read; "" where they are others by now. Blocking."""
    if found.md5:
        return found.md5.lower()
    digest = hashlib.md5(usedforsecurity=False)
    try:
        for start in range(0, found.entry.size, RANGE_BYTES):
            end = min(start + RANGE_BYTES, found.entry.size)
            digest.update(store.read(key, start, end, found.entry.version))
    except (NotFound, VersionChanged):
        return ""
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Found:
    """Who put what is at a key, and what it is; None for NOBODY. `id`: of ours that it is, also
    where the remote keeps none."""

    owner: Owner
    entry: Entry | None
    id: UploadId | None = None


class Asker:
    """The remote as the queue uses it: in threads, at most so many at once.

    A call that is cancelled goes on in its thread, and what it writes may still land.
    """

    def __init__(self, store: RemoteStore, doubts: Doubts, threads: CallThreads) -> None:
        self.store = store
        self.doubts = doubts
        self._threads = threads

    async def call(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await self._threads.run(function, *arguments)

    async def whose(
        self, key: str, since_ns: int, attempt: Attempt | None = None, *others: Attempt
    ) -> Found:
        """Whose is what is at a file's key? `since_ns`: when the remote fell behind there.
        `attempt`: the state that is being sent; `others`: more that may have been, long ago."""
        known = [*others, *self.doubts.attempts(key)]
        if attempt is not None:
            known.append(attempt)
        identity, same = await self.call(_identified, self.store, key, known, self.doubts.arrivals)
        if identity is None:
            return Found(Owner.NOBODY, None)
        if same is not None:
            owner = Owner.SAME if same is attempt else Owner.OURS
            return Found(owner, identity.entry, same.id)
        id_ = UploadId.parse(identity.upload_id)
        is_ours = id_ is not None and self.doubts.is_ours(key, id_, since_ns)
        if is_ours and id_ is not None and not _can_be(self.store, identity, id_):
            is_ours = self.doubts.is_wrong(key, identity.entry.version)
        if not is_ours:
            return Found(Owner.FOREIGN, identity.entry)
        return Found(Owner.OURS, identity.entry, id_)


def _identified(
    store: RemoteStore, key: str, attempts: Sequence[Attempt], arrivals: Arrivals
) -> tuple[Identity | None, Attempt | None]:
    """What is at `key`, and which of the attempts it is."""
    try:
        found = store.identify(key)
    except NotFound:
        return None, None
    if not found.upload_id:
        found = replace(found, upload_id=arrivals.id_of(key, found.entry.version))
    # The last one first: with checksums, several may be alike.
    same = (a for a in reversed(attempts) if is_same(store, key, found, a))
    return found, next(same, None)
