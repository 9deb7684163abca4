"""Where request bodies go: to the spool or, without a length, to memory."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from tests.servers.nextcloud.refusals import refused
from tests.servers.s3.bodies import Body, Extent, Spool, SpoolRegion, body_of_bytes, read_span
from tests.servers.s3.message import Request, Response
from tests.servers.s3.wire import part_of, span_size

IN_MEMORY = 64 * 1024
_PIECE = 2**20
_HASHES = ("md5", "sha1", "sha256")


def hashes_of(body: Body, asked: str) -> dict[str, str]:
    """The answer headers that X-Hash asks for, of a body that is all there."""
    headers = {}
    for name in _HASHES:
        if asked in (name, "all"):
            digest = hashlib.new(name, usedforsecurity=False)
            for span in body.spans():
                for at in range(0, span_size(span), _PIECE):
                    digest.update(read_span(part_of(span, at, min(at + _PIECE, span_size(span)))))
            headers[f"X-Hash-{name.upper()}"] = digest.hexdigest()
    return headers


@dataclass(frozen=True, slots=True)
class Arrived:
    """A whole body and the hashes that X-Hash asked for, as answer headers."""

    body: Body
    hash_headers: dict[str, str]


class UploadReceiver:
    """Takes a file's or a chunk's bytes and hands them to `commit`."""

    def __init__(
        self, spool: Spool, request: Request, commit: Callable[[Arrived], Response]
    ) -> None:
        self._commit = commit
        length = request.headers.get("content-length", "")
        chunked = "transfer-encoding" in request.headers
        self._size = -1 if chunked or not length.isdecimal() else int(length)
        self._region: SpoolRegion | None = None
        if self._size > IN_MEMORY:
            self._region = spool.region(self._size)
        self._small = bytearray()
        self._got = 0
        asked = request.headers.get("x-hash", "")
        self._digests = {
            name: hashlib.new(name, usedforsecurity=False)
            for name in _HASHES
            if asked in (name, "all")
        }

    def write(self, data: memoryview) -> None:
        for digest in self._digests.values():
            digest.update(data)
        if self._region is None:
            self._small += data
        else:
            self._region.write(self._got, data)
        self._got += len(data)

    def finish(self) -> Response:
        if self._size >= 0 and self._got != self._size:
            raise refused(400, f"Expected filesize of {self._size} bytes but read {self._got}")
        headers = {
            f"X-Hash-{name.upper()}": digest.hexdigest() for name, digest in self._digests.items()
        }
        if self._region is not None:
            body = Body((Extent(self._region, 0, self._size),))
        else:
            body = body_of_bytes(bytes(self._small))
        return self._commit(Arrived(body, headers))
