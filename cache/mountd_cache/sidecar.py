"""The first page of a data file: it says what the file is, for when the database can't; pure.

    0    magic, u32 version, u32 length of the JSON, u32 its CRC32C, then the JSON

It is written again before each fsync of the file, so it may be older than the data.
"""

import json
import struct
from json.encoder import encode_basestring
from typing import Any, Final

from crc32c import crc32c

from mountd_cache.changes import Content, Layer

PAGE: Final = 4096  # where the data begins
VERSION: Final = 1
_MAGIC: Final = b"mountdS\n"
_HEAD: Final = struct.Struct("<8sIII")
_ROOM: Final = PAGE - _HEAD.size
_MOST_EXTENTS: Final = 200

_encode_json: Final = json.JSONEncoder(ensure_ascii=False).encode
_text: Final = encode_basestring


class BadSidecar(ValueError):
    """The first page of a data file can't be read."""


def pack_sidecar(content: Content, layer: Layer, key: str, boot_id: str) -> bytes:
    """PAGE bytes. `key`: of the change that has the content, "" where it is not known yet. What
    does not fit is left out: first the extents, then the base."""
    if content.base is None and not layer.extents:  # each new file
        data = _of_new(content, layer, key, boot_id).encode("utf-8", "surrogatepass")
        if len(data) <= _ROOM:
            return _page(data)
    base = content.base
    value: dict[str, Any] = {
        "content": content.id,
        "layer": layer.number,
        "key": key,
        "size": layer.size,
        "floor_end": layer.floor_end,
        "mtime_ns": content.mtime_ns,
        "boot_id": boot_id,
        "base": base and [base.key, base.version, base.size],
        "extents": layer.extents.edges() if len(layer.extents) <= _MOST_EXTENTS else None,
    }
    for without in ("", "extents", "base", "key"):
        value.pop(without, None)
        data = _encode_json(value).encode("utf-8", "surrogatepass")
        if len(data) <= _ROOM:
            break
    return _page(data)


def _of_new(content: Content, layer: Layer, key: str, boot_id: str) -> str:
    """What `_encode_json` makes of it, in a third of the time."""
    return (
        f'{{"content": {content.id}, "layer": {layer.number}, "key": {_text(key)}, '
        f'"size": {layer.size}, "floor_end": {layer.floor_end}, "mtime_ns": {content.mtime_ns}, '
        f'"boot_id": {_text(boot_id)}, "base": null, "extents": []}}'
    )


def _page(data: bytes) -> bytes:
    head = _HEAD.pack(_MAGIC, VERSION, len(data), crc32c(data))
    return (head + data).ljust(PAGE, b"\0")


def unpack_sidecar(page: bytes) -> dict[str, Any]:
    """What `pack_sidecar` was given. Raises BadSidecar."""
    try:
        magic, version, length, crc = _HEAD.unpack_from(page)
        data = page[_HEAD.size : _HEAD.size + length]
        if magic != _MAGIC or version > VERSION or len(data) != length or crc32c(data) != crc:
            raise BadSidecar("no sidecar, or one that was damaged")
        found = json.loads(data.decode("utf-8", "surrogatepass"))
    except (struct.error, ValueError, RecursionError) as error:
        raise BadSidecar(str(error)) from error
    if not isinstance(found, dict):
        raise BadSidecar("a sidecar of something else")
    return found
