"""How a request body ends: by length, or in chunks (HTTP's own and aws-chunked look the same).

A decoder is fed what arrived and hands the payload on, piece by piece, without copying it.
"""

from collections.abc import Callable
from typing import Protocol

from tests.servers.s3.message import BadMessage

Consumer = Callable[[memoryview], None]
MAX_LINE = 16384


class Decoder(Protocol):
    done: bool

    def feed(self, data: memoryview, consumer: Consumer) -> int:
        """Takes bytes from the front of `data` and says how many; `done` once the body is whole.

        The consumer is not kept, so that it may own the decoder without making a cycle.
        """
        ...


class LengthDecoder:
    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def feed(self, data: memoryview, consumer: Consumer) -> int:
        count = min(len(data), self._left)
        consumer(data[:count])
        self._left -= count
        self.done = self._left == 0
        return count


class ChunkDecoder:
    """`size[;extension] CRLF payload CRLF ... 0[;extension] CRLF trailers CRLF`.

    `on_chunk(extension)` is called at the head of each chunk, the last one of size 0 included,
    before its payload. Trailers are collected with lower-case names.
    """

    def __init__(self, on_chunk: Callable[[str], None] | None = None) -> None:
        self._on_chunk = on_chunk
        self._line = bytearray()
        self._left = 0
        self._state = "size"
        self.trailers: dict[str, str] = {}
        self.done = False

    def feed(self, data: memoryview, consumer: Consumer) -> int:
        used = 0
        while used < len(data) and not self.done:
            if self._state == "payload":
                count = min(len(data) - used, self._left)
                consumer(data[used : used + count])
                self._left -= count
                used += count
                if self._left == 0:
                    self._state = "end"
                continue
            used += self._take_line(data[used:])
        return used

    def _take_line(self, data: memoryview) -> int:
        """Adds to the line under way; acts on it when it is whole."""
        head = bytes(data[:MAX_LINE])
        newline = head.find(b"\n")
        count = len(head) if newline < 0 else newline + 1
        self._line += head[:count]
        if newline >= 0:
            line = self._line.decode("latin-1").rstrip("\r\n")
            self._line.clear()
            self._on_line(line)
        elif len(self._line) > MAX_LINE:
            raise BadMessage("a chunk's line is too long")
        return count

    def _on_line(self, line: str) -> None:
        if self._state == "end":
            if line:
                raise BadMessage("a chunk is longer than it says")
            self._state = "size"
        elif self._state == "trailers":
            if not line:
                self.done = True
                return
            name, _, value = line.partition(":")
            self.trailers[name.strip().lower()] = value.strip()
        else:
            text, _, extension = line.partition(";")
            try:
                self._left = int(text, 16)
            except ValueError as error:
                raise BadMessage(f"no chunk size: {text[:50]!r}") from error
            if self._on_chunk is not None:
                self._on_chunk(extension)
            self._state = "payload" if self._left else "trailers"
