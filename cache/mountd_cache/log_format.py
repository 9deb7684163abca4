"""What a segment of the operation log looks like; pure. See docs/format.md.

    0       header, `HEADER_SIZE` bytes
    ...     frames: u32 length of the payload, u32 CRC32C of lsn and payload, u64 lsn, payload

All little endian. The lsn counts records, one up from frame to frame and from segment to segment.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from crc32c import crc32c

VERSION: Final = 2  # 2: DATED records
HEADER_SIZE: Final = 96
_MAGIC: Final = b"mountdJ\n"
# magic, version, first lsn, the log is durable up to, epoch, boot id
_HEADER: Final = struct.Struct("<8sIQQQ40s")
_CRC: Final = struct.Struct("<I")
_FRAME: Final = struct.Struct("<IIQ")
_LSN: Final = struct.Struct("<Q")
_FARTHEST: Final = 1 << 32  # how far from the last good frame another can be
_pack_lsn = _LSN.pack
_pack_sizes = struct.Struct("<II").pack


class BadHeader(ValueError):
    """No header of a segment."""


class SegmentTooNew(Exception):
    """A header of a later format."""


@dataclass(frozen=True, slots=True)
class Header:
    """`durable_lsn`: how far the log was on the disk when the segment was begun. `epoch`: one more
    each time that the journal is opened. `boot_id`: of the machine then."""

    first_lsn: int
    durable_lsn: int
    epoch: int
    boot_id: str


def pack_header(header: Header) -> bytes:
    """HEADER_SIZE bytes."""
    boot_id = header.boot_id.encode()[:40]
    fields = (header.first_lsn, header.durable_lsn, header.epoch, boot_id)
    head = _HEADER.pack(_MAGIC, VERSION, *fields)
    return (head + _CRC.pack(crc32c(head))).ljust(HEADER_SIZE, b"\0")


def unpack_header(data: bytes) -> Header:
    """Raises BadHeader, SegmentTooNew."""
    if len(data) < HEADER_SIZE or data[:8] != _MAGIC:
        raise BadHeader("no header")
    head = data[: _HEADER.size]
    if _CRC.unpack_from(data, _HEADER.size)[0] != crc32c(head):
        raise BadHeader("a header whose CRC is wrong")
    _, version, first_lsn, durable_lsn, epoch, boot_id = _HEADER.unpack(head)
    if version > VERSION:
        raise SegmentTooNew(f"format {version}")
    try:
        boot = boot_id.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise BadHeader("a header whose boot is no text") from error
    return Header(first_lsn, durable_lsn, epoch, boot)


def frame(lsn: int, payload: bytes) -> bytes:
    """A record as it is in a segment."""
    body = _pack_lsn(lsn) + payload
    return _pack_sizes(len(payload), crc32c(body)) + body


def frames(data: bytes, lsn: int) -> Iterator[tuple[int, bytes, int]]:
    """(lsn, payload, where the frame ends) for the frames of a segment, from the first lsn on, up
    to the first bad one or the end."""
    at = HEADER_SIZE
    while (found := _frame_at(data, at)) is not None and found[0] == lsn:
        at += _FRAME.size + len(found[1])
        yield *found, at
        lsn += 1


def frames_anywhere(data: bytes, start: int, after: int) -> Iterator[tuple[int, bytes]]:
    """(lsn, payload) for what looks like frames later than `after`, from `start` on, whatever is
    in between: what a log that was damaged still has. 0.15 us per byte that is no frame."""
    at = start
    while at + _FRAME.size < len(data):
        length, _, lsn = _FRAME.unpack_from(data, at)
        found = None
        if 0 < length <= len(data) - at - _FRAME.size and after < lsn <= after + _FARTHEST:
            found = _frame_at(data, at)
        if found is None:
            at += 1
        else:
            yield found
            at += _FRAME.size + length


def _frame_at(data: bytes, at: int) -> tuple[int, bytes] | None:
    if at + _FRAME.size >= len(data):
        return None
    length, crc, lsn = _FRAME.unpack_from(data, at)
    end = at + _FRAME.size + length
    if length == 0 or end > len(data) or crc32c(data[at + 8 : end]) != crc:
        return None
    return lsn, data[at + _FRAME.size : end]
