"""A tiny file system over a journal, which builds the rows that the vfs builds."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace

from mountd.remotes.base import RemoteStore
from mountd.sync.base import SyncJournal
from mountd.types import Entry, Kind
from mountd_cache.changes import (
    ABSENT,
    BASE,
    ZERO,
    Base,
    Change,
    ChangeKind,
    ChangeState,
    Content,
    Rows,
)

THERE = "/"


class LocalTree:
    """Names and files as a user has them, synchronously; also the queue's view of them.

    What no change says is as `seen` has it: what `store` had at the last `refresh`. `known`: every
    version that was seen, by key. `cached`: what was kept of versions, from their front.
    `open_numbers`: inodes that are open for writing. `clean` has every change that was sent,
    `foreigners` every key that `foreign` was called for.
    """

    def __init__(
        self, journal: SyncJournal, store: RemoteStore, wall_clock: Callable[[], int]
    ) -> None:
        self.journal = journal
        self.store = store
        self.open_numbers: set[int] = set()
        self.clean: list[Change] = []
        self.foreigners: list[str] = []
        self.wake: Callable[[], object] = lambda: None
        self.forgets_clean = True
        self.seen: dict[str, Entry] = {}
        self.known: dict[str, set[str]] = {}
        self.cached: dict[tuple[str, str], bytes] = {}
        self._now = wall_clock
        self._numbers: dict[str, int] = {}
        self._next_number = 1
        self.refresh()

    def refresh(self) -> None:
        """Lists everything again."""
        self.seen = {}
        for page in self.store.list_tree(""):
            for key, entry in page:
                self._see(key, entry)

    def _see(self, key: str, entry: Entry) -> None:
        if entry.kind is Kind.FILE:
            self.seen[key] = entry
            self.known.setdefault(key, set()).add(entry.version)

    # -- the queue's view

    def is_open_for_writing(self, number: int) -> bool:
        return number in self.open_numbers

    def sent(self, change: Change) -> None:
        self.clean.append(change)
        if not self.forgets_clean:
            return
        # As folding does.
        self.seen.pop(change.key, None)
        if change.kind is ChangeKind.FILE:
            self._numbers[change.key] = change.number
            name, size = change.name.decode(), change.size
            entry = Entry(name, Kind.FILE, size, change.mtime_ns, change.expect)
            self._see(change.key, entry)
        self.journal.commit(Rows(forget=(change.key,)))

    def moved(self, old: Base, new: Base) -> None:
        if (old.key, old.version) in self.cached:
            self.cached[new.key, new.version] = self.cached[old.key, old.version]

    def nameless_over(self, base: Base) -> Sequence[Content]:
        return ()

    def foreign(self, key: str) -> None:
        self.foreigners.append(key)
        self._numbers.pop(key, None)
        self.refresh()

    def new_number(self) -> int:
        self._next_number += 1
        return self._next_number

    def kept(self, base: Base, start: int, end: int) -> bytes | None:
        data = self.cached.get((base.key, base.version))
        return data[start:end] if data is not None and len(data) >= end else None

    def believed(self, key: str, version: str) -> tuple[Mapping[str, str], int] | None:
        return None

    def shown_names(self, directory: str) -> Container[bytes]:
        shown = set(self.journal.ledger.shown.get(directory, ()))
        shown.update(e.name.encode() for k, e in self.seen.items() if k == directory + e.name)
        return shown

    # -- the user

    def write(self, key: str, data: bytes, offset: int = 0) -> None:
        """Writes into a file, which is made where there is none."""
        self.journal.write(self._content(key).id, offset, data, self._now())
        self.wake()

    def save(self, key: str, data: bytes) -> None:
        """The file has these bytes and no others."""
        self.truncate(key, 0)
        if data:
            self.write(key, data)

    def truncate(self, key: str, size: int) -> None:
        content = self._content(key).copy()
        content.top.truncate(size)
        content.mtime_ns = content.changed_ns = self._now()
        self.journal.commit(Rows(contents=(content,)))
        self.wake()

    def set_mode(self, key: str, mode: str) -> None:
        change = self._change_of(key)
        self._put(replace(change, attributes={**change.attributes, "mode": mode}))

    def unlink(self, key: str) -> None:
        change = self._change_of(key)
        gone = replace(self._new(key, ChangeKind.GONE_FILE), expect=change.expect)
        gone = replace(gone, number=change.number)
        self._commit((gone,), drop=(change.content,) if change.content else ())

    def rename(self, key: str, to: str) -> None:
        """Also over a file that is there."""
        change = self._change_of(key)
        target = self.journal.ledger.changes.get(to)
        made = replace(
            self._new(to, ChangeKind.FILE),
            number=change.number,
            expect=self._expected(to),
            size=change.size,
            mtime_ns=change.mtime_ns,
            content=change.content,
            attributes=change.attributes,
        )
        if not made.content:
            base = change.base or Base(key, change.expect, change.size)
            made = replace(made, base=base)
            if base.key == to and base.version == made.expect:
                made = replace(made, base=None, state=ChangeState.CLEAN)
        gone = self._new(key, ChangeKind.GONE_FILE)
        gone = replace(gone, expect=change.expect, number=change.number)
        if change.is_clean:
            gone = replace(gone, mtime_ns=change.mtime_ns, attributes=change.attributes)
        drop = (target.content,) if target is not None and target.content else ()
        self._commit((made, gone), drop=drop)

    def make_directory(self, key: str) -> None:
        before = self.journal.ledger.changes.get(key)
        made = self._new(key, ChangeKind.DIRECTORY)
        self._commit((replace(made, expect=before.expect if before else ABSENT),))

    def remove_directory(self, key: str) -> None:
        before = self.journal.ledger.changes.get(key)
        gone = self._new(key, ChangeKind.GONE_DIRECTORY)
        self._commit((replace(gone, expect=before.expect if before else THERE),))

    def data(self, key: str) -> bytes:
        """What a reader gets. KeyError where there is no such file."""
        change = self.journal.ledger.changes.get(key)
        if change is None:
            entry = self.seen[key]
            return self._remote(Base(key, entry.version, entry.size), 0, entry.size)
        if change.kind is not ChangeKind.FILE:
            raise KeyError(key)
        content = self.journal.ledger.content_of(change)
        if content is None:
            base = change.base or Base(key, change.expect, change.size)
            return self._remote(base, 0, base.size)
        return b"".join(
            bytes(p.end - p.start)
            if p.layer == ZERO
            else self._remote(content.base, p.start, p.end)
            if p.layer == BASE and content.base
            else self.journal.read_once(content.id, p.layer, p.start, p.end)
            for p in content.pieces(0, content.size)
        )

    def number(self, key: str) -> int:
        return self._change_of(key).number

    # --

    def _remote(self, base: Base, start: int, end: int) -> bytes:
        if start == end:
            return b""
        return bytes(self.store.read(base.key, start, end, base.version))

    def _content(self, key: str) -> Content:
        """As `Writes.content_to_write` does."""
        ledger = self.journal.ledger
        change = ledger.changes.get(key)
        if change is not None and change.kind is ChangeKind.FILE:
            content = ledger.content_of(change)
            if content is not None and change.state is ChangeState.PENDING:
                return content
        made, base = self._writable(key)
        content = ledger.content_of(made)
        if content is None:
            content = self.journal.new_content(base, base.size if base else 0, self._now())
        made = replace(made, content=content.id, base=None)
        self._put(made, contents=(content,))
        return self.journal.ledger.contents[content.id]

    def _writable(self, key: str) -> tuple[Change, Base | None]:
        try:
            change = self._change_of(key)
        except KeyError:
            made = self._new(key, ChangeKind.FILE)
            return replace(made, expect=self._expected(key)), None
        if change.content:
            return change, None
        return change, change.base or Base(key, change.expect, change.size)

    def _change_of(self, key: str) -> Change:
        """What is at the key as a change, CLEAN where it is as on the remote."""
        change = self.journal.ledger.changes.get(key)
        if change is not None:
            if change.kind is not ChangeKind.FILE:
                raise KeyError(key)
            return change
        entry = self.seen[key]
        made = replace(self._new(key, ChangeKind.FILE), state=ChangeState.CLEAN)
        made = replace(made, expect=entry.version, size=entry.size, mtime_ns=entry.mtime_ns)
        return replace(made, number=self._number_at(key))

    def _expected(self, key: str) -> str:
        change = self.journal.ledger.changes.get(key)
        if change is not None:
            return change.expect
        entry = self.seen.get(key)
        return entry.version if entry is not None else ABSENT

    def _number_at(self, key: str) -> int:
        return self._numbers.setdefault(key, self.new_number())

    def _new(self, key: str, kind: ChangeKind) -> Change:
        name = key.removesuffix("/")
        directory = name[: name.rfind("/") + 1]
        before = self.journal.ledger.changes.get(key)
        is_behind = before is not None and not before.is_clean
        return Change(
            key=key,
            directory=directory,
            name=name[len(directory) :].encode(),
            number=self.new_number(),
            kind=kind,
            since_ns=before.since_ns if before is not None and is_behind else self._now(),
            changed_ns=self._now(),
            sequence=self.journal.next_sequence(),
        )

    def _put(self, change: Change, contents: tuple[Content, ...] = ()) -> None:
        since_ns = self._now() if change.is_clean else change.since_ns
        change = replace(
            change,
            state=ChangeState.PENDING,
            reason="",
            since_ns=since_ns,
            changed_ns=self._now(),
            sequence=self.journal.next_sequence(),
        )
        self._commit((change,), contents=contents)

    def _commit(
        self,
        changes: tuple[Change, ...],
        *,
        contents: tuple[Content, ...] = (),
        drop: tuple[int, ...] = (),
    ) -> None:
        self.journal.commit(Rows(changes=changes, contents=contents, drop=drop))
        self.wake()
