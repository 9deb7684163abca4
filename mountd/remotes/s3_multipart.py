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

from mountd.errors import Closed, RemoteError, Throttled, Unreachable, Unsupported
from mountd.remotes.base import Body, Upload
from mountd.remotes.s3_body_parts import (
    GRAIN_BYTES,
    NOTHING_PROVED,
    BodyParts,
    CheckTag,
    Md5Wanted,
    Part,
    Proofs,
)
from mountd.remotes.s3_delta import MAX_PART_BYTES, MAX_PARTS, DeltaPart
from mountd.remotes.s3_errors import error_code, s3_error, write_error
from mountd.remotes.s3_payload import Payload, payload_of
from mountd.remotes.s3_rest import S3Rest
from mountd.remotes.s3_unfinished import Begun, S3Uploads, begun_of
from mountd.remotes.s3_xml import MadePart, complete_body, etag_in
from mountd.remotes.upload_tokens import may_go_on, tell

MAX_OBJECT_BYTES = MAX_PARTS * MAX_PART_BYTES
PART_BYTES = 16 << 20
COPY_PART_BYTES = 512 << 20
_THREADS = 8  # of all objects, and what one of them may have: 128 MiB
# Made ready while the upload is begun, where no other is under way: 64 MiB.
_READY = 4
_PAUSES_S = (0.2, 1.0)
_MAX_PAUSE_S = 5.0
# A server makes the object of its parts, or a copy, before it answers.
_COMPLETE_S_PER_PART = 0.1
COPY_BYTES_PER_S = 20 << 20


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


_SendPart = Callable[[Part, threading.Event], MadePart]


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
        self._md5_wanted = Md5Wanted()
        self._goes_without_crc32c = False  # one refused an object made of parts that had theirs
        self._under_way = 0  # puts; below the lock

    def put(
        self,
        target: Target,
        body: Body,
        check_tag: CheckTag,
        look: Callable[[], None] = lambda: None,
        proofs: Proofs = NOTHING_PROVED,
    ) -> str:
        """Returns the version, "" where the server doesn't tell it.

        `check_tag` compares a part's answer with its MD5. `look` raises what keeps it from being
        sent. `proofs`: what the server compares itself. What the body raises passes through.
        """
        spans = part_spans(target.size, PART_BYTES)
        if self._goes_without_crc32c:
            proofs = replace(proofs, crc32c=False)
        parts = BodyParts(self._rest, body, check_tag, proofs, self._md5_wanted)
        with self._made_ready(target, parts, spans):
            look()
            return self._make(target, spans, parts.send, parts)

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
        sent = BodyParts(self._rest, body, check_tag, NOTHING_PROVED, self._md5_wanted)
        copy = self._of_source(source)

        def send_or_copy(part: Part, stop: threading.Event) -> MadePart:
            return (copy if part.start in copied else sent.send)(part, stop)

        spans = [(part.start, part.end) for part in parts]
        return self._make(target, spans, send_or_copy)

    def abandon(self, key: str, token: str) -> None:
        """As `RemoteStore.abandon`."""
        self._uploads.abort(key, begun_of(token).upload_id)

    def close(self) -> None:
        """Parts that haven't begun never do: their objects fail with Unreachable."""
        with self._lock:
            threads, self._threads = self._threads, _Threads()
        threads.close()

    def _of_source(self, source: Mapping[str, str]) -> _SendPart:
        rest = self._rest

        def copy(part: Part, stop: threading.Event) -> MadePart:
            span = {"x-amz-copy-source-range": f"bytes={part.start}-{part.end - 1}"}
            timeout_s = rest.timeout_s + (part.end - part.start) / COPY_BYTES_PER_S
            headers = {**source, **span}
            answer = rest.send("PUT", part.key, part.query, headers, timeout_s=timeout_s)
            if answer.status >= 300 or error_code(answer.body):
                raise s3_error(answer, rest.what(part.key))
            return MadePart(etag_in(answer.body))

        return copy

    @contextlib.contextmanager
    def _made_ready(
        self, target: Target, parts: BodyParts, spans: Sequence[tuple[int, int]]
    ) -> Iterator[None]:
        """The first parts, by the time that they are asked for."""
        with self._lock:
            is_alone, self._under_way = not self._under_way, self._under_way + 1
            threads = self._threads
        try:
            if is_alone and not target.upload.resume:
                begun = Begun("", parts.by_crc32c)
                for part in _parts(target, begun, spans[:_READY]):
                    parts.expect(part.number, threads.make_ready(parts, part))
            yield
        finally:
            parts.end()
            with self._lock:
                self._under_way -= 1

    def _make(
        self,
        target: Target,
        spans: Sequence[tuple[int, int]],
        send: _SendPart,
        of_body: BodyParts | None = None,
    ) -> str:
        """`of_body`: all of them; only then it is gone on with."""
        goes_on = of_body is not None
        begun = self._begin(target, of_body)
        is_known = tell(target.upload, begun.token)
        try:
            made = self._send_all(_parts(target, begun, spans), send)
            version = self._complete(target, begun, made)
        except BaseException as error:
            if not (goes_on and is_known and may_go_on(error)):
                # Also after a lost Complete: what isn't done by now should not be done later.
                with contextlib.suppress(RemoteError):
                    self._uploads.abort(target.key, begun.upload_id)
                    tell(target.upload, "")
            raise
        tell(target.upload, "")
        return version

    def _begin(self, target: Target, of_body: BodyParts | None) -> Begun:
        """An upload: the one of before if that is possible."""
        before = begun_of(target.upload.resume)
        is_refused = before.by_crc32c and self._goes_without_crc32c
        if before.upload_id and of_body is not None and not is_refused:
            there = self._uploads.parts(target.key, before.upload_id)
            if there is not None:
                return replace(before, there=there)
        elif before.upload_id:
            self._uploads.give_up(target.key, before.upload_id)
        by_crc32c = of_body is not None and of_body.by_crc32c
        return self._uploads.create(target.key, target.headers, by_crc32c=by_crc32c)

    def _send_all(self, parts: Sequence[Part], send: _SendPart) -> list[MadePart]:
        """The first error stops the others, and is raised when they have."""
        threads = self._threads
        stop = threading.Event()
        waiting = iter(parts)
        running: dict[Future[MadePart], int] = {}
        made: dict[int, MadePart] = {}
        try:
            while True:
                for part in itertools.islice(waiting, _THREADS - len(running)):
                    running[threads.submit(send, part, stop)] = part.number
                if not running:
                    return [made[part.number] for part in parts]
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    made[running.pop(future)] = future.result()
        finally:
            stop.set()
            wait([future for future in running if not future.cancel()])

    def _complete(self, target: Target, begun: Begun, made: Sequence[MadePart]) -> str:
        condition = target.condition()
        headers = {"x-amz-mp-object-size": str(target.size), **condition}
        payload = payload_of(complete_body(made), self._rest.signs_bodies)
        answer = self._rest.send(
            "POST",
            target.key,
            {"uploadId": begun.upload_id},
            headers,
            payload=payload,
            timeout_s=self._rest.timeout_s + len(made) * _COMPLETE_S_PER_PART,
        )
        if answer.status >= 300 or error_code(answer.body):
            if answer.status == 400 and begun.by_crc32c:
                # It was proved with a small object of one part. Again and again would be in vain.
                self._goes_without_crc32c = True
            # NoSuchUpload is Unreachable, too: something on the way may have sent it twice.
            raise write_error(answer, self._rest.what(target.key), "If-Match" in condition)
        return etag_in(answer.body)


class _Threads:
    """A few threads, made when they are needed."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, "s3-parts")
        # `cancel_futures` would leave who waits for them waiting (`wait` isn't told).
        self._closed = threading.Event()

    def submit(self, send: _SendPart, part: Part, stop: threading.Event) -> Future[MadePart]:
        try:
            return self._pool.submit(self._send, send, part, stop)
        except RuntimeError as error:
            raise Closed("the store was closed") from error

    def make_ready(self, parts: BodyParts, part: Part) -> Future[Payload]:
        try:
            return self._pool.submit(parts.payload, part)
        except RuntimeError as error:
            raise Closed("the store was closed") from error

    def close(self) -> None:
        self._closed.set()
        self._pool.shutdown(wait=False)

    def _send(self, send: _SendPart, part: Part, stop: threading.Event) -> MadePart:
        for pause_s in _PAUSES_S:
            if self._closed.is_set():
                raise Closed("the store was closed")
            try:
                return _told(send(part, stop))
            except (Throttled, Unreachable) as error:
                asked_s = error.retry_after_s if isinstance(error, Throttled) else None
                if (asked_s or 0) > _MAX_PAUSE_S or stop.wait(max(asked_s or 0, pause_s)):
                    raise
        return _told(send(part, stop))


def _told(made: MadePart) -> MadePart:
    if not made.tag:
        raise Unsupported("this server does not tell the ETag of a part")
    return made


def _parts(target: Target, begun: Begun, spans: Sequence[tuple[int, int]]) -> list[Part]:
    return [
        Part(target.key, begun, number, start, end) for number, (start, end) in enumerate(spans, 1)
    ]


def part_spans(size: int, part_bytes: int) -> list[tuple[int, int]]:
    """Equal parts of `part_bytes`, or of more where there would be too many of them.

    Raises Unsupported for more than 10,000 parts of 5 GiB.
    """
    if size > MAX_OBJECT_BYTES:
        raise Unsupported(f"{size} bytes are more than an object can have")
    needed = -(-size // MAX_PARTS)
    part_bytes = max(part_bytes, -(-needed // GRAIN_BYTES) * GRAIN_BYTES)
    return [(at, min(at + part_bytes, size)) for at in range(0, size, part_bytes)]
