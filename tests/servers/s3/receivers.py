"""What request bodies are written into: a document in memory, or a future object's body."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tests.servers.s3.bodies import EMPTY_BODY, Body, Extent, SpoolRegion, body_of_bytes
from tests.servers.s3.checksums import LEAD, STREAMING, BodyDigests
from tests.servers.s3.framing import ChunkDecoder
from tests.servers.s3.knobs import Effects
from tests.servers.s3.message import BadMessage, Request, Response, S3Error
from tests.servers.s3.service import Service
from tests.servers.s3.sigv4 import ChunkSigning

MAX_DOCUMENT = 256 * 2**20
MAX_PUT = 5 * 2**30
# Up to here a body is kept as bytes; larger ones go to the spool file.
IN_MEMORY = 64 * 1024


class BodyReceiver(Protocol):
    """Takes a request's body piece by piece and then answers the request."""

    def write(self, data: memoryview) -> None: ...

    def finish(self) -> Response: ...


class FailedReceiver:
    """Swallows the body of a request that is refused already, and answers with the refusal."""

    def __init__(self, error: S3Error) -> None:
        self._error = error

    def write(self, data: memoryview) -> None:
        pass

    def finish(self) -> Response:
        raise self._error


class MemoryReceiver:
    """A control call, handed over whole."""

    def __init__(self, act: Callable[[bytes], Response]) -> None:
        self._act = act
        self._data = bytearray()

    def write(self, data: memoryview) -> None:
        if len(self._data) <= MAX_DOCUMENT:
            self._data += data

    def finish(self) -> Response:
        if len(self._data) > MAX_DOCUMENT:
            raise S3Error(400, "EntityTooLarge", "Your proposed upload exceeds the maximum size")
        return self._act(bytes(self._data))


@dataclass(frozen=True, slots=True)
class Received:
    """A body that arrived whole and verified. `etag` without quotes."""

    body: Body
    etag: str
    checksums: dict[str, str]
    promised: bool


class ObjectReceiver:
    """Receives, decodes and verifies a body, and then hands it to `commit`.

    Everything that is wrong with the body is raised by `finish`, after all of it has come.
    """

    def __init__(
        self,
        service: Service,
        request: Request,
        effects: Effects,
        commit: Callable[[Received], Response],
    ) -> None:
        self._commit = commit
        self._size = _payload_size(request)
        if self._size > MAX_PUT:
            raise S3Error(400, "EntityTooLarge", "Your proposed upload exceeds the maximum size")
        if effects.wants_md5 and "content-md5" not in request.headers:
            raise S3Error(400, "InvalidRequest", "Content-MD5 is required with Object Lock")
        self._has_md5_etag = not effects.opaque_etag
        headers = request.headers
        if effects.ignore_sha256:
            headers = {**headers, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
        if effects.ignore_crc32c:
            headers = {name: headers[name] for name in headers if name != LEAD + "crc32c"}
        self._digests = BodyDigests(headers, with_md5=self._has_md5_etag)
        self._got = 0
        self._small = bytearray()
        self._region: SpoolRegion | None = None
        if self._size > IN_MEMORY:
            self._region = service.spool.region(self._size)
        self._error: S3Error | None = None
        self._decoder: ChunkDecoder | None = None
        self._signatures: ChunkSignatures | None = None
        payload = request.headers.get("x-amz-content-sha256", "")
        if payload.startswith(STREAMING):
            on_chunk = None
            if payload.startswith("STREAMING-AWS4-HMAC-SHA256"):
                assert isinstance(request.signature, ChunkSigning)
                self._signatures = ChunkSignatures(request.signature)
                on_chunk = self._signatures.on_chunk
            self._decoder = ChunkDecoder(on_chunk)

    def write(self, data: memoryview) -> None:
        if self._error is not None:
            return
        try:
            if self._decoder is None:
                self._take(data)
            elif self._decoder.feed(data, self._take) < len(data):
                raise incomplete("bytes after the last chunk")
        except S3Error as error:
            # Without its traceback, which would keep this receiver and its spool region alive.
            self._error = error.with_traceback(None)
        except BadMessage as error:
            self._error = incomplete(str(error))
        except OSError as error:
            self._error = S3Error(500, "InternalError", f"spool: {error}")

    def _take(self, data: memoryview) -> None:
        if self._got + len(data) > self._size:
            raise incomplete("the body is longer than it says")
        self._digests.update(data)
        if self._signatures is not None:
            self._signatures.update(data)
        if self._region is None:
            self._small += data
        else:
            self._region.write(self._got, data)
        self._got += len(data)

    def finish(self) -> Response:
        if self._error is not None:
            raise self._error
        trailers: dict[str, str] = {}
        if self._decoder is not None:
            if not self._decoder.done:
                raise incomplete("the last chunk is missing")
            trailers = self._decoder.trailers
            if self._signatures is not None:
                self._signatures.end(trailers)
        if self._got != self._size:
            raise incomplete("the body is shorter than it says")
        checksums = self._digests.verify(trailers)
        # Not by whether there is an MD5: Content-MD5 needs one, too.
        md5_hex = self._digests.md5_hex if self._has_md5_etag else None
        etag = md5_hex or os.urandom(16).hex()
        return self._commit(Received(self._body(), etag, checksums, self._digests.promised))

    def _body(self) -> Body:
        if self._region is not None:
            return Body((Extent(self._region, 0, self._size),))
        return body_of_bytes(bytes(self._small)) if self._small else EMPTY_BODY


def _payload_size(request: Request) -> int:
    """The decoded body's size, which S3 wants to know beforehand."""
    headers = request.headers
    if headers.get("x-amz-content-sha256", "").startswith(STREAMING):
        text = headers.get("x-amz-decoded-content-length")
    else:
        text = headers.get("content-length")
    if text is None and request.method == "POST" and "transfer-encoding" not in headers:
        return 0
    if text is None or not text.isdecimal():
        raise S3Error(
            411, "MissingContentLength", "You must provide the Content-Length HTTP header."
        )
    return int(text)


def incomplete(why: str) -> S3Error:
    return S3Error(
        400,
        "IncompleteBody",
        f"You did not provide the number of bytes specified by the Content-Length header: {why}",
    )


class ChunkSignatures:
    """The chain of chunk signatures: each covers its chunk and the signature before it."""

    def __init__(self, signing: ChunkSigning) -> None:
        self._signing = signing
        self._previous = signing.seed
        self._claimed: str | None = None
        self._hash = hashlib.sha256()

    def on_chunk(self, extension: str) -> None:
        self._check()
        self._claimed = extension.strip().removeprefix("chunk-signature=")
        self._hash = hashlib.sha256()

    def update(self, data: memoryview) -> None:
        self._hash.update(data)

    def end(self, trailers: dict[str, str]) -> None:
        """Checks the last chunk, and the trailers where they are signed."""
        self._check()
        claimed = trailers.get("x-amz-trailer-signature")
        if claimed is None:
            return
        lines = "".join(
            f"{name}:{value}\n"
            for name, value in trailers.items()
            if name != "x-amz-trailer-signature"
        )
        digest = hashlib.sha256(lines.encode("latin-1")).hexdigest()
        if claimed != self._signing.trailer(self._previous, digest):
            raise _mismatch()

    def _check(self) -> None:
        if self._claimed is None:
            return
        if self._claimed != self._signing.chunk(self._previous, self._hash.hexdigest()):
            raise _mismatch()
        self._previous = self._claimed


def _mismatch() -> S3Error:
    return S3Error(403, "SignatureDoesNotMatch", "A chunk's signature does not match")
