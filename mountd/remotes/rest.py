"""Plain HTTP requests with a true status: what the object stores use beside obstore.

obstore says nothing but a text about most failures and can't speak some keys. Listings, stats,
the odd keys and the question "what was that failure?" go through here. Callers sign.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from typing_extensions import Buffer

from mountd.errors import Corrupt, RemoteError, Unreachable, VersionChanged
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.http_range import opaque_tag, parse_content_range
from mountd.remotes.http_status import error_of_status
from mountd.remotes.request_body import SentBody
from mountd.remotes.tls import VERIFIED, Tls

# A listing page of 5,000 blobs with 1,024-byte names is below this.
MAX_BODY_BYTES = 64 << 20
_MAX_CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class RestAnswer:
    """A whole answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str:
        """The header's text, or an empty one."""
        return self.headers.get(name, "")


class RestClient:
    """Requests to one origin (`http[s]://host[:port]`). Thread-safe; nothing is retried."""

    def __init__(self, origin: str, timeout_s: float, tls: Tls = VERIFIED) -> None:
        headers = {"User-Agent": "mountd", "Accept": "*/*"}
        self._pool = HttpPool(origin, headers, _MAX_CONNECTIONS, timeout_s, tls=tls)
        self.timeout_s = timeout_s

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        timeout_s: float | None = None,
        max_bytes: int = MAX_BODY_BYTES,
        body: Buffer | SentBody = b"",
    ) -> RestAnswer:
        """The answer, whatever its status. `target` is path and query, already encoded.

        Raises Unreachable when no whole answer came within the timeout, and Corrupt when its body
        is longer than `max_bytes`. With `body` the timeout is for each of its pieces and for the
        answer, and what the body raises passes through (`HttpPool.ask`).
        """
        until_s = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        with self._pool.ask(method, target, headers, body, until_s) as answer:
            chunks: list[bytes] = []
            total = 0
            while chunk := answer.chunk():
                chunks.append(chunk)
                total += len(chunk)
                if total > max_bytes:
                    raise Corrupt(f"an answer of more than {max_bytes} bytes")
            return RestAnswer(answer.status, answer.headers, b"".join(chunks))

    def close(self) -> None:
        self._pool.close()


def range_header(start: int, end: int) -> str:
    return f"bytes={start}-{end - 1}"


def checked_range(answer: RestAnswer, start: int, end: int) -> bytes:
    """The body of a good answer to a request for [start, end), if that is what it is.

    A 200 with the right Content-Range is taken too (`rclone serve s3` answers so), and one
    without if the whole object was asked for. Raises VersionChanged where the object ends before
    `end`, Corrupt for another range and Unreachable for a body that ends early.
    """
    found = parse_content_range(answer.headers.get("content-range"))
    got = (found.start, found.end) if found else None
    if "content-range" not in answer.headers and answer.status == 200 and start == 0:
        got = (0, len(answer.body))
    if found and found.start == start and found.end == found.total and found.end < end:
        raise VersionChanged(f"the object ends at {found.end}, before {end}")
    if got != (start, end):
        shown = answer.header("content-range") or "no range"
        raise Corrupt(f"asked for bytes {start}-{end - 1}, got {answer.status} with {shown}")
    if len(answer.body) != end - start:
        raise Unreachable(f"{len(answer.body)} of {end - start} bytes came", answered=True)
    return answer.body


def check_tag(answer: RestAnswer, key: str, version: str) -> None:
    """Raises VersionChanged unless the answer's ETag is `version` ("" is any), and Corrupt for an
    answer without one."""
    if not version:
        return
    found = opaque_tag(answer.header("etag"))
    if not found:
        raise Corrupt(f"{key}: the answer doesn't say which version it is")
    if found != version:
        raise VersionChanged(key)


def status_error(answer: RestAnswer, what: str) -> RemoteError:
    """The error of an answer by its status alone."""
    error = error_of_status(answer.status, what, answer.headers.get("retry-after"))
    return Unreachable(*error.args, answered=True) if isinstance(error, Unreachable) else error
