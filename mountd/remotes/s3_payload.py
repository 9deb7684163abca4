"""What a request to S3 carries, with the digests that go into its headers.

Content-MD5 and not `x-amz-checksum-crc32c`: every server that checks anything checks it, and the
ETag of the answer is compared with the same MD5 (0.65 GB/s per thread, the GIL released). The parts
of large objects go without it where the server was seen to refuse a part whose SHA-256 is not what
the request says: that proves as much, takes a third of the time where the processor helps, and
without TLS the signature wants it anyway. MD5 was half of what sending a GiB cost.
"""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

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
    """`md5`: b"" where it goes without. `sha256`: hex, or `UNSIGNED` where TLS does its work."""

    sent: SentBody
    md5: bytes
    sha256: str

    @property
    def content_md5(self) -> str:
        return base64.b64encode(self.md5).decode()


def payload_of(data: bytes | memoryview, is_signed: bool) -> Payload:
    sha256 = hashlib.sha256(data).hexdigest() if is_signed else UNSIGNED
    md5 = hashlib.md5(data, usedforsecurity=False).digest()
    return Payload(SentBody.of(data), md5, sha256)


def payload_by_sha256(data: bytes | memoryview) -> Payload:
    """For who checks that."""
    return Payload(SentBody.of(data), b"", hashlib.sha256(data).hexdigest())


@cache
def is_sha256_quick() -> bool:
    """Whether the processor has instructions for it."""
    try:
        return not _SHA_FLAGS.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False


def payload_of_part(
    body: Body, start: int, end: int, is_signed: bool, *, by_sha256: bool = False
) -> Payload:
    """The bytes [start, end) of a body. `by_sha256`: as `payload_by_sha256` does, where the bytes
    are held. What the body raises passes through."""
    if end - start <= HELD_BYTES:
        data = _read(body, start, end)
        return payload_by_sha256(data) if by_sha256 else payload_of(data, is_signed)
    md5 = hashlib.md5(usedforsecurity=False)
    sha256 = hashlib.sha256()
    for at in range(start, end, _READ_BYTES):
        data = _read(body, at, min(at + _READ_BYTES, end))
        md5.update(data)
        if is_signed:
            sha256.update(data)
    signed = sha256.hexdigest() if is_signed else UNSIGNED
    return Payload(SentBody.part_of(body, start, end), md5.digest(), signed)


def _read(body: Body, start: int, end: int) -> memoryview:
    if start == end:
        return memoryview(b"")
    data = memoryview(body.read(start, end)).cast("B")
    if len(data) != end - start:
        raise Corrupt(f"a body gave {len(data)} bytes for {start}-{end}")
    return data
