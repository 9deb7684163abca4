"""Ranged GETs: what an answer promises about range and version. Pure.

A WebDAV version is the entity tag without its `W/` (RFC 9110, 8.8.3.2: weak comparison), with
more behind it where a tag is not enough (`nextcloud_version`), or `size-mtime_s` where the server
has no tags. Apache's tag is weak for a second after a write and
strong afterwards; the file didn't change in between, so the version must not either.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mountd.remotes.http_status import mtime_ns_of_http_date
from mountd.remotes.untrusted import can_be_a_tag

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class ContentRange:
    """The bytes [start, end) of an object of `total` bytes (None: the server doesn't say)."""

    start: int
    end: int
    total: int | None


def parse_content_range(text: str | None) -> ContentRange | None:
    """None where the header is missing or is not one range of bytes."""
    match = _CONTENT_RANGE.fullmatch(text.strip()) if text else None
    if match is None:
        return None
    total = None if match[3] == "*" else int(match[3])
    return ContentRange(int(match[1]), int(match[2]) + 1, total)


def opaque_tag(etag: str) -> str:
    """The tag in its quotes, without `W/`; "" where there is none.

    Quotes that a server forgot are put there, as If-Match needs them. None is what could not be
    said in a header, however it came: an XML answer can hold any character.
    """
    tag = etag.strip().removeprefix("W/")
    if tag == '""' or not can_be_a_tag(tag):
        return ""
    return tag if tag.startswith('"') else f'"{tag}"'


def is_weak(etag: str) -> bool:
    return etag.strip().startswith("W/")


def version_of(etag: str, size: int, mtime_ns: int) -> str:
    """The version string of one state of a file."""
    return opaque_tag(etag) or f"{size}-{mtime_ns // 1_000_000_000}"


def is_tag(version: str) -> bool:
    """Whether there is a tag in it, as conditions need one."""
    return version.startswith('"')


def tag_of(version: str) -> str:
    """The tag of a version that has one."""
    return version[: version.rindex('"') + 1]


def answers_for(version: str, headers: Mapping[str, str], total: int | None) -> bool:
    """Whether an answer with these headers is certainly about `version`.

    A web server in front may append `-gzip` to the tag although nothing was compressed.
    """
    if not version:
        return True
    if is_tag(version):
        tag = opaque_tag(headers.get("etag", ""))
        return bool(tag) and tag.replace('-gzip"', '"') == version.replace('-gzip"', '"')
    mtime_ns = mtime_ns_of_http_date(headers.get("last-modified"))
    return total is not None and mtime_ns > 0 and version_of("", total, mtime_ns) == version
