"""What a request to S3 carries, with the digests that go into its headers.

Content-MD5 and not `x-amz-checksum-crc32c`: every server that checks anything checks it, and the
ETag of the answer is compared with the same MD5 (0.65 GB/s per thread, the GIL released). The parts
of large objects go without it where the server was seen to refuse a part that is not what the
request says: by its CRC32C where the signature needs no digest of the body, else by its SHA-256. Of
a GiB an MD5 takes 1.44 s, a SHA-256 0.62 where the processor helps, a CRC32C 0.07; and the server
adds up the same.
"""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import crc32c

from mountd.errors import Corrupt
from mountd.remotes.base import Body
from mountd.remotes.request_body import SentBody

# Up to here the bytes are held while they are sent; beyond they are read twice.
HELD_BYTES = 16 << 20
_READ_BYTES = 1 << 20
UNSIGNED = "UNSIGNED-PAYLOAD"
_SHA_FLAGS: Final = frozenset(("sha_ni", "sha2"))  # x86, ARM


@dataclass(frozen=True, slots=True)
class Payload:
    """`md5`: b"" where it goes without. `sha256`: hex, or `UNSIGNED` where TLS does its work, or
    nobody is on the way. `crc32c`: as the header says it, or ""."""

    sent: SentBody
    md5: bytes
    sha256: str
    crc32c: str = ""

    @property
    def content_md5(self) -> str:
        return base64.b64encode(self.md5).decode()


@dataclass(frozen=True, slots=True)
class Digests:
    """Those that a part is sent with."""

    md5: bool
    sha256: bool
    crc32c: bool


def payload_of(data: bytes | memoryview, is_signed: bool) -> Payload:
    sha256 = hashlib.sha256(data).hexdigest() if is_signed else UNSIGNED
    md5 = hashlib.md5(data, usedforsecurity=False).digest()
    return Payload(SentBody.of(data), md5, sha256)


def payload_by_sha256(data: bytes | memoryview) -> Payload:
    """For who checks that."""
    return Payload(SentBody.of(data), b"", hashlib.sha256(data).hexdigest())


def payload_by_crc32c(data: bytes | memoryview) -> Payload:
    """For who checks that, where no signature needs more."""
    return Payload(SentBody.of(data), b"", UNSIGNED, crc32c_text(crc32c.crc32c(data)))


def crc32c_text(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


@cache
def is_sha256_quick() -> bool:
    """Whether the processor has instructions for it."""
    try:
        return not _SHA_FLAGS.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False


def payload_of_part(body: Body, start: int, end: int, digests: Digests) -> Payload:
    """The bytes [start, end) of a body. What the body raises passes through."""
    sums = _Sums(digests)
    if end - start <= HELD_BYTES:
        data = _read(body, start, end)
        sums.add(data)
        return sums.payload(SentBody.of(data))
    for at in range(start, end, _READ_BYTES):
        sums.add(_read(body, at, min(at + _READ_BYTES, end)))
    return sums.payload(SentBody.part_of(body, start, end))


class _Sums:
    def __init__(self, digests: Digests) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False) if digests.md5 else None
        self._sha256 = hashlib.sha256() if digests.sha256 else None
        self._crc32c = 0 if digests.crc32c else None

    def add(self, data: memoryview) -> None:
        if self._md5 is not None:
            self._md5.update(data)
        if self._sha256 is not None:
            self._sha256.update(data)
        if self._crc32c is not None:
            self._crc32c = crc32c.crc32c(data, self._crc32c)

    def payload(self, sent: SentBody) -> Payload:
        return Payload(
            sent,
            self._md5.digest() if self._md5 is not None else b"",
            self._sha256.hexdigest() if self._sha256 is not None else UNSIGNED,
            crc32c_text(self._crc32c) if self._crc32c is not None else "",
        )


def _read(body: Body, start: int, end: int) -> memoryview:
    if start == end:
        return memoryview(b"")
    data = memoryview(body.read(start, end)).cast("B")
    if len(data) != end - start:
        raise Corrupt(f"a body gave {len(data)} bytes for {start}-{end}")
    return data
