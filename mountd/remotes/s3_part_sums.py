"""The CRC of an object whose checksum is one of its parts' checksums ("composite", `...-N`).

What newer clients of AWS keep with an upload in parts. CRCs of parts can be put together to that of
all bytes; of a SHA of SHAs nothing can be told without reading the object in the same parts.
https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObjectAttributes.html
"""

import base64
import binascii
import zlib
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Final

import crc32c

from mountd.errors import Corrupt
from mountd.remotes.http_range import opaque_tag
from mountd.remotes.object_store import ListedObject
from mountd.remotes.s3_rest import S3Rest
from mountd.remotes.untrusted import size_in
from mountd.remotes.xml_pages import children, parse_xml, texts

_MAX_PAGES: Final = 11  # of 1,000 parts; an object has 10,000
_ADDS: Final[Mapping[str, tuple[str, Callable[[bytes], int]]]] = {
    "crc32": ("CRC32", zlib.crc32),
    "crc32c": ("CRC32C", crc32c.crc32c),
}


def sum_from_parts(
    rest: S3Rest, found: ListedObject, header: Callable[[str], str]
) -> Mapping[str, str]:
    """By its name, in hex. `header`: of a HEAD that found the object. One request per 1,000 parts,
    and none where its checksum is no CRC of CRCs. Nothing where the right to ask
    (s3:GetObjectAttributes) or the answer is missing, or is of another version. Raises what can be
    tried again."""
    for name in _ADDS if find_spec("anycrc") else ():
        text, _, count = header(f"x-amz-checksum-{name}").partition("-")
        if text and count:
            parts = list(_parts(rest, found, name))
            whole = _added(name, parts)
            told = _bytes_of(text)
            is_all = str(len(parts)) == count and sum(size for size, _ in parts) == found.size
            if is_all and told == _ADDS[name][1](b"".join(crc for _, crc in parts)).to_bytes(4):
                return {name: f"{whole:08x}"}
    return {}


def _parts(rest: S3Rest, found: ListedObject, name: str) -> Iterator[tuple[int, bytes]]:
    """Size and CRC of each, as far as they are told."""
    marker = 0
    for _ in range(_MAX_PAGES):
        headers = {
            "x-amz-object-attributes": "ETag,ObjectParts",
            "x-amz-max-parts": "1000",
            "x-amz-part-number-marker": str(marker),
        }
        answer = rest.send("GET", found.key, {"attributes": ""}, headers)
        if answer.status in (429, 500, 502, 503, 504):
            raise rest.error(answer, found.key)
        if answer.status != 200:
            return
        try:
            root = parse_xml(answer.body.strip())
            page = dict(children(root)).get("ObjectParts")
            tag = opaque_tag(texts(root).get("ETag", ""))
            if page is None or tag.strip('"') != found.version.strip('"'):
                return
            for kind, element in children(page):
                if kind == "Part":
                    row = texts(element)
                    yield size_in(row["Size"]), _bytes_of(row[f"Checksum{name.upper()}"])
            facts = texts(page)
            after = size_in(facts.get("NextPartNumberMarker") or "0")
        except (Corrupt, KeyError, ValueError):
            return
        if facts.get("IsTruncated") != "true" or after <= marker:
            return
        marker = after


def _added(name: str, parts: list[tuple[int, bytes]]) -> int:
    import anycrc

    combine = anycrc.Model(_ADDS[name][0]).combine
    whole = 0
    for size, crc in parts:
        whole = combine(whole, int.from_bytes(crc), size)
    return whole


def _bytes_of(text: str) -> bytes:
    """Four; else none."""
    try:
        found = base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
    return found if len(found) == 4 else b""
