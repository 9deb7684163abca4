"""Moves an answer into the socket as far as the kernel, the pace and fairness allow."""

import os
import socket
from enum import Enum

from tests.servers.s3.bodies import Body, Span
from tests.servers.s3.pacing import Pace
from tests.servers.s3.wire import Ending, Outgoing, span_size

# Per turn and connection, so that one fast reader can't starve the others.
TURN_BYTES = 4 * 2**20


class Progress(Enum):
    """What a sender waits for: nothing, the kernel's buffer, its next turn, or `Pace.next_s`."""

    DONE = 0
    BLOCKED = 1
    NEXT_TURN = 2
    PACED = 3


class Sender:
    """One answer on its way. `body` is kept, because its descriptors must stay open."""

    __slots__ = ("_body", "_head_size", "_index", "_sent", "_sock", "_spans", "ending", "pace")

    def __init__(
        self, sock: socket.socket, outgoing: Outgoing, body: Body | bytes, rate: int
    ) -> None:
        self._sock = sock
        self._body = body
        self._spans = outgoing.spans
        self._head_size = sum(map(span_size, outgoing.spans)) - outgoing.body_size
        self._index = 0
        self._sent = 0
        self.ending: Ending = outgoing.ending
        self.pace = Pace(rate)

    @property
    def body_sent(self) -> int:
        """Bytes of the body that the kernel has taken."""
        return max(0, self._sent - self._head_size)

    def pump(self) -> Progress:
        """Sends what can be sent now. Raises OSError when the connection is broken."""
        budget = TURN_BYTES
        pace = self.pace
        while self._index < len(self._spans):
            span = self._spans[self._index]
            room = pace.allowance(span_size(span)) if pace.rate else budget
            if room <= 0:
                return Progress.PACED if pace.rate else Progress.NEXT_TURN
            try:
                sent = self._send(span, room)
            except BlockingIOError:
                return Progress.BLOCKED
            self._sent += sent
            if pace.rate:
                pace.spend(sent)
            else:
                budget -= sent
        return Progress.DONE

    def _send(self, span: Span, room: int) -> int:
        if isinstance(span, tuple):
            fd, offset, size = span
            sent = os.sendfile(self._sock.fileno(), fd, offset, min(size, room))
            if not sent:
                raise OSError("the file behind a body is shorter than the body")
            rest: Span = (fd, offset + sent, size - sent)
        else:
            size = len(span)
            more = socket.MSG_MORE if self._index + 1 < len(self._spans) else 0
            sent = self._sock.send(span[:room], more)
            rest = span[sent:]
        if sent == size:
            self._index += 1
        else:
            self._spans[self._index] = rest
        return sent
