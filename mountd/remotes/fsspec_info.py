"""From what fsspec's file systems tell about a file to an `Entry`. Pure.

Each package has its own names for sizes, tags and times.
"""

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mountd.errors import Corrupt, Unreachable
from mountd.remotes.http_status import mtime_ns_of_http_date
from mountd.remotes.untrusted import size_in, time_in
from mountd.types import Entry, Kind

CAN_BE_NO_SEGMENT = frozenset(("", ".", ".."))
_TAGS = ("generation", "ETag", "etag", "sha", "hash", "checksum")
_MAX_SECONDS = 1e10  # what 64 bits of nanoseconds hold is less; NaN is no less than anything
_TIMES = (
    "LastModified",
    "last_modified",
    "mtime",
    "updated",
    "timeModified",
    "modified",
    "created",
)


def entry_of(name: str, info: Mapping[str, Any]) -> Entry:
    """Raises Unreachable for a file whose size isn't told."""
    mtime_ns = _mtime_ns(info)
    if info["type"] == "directory":
        return Entry(name, Kind.DIRECTORY, 0, mtime_ns, "")
    size = info.get("size")
    if size is None:
        raise Unreachable(f"{name!r}: the remote doesn't tell its size")
    try:
        size_bytes = size_in(str(int(size)))
    except (TypeError, ValueError, OverflowError) as error:
        raise Corrupt(f"{name!r}: its size is none") from error
    return Entry(name, Kind.FILE, size_bytes, mtime_ns, version_of(info, size_bytes, mtime_ns))


def tag_of(info: Mapping[str, Any]) -> str:
    """The tag, generation or hash that tells versions apart; "" where there is none."""
    for tag in _TAGS:
        value = info.get(tag)
        if value:
            return str(value)
    return ""


def md5_of(info: Mapping[str, Any]) -> str:
    """In hex; "" where the remote doesn't tell. S3's tag of an object in one part is its MD5, and
    what only looks like one is equal to no file's."""
    found = info.get("md5Hash")  # gcsfs
    if isinstance(found, str):
        return base64.b64decode(found).hex()
    found = getattr(info.get("content_settings"), "content_md5", None)  # adlfs
    if isinstance(found, bytes | bytearray):
        return bytes(found).hex()
    tag = str(info.get("ETag", "")).strip('"')  # s3fs; others call it something else
    return tag if re.fullmatch("[0-9a-f]{32}", tag) else ""


def name_below(directory: str, path: str) -> str | None:
    """The last segment of an entry's `path`; "" for the directory itself, None for elsewhere."""
    path = path.rstrip("/")
    if path.strip("/") == directory.strip("/"):
        return ""
    # Engines disagree about a slash at the front.
    prefix = directory.strip("/") + "/" if directory.strip("/") else ""
    rest = path.lstrip("/")
    if not rest.startswith(prefix):
        return None
    name = rest[len(prefix) :]
    return None if "/" in name or name in CAN_BE_NO_SEGMENT else name


def version_of(info: Mapping[str, Any], size: int, mtime_ns: int) -> str:
    return tag_of(info) or f"{size}-{mtime_ns}"


def _mtime_ns(info: Mapping[str, Any]) -> int:
    for name in _TIMES:
        value = info.get(name)
        if value:
            return max(0, time_in(_as_ns(value)))
    return 0


def _as_ns(value: object) -> int:
    """Datetimes (naive ones are UTC), seconds, ISO and HTTP dates; 0 for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return mtime_ns_of_http_date(str(value))
    if isinstance(value, datetime):
        if value.tzinfo is None:
            value = value.replace(tzinfo=UTC)
        # Not by float: 2**53 ns is only 104 days.
        since = value - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000
    if isinstance(value, int | float) and abs(value) < _MAX_SECONDS:
        # A float of today holds about a quarter of a microsecond; memory:// tells one time as a
        # datetime in info() and as a float in ls(), and the version must be the same.
        return round(value * 1_000_000) * 1000
    return 0
