"""A GET whose body goes from the socket to where it is wanted, without the copies on the way.

h11 takes a body in three copies and some 40 us of Python for each piece, all with the interpreter's
lock: 0.9 s of user time per GiB of a Nextcloud's files, of the 2.3 s that the daemon took in all.
So on a connection that httpcore has made, has used and thinks idle, this asks by itself. It knows
one form of answer only, with a Content-Length; after any other one the connection is closed, and
httpcore asks again.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import httpcore

from mountd.remotes.deadline import DeadlineStream

FROM_BYTES: Final = 1 << 20
_HEAD_BYTES: Final = 64 << 10
_CHUNK_BYTES: Final = 256 << 10
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: [^\x00\r\n]*)?")
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00\r\n]*?)[ \t]*")
_NO_BODY: Final = (204, 304)


class NotUnderstood(Exception):
    """The answer has a form that is httpcore's business. The connection is of no use any more.
    `is_refusal`: it is no file's, which may have another form."""

    def __init__(self, why: str, *, is_refusal: bool = False) -> None:
        super().__init__(why)
        self.is_refusal = is_refusal


@dataclass(frozen=True, slots=True)
class DirectAnswer:
    """What `HttpPool` needs of an `httpcore.Response`, which looks at each header twice (30 us)."""

    status: int
    headers: list[tuple[bytes, bytes]]
    stream: "DirectBody"
    extensions: Mapping[str, Any]  # as httpcore's own: `on_wire` looks there

    def iter_stream(self) -> Iterator[bytes]:
        return iter(self.stream)

    def close(self) -> None:
        self.stream.close()


def can_be_sent(target: str, headers: Sequence[tuple[str, str]]) -> bool:
    """Whether it may go as it is: nothing in it ends a line."""
    text = "".join((target, *chain.from_iterable(headers)))
    return text.isascii() and text.isprintable() and " " not in target


def get(
    stream: DeadlineStream,
    target: str,
    headers: Sequence[tuple[str, str]],
    close: Callable[[], None],
) -> DirectAnswer:
    """The answer, its body a `DirectBody` that calls `close` where the connection can't be used
    again. Raises NotUnderstood and httpcore's errors; the connection is to be closed then, too."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers)
    stream.write(f"GET {target} HTTP/1.1\r\n{fields}\r\n".encode("ascii"))
    head, rest = _head(stream)
    status, found = parsed(head)
    length = length_of(status, found)
    if len(rest) > length:
        raise NotUnderstood("more came than the answer's length")
    body = DirectBody(stream, rest, length, close, goes_on=goes_on(found))
    return DirectAnswer(status, found, body, {"network_stream": stream})


class DirectBody:
    """The body of one answer, in order, by either way of reading."""

    def __init__(
        self,
        stream: DeadlineStream,
        rest: bytes,
        length: int,
        close: Callable[[], None],
        *,
        goes_on: bool,
    ) -> None:
        self._stream = stream
        self._rest = rest  # came with the head
        self._left = length
        self._close = close
        self._goes_on = goes_on

    def __iter__(self) -> Iterator[bytes]:
        while self._left:
            chunk = bytearray(min(self._left, _CHUNK_BYTES))
            count = self.read_into(memoryview(chunk))
            yield bytes(chunk[:count])

    def read_into(self, view: memoryview) -> int:
        """How many bytes came; 0 only at the body's end."""
        wanted = min(len(view), self._left)
        if not wanted:
            return 0
        if self._rest:
            count = min(wanted, len(self._rest))
            view[:count] = self._rest[:count]
            self._rest = self._rest[count:]
        else:
            count = self._stream.read_into(view[:wanted])
            if not count:
                raise httpcore.RemoteProtocolError("the connection ended before the body did")
        self._left -= count
        return count

    def close(self) -> None:
        # What came behind it would be taken for the next answer.
        if self._left or not self._goes_on or self._stream.holds_more:
            self._close()


def _head(stream: DeadlineStream) -> tuple[bytes, bytes]:
    """The head without its empty line, and what came behind it."""
    data = b""
    piece = bytearray(16 << 10)
    while b"\r\n\r\n" not in data:
        if len(data) > _HEAD_BYTES:
            raise NotUnderstood("a head without an end")
        count = stream.read_into(memoryview(piece))
        if not count:
            raise httpcore.RemoteProtocolError("Server disconnected without sending a response.")
        data += piece[:count]
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def goes_on(found: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether the connection may be used again after the answer with these fields."""
    return not any(
        name == b"connection" and value.lower() != b"keep-alive" for name, value in found
    )


def parsed(head: bytes) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Status and fields of a head without its empty line. Raises NotUnderstood."""
    first, *lines = head.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    fields = [_FIELD.fullmatch(line) for line in lines]
    if status is None:
        raise NotUnderstood(repr(first[:100]))
    found = []
    for field, line in zip(fields, lines, strict=True):
        if field is None:
            raise NotUnderstood(repr(line[:100]))
        found.append((field[1].lower(), field[2]))
    return int(status[1]), found


def length_of(status: int, fields: Sequence[tuple[bytes, bytes]]) -> int:
    """How many bytes the body has. Raises NotUnderstood."""
    lengths = [value for name, value in fields if name == b"content-length"]
    is_framed = any(name == b"transfer-encoding" for name, _ in fields)
    if status in _NO_BODY or is_framed or len(lengths) != 1:
        raise NotUnderstood(f"HTTP {status} without one length", is_refusal=status >= 400)
    if not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
        raise NotUnderstood(repr(lengths[0][:100]))
    return int(lengths[0])
