"""The CRC32C of a body, added up while it is sent; as Google writes it."""

import base64
from collections.abc import Iterator

import crc32c
from typing_extensions import Buffer

from mountd.remotes.base import Body
from mountd.remotes.request_body import SentBody

_READ_BYTES = 1 << 20


def sum_of(data: Buffer) -> str:
    return _text(crc32c.crc32c(data))


class RunningSum:
    """The sum of `body` as far as it was sent. One thread at a time.

    A part may be sent again, as a whole or from its middle: nothing is added twice. `body_failed`
    tells an error of the body from one of the network, which may be the same class.
    """

    def __init__(self, body: Body) -> None:
        self.body_failed = False
        self._body = body
        self._sum = 0
        self._end = 0

    def sent(self, start: int, end: int) -> SentBody:
        """The bytes [start, end), which begin no later than where the sum ends."""
        return SentBody(end - start, lambda: self._read(start, end))

    def pass_by(self, end: int) -> None:
        """Adds the bytes [0, end) without sending them."""
        for _ in self._read(0, end):
            pass

    def with_last(self, start: int, data: Buffer) -> str:
        """The sum with `data` at its end."""
        self._add(start, data)
        return _text(self._sum)

    def _read(self, start: int, end: int) -> Iterator[Buffer]:
        for at in range(start, end, _READ_BYTES):
            try:
                data = self._body.read(at, min(at + _READ_BYTES, end))
            except Exception:
                self.body_failed = True
                raise
            self._add(at, data)
            yield data

    def _add(self, start: int, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        assert start <= self._end, "a gap in what is summed"
        new = view[self._end - start :]
        self._sum = crc32c.crc32c(new, self._sum)
        self._end += len(new)


def _text(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()
