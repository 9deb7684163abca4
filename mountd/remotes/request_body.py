"""The body of a request, in pieces: nothing is held whole, and each piece has its own time."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from typing_extensions import Buffer

from mountd.errors import Corrupt
from mountd.remotes.base import Body
from mountd.remotes.deadline import renew_socket_deadline
from mountd.remotes.late import stood_s

# Sent at once: the slowest link that a timeout of 30 s bears is 35 kbit/s.
_PIECE_BYTES = 128 << 10
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class SentBody:
    """`size` bytes in all. `buffers` begins anew with each call (a redirect sends twice)."""

    size: int
    buffers: Callable[[], Iterable[Buffer]]

    @classmethod
    def of(cls, data: Buffer) -> Self:
        return cls(memoryview(data).nbytes, lambda: (data,))

    @classmethod
    def part_of(cls, body: Body, start: int, end: int) -> Self:
        """The bytes [start, end) of a body, read while they are sent."""
        starts = range(start, end, _READ_BYTES)
        return cls(
            end - start, lambda: (body.read(at, min(at + _READ_BYTES, end)) for at in starts)
        )


class BodyFailed(Exception):
    """The body's iterator raised something: `BodyFeed.failure` is it."""


class BodyFeed:
    """What httpcore iterates over, in the thread whose `socket_deadline` it moves.

    The time from now to `until_s` is what each piece has, and what is left for the answer after
    the last one. A failure of the iterator is kept and comes out as BodyFailed, because an
    OSError of the local disk must not look like one of the network.
    """

    def __init__(self, body: SentBody, until_s: float) -> None:
        self.until_s = until_s
        self.sent_s = 0.0  # when the last piece was taken
        self.stood_s = 0.0  # `late.stood_s` by then; before the request where nothing is sent
        self._span_s = until_s - time.monotonic()
        self._body = body
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        yield from map(bytes, self.views())
        self.sent()

    @property
    def size(self) -> int:
        return self._body.size

    def views(self) -> Iterator[memoryview]:
        """Piece by piece, each with a time of its own. Call `sent` after the last."""
        try:
            for piece in self._pieces():
                self._renew()
                yield piece
        except Exception as error:
            self._error = error
            raise BodyFailed from error

    def whole(self) -> bytes:
        """All of it, and its time begins now: what is sent in one piece. Call `sent` after it."""
        try:
            data = b"".join(self._pieces())
        except Exception as error:
            self._error = error
            raise BodyFailed from error
        self._renew()
        return data

    def sent(self) -> None:
        self._renew()
        self.stood_s = stood_s()

    def failure(self) -> Exception:
        return self._error or AssertionError("a body that didn't fail")

    def _pieces(self) -> Iterator[memoryview]:
        sent = 0
        for buffer in self._body.buffers():
            view = memoryview(buffer).cast("B")
            sent += len(view)
            if sent > self._body.size:
                break
            for at in range(0, len(view), _PIECE_BYTES):
                yield view[at : at + _PIECE_BYTES]
        if sent != self._body.size:
            raise Corrupt(f"a body of {self._body.size} bytes turned out to have {sent}")

    def _renew(self) -> None:
        self.sent_s = time.monotonic()
        self.until_s = self.sent_s + self._span_s
        renew_socket_deadline(self.until_s)
