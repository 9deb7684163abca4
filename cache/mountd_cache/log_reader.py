"""Reads the operation log after a crash, and tells a torn end from damage."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mountd_cache.journal_state import Inconsistent
from mountd_cache.log_format import (
    HEADER_SIZE,
    BadHeader,
    Header,
    SegmentTooNew,
    frames,
    frames_anywhere,
    unpack_header,
)
from mountd_cache.oplog import SUFFIX
from mountd_cache.records import BadRecord, Record, Synced, unpack

logger = logging.getLogger(__name__)

Apply = Callable[[int, Record, str], None]  # lsn, record, boot id of its segment; Inconsistent


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as it was found. `header`: None where it can't be read."""

    path: Path
    header: Header | None


@dataclass(slots=True)
class LogEnd:
    """How far the log could be read. `next_lsn`: of the first record that could not be applied.
    `highest_lsn`: of any that was seen. `torn`: the segment with the first bad byte, and where.
    `damaged`: records after that were lost that were on the disk once. `later`: records that were
    found there."""

    next_lsn: int
    highest_lsn: int
    replayed: int = 0
    torn: tuple[Segment, int] | None = None
    damaged: bool = False
    later: list[Record] = field(default_factory=list)


def find_segments(folder: Path) -> list[Segment]:
    """All segments in order. Raises OSError, SegmentTooNew."""
    found = []
    for path in sorted(folder.glob("*" + SUFFIX)):
        with open(path, "rb") as file:
            data = file.read(HEADER_SIZE)
        try:
            found.append(Segment(path, unpack_header(data)))
        except BadHeader:
            found.append(Segment(path, None))
        except SegmentTooNew as error:
            raise SegmentTooNew(f"{path}: {error}") from error
    return found


def read_log(segments: list[Segment], last_lsn: int, boot_id: str, apply: Apply) -> LogEnd:
    """Applies the records after `last_lsn`, in order, up to the first that is missing or bad."""
    end = LogEnd(last_lsn + 1, last_lsn)
    # Earlier ones say what the database has; unlinked ones may have come back, in parts.
    known = [
        at for at, seg in enumerate(segments) if seg.header and seg.header.first_lsn <= end.next_lsn
    ]
    segments = segments[known[-1] if known else 0 :]
    for index, segment in enumerate(segments):
        good = _read_segment(segment, end, apply)
        if good is not None:
            end.torn = (segment, good)
            _look_behind(segments, index, boot_id, end)
            break
    return end


def _read_segment(segment: Segment, end: LogEnd, apply: Apply) -> int | None:
    """None, or where the first bad byte is."""
    header = segment.header
    if header is None or header.first_lsn > end.next_lsn:
        return 0
    data = segment.path.read_bytes()
    good = HEADER_SIZE
    for lsn, payload, stop in frames(data, header.first_lsn):
        if lsn == end.next_lsn:
            try:
                apply(lsn, unpack(payload), header.boot_id)
            except (BadRecord, Inconsistent) as error:
                logger.warning("record %d of the log makes no sense: %s", lsn, error)
                end.damaged = True
                return good
            end.next_lsn, end.highest_lsn = lsn + 1, max(lsn, end.highest_lsn)
            end.replayed += 1
        good = stop
    return None if good == len(data) else good


def _look_behind(segments: list[Segment], index: int, boot_id: str, end: LogEnd) -> None:
    """Whether what can't be read is the end of a log that was never fsynced, or damage."""
    boots = {segment.header.boot_id for segment in segments[: index + 1] if segment.header}
    proved = 0  # up to here the log was on the disk
    start = end.torn[1] if end.torn else 0
    for segment in segments[index:]:
        if segment.header is not None:
            proved = max(proved, segment.header.durable_lsn)
        data = segment.path.read_bytes()
        for lsn, payload in frames_anywhere(data, max(start, HEADER_SIZE), end.next_lsn - 1):
            end.highest_lsn = max(end.highest_lsn, lsn)
            try:
                record = unpack(payload)
            except BadRecord:
                continue
            end.later.append(record)
            if isinstance(record, Synced):
                proved = max(proved, record.durable_lsn)
        start = 0
    # After a power cut any page of what was not fsynced may be missing. The page cache loses none.
    if proved >= end.next_lsn or (end.later and boot_id in boots):
        end.damaged = True
