"""Objects in parts: sent or copied side by side, and made by one conditional Complete.

Nothing is there before Complete, so a part that fails is sent again: of the 60,000 requests of a
terabyte one always fails. Complete itself is sent once; whether a lost one took effect is for the
sync queue to find out. An upload that broke off is gone on with (`base.Upload`): parts whose size
and MD5 are those of the body are not sent again.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from typing_extensions import Buffer

from mountd.errors import Denied, RemoteError, Throttled, Unreachable, Unsupported
from mountd.remotes.base import Body, Upload
from mountd.remotes.http_range import opaque_tag
from mountd.remotes.request_body import SentBody
from mountd.remotes.rest import RestAnswer
from mountd.remotes.s3_delta import MAX_PART_BYTES, MAX_PARTS, DeltaPart
from mountd.remotes.s3_errors import error_code, s3_error, write_error
from mountd.remotes.s3_payload import is_sha256_quick, payload_of, payload_of_part
from mountd.remotes.s3_rest import S3Rest
from mountd.remotes.s3_unfinished import Parts, S3Uploads, is_there, token_of, upload_id_of
from mountd.remotes.s3_xml import complete_body, etag_in
from mountd.remotes.upload_tokens import may_go_on, tell

MAX_OBJECT_BYTES = MAX_PARTS * MAX_PART_BYTES
PART_BYTES = 16 << 20
COPY_PART_BYTES = 512 << 20
_GRAIN_BYTES = 1 << 20
_THREADS = 8  # of all objects, and what one of them may have: 128 MiB
_PAUSES_S = (0.2, 1.0)
_MAX_PAUSE_S = 5.0
# A server makes the object of its parts, or a copy, before it answers.
_COMPLETE_S_PER_PART = 0.1
COPY_BYTES_PER_S = 20 << 20

CheckTag = Callable[[RestAnswer, bytes], None]


@dataclass(frozen=True, slots=True)
class Target:
    """The object to be made. `headers`: its metadata. `condition` is called when the parts are
    there: it gives the headers of Complete, or looks itself and raises VersionChanged. `upload`:
    what may be gone on with, and who is told."""

    key: str
    size: int
    headers: Mapping[str, str]
    condition: Callable[[], Mapping[str, str]]
    upload: Upload


@dataclass(frozen=True, slots=True)
class _Part:
    key: str
    upload_id: str
    number: int
    start: int
    end: int
    there: Parts

    @property
    def query(self) -> dict[str, str]:
        return {"partNumber": str(self.number), "uploadId": self.upload_id}


_SendPart = Callable[[_Part, threading.Event], str]


class S3Multipart:
    """Makes objects in parts. Thread-safe; all objects share a few threads.

    After an error the object is made only if the answer to Complete was lost. The parts are thrown
    away (best effort), but for those of a `put` that may go on. With copied parts nothing is gone
    on with: what they are can't be verified.
    """

    def __init__(self, rest: S3Rest) -> None:
        self._rest = rest
        self._uploads = S3Uploads(rest)
        self._lock = threading.Lock()
        self._threads = _Threads()
        self._is_md5_wanted = False  # by a server that takes a SHA-256 for enough, and yet

    def put(
        self, target: Target, body: Body, check_tag: CheckTag, *, checks_sha256: bool = False
    ) -> str:
        """Returns the version, "" where the server doesn't tell it.

        `check_tag` compares a part's answer with its MD5. `checks_sha256`: the server does that
        itself (`Proven`). What the body raises passes through.
        """
        spans = part_spans(target.size, PART_BYTES)
        by_sha256 = checks_sha256 and (self._rest.signs_bodies or is_sha256_quick())
        return self._make(target, spans, self._of_body(body, check_tag, by_sha256), goes_on=True)

    def copy(self, target: Target, source: Mapping[str, str]) -> str:
        """As `put`; `source` are the headers that say what is copied, and what it must be."""
        return self._make(target, part_spans(target.size, COPY_PART_BYTES), self._of_source(source))

    def put_delta(
        self,
        target: Target,
        parts: Sequence[DeltaPart],
        body: Body,
        check_tag: CheckTag,
        source: Mapping[str, str],
    ) -> str:
        """As `put` and `copy`: some of these parts come from the body, the others from a source."""
        copied = {part.start for part in parts if part.is_copied}
        send, copy = self._of_body(body, check_tag), self._of_source(source)

        def send_or_copy(part: _Part, stop: threading.Event) -> str:
            return (copy if part.start in copied else send)(part, stop)

        spans = [(part.start, part.end) for part in parts]
        return self._make(target, spans, send_or_copy)

    def abandon(self, key: str, token: str) -> None:
        """As `RemoteStore.abandon`."""
        self._uploads.abort(key, upload_id_of(token))

    def close(self) -> None:
        """Parts that haven't begun never do: their objects fail with Unreachable."""
        with self._lock:
            threads, self._threads = self._threads, _Threads()
        threads.close()

    def _of_body(self, body: Body, check_tag: CheckTag, by_sha256: bool = False) -> _SendPart:
        rest = self._rest

        def send(part: _Part, stop: threading.Event) -> str:
            # One that may be there is known by its MD5.
            alone = by_sha256 and not self._is_md5_wanted and part.number not in part.there
            payload = payload_of_part(
                body, part.start, part.end, rest.signs_bodies, by_sha256=alone
            )
            if payload.md5:
                tag = is_there(part.there, part.number, part.end - part.start, payload.md5)
                if tag:
                    return tag
            payload = replace(payload, sent=_unless_stopped(payload.sent, stop))
            answer = rest.send("PUT", part.key, part.query, payload=payload)
            if answer.status >= 300:
                error = write_error(answer, rest.what(part.key), False)
                if answer.status != 400 or payload.md5 or isinstance(error, Denied):
                    raise error
                # A bucket that locks objects may want one since it was proved.
                self._is_md5_wanted = True
                return send(part, stop)
            if payload.md5:
                check_tag(answer, payload.md5)
            return opaque_tag(answer.header("etag"))

        return send

    def _of_source(self, source: Mapping[str, str]) -> _SendPart:
        rest = self._rest

        def copy(part: _Part, stop: threading.Event) -> str:
            span = {"x-amz-copy-source-range": f"bytes={part.start}-{part.end - 1}"}
            timeout_s = rest.timeout_s + (part.end - part.start) / COPY_BYTES_PER_S
            headers = {**source, **span}
            answer = rest.send("PUT", part.key, part.query, headers, timeout_s=timeout_s)
            if answer.status >= 300 or error_code(answer.body):
                raise s3_error(answer, rest.what(part.key))
            return etag_in(answer.body)

        return copy

    def _make(
        self,
        target: Target,
        spans: Sequence[tuple[int, int]],
        send: _SendPart,
        goes_on: bool = False,
    ) -> str:
        upload_id, there = self._begin(target, goes_on)
        is_known = tell(target.upload, token_of(upload_id))
        try:
            parts = [
                _Part(target.key, upload_id, number, start, end, there)
                for number, (start, end) in enumerate(spans, 1)
            ]
            version = self._complete(target, upload_id, self._send_all(parts, send))
        except BaseException as error:
            if not (goes_on and is_known and may_go_on(error)):
                # Also after a lost Complete: what isn't done by now should not be done later.
                with contextlib.suppress(RemoteError):
                    self._uploads.abort(target.key, upload_id)
                    tell(target.upload, "")
            raise
        tell(target.upload, "")
        return version

    def _begin(self, target: Target, goes_on: bool) -> tuple[str, Parts]:
        """An upload, and what is there of it: the one of before if that is possible."""
        before = upload_id_of(target.upload.resume)
        if before and goes_on:
            there = self._uploads.parts(target.key, before)
            if there is not None:
                return before, there
        elif before:
            self._uploads.give_up(target.key, before)
        return self._uploads.create(target.key, target.headers), {}

    def _send_all(self, parts: Sequence[_Part], send: _SendPart) -> list[str]:
        """The parts' ETags. The first error stops the others, and is raised when they have."""
        threads = self._threads
        stop = threading.Event()
        waiting = iter(parts)
        running: dict[Future[str], int] = {}
        tags = [""] * len(parts)
        try:
            while True:
                for part in itertools.islice(waiting, _THREADS - len(running)):
                    running[threads.submit(send, part, stop)] = part.number
                if not running:
                    return tags
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    tags[running.pop(future) - 1] = future.result()
        finally:
            stop.set()
            wait([future for future in running if not future.cancel()])

    def _complete(self, target: Target, upload_id: str, tags: Sequence[str]) -> str:
        condition = target.condition()
        headers = {"x-amz-mp-object-size": str(target.size), **condition}
        payload = payload_of(complete_body(tags), self._rest.signs_bodies)
        answer = self._rest.send(
            "POST",
            target.key,
            {"uploadId": upload_id},
            headers,
            payload=payload,
            timeout_s=self._rest.timeout_s + len(tags) * _COMPLETE_S_PER_PART,
        )
        if answer.status >= 300 or error_code(answer.body):
            # NoSuchUpload is Unreachable, too: something on the way may have sent it twice.
            raise write_error(answer, self._rest.what(target.key), "If-Match" in condition)
        return etag_in(answer.body)


class _Threads:
    """A few threads, made when they are needed."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, "s3-parts")
        # `cancel_futures` would leave who waits for them waiting (`wait` isn't told).
        self._closed = threading.Event()

    def submit(self, send: _SendPart, part: _Part, stop: threading.Event) -> Future[str]:
        try:
            return self._pool.submit(self._send, send, part, stop)
        except RuntimeError as error:
            raise Unreachable("the store was closed") from error

    def close(self) -> None:
        self._closed.set()
        self._pool.shutdown(wait=False)

    def _send(self, send: _SendPart, part: _Part, stop: threading.Event) -> str:
        for pause_s in _PAUSES_S:
            if self._closed.is_set():
                raise Unreachable("the store was closed")
            try:
                return _told(send(part, stop))
            except (Throttled, Unreachable) as error:
                asked_s = error.retry_after_s if isinstance(error, Throttled) else None
                if (asked_s or 0) > _MAX_PAUSE_S or stop.wait(max(asked_s or 0, pause_s)):
                    raise
        return _told(send(part, stop))


class _Stopped(Exception):
    """Another part of the same object failed."""


def _unless_stopped(sent: SentBody, stop: threading.Event) -> SentBody:
    def buffers() -> Iterator[Buffer]:
        for buffer in sent.buffers():
            view = memoryview(buffer).cast("B")
            for at in range(0, len(view), _GRAIN_BYTES):
                if stop.is_set():
                    raise _Stopped
                yield view[at : at + _GRAIN_BYTES]

    return SentBody(sent.size, buffers)


def _told(tag: str) -> str:
    if not tag:
        raise Unsupported("this server does not tell the ETag of a part")
    return tag


def part_spans(size: int, part_bytes: int) -> list[tuple[int, int]]:
    """Equal parts of `part_bytes`, or of more where there would be too many of them.

    Raises Unsupported for more than 10,000 parts of 5 GiB.
    """
    if size > MAX_OBJECT_BYTES:
        raise Unsupported(f"{size} bytes are more than an object can have")
    needed = -(-size // MAX_PARTS)
    part_bytes = max(part_bytes, -(-needed // _GRAIN_BYTES) * _GRAIN_BYTES)
    return [(at, min(at + part_bytes, size)) for at in range(0, size, part_bytes)]
