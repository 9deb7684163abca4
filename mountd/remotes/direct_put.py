"""A PUT that goes to the socket as it is, and whose answer is read by few lines.

httpcore and h11 took 0.36 ms of CPU for a body of 20 KB, most of what sending a small file to a
Nextcloud cost the thread that did it; so 0.18. A large body takes a copy and some 30 us of Python
for each piece in them. As `direct_get`: only on a connection that httpcore
has made, has used and thinks idle. A PUT is never sent twice: an answer of another form is given to
httpcore as it came, and the connection is closed after it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import httpcore
from typing_extensions import Buffer

from mountd.remotes.deadline import DeadlineStream
from mountd.remotes.direct_get import (
    DirectAnswer,
    DirectBody,
    NotUnderstood,
    goes_on,
    length_of,
    parsed,
)

IN_ONE_BYTES: Final = 128 << 10  # sent together with the head
_PIECE_BYTES: Final = 16 << 10
_HEAD_BYTES: Final = 64 << 10
_NOTHING_BYTES: Final = 1 << 20
_END: Final = b"\r\n\r\n"


def put(
    stream: DeadlineStream,
    target: str,
    headers: Sequence[tuple[str, str]],
    body: Iterable[Buffer],
    close: Callable[[], None],
    sent: Callable[[], None],
) -> tuple[DirectAnswer | None, bytes]:
    """The answer, and what came of it so far where it is for `heard`. `sent`: called when the last
    byte has gone. Raises httpcore's errors; the connection is to be closed then."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers)
    is_whole = True
    try:
        lead = f"PUT {target} HTTP/1.1\r\n{fields}\r\n".encode("ascii")
        for piece in body:
            stream.write_all(lead + piece if lead else piece)
            lead = b""
    except httpcore.WriteError:
        # As httpcore: the server may have answered before all was there.
        is_whole = False
    sent()
    came = _head(stream)
    head, end, rest = came.partition(_END)
    if not end:
        return None, came
    try:
        status, found = parsed(head)
        length = 0 if status == 204 and not _is_framed(found) else length_of(status, found)
    except NotUnderstood:
        return None, came
    if len(rest) > length:
        return None, came
    read = DirectBody(stream, rest, length, close, goes_on=is_whole and goes_on(found))
    return DirectAnswer(status, found, read, {"network_stream": stream}), came


def heard(
    stream: DeadlineStream, request: httpcore.Request, came: bytes, close: Callable[[], None]
) -> httpcore.Response:
    """The answer to a request that was sent, of which `came` was read. Raises httpcore's errors.
    The request's body is not looked at."""
    told = _Told(stream, came)
    found = httpcore.HTTP11Connection(request.url.origin, told).handle_request(request)
    known = {"network_stream": stream}
    return httpcore.Response(
        found.status, headers=found.headers, content=_Last(found, close), extensions=known
    )


def nothing(size: int) -> Iterator[bytes]:
    """For `heard`, as long as what was sent."""
    piece = bytes(min(size, _NOTHING_BYTES))
    for at in range(0, size, _NOTHING_BYTES):
        yield piece[: size - at]


class _Told(httpcore.NetworkStream):
    """Where nothing is sent again, and what came comes first."""

    def __init__(self, stream: httpcore.NetworkStream, came: bytes) -> None:
        self._stream = stream
        self._came = came

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        came, self._came = self._came[:max_bytes], self._came[max_bytes:]
        return came or self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        pass

    def close(self) -> None:
        self._stream.close()


class _Last:
    """The body of the last answer of a connection."""

    def __init__(self, response: httpcore.Response, close: Callable[[], None]) -> None:
        self._response = response
        self._close = close

    def __iter__(self) -> Iterator[bytes]:
        yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()
        self._close()


def _is_framed(found: Sequence[tuple[bytes, bytes]]) -> bool:
    """By more than its being a 204, which has no body (RFC 9112, 6.3)."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in found
    )


def _head(stream: DeadlineStream) -> bytes:
    """What came with the end of the head; without it where that is too long."""
    piece = bytearray(_PIECE_BYTES)
    data = b""
    while _END not in data and len(data) <= _HEAD_BYTES:
        count = stream.read_into(memoryview(piece))
        if not count:
            raise httpcore.RemoteProtocolError("Server disconnected without sending a response.")
        data += piece[:count]
    return data
