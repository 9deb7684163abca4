"""Counts what is in a journal that no daemon has open, without recovering or changing it.

The database is read from a copy: opening one that was not closed changes it, and a lock would keep
a daemon from starting meanwhile.
"""

import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mountd_cache.changes import ChangeState, Rows
from mountd_cache.durable_io import DISK
from mountd_cache.extent_map import ExtentMap
from mountd_cache.journal_state import JournalState
from mountd_cache.journal_store import (
    FILE_NAME,
    JournalStore,
    JournalTooNew,
    JournalUnreadable,
)
from mountd_cache.log_format import SegmentTooNew
from mountd_cache.log_reader import find_segments, read_log
from mountd_cache.records import Record
from mountd_cache.staging import FileKey

# What is found is told by what `peek` raises, not on stderr too.
logging.getLogger("mountd_cache").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Peek:
    """`unsent` counts changes, those that `failed` among them; `size_bytes` is what has to be
    sent."""

    unsent: int
    failed: int
    size_bytes: int


def peek(journal: Path) -> Peek:
    """What recovery would find in the folder `journal`, but for the look at the staged bytes.
    Blocks: 1.5 s with 100,000 changes.

    Raises OSError, and ValueError for a journal that is damaged or of a later version.
    """
    try:
        state, last_lsn = _read_database(journal)
        segments = find_segments(journal / "log")
    except (JournalUnreadable, JournalTooNew, SegmentTooNew) as error:
        raise ValueError(str(error)) from error

    def apply(lsn: int, record: Record, boot_id: str) -> None:
        state.replay(lsn, record, volatile=False)

    end = read_log(segments, last_lsn, _this_boot(), apply)
    if end.damaged:
        raise ValueError(f"its log is damaged after record {end.next_lsn - 1}")
    ledger = state.ledger
    unsent = list(ledger.unsent())
    failed = sum(change.state is ChangeState.FAILED for change in unsent)
    size = sum(ledger.size_of(change) for change in unsent if change.content)
    return Peek(len(unsent), failed, size)


def _this_boot() -> str:
    """In the boot that wrote it, a log that can't be read to its end is damaged, not torn."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _read_database(journal: Path) -> tuple[JournalState, int]:
    """The state that the database has, and the record of the log up to which it counts."""
    state, bad = JournalState(), list[str]()
    with tempfile.TemporaryDirectory(prefix="mountd-peek-") as name:
        copy = Path(name)
        shutil.copyfile(journal / FILE_NAME, copy / FILE_NAME)
        wal = journal / (FILE_NAME + "-wal")
        if wal.exists():
            shutil.copyfile(wal, copy / wal.name)
        store = JournalStore(copy, disk=DISK)
        try:
            meta = store.meta()
            if meta is None:
                return state, 0
            torn: dict[FileKey, ExtentMap] = {}
            contents = tuple(store.contents(bad, torn))
            state.load(Rows(tuple(store.changes(bad)), contents=contents), torn)
        finally:
            store.close()
    if bad:
        raise JournalUnreadable(f"{len(bad)} rows of its database make no sense")
    return state, meta.last_lsn
