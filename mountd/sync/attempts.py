"""What was sent without an answer: it may have arrived, or may still arrive.

An upload id says whose state it is: `JOURNAL-CONTENT-LAYER-SEQUENCE`. A remote that keeps no ids is
asked for size and checksum, and at last for the bytes themselves.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeVar

import trio

from mountd.errors import NotFound, VersionChanged
from mountd.remotes.base import Identity, RemoteStore
from mountd.sync.body import RANGE_BYTES
from mountd.types import Entry
from mountd_cache.changes import Change, ChangeKind

_T = TypeVar("_T")
_MOST_PER_KEY: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One state that was sent, or is about to be. `md5`: of its bytes, blocking; "" for unknown."""

    upload_id: str
    size: int
    md5: Callable[[], str]


class Owner(Enum):
    """Who put what is at a key. SAME: the attempt itself. OURS: another state of the same file,
    sent by us. FOREIGN: anybody else."""

    SAME = auto()
    OURS = auto()
    FOREIGN = auto()
    NOBODY = auto()


class Doubts:
    """Attempts whose outcome is not in the journal, by key."""

    def __init__(self, journal_id: str) -> None:
        self._journal_id = journal_id
        self._attempts: dict[str, list[Attempt]] = {}
        self._inherited: dict[str, str] = {}  # how upload ids of a former process begin

    def inherit(self, changes: Iterable[Change]) -> None:
        """A former process may have sent these."""
        for change in changes:
            if not change.is_clean:
                self._inherited[change.key] = self._prefix(change)

    def upload_id(self, content: int, layer: int, sequence: int) -> str:
        return f"{self._journal_id}-{content}-{layer}-{sequence}"

    def add(self, key: str, attempt: Attempt) -> bool:
        """False if a like one was there already."""
        known = self._attempts.setdefault(key, [])
        others = [a for a in known if a.upload_id != attempt.upload_id]
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

    def is_sent(self, key: str) -> bool:
        """Whether this process sent something there and doesn't know what became of it."""
        return key in self._attempts

    def may_be_there(self, key: str) -> bool:
        """Whether anything of ours may have arrived there."""
        return key in self._attempts or key in self._inherited

    def clear(self, key: str) -> None:
        """What the remote has at `key` is known."""
        self._attempts.pop(key, None)
        self._inherited.pop(key, None)

    def knows(self, key: str, upload_id: str, content: int) -> bool:
        """Whether an upload with that id is ours, of this file."""
        prefix = self._inherited.get(key)
        return bool(upload_id) and (
            any(a.upload_id == upload_id for a in self._attempts.get(key, ()))
            or (content > 0 and upload_id.startswith(f"{self._journal_id}-{content}-"))
            or (prefix is not None and upload_id.startswith(prefix))
        )

    def has_bytes_of(self, upload_id: str, content: int) -> bool:
        """Whether what was sent as `upload_id` has the base's bytes wherever `content` still needs
        them: a state of that content, or a copy of a file onto itself."""
        mine = (f"{self._journal_id}-{content}-", f"{self._journal_id}-0-0-")
        return upload_id.startswith(mine)

    def attempts(self, key: str) -> list[Attempt]:
        return list(self._attempts.get(key, ()))

    def _prefix(self, change: Change) -> str:
        if change.is_gone:  # it isn't known what it was that had this key before
            return f"{self._journal_id}-"
        if change.kind is ChangeKind.FILE and change.content:
            return f"{self._journal_id}-{change.content}-"
        return self.upload_id(0, 0, change.sequence)


def is_same(store: RemoteStore, key: str, found: Identity, attempt: Attempt) -> bool:
    """Whether this is what was sent. Blocking: without an upload id and a checksum it is read."""
    if found.entry.size != attempt.size:
        return False
    if found.upload_id:
        return found.upload_id == attempt.upload_id
    sent = attempt.md5()
    if not sent:
        return False
    return sent == (found.md5.lower() or _md5_there(store, key, found))


def _md5_there(store: RemoteStore, key: str, found: Identity) -> str:
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
    """Who put what is at a key, and what it is; None for NOBODY. `upload_id`: of the attempt that
    it is, also where the remote keeps none."""

    owner: Owner
    entry: Entry | None
    upload_id: str = ""


class Asker:
    """The remote as the queue uses it: in threads, at most so many at once.

    A call that is cancelled goes on in its thread, and what it writes may still land.
    """

    def __init__(self, store: RemoteStore, doubts: Doubts, *, at_once: int) -> None:
        self.store = store
        self.doubts = doubts
        self._limiter = trio.CapacityLimiter(at_once)

    async def call(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await trio.to_thread.run_sync(
            function, *arguments, abandon_on_cancel=True, limiter=self._limiter
        )

    async def whose(self, key: str, attempt: Attempt | None, content: int) -> Found:
        """Whose is what is at a file's key? `attempt`: the state that is being sent."""
        known = self.doubts.attempts(key)
        if attempt is not None and attempt not in known:
            known.append(attempt)
        identity, same = await self.call(_identified, self.store, key, known)
        if identity is None:
            return Found(Owner.NOBODY, None)
        if same is not None and same is attempt:
            return Found(Owner.SAME, identity.entry, same.upload_id)
        ours = same is not None or self.doubts.knows(key, identity.upload_id, content)
        upload_id = same.upload_id if same is not None else identity.upload_id
        return Found(Owner.OURS if ours else Owner.FOREIGN, identity.entry, upload_id)


def _identified(
    store: RemoteStore, key: str, attempts: Sequence[Attempt]
) -> tuple[Identity | None, Attempt | None]:
    """What is at `key`, and which of the attempts it is."""
    try:
        found = store.identify(key)
    except NotFound:
        return None, None
    # The last one first: with checksums, several may be alike.
    same = (a for a in reversed(attempts) if is_same(store, key, found, a))
    return found, next(same, None)
