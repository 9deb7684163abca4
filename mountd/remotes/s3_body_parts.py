"""Parts that come from a body: what each is sent with, and the first ones made ready beforehand.

A part goes by its MD5, which its ETag is compared with, where nothing less was seen to do
(`Proofs`). Whatever it goes by, it is read and added up before its first byte is sent; for the
first parts of an object that is done while the upload is still being begun.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import Final

from typing_extensions import Buffer

from mountd.errors import Corrupt, Denied, Throttled, Unreachable
from mountd.remotes.base import Body
from mountd.remotes.http_range import opaque_tag
from mountd.remotes.request_body import SentBody
from mountd.remotes.rest import RestAnswer
from mountd.remotes.s3_errors import write_error
from mountd.remotes.s3_payload import Digests, Payload, is_sha256_quick, payload_of_part
from mountd.remotes.s3_rest import CRC32C, S3Rest
from mountd.remotes.s3_unfinished import Begun, is_there
from mountd.remotes.s3_xml import MadePart

GRAIN_BYTES: Final = 1 << 20

CheckTag = Callable[[RestAnswer, bytes], None]


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes [start, end) of the object `key`; `begun`: the upload that it belongs to."""

    key: str
    begun: Begun
    number: int
    start: int
    end: int

    @property
    def query(self) -> dict[str, str]:
        return {"partNumber": str(self.number), "uploadId": self.begun.upload_id}


@dataclass(frozen=True, slots=True)
class Proofs:
    """By what the server was seen to refuse a part that is not what its request says."""

    sha256: bool = False
    crc32c: bool = False


NOTHING_PROVED: Final = Proofs()


class Md5Wanted:
    """Whether a server that took less for enough wanted an MD5 all the same. Thread-safe."""

    def __init__(self) -> None:
        self.is_so = False


class BodyParts:
    """Sends parts of one body. Thread-safe."""

    def __init__(
        self, rest: S3Rest, body: Body, check_tag: CheckTag, proofs: Proofs, wanted: Md5Wanted
    ) -> None:
        """`check_tag` compares an answer with the MD5 that was sent."""
        self._rest = rest
        self._body = body
        self._check_tag = check_tag
        self._wanted = wanted
        self.by_crc32c = proofs.crc32c and rest.may_leave_unsigned
        self._by_sha256 = proofs.sha256 and (rest.signs_bodies or is_sha256_quick())
        self._ready: dict[int, Future[Payload]] = {}  # by number

    def payload(self, part: Part) -> Payload:
        """Reads and adds it up. What the body raises passes through."""
        begun = part.begun
        by_crc32c = begun.by_crc32c and self.by_crc32c
        # One that may be there is known by its MD5.
        goes_without = not self._wanted.is_so and part.number not in begun.there
        by_md5 = not (goes_without and (by_crc32c or self._by_sha256))
        by_sha256 = not (by_md5 or by_crc32c)
        is_signed = self._rest.signs_bodies and (by_md5 or by_sha256)
        digests = Digests(by_md5, by_sha256 or is_signed, begun.by_crc32c)
        return payload_of_part(self._body, part.start, part.end, digests)

    def expect(self, number: int, payload: Future[Payload]) -> None:
        """`send` takes what `payload` gives to another thread, unless that has not begun then."""
        self._ready[number] = payload  # nobody else keeps it: it has the part's bytes

    def end(self) -> None:
        """Waits for what is made ready for nobody."""
        left, self._ready = list(self._ready.values()), {}
        wait([payload for payload in left if not payload.cancel()])

    def send(self, part: Part, stop: threading.Event) -> MadePart:
        """Raises as any request, what the body raises, and Stopped."""
        ready = self._ready.pop(part.number, None)
        payload = self.payload(part) if ready is None or ready.cancel() else ready.result()
        if payload.md5:
            size = part.end - part.start
            tag = is_there(part.begun.there, part.number, size, payload.md5)
            if tag:
                return MadePart(tag, payload.crc32c)
        payload = replace(payload, sent=_unless_stopped(payload.sent, stop))
        answer = self._rest.send("PUT", part.key, part.query, payload=payload)
        if answer.status >= 300:
            error = write_error(answer, self._rest.what(part.key), False)
            is_other = isinstance(error, Denied | Throttled | Unreachable)  # RequestTimeout is 400
            if answer.status != 400 or payload.md5 or is_other:
                raise error
            # A bucket that locks objects may want one since it was proved.
            self._wanted.is_so = True
            return self.send(part, stop)
        if payload.md5:
            self._check_tag(answer, payload.md5)
        if payload.crc32c and answer.header(CRC32C) not in ("", payload.crc32c):
            raise Corrupt(f"{self._rest.what(part.key)}: a part has arrived as something else")
        return MadePart(opaque_tag(answer.header("etag")), payload.crc32c)


class Stopped(Exception):
    """Another part of the same object failed."""


def _unless_stopped(sent: SentBody, stop: threading.Event) -> SentBody:
    def buffers() -> Iterator[Buffer]:
        for buffer in sent.buffers():
            view = memoryview(buffer).cast("B")
            for at in range(0, len(view), GRAIN_BYTES):
                if stop.is_set():
                    raise Stopped
                yield view[at : at + GRAIN_BYTES]

    return SentBody(sent.size, buffers)
