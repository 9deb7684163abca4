"""One client connection: heads in, bodies in, answers out, with every fault that can be ordered.

A connection is in one phase at a time; what arrives meanwhile stays in the kernel until the
answer is out (`_readable` remembers the edge). Everything happens in the loop's one thread.
"""

import select
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from tests.servers.s3.framing import ChunkDecoder, Decoder, LengthDecoder
from tests.servers.s3.knobs import Effects, ordered_error
from tests.servers.s3.loop import Loop
from tests.servers.s3.message import BadMessage, Request, Response, S3Error, parse_head
from tests.servers.s3.pacing import Pace
from tests.servers.s3.receivers import BodyReceiver, FailedReceiver
from tests.servers.s3.sending import Progress, Sender
from tests.servers.s3.wire import Ending, render

MAX_HEAD = 128 * 1024
RECEIVE_SIZE = 256 * 1024
# Shared: it is emptied before the next recv of any connection.
_receive_view = memoryview(bytearray(RECEIVE_SIZE))
_LINGER_RESET = struct.pack("ii", 1, 0)


class Phase(Enum):
    HEAD = 0
    BODY = 1
    WAITING = 2
    SENDING = 3
    CLOSED = 4


class Record(Protocol):
    """What a connection writes down about a request; see `requestlog.LogRecord`."""

    status: int
    bytes_sent: int
    bytes_received: int
    done_s: float


class Application(Protocol):
    """What answers requests; `open_body` and `answer` may raise S3Error.

    `admit` says which faults are ordered for a request and starts its log record (None: a control
    request). `hold` keeps `resume` until the test releases what is held: what the log shows is
    released, also if its body is still on its way.
    """

    def admit(self, request: Request) -> tuple[Effects, Record | None]: ...

    def open_body(self, request: Request, effects: Effects) -> BodyReceiver: ...

    def answer(self, request: Request, effects: Effects) -> Response: ...

    def error(self, error: S3Error, request: Request | None) -> Response: ...

    def hold(self, resume: Callable[[], None]) -> None: ...


class Connection:
    """See the module. `connection_id` is what the request log shows."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        app: Application,
        connection_id: int,
        on_close: Callable[["Connection"], None],
    ) -> None:
        self.connection_id = connection_id
        self._loop = loop
        self._sock = sock
        self._app = app
        self._on_close = on_close
        self._phase = Phase.HEAD
        self._readable = True
        self._peer_done = False
        self._head = bytearray()
        self._request: Request | None = None
        self._effects = Effects()
        self._held = False
        self._record: Record | None = None
        self._decoder: Decoder | None = None
        self._receiver: BodyReceiver | None = None
        self._body_used = 0
        self._close_after = False
        self._complete_s = 0.0
        self._sender: Sender | None = None
        self._upload_pace = Pace(0)
        self._pausing = False
        loop.add(sock, self)

    # Events

    def on_event(self, mask: int) -> None:
        if self._phase is Phase.CLOSED:
            return
        if mask & (select.EPOLLERR | select.EPOLLHUP):
            self.close()
            return
        if mask & select.EPOLLIN:
            self._readable = True
        if mask & select.EPOLLRDHUP:
            self._peer_done = True
        if self._phase in (Phase.WAITING, Phase.SENDING) and mask & select.EPOLLRDHUP:
            self.close()
            return
        if self._phase is Phase.SENDING and not self._pausing:
            self._pump()
        self._go_on()

    def close(self) -> None:
        """Ends the connection with whatever the kernel still has to send (FIN)."""
        if self._phase is Phase.CLOSED:
            return
        self._phase = Phase.CLOSED
        self._note_end()
        self._receiver = self._decoder = self._sender = None
        self._loop.close(self._sock)
        self._on_close(self)

    def abort(self) -> None:
        """Ends the connection with RST."""
        if self._phase is not Phase.CLOSED:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            self.close()

    def _note_end(self) -> None:
        record = self._record
        if record is not None:
            record.bytes_sent = 0 if self._sender is None else self._sender.body_sent
            record.done_s = time.monotonic()
            self._record = None

    # Receiving

    def _go_on(self) -> None:
        """Takes the next request, or more of the body, from what has arrived."""
        if self._head:
            self._advance()
        while self._readable and self._phase in (Phase.HEAD, Phase.BODY) and not self._pausing:
            try:
                size = self._sock.recv_into(_receive_view)
            except BlockingIOError:
                self._readable = False
                return
            except OSError:
                self.close()
                return
            if not size:
                self.close()
                return
            # Fewer bytes than asked for: drained, and the next ones make a new edge. Only the end
            # of the stream, when its edge came together with data, makes no second one.
            self._readable = size == RECEIVE_SIZE or self._peer_done
            if self._phase is Phase.BODY:
                used = self._feed(_receive_view[:size])
                self._head += _receive_view[used:size]
                self._pace_upload(size)
            else:
                self._head += _receive_view[:size]
            if self._head:
                self._advance()

    def _advance(self) -> None:
        """Works through buffered bytes as far as the phase allows."""
        while self._head:
            if self._phase is Phase.HEAD:
                end = self._head.find(b"\r\n\r\n")
                if end < 0:
                    if len(self._head) > MAX_HEAD:
                        self._refuse("head too long")
                    return
                head = bytes(self._head[:end])
                del self._head[: end + 4]
                self._begin(head)
            elif self._phase is Phase.BODY:
                data, self._head = self._head, bytearray()
                used = self._feed(memoryview(data))
                if used < len(data):
                    self._head[:0] = data[used:]
            else:
                return

    def _begin(self, head: bytes) -> None:
        self._record = None
        self._effects = Effects()
        try:
            request = parse_head(head)
        except BadMessage as error:
            self._refuse(str(error))
            return
        except S3Error as error:
            self._close_after = True
            self._deliver(self._app.error(error, None))
            return
        self._request = request
        request.connection_id = self.connection_id
        request.arrived_s = time.monotonic()
        self._close_after = request.headers.get("connection", "") == "close"
        self._effects, self._record = self._app.admit(request)
        self._held = self._effects.hold
        if self._held:
            self._app.hold(self._resume)
        if self._effects.reset:
            self.abort()
        elif self._effects.hang:
            self._phase = Phase.WAITING
        elif (
            "transfer-encoding" in request.headers
            or request.headers.get("content-length", "0") != "0"
        ):
            self._begin_body(request)
        else:
            self._receiver = None
            self._body_complete()

    def _begin_body(self, request: Request) -> None:
        refused = None
        try:
            if self._effects.status:
                raise ordered_error(self._effects)
            self._receiver = self._app.open_body(request, self._effects)
        except S3Error as error:
            refused = error.with_traceback(None)
            self._receiver = FailedReceiver(refused)
        if request.headers.get("expect", "").lower() == "100-continue":
            if refused is not None:
                # The client keeps its body, so nothing after this head can be told apart.
                self._close_after = True
                self._body_complete()
                return
            self._sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = request.headers.get("content-length", "")
        if "transfer-encoding" in request.headers:
            self._decoder = ChunkDecoder()
        elif length.isdecimal():
            self._decoder = LengthDecoder(int(length))
        else:
            self._refuse("Content-Length is no number")
            return
        self._body_used = 0
        self._upload_pace = Pace(self._effects.bandwidth_bytes_s)
        self._phase = Phase.BODY

    def _feed(self, data: memoryview) -> int:
        decoder, receiver = self._decoder, self._receiver
        assert decoder is not None
        assert receiver is not None
        try:
            used = decoder.feed(data, receiver.write)
        except BadMessage as error:
            self._refuse(str(error))
            return len(data)
        if self._record is not None:
            self._record.bytes_received += used
        self._body_used += used
        if 0 <= self._effects.cut_upload_after < self._body_used:
            self.abort()
            return len(data)
        if decoder.done:
            self._body_complete()
        return used

    # Answering

    def _body_complete(self) -> None:
        self._phase = Phase.WAITING
        self._decoder = None
        self._complete_s = time.monotonic()
        if not self._held:
            self._answer()

    def _resume(self) -> None:
        self._held = False
        if self._phase is Phase.WAITING:
            self._answer()
            self._go_on()

    def _answer(self) -> None:
        request, effects = self._request, self._effects
        assert request is not None
        try:
            if effects.status:
                raise ordered_error(self._effects)
            if self._receiver is not None:
                response = self._receiver.finish()
            else:
                response = self._app.answer(request, effects)
        except S3Error as error:
            response = self._app.error(error, request)
        except Exception:  # A bug of this server must show as a 500 and a traceback, not as a hang.
            traceback.print_exc(file=sys.stderr)
            response = self._app.error(S3Error(500, "InternalError", "bug, see stderr"), request)
        self._receiver = None
        if effects.error_as_200 and response.status >= 400:
            response.status = 200
        if effects.lose_reply:
            self.abort()
            return
        due_s = self._complete_s + effects.latency_ms / 1000 + response.delay_s
        if (effects.latency_ms or response.delay_s) and due_s > time.monotonic():
            self._loop.call_at(due_s, lambda: self._deliver_late(response))
        else:
            self._deliver(response)

    def _refuse(self, why: str) -> None:
        self._close_after = True
        self._request = None
        self._deliver(self._app.error(S3Error(400, "BadRequest", why), None))

    def _deliver_late(self, response: Response) -> None:
        if self._phase is Phase.WAITING:
            self._deliver(response)
            self._go_on()

    def _deliver(self, response: Response) -> None:
        request = self._request
        response.close = response.close or self._close_after
        head_only = request is not None and request.method == "HEAD"
        try:
            outgoing = render(response, self._effects, head_only=head_only)
        except OSError as error:  # The local file behind an object is gone.
            response = self._app.error(S3Error(500, "InternalError", str(error)), request)
            outgoing = render(response, Effects(), head_only=head_only)
        if self._record is not None:
            self._record.status = response.status
        rate = self._effects.bandwidth_bytes_s
        self._sender = Sender(self._sock, outgoing, response.body, rate)
        self._phase = Phase.SENDING
        self._pump()

    def _pump(self) -> None:
        sender = self._sender
        assert sender is not None
        try:
            progress = sender.pump()
        except OSError:
            self.close()
            return
        if progress is Progress.DONE:
            self._sent_everything(sender.ending)
        elif progress is Progress.NEXT_TURN:
            self._pausing = True
            self._loop.call_soon(self._unpause)
        elif progress is Progress.PACED:
            self._pause_until(sender.pace.next_s())

    def _sent_everything(self, ending: Ending) -> None:
        self._note_end()
        self._sender = None
        self._request = None
        if ending is Ending.KEEP:
            self._phase = Phase.HEAD
        elif ending is Ending.FIN:
            self.close()
        else:
            self.abort()

    # Pauses

    def _pause_until(self, when_s: float) -> None:
        self._pausing = True
        self._loop.call_at(when_s, self._unpause)

    def _pace_upload(self, size: int) -> None:
        pace = self._upload_pace
        if pace.rate and self._phase is Phase.BODY:
            pace.spend(size)
            if not pace.allowance(1):
                self._pause_until(pace.next_s())

    def _unpause(self) -> None:
        self._pausing = False
        if self._phase is Phase.SENDING:
            self._pump()
        if self._phase is not Phase.CLOSED:
            self._go_on()
