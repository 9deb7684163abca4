"""The checksum of an object that has one of its parts' checksums ("composite", `...-N`).

What newer clients of AWS keep with an upload in parts. CRCs of parts can be put together to that of
all bytes; a SHA of SHAs is told under a name with the parts' sizes, for who adds it up in the same
parts (part_digests.py).
https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObjectAttributes.html
"""

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Final

import crc32c

from mountd.errors import Corrupt
from mountd.remotes.http_range import opaque_tag
from mountd.remotes.object_store import ListedObject
from mountd.remotes.part_digests import named
from mountd.remotes.s3_rest import S3Rest
from mountd.remotes.untrusted import size_in
from mountd.remotes.xml_pages import children, parse_xml, texts

_MAX_PAGES: Final = 11  # of 1,000 parts; an object has 10,000
_ADDS: Final[Mapping[str, tuple[str, Callable[[bytes], int]]]] = {
    "crc32": ("CRC32", zlib.crc32),
    "crc32c": ("CRC32C", crc32c.crc32c),
}
_LENGTHS: Final = {
    **({"crc32": 4, "crc32c": 4} if find_spec("anycrc") else {}),
    **{"sha256": 32, "sha1": 20},
}


def sum_from_parts(
    rest: S3Rest, found: ListedObject, header: Callable[[str], str]
) -> Mapping[str, str]:
    """By its name, in hex. `header`: of a HEAD that found the object. One request per 1,000 parts,
    and none where its checksum is not one of checksums. Nothing where the right to ask
    (s3:GetObjectAttributes) or the answer is missing, or is of another version. Raises what can be
    tried again."""
    for name, length in _LENGTHS.items():
        text, _, count = header(f"x-amz-checksum-{name}").partition("-")
        if text and count:
            parts = list(_parts(rest, found, name, length))
            told = _bytes_of(text, length)
            is_all = str(len(parts)) == count and sum(size for size, _ in parts) == found.size
            if is_all and told and told == _of_sums(name, b"".join(each for _, each in parts)):
                if name in _ADDS:
                    return {name: f"{_added(name, parts):08x}"}
                return {named(name, [size for size, _ in parts]): told.hex()}
    return {}


def _of_sums(name: str, sums: bytes) -> bytes:
    if name in _ADDS:
        return _ADDS[name][1](sums).to_bytes(4)
    return hashlib.new(name, sums, usedforsecurity=False).digest()


def _parts(
    rest: S3Rest, found: ListedObject, name: str, length: int
) -> Iterator[tuple[int, bytes]]:
    """Size and checksum of each, as far as they are told."""
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
                    yield size_in(row["Size"]), _bytes_of(row[f"Checksum{name.upper()}"], length)
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


def _bytes_of(text: str, length: int) -> bytes:
    """So many; else none."""
    try:
        found = base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
    return found if len(found) == length else b""
