"""What happens when a journal is opened: database and log are read, data files are checked.

Nothing that could be somebody's data is deleted: what is not understood goes to `quarantine/`, and
what can't be proved to have been written becomes FAILED. A crash in the middle leaves a folder
that can be opened again.
"""

import logging
import os
import secrets
from collections.abc import Container, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from mountd_cache.changes import Change, ChangeState, Rows
from mountd_cache.data_check import DataCheck, Findings, describe
from mountd_cache.durable_io import TEMP_PREFIX, FileIO
from mountd_cache.extent_map import ExtentMap
from mountd_cache.journal_state import JournalState, shows_any
from mountd_cache.journal_store import FILE_NAME, JournalStore, JournalUnreadable, Meta, Update
from mountd_cache.ledger import Ledger
from mountd_cache.log_format import HEADER_SIZE
from mountd_cache.log_reader import LogEnd, Segment, find_segments, read_log
from mountd_cache.quarantine import SetAside, quarantine
from mountd_cache.records import Dated, Freeze, Record, Release, Torn, Write
from mountd_cache.sidecar import pack_sidecar
from mountd_cache.staging import FileKey, data_name

logger = logging.getLogger(__name__)

TORN_REASON: Final = "torn by a power loss"
MISSING: Final = "its staged bytes are missing: see the quarantine"
DAMAGED: Final = "the journal was damaged, a later state may be lost: see the quarantine"


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening found. `torn`: keys of changes that became FAILED. `quarantined`: where the
    files are now that could not be understood. `replayed`: records of the log."""

    torn: tuple[str, ...] = ()
    quarantined: tuple[Path, ...] = ()
    replayed: int = 0
    took_s: float = 0.0


@dataclass(slots=True)
class Recovered:
    """The journal as it is to be from now on. `stale`: segments of the log that
    are to go when there is a new one. `lost` and `rows`: what recovery decided, to be
    the first records of the log. `damaged`: the log must be folded into the database at once.
    `spares`: empty files that may become data files."""

    store: JournalStore
    state: JournalState
    meta: Meta
    next_lsn: int = 1
    stale: list[Path] = field(default_factory=list)
    lost: list[Torn] = field(default_factory=list)
    rows: Rows = field(default_factory=Rows)
    recovery: Recovery = field(default_factory=Recovery)
    damaged: bool = False
    boot_changed: bool = False
    spares: list[Path] = field(default_factory=list)


def recover(
    folder: Path, *, disk: FileIO, boot_id: str, now_ns: int, held: frozenset[int] = frozenset()
) -> Recovered:
    """Reads the folder of a journal. Raises OSError, JournalTooNew, SegmentTooNew; then nothing
    that matters changed."""
    return _Recoverer(folder, disk=disk, boot_id=boot_id, now_ns=now_ns, held=held).run()


class _Recoverer:
    """One recovery of one folder."""

    def __init__(
        self, folder: Path, *, disk: FileIO, boot_id: str, now_ns: int, held: frozenset[int]
    ) -> None:
        self._held = held
        self._folder = folder
        self._disk = disk
        self._boot_id = boot_id
        self._now_ns = now_ns
        self._aside: list[SetAside] = []
        self._notes: list[str] = []
        self._quarantined: tuple[Path, ...] = ()
        self._damaged = False
        self._segments: list[Segment] = []

    def run(self) -> Recovered:
        self._segments = find_segments(self._folder / "log")
        try:
            store, state, meta = self._open_store()
        except JournalUnreadable as error:
            path = self._folder / FILE_NAME
            logger.error("%s can't be read and is set aside: %s", path, error)
            why = f"the journal's database, which can't be read ({error})"
            paths = [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]
            self._notes.clear()
            self._without_database([SetAside(path, why) for path in paths if path.exists()])
            store, state, meta = self._open_store()
        try:
            return self._recover(store, state, meta)
        except BaseException:
            store.close()
            raise

    def _recover(self, store: JournalStore, state: JournalState, meta: Meta) -> Recovered:
        headers = [segment.header for segment in self._segments if segment.header]
        boots = {header.boot_id for header in headers} | {meta.boot_id}
        end = self._read_log(state, meta.last_lsn)
        for key in [key for key in state.gone if state.ledger.has_layer(key)]:
            del state.gone[key]
        boot_changed = boots != {self._boot_id}
        staging = self._folder / "staging"
        found = DataCheck(staging, state, self._disk, sizes=boot_changed).run()
        rows, torn = self._decide(state, found, end)
        self._set_aside(found)
        stale = self._cut_log(end)
        # Upload ids are made of the id and of numbers of the epoch: what was lost with the damage
        # may have used any of this one.
        known_id = "" if self._damaged else meta.id
        epoch = max([meta.epoch, *(header.epoch for header in headers)]) + 1
        meta = Meta(known_id or secrets.token_hex(8), meta.last_lsn, epoch, self._boot_id)
        if not known_id:
            store.save(Update(meta, unlinked=tuple(state.gone)))
        return Recovered(
            store,
            state,
            meta,
            end.highest_lsn + 1 if self._damaged else end.next_lsn,
            stale,
            [
                Torn(*key, tuple(parts))
                for key, parts in found.torn.items()
                if key[0] not in rows.drop
            ],
            rows,
            Recovery(torn, self._quarantined, end.replayed),
            self._damaged,
            boot_changed,
            found.spares,
        )

    def _open_store(self) -> tuple[JournalStore, JournalState, Meta]:
        store = JournalStore(self._folder, disk=self._disk)
        try:
            meta = store.meta()
            if meta is None:
                self._without_database([])
                return store, JournalState(), Meta("", 0, 0, self._boot_id)
            state = self._load(store)
        except BaseException:
            store.close()
            raise
        if self._notes:
            self._damaged = True
            logger.error("%d rows of the journal's database make no sense", len(self._notes))
        if meta.last_lsn and not self._segments:
            self._damaged = True
            logger.error("the journal's log is missing")
        return store, state, meta

    def _load(self, store: JournalStore) -> JournalState:
        state = JournalState()
        torn: dict[FileKey, ExtentMap] = {}
        contents = tuple(store.contents(self._notes, torn))
        state.load(Rows(tuple(store.changes(self._notes)), contents=contents), torn)
        for key in store.unlinked(self._notes):
            if state.ledger.has_layer(key):
                self._notes.append(f"a row of the table unlinked: {key}, which is needed")
            else:
                state.gone[key] = 0
        return state

    def _without_database(self, files: list[SetAside]) -> None:
        """A log that says what came after a lost database says too little."""
        first = self._segments[0] if self._segments else None
        if first is not None and not (first.header and first.header.first_lsn == 1):
            why = "a part of the journal's log; its database is lost"
            files = files + [SetAside(segment.path, why) for segment in self._segments]
            self._segments = []
        if files:
            self._damaged = True
            self._move(files, [])

    def _read_log(self, state: JournalState, last_lsn: int) -> LogEnd:
        def apply(lsn: int, record: Record, boot_id: str) -> None:
            state.replay(lsn, record, volatile=boot_id != self._boot_id)

        end = read_log(self._segments, last_lsn, self._boot_id, apply)
        if end.torn is None:
            return end
        segment, at = end.torn
        if not end.damaged:
            logger.info("the log ends at record %d, torn", end.next_lsn - 1)
            return end
        self._damaged = True
        logger.error("the log is damaged after record %d, in %s", end.next_lsn - 1, segment.path)
        why = f"a part of the journal's log; it was damaged at {segment.path.name}, byte {at}"
        index = self._segments.index(segment)
        self._aside += [SetAside(seg.path, why, keep=True) for seg in self._segments[index:]]
        return end

    def _decide(
        self, state: JournalState, found: Findings, end: LogEnd
    ) -> tuple[Rows, tuple[str, ...]]:
        """What must be said of changes and contents, and the keys of those that FAILED now."""
        ledger = state.ledger
        nobody = [id_ for id_ in ledger.contents if id_ not in ledger.owner]
        if self._damaged:
            found.lost.update(nobody)
            found.torn = {key: torn for key, torn in found.torn.items() if key[0] not in found.lost}
        for id_ in found.lost:
            self._aside += list(self._files_of(state, id_))
        # Also those that were torn before, if the record that they FAILED was lost.
        parts = dict(state.torn)
        for key, more in found.torn.items():
            parts[key] = ExtentMap([*parts.get(key, ()), *more])
        torn = {id_ for id_, _ in parts if shows_any(ledger.contents[id_], parts)}
        reasons: dict[str, str] = {}
        for change in ledger.changes.values():
            if not change.content:
                continue
            if change.content in found.lost or change.content not in ledger.contents:
                reasons[change.key] = MISSING
            elif change.content in torn:
                reasons[change.key] = TORN_REASON
        if end.damaged:
            reasons |= dict.fromkeys(_concerned(end.later, state), DAMAGED)
        failed = tuple(
            replace(ledger.changes[key], state=ChangeState.FAILED, reason=reason)
            for key, reason in reasons.items()
            if ledger.changes[key].state is not ChangeState.FAILED
        )
        for change in failed:
            logger.warning("%r is not sent: %s", change.key, change.reason)
        # A daemon that goes on for a dead one keeps what is open there without a name.
        drop = tuple({*nobody} - self._held | {*found.lost})
        rows = Rows(changes=(*failed, *_whole_again(ledger, reasons)), drop=drop)
        return rows, tuple(change.key for change in failed)

    def _files_of(self, state: JournalState, id_: int) -> Iterator[SetAside]:
        for layer in state.ledger.contents[id_].layers:
            path = self._folder / "staging" / data_name((id_, layer.number))
            if path.exists():
                key = state.ledger.owner.get(id_, "no change")
                why = f"a part of the staged bytes of {key!r}, others are missing; "
                yield SetAside(path, why + describe(path))

    def _set_aside(self, found: Findings) -> None:
        for path in found.useless:
            self._disk.unlink(path)
        self._aside += found.orphans
        if self._aside or self._notes:
            self._move(self._aside, self._notes)
        for content, layer in found.empty:
            if content.id not in found.lost:
                self._make_empty(content.id, layer.number, pack_sidecar(content, layer, "", ""))

    def _make_empty(self, content: int, layer: int, sidecar: bytes) -> None:
        path = self._folder / "staging" / data_name((content, layer))
        fd = self._disk.open_file(path, create=True)
        try:
            self._disk.pwrite(fd, sidecar, 0)
        finally:
            self._disk.close(fd)

    def _move(self, files: list[SetAside], notes: list[str]) -> None:
        target = self._folder / "quarantine"
        moved = quarantine(target, files, notes, disk=self._disk, now_ns=self._now_ns)
        logger.error("%d files were set aside in %s", len(files), moved[0].parent)
        self._quarantined += moved

    def _cut_log(self, end: LogEnd) -> list[Path]:
        """Nothing is left behind the last good record, and all before it is on the disk; but for
        the segments returned, which are to go once there is a new one."""
        folder = self._folder / "log"
        bad: list[Segment] = []
        if end.torn is not None and not self._damaged:
            segment, good = end.torn
            index = self._segments.index(segment)
            bad = self._segments[index + (good >= HEADER_SIZE) :]
            if good >= HEADER_SIZE:
                self._cut(segment.path, good)
        for path in [*self._folder.glob(TEMP_PREFIX + "*"), *folder.glob(TEMP_PREFIX + "*")]:
            self._disk.unlink(path)
        for segment in self._segments:
            if segment not in bad:
                self._cut(segment.path, None)
        self._disk.fsync_dir(folder)
        return [segment.path for segment in bad]

    def _cut(self, path: Path, size: int | None) -> None:
        """Also of the room that was taken behind its end: on a full disk the next segment has no
        other."""
        fd = self._disk.open_file(path)
        try:
            self._disk.truncate(fd, os.fstat(fd).st_size if size is None else size)
            self._disk.fdatasync(fd)
        finally:
            self._disk.close(fd)


def _whole_again(ledger: Ledger, failed: Container[str]) -> Iterator[Change]:
    """What was torn and then written again, right before the process ended."""
    for change in ledger.changes.values():
        is_whole = change.content in ledger.contents and change.key not in failed
        if is_whole and change.state is ChangeState.FAILED and change.reason == TORN_REASON:
            yield replace(change, state=ChangeState.PENDING, reason="")


def _concerned(later: list[Record], state: JournalState) -> Iterator[str]:
    """Keys of changes that records were about which could not be applied."""
    for record in later:
        keys: set[str] = set()
        contents: set[int] = set()
        match record:
            case Rows():
                keys = {*record.forget, *(change.key for change in record.changes)}
                contents = {*record.drop, *(content.id for content in record.contents)}
            case Write() | Freeze() | Release() | Dated():
                contents = {record.content}
        keys |= {state.ledger.owner[id_] for id_ in contents if id_ in state.ledger.owner}
        yield from (key for key in keys if key in state.ledger.changes)
