"""What proves that a body arrived whole: Content-MD5, x-amz-checksum-*, x-amz-content-sha256."""

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable
from typing import Protocol

import crc32c

from tests.servers.s3.message import S3Error

LEAD = "x-amz-checksum-"
# Values of x-amz-content-sha256 that are no hash.
STREAMING = "STREAMING-"
UNSIGNED = ("UNSIGNED-PAYLOAD", "")
# Taken as they are: nothing in the standard library or in our packages computes it.
UNCHECKED = LEAD + "crc64nvme"


class Digest(Protocol):
    def update(self, data: memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class Crc:
    """A running CRC in the shape of a hashlib digest."""

    def __init__(self, function: Callable[[memoryview, int], int]) -> None:
        self._function = function
        self._value = 0

    def update(self, data: memoryview) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def _crc32c(data: memoryview, value: int) -> int:
    return int(crc32c.crc32c(data, value))


MAKERS: dict[str, Callable[[], Digest]] = {
    LEAD + "crc32": lambda: Crc(zlib.crc32),
    LEAD + "crc32c": lambda: Crc(_crc32c),
    LEAD + "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    LEAD + "sha256": hashlib.sha256,
}


class BodyDigests:
    """Computes what the headers promise, and the MD5 for the ETag if `with_md5`."""

    def __init__(self, headers: dict[str, str], *, with_md5: bool) -> None:
        self._headers = headers
        self._checksums: dict[str, Digest] = {}
        trailer = headers.get("x-amz-trailer", "").strip().lower()
        for name in (*[each for each in headers if each.startswith(LEAD)], trailer):
            maker = MAKERS.get(name)
            if maker is not None:
                self._checksums[name] = maker()
        self._trailer = trailer
        self._md5 = None
        if with_md5 or "content-md5" in headers:
            self._md5 = hashlib.md5(usedforsecurity=False)
        payload = headers.get("x-amz-content-sha256", "")
        self._payload = None
        if payload not in UNSIGNED and not payload.startswith(STREAMING):
            self._payload = hashlib.sha256()
        self._all: list[Digest] = [*self._checksums.values()]
        self._all += [each for each in (self._md5, self._payload) if each is not None]

    def update(self, data: memoryview) -> None:
        for digest in self._all:
            digest.update(data)

    @property
    def md5_hex(self) -> str | None:
        return None if self._md5 is None else self._md5.hexdigest()

    @property
    def promised(self) -> bool:
        """Whether the client gave a checksum or an MD5 of the body, as DeleteObjects demands."""
        named = bool(self._checksums) or UNCHECKED in (*self._headers, self._trailer)
        return named or "content-md5" in self._headers

    def verify(self, trailers: dict[str, str]) -> dict[str, str]:
        """The object's checksums. Raises BadDigest and its relatives."""
        headers = self._headers
        if self._payload is not None:
            claimed = headers["x-amz-content-sha256"]
            if claimed != self._payload.hexdigest():
                raise S3Error(
                    400,
                    "XAmzContentSHA256Mismatch",
                    "The provided 'x-amz-content-sha256' header does not match what was computed.",
                )
        if "content-md5" in headers:
            self._verify_md5(headers["content-md5"])
        if self._trailer and self._trailer not in trailers:
            raise S3Error(400, "MalformedTrailerError", f"the trailer {self._trailer} is missing")
        given = {name: headers.get(name, trailers.get(name, "")) for name in self._checksums}
        for name, digest in self._checksums.items():
            if decode_base64(given[name]) != digest.digest():
                raise S3Error(
                    400,
                    "BadDigest",
                    f"The {name.removeprefix(LEAD).upper()} you specified did not match the "
                    "calculated checksum.",
                )
        unchecked = headers.get(UNCHECKED, trailers.get(UNCHECKED))
        return given if unchecked is None else {**given, UNCHECKED: unchecked}

    def _verify_md5(self, claimed: str) -> None:
        digest = decode_base64(claimed)
        if len(digest) != 16:
            raise S3Error(400, "InvalidDigest", "The Content-MD5 you specified is not valid.")
        assert self._md5 is not None
        if digest != self._md5.digest():
            raise S3Error(
                400, "BadDigest", "The Content-MD5 you specified did not match what we received."
            )


def decode_base64(text: str) -> bytes:
    """b"" for what is no base64."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""


def composite(name: str, parts: list[str]) -> str:
    """The checksum of a multipart object: over its parts' checksums, with their number."""
    digest = MAKERS[name]()
    for part in parts:
        digest.update(memoryview(decode_base64(part)))
    return f"{base64.b64encode(digest.digest()).decode()}-{len(parts)}"
