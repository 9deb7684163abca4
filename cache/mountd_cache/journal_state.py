"""What log and database say together, and how each record changes it; no I/O.

The same functions run when something happens and when the log is read after a crash, so that both
end in the same state. After a restart the writes that nobody fsynced are known as before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from mountd_cache.changes import Content, Rows
from mountd_cache.extent_map import ExtentMap
from mountd_cache.ledger import Ledger
from mountd_cache.proofs import Proofs, Unproved
from mountd_cache.records import Cover, Dated, Freeze, Record, Release, Synced, Torn, Write
from mountd_cache.staging import FileKey

_UNLINKED: Final = -1  # as the size of a file


class Inconsistent(ValueError):
    """A record that doesn't fit what was before it."""


@dataclass(slots=True)
class Dirty:
    """What is not in the database yet."""

    keys: set[str] = field(default_factory=set)
    contents: set[int] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.keys or self.contents)


class JournalState:
    """See the module. `gone`: data files that nobody needs, with their bytes, or _UNLINKED; they
    may be unlinked once the record that dropped them survives a power cut. `torn`: parts of data
    files that were lost in a power cut and not written since; the maps are only replaced, so that
    any thread can read them."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.proofs: dict[FileKey, Proofs] = {}
        self.gone: dict[FileKey, int] = {}
        self.torn: dict[FileKey, ExtentMap] = {}
        self.dirty = Dirty()
        self.staged_bytes = 0
        self.freed_bytes = 0  # of data files that were unlinked since the start

    def load(self, rows: Rows, torn: dict[FileKey, ExtentMap]) -> None:
        """As `rows`, from the database: nothing of it is dirty."""
        self.ledger.load(rows)
        self.torn |= torn
        self.staged_bytes = sum(content.staged_bytes for content in rows.contents)

    def rows(self, rows: Rows) -> None:
        """One atomic step."""
        if not rows.contents and not rows.drop:
            self.ledger.apply(rows)
            self.dirty.keys.update(change.key for change in rows.changes)
            self.dirty.keys.update(rows.forget)
            return
        known, touched = self.ledger.contents, _touched(rows)
        before = [known[id_] for id_ in touched if id_ in known]
        self.staged_bytes -= sum(content.staged_bytes for content in before)
        self.ledger.apply(rows)
        self.staged_bytes += sum(known[id_].staged_bytes for id_ in touched if id_ in known)
        self.dirty.keys.update(change.key for change in rows.changes)
        self.dirty.keys.update(rows.forget)
        self.dirty.contents |= touched
        for content in before:
            self._drop_files(content)

    def write(
        self, unproved: Unproved, key: FileKey, mtime_ns: int, covers: Iterable[Cover] = ()
    ) -> None:
        """Bytes are in the top layer's data file."""
        content, start, end = key[0], unproved.start, unproved.end
        extents = self.ledger.contents[content].layers[-1].extents
        before = extents.total
        self.ledger.write(content, start, end, mtime_ns)
        added = extents.total - before
        self.staged_bytes += added
        self.dirty.contents.add(content)
        proofs = self.proofs.get(key)
        if proofs is None:
            proofs = self.proofs[key] = Proofs()
        proofs.add(unproved, covers)
        if key in self.torn:
            self._set_torn(key, self.torn[key].without(start, end))

    def date(self, dated: Dated) -> None:
        """A content has another mtime; nobody wrote to it."""
        self.ledger.contents[dated.content].mtime_ns = dated.mtime_ns
        self.dirty.contents.add(dated.content)

    def freeze(self, freeze: Freeze) -> None:
        """A content has a new layer, which has nothing."""
        self.ledger.contents[freeze.content].freeze(freeze.layer)
        self.dirty.contents.add(freeze.content)

    def release(self, release: Release) -> None:
        """The lowest layers of a content are on the remote."""
        content = self.ledger.contents[release.content]
        if release.drop:
            rows = Rows(changes=release.changes, drop=(content.id,))
        else:
            rest = content.released(release.depth, release.base)
            rows = Rows(changes=release.changes, contents=(rest,))
        self.rows(rows)

    def tear(self, torn: Torn) -> None:
        """Parts of a data file are lost."""
        key = (torn.content, torn.layer)
        self._set_torn(key, ExtentMap([*self.torn.get(key, ()), *torn.ranges]))
        self.dirty.contents.add(torn.content)
        proofs = self.proofs.get(key)
        if proofs is not None:
            for start, end in torn.ranges:
                proofs.give_up(start, end)
            if not proofs:
                del self.proofs[key]

    def is_torn(self, content: int, depth: int | None = None) -> bool:
        """Whether bytes are lost that the content shows, or its lowest `depth` layers do."""
        return bool(self.torn) and shows_any(self.ledger.contents[content], self.torn, depth)

    def synced(self, synced: Synced) -> None:
        """These writes need no proof any more."""
        if synced.all_lsn:
            self.forget_proofs(synced.all_lsn)
        for content, layer, lsn in synced.marks:
            proofs = self.proofs.get((content, layer))
            if proofs is not None:
                proofs.forget(lsn)
                if not proofs:
                    del self.proofs[content, layer]

    def forget_proofs(self, lsn: int) -> None:
        """All writes up to this one are on the disk."""
        for key, proofs in list(self.proofs.items()):
            proofs.forget(lsn)
            if not proofs:
                del self.proofs[key]

    @property
    def unsent_bytes(self) -> int:
        """Bytes in data files that somebody needs."""
        return self.staged_bytes - sum(max(0, size) for size in self.gone.values())

    def to_unlink(self) -> tuple[FileKey, ...]:
        """Data files that nobody needs and that are still there."""
        return tuple(key for key, size in self.gone.items() if size != _UNLINKED)

    def unlinked(self, keys: Iterable[FileKey]) -> None:
        """These data files take no room any more; they may come back in a power cut."""
        for key in keys:
            if self.gone.get(key, _UNLINKED) != _UNLINKED:
                self._freed(self.gone[key])
                self.gone[key] = _UNLINKED

    def forget_gone(self, keys: Iterable[FileKey]) -> None:
        """These data files were unlinked and stay so."""
        for key in keys:
            self._freed(max(0, self.gone.pop(key, 0)))

    def _freed(self, size_bytes: int) -> None:
        self.staged_bytes -= size_bytes
        self.freed_bytes += size_bytes

    def replay(self, lsn: int, record: Record, *, volatile: bool) -> None:
        """A record of the log, after a crash. Raises Inconsistent, and then nothing changed."""
        match record:
            case Rows():
                self.rows(record)
            case Write():
                content = self.ledger.contents.get(record.content)
                if content is None or content.top.number != record.layer:
                    raise Inconsistent(f"a write to {record.content}-{record.layer}")
                end = record.offset + record.length
                unproved = Unproved(lsn, record.offset, end, record.crc, volatile)
                key = (record.content, record.layer)
                self.write(unproved, key, record.mtime_ns, record.covers)
            case Synced():
                self.synced(record)
            case Freeze():
                if record.content not in self.ledger.contents:
                    raise Inconsistent(f"a layer for {record.content}")
                self.freeze(record)
            case Release():
                content = self.ledger.contents.get(record.content)
                if content is None or len(content.layers) <= record.depth:
                    raise Inconsistent(f"layers that {record.content} hasn't")
                self.release(record)
            case Torn():
                if record.content not in self.ledger.contents:
                    raise Inconsistent(f"{record.content} is torn")
                self.tear(record)
            case Dated():
                if record.content not in self.ledger.contents:
                    raise Inconsistent(f"a time for {record.content}")
                self.date(record)

    def _set_torn(self, key: FileKey, ranges: ExtentMap) -> None:
        self.torn.pop(key, None)
        if ranges:
            self.torn[key] = ranges

    def _drop_files(self, before: Content) -> None:
        """Layers that a content had and has not any more."""
        now = self.ledger.contents.get(before.id)
        kept = {layer.number for layer in now.layers} if now is not None else set()
        for layer in before.layers:
            if layer.number not in kept:
                key = (before.id, layer.number)
                self.gone[key] = layer.extents.total
                self.staged_bytes += layer.extents.total
                self.proofs.pop(key, None)
                self.torn.pop(key, None)


def shows_any(
    content: Content, parts: Mapping[FileKey, ExtentMap], depth: int | None = None
) -> bool:
    """Whether a byte of the content, with its lowest `depth` layers, comes from one of these parts
    of data files."""
    if not any((content.id, layer.number) in parts for layer in content.layers):
        return False
    size = content.size if depth is None else content.layers[depth - 1].size if depth else 0
    return any(
        inside
        for piece in content.pieces(0, size, depth)
        if (content.id, piece.layer) in parts
        for _, _, inside in parts[content.id, piece.layer].pieces(piece.start, piece.end)
    )


def _touched(rows: Rows) -> set[int]:
    return {content.id for content in rows.contents} | set(rows.drop)
