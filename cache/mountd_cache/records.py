"""What is in the operation log: one record per step, as bytes; pure. The format: docs/format.md.

A record is a kind byte and a body. What happens for each write of a program is a packed struct;
what happens for each file is JSON, in UTF-8 that lets lone surrogates through: a name that is no
UTF-8 comes back as the bytes that it was.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any, Final

from mountd_cache.changes import Base, Change, ChangeKind, ChangeState, Content, Layer, Rows
from mountd_cache.extent_map import ExtentMap

ROWS: Final = 1
WRITE: Final = 2
SYNCED: Final = 3
FREEZE: Final = 4
RELEASE: Final = 5
TORN: Final = 6
DATED: Final = 8

# kind, content, layer, offset, length, mtime in ns, CRC32C of the bytes
_WRITE: Final = struct.Struct("<BQIQIqI")
_COVER: Final = struct.Struct("<QII")  # start, length, CRC32C
_SYNCED: Final = struct.Struct("<BQQ")  # kind, the log is durable up to, every layer is
_MARK: Final = struct.Struct("<QIQ")  # content, layer, writes up to this lsn are durable
_FREEZE: Final = struct.Struct("<BQI")  # kind, content, number of the new layer
_TORN: Final = struct.Struct("<BQI")  # kind, content, layer
_RANGE: Final = struct.Struct("<QQ")  # start, end
_DATED: Final = struct.Struct("<BQq")  # kind, content, mtime in ns
_INT64: Final = 2**63

_text = encode_basestring


class BadRecord(ValueError):
    """A record whose CRC is right and that makes no sense: a bug, or a newer format."""


@dataclass(frozen=True, slots=True)
class Cover:
    """[start, end) of a data file held bytes with this CRC32C just before a write replaced them.

    With it, what is left of an earlier write can still be proved.
    """

    start: int
    end: int
    crc: int


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes are in a layer's data file. `crc`: their CRC32C."""

    content: int
    layer: int
    offset: int
    length: int
    mtime_ns: int
    crc: int
    covers: tuple[Cover, ...] = ()


@dataclass(frozen=True, slots=True)
class Synced:
    """The data of writes is on the disk: of those of all layers up to `all_lsn`, and up to an lsn
    of each layer in `marks` (content, layer, lsn). The log was up to `durable_lsn`, before."""

    durable_lsn: int
    all_lsn: int
    marks: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Freeze:
    """A content has a new, empty layer on top."""

    content: int
    layer: int


@dataclass(frozen=True, slots=True)
class Release:
    """The lowest `depth` layers are on the remote, as `base`; `drop`: nothing else is left."""

    content: int
    depth: int
    base: Base
    drop: bool
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Torn:
    """These ranges of a data file are not what was written: they were lost in a power cut."""

    content: int
    layer: int
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Dated:
    """A content has another mtime; a time of the years 1678 to 2262."""

    content: int
    mtime_ns: int


Record = Rows | Write | Synced | Freeze | Release | Torn | Dated


def fits_dated(mtime_ns: int) -> bool:
    """Whether a `Dated` can say this time."""
    return -_INT64 <= mtime_ns < _INT64


def pack_write(
    content: int,
    layer: int,
    offset: int,
    length: int,
    mtime_ns: int,
    crc: int,
    covers: Sequence[Cover] = (),
) -> bytes:
    """The bytes of a `Write`. A time outside of the years 1678 to 2262 becomes the nearest one."""
    if not -_INT64 <= mtime_ns < _INT64:
        mtime_ns = max(-_INT64, min(mtime_ns, _INT64 - 1))
    packed = _WRITE.pack(WRITE, content, layer, offset, length, mtime_ns, crc)
    if covers:
        packed += b"".join(_COVER.pack(c.start, c.end - c.start, c.crc) for c in covers)
    return packed


def pack(record: Record) -> bytes:
    """The bytes of a record."""
    match record:
        case Rows():
            return _json(ROWS, _rows_text(record))
        case Write(content, layer, offset, length, mtime_ns, crc, covers):
            return pack_write(content, layer, offset, length, mtime_ns, crc, covers)
        case Synced(durable_lsn, all_lsn, marks):
            packed = b"".join(_MARK.pack(*mark) for mark in marks)
            return _SYNCED.pack(SYNCED, durable_lsn, all_lsn) + packed
        case Freeze(content, layer):
            return _FREEZE.pack(FREEZE, content, layer)
        case Release():
            return _json(RELEASE, _release_text(record))
        case Torn(content, layer, ranges):
            packed = b"".join(_RANGE.pack(*part) for part in ranges)
            return _TORN.pack(TORN, content, layer) + packed
        case Dated(content, mtime_ns):
            return _DATED.pack(DATED, content, mtime_ns)


def unpack(payload: bytes) -> Record:
    """The record that `pack` made these bytes of. Raises BadRecord."""
    try:
        match payload[0]:
            case 2:
                _, content, layer, offset, length, mtime_ns, crc = _WRITE.unpack_from(payload)
                packed = _COVER.iter_unpack(payload[_WRITE.size :])
                covers = tuple(Cover(at, at + size, known) for at, size, known in packed)
                return Write(content, layer, offset, length, mtime_ns, crc, covers)
            case 1:
                return _rows_from_json(_object(payload))
            case 3:
                _, durable_lsn, all_lsn = _SYNCED.unpack_from(payload)
                marks = tuple(_MARK.iter_unpack(payload[_SYNCED.size :]))
                return Synced(durable_lsn, all_lsn, marks)
            case 4:
                return Freeze(*_FREEZE.unpack(payload)[1:])
            case 5:
                return _release_from_json(_object(payload))
            case 6:
                _, content, layer = _TORN.unpack_from(payload)
                return Torn(content, layer, tuple(_RANGE.iter_unpack(payload[_TORN.size :])))
            case 8:
                return Dated(*_DATED.unpack(payload)[1:])
    except (ValueError, TypeError, LookupError, AttributeError, struct.error) as error:
        raise BadRecord(f"a record that can't be read: {payload[:40]!r}: {error}") from error
    raise BadRecord(f"a record of the unknown kind {payload[0]}")


def name_to_text(name: bytes) -> str:
    """Any name as text that `text_to_name` turns into the same bytes."""
    return name.decode("utf-8", "surrogateescape")


def text_to_name(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _json(kind: int, text: str) -> bytes:
    return bytes((kind,)) + text.encode("utf-8", "surrogatepass")


def _object(payload: bytes) -> dict[str, Any]:
    try:
        value = json.loads(payload[1:].decode("utf-8", "surrogatepass"))
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


# Put together by hand, as `json` would: that takes three times as long, and each create(2), chmod
# and chown waits for one of these.


def _base_text(base: Base | None) -> str:
    return "null" if base is None else f"[{_text(base.key)},{_text(base.version)},{base.size}]"


def _base_from_json(value: list[Any] | None) -> Base | None:
    return None if value is None else Base(*value)


def _change_text(change: Change) -> str:
    attributes = ",".join([f"{_text(k)}:{_text(v)}" for k, v in change.attributes.items()])
    return (
        f"[{_text(change.key)},{_text(change.directory)},{_text(name_to_text(change.name))},"
        f"{change.number},{change.kind:d},{_text(change.expect)},{_base_text(change.base)},"
        f"{change.content},{change.size},{change.mtime_ns},{change.sequence},{change.since_ns},"
        f"{change.changed_ns},{change.state:d},{_text(change.reason)},{_text(change.conflict)},"
        f"{{{attributes}}}]"
    )


def _change_from_json(value: list[Any]) -> Change:
    if len(value) != 17:
        raise ValueError(f"a change of {len(value)} fields")
    fields = list(value)
    fields[2] = text_to_name(value[2])
    fields[4] = ChangeKind(value[4])
    fields[6] = _base_from_json(value[6])
    fields[13] = ChangeState(value[13])
    return Change(*fields)


def _content_text(content: Content) -> str:
    layers = ",".join(
        f"[{la.number},{la.size},{la.floor_end},[{','.join(map(str, la.extents.edges()))}]]"
        for la in content.layers
    )
    base = _base_text(content.base)
    return f"[{content.id},{base},[{layers}],{content.mtime_ns},{content.changed_ns}]"


def _content_from_json(value: list[Any]) -> Content:
    id_, base, layers, mtime_ns, changed_ns = value
    made = [
        Layer(number, size, floor_end, ExtentMap.from_edges(edges))
        for number, size, floor_end, edges in layers
    ]
    if not made:
        raise ValueError(f"content {id_} has no layer")
    return Content(id_, _base_from_json(base), made, mtime_ns, changed_ns)


def _rows_text(rows: Rows) -> str:
    parts = []
    if rows.changes:
        parts.append(f'"changes":[{",".join(map(_change_text, rows.changes))}]')
    if rows.forget:
        parts.append(f'"forget":[{",".join(map(_text, rows.forget))}]')
    if rows.contents:
        parts.append(f'"contents":[{",".join(map(_content_text, rows.contents))}]')
    if rows.drop:
        parts.append(f'"drop":[{",".join(map(str, rows.drop))}]')
    return f"{{{','.join(parts)}}}"


def _rows_from_json(value: dict[str, Any]) -> Rows:
    return Rows(
        tuple(_change_from_json(change) for change in value.get("changes", ())),
        tuple(value.get("forget", ())),
        tuple(_content_from_json(content) for content in value.get("contents", ())),
        tuple(value.get("drop", ())),
    )


def _release_text(release: Release) -> str:
    changes = ",".join(map(_change_text, release.changes))
    return (
        f'{{"content":{release.content},"depth":{release.depth},"base":{_base_text(release.base)},'
        f'"drop":{"true" if release.drop else "false"},"changes":[{changes}]}}'
    )


def _release_from_json(value: dict[str, Any]) -> Release:
    base = _base_from_json(value["base"])
    if base is None:
        raise ValueError("a release without a base")
    changes = tuple(_change_from_json(change) for change in value["changes"])
    return Release(value["content"], value["depth"], base, value["drop"], changes)
