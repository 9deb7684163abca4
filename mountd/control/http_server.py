"""A small HTTP server in a thread of its own, for whoever scrapes or probes the daemon.

It never waits for anybody: one thread over non-blocking sockets, so a client that sends or reads
slowly costs a socket until its time is over, and with too many the one that came first goes. What
belongs to the loop is read by the loop, in one call for all who wait, at most one at a time; a loop
that doesn't answer within its bound is told to the client, and is asked nothing more meanwhile.
"""

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from mountd.errors import StartError

log = logging.getLogger(__name__)

MAX_CLIENTS: Final = 64
MAX_HEAD_BYTES: Final = 8192
CLIENT_WITHIN_S: Final = 10.0  # from its connection to the last byte of its answer
LOOP_WITHIN_S: Final = 2.0
_BACKLOG: Final = 64
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

_Reading = TypeVar("_Reading")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, whole."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"

    @classmethod
    def line(cls, status: int, text: str) -> "Answer":
        return cls(status, text.encode(errors="backslashreplace") + b"\n")


# What a page makes of a reading, in the server's thread. None: the loop did not answer in time.
Page = Callable[[_Reading | None], Answer]
# Has the loop make a reading and hand it to the callback, None where that failed; from any thread
# and without waiting. Raises RuntimeError where the loop has ended.
Ask = Callable[[Callable[[_Reading | None], None]], None]


def listen(address: str) -> socket.socket:
    """A listening socket at `host:port`. StartError with one line where that is refused."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        family, _, _, _, where = found[0]
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise StartError(
            f"metrics={address}: cannot listen there: {why}; give another host:port, or none"
        ) from error
    return listener


def address_of(listener: socket.socket) -> str:
    """`host:port` as it was given to us; the port is the kernel's where 0 was asked for."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(eq=False, slots=True)
class _Client:
    socket: socket.socket
    until_s: float
    head: bytearray = field(default_factory=bytearray)
    page: str = ""  # which it waits for
    page_until_s: float = 0.0
    is_head: bool = False
    answer: memoryview | None = None


class HttpServer(Generic[_Reading]):
    """Serves `pages`, by path, from `start` to `stop`. GET and HEAD, one request a connection."""

    def __init__(
        self,
        listener: socket.socket,
        pages: Mapping[str, Page[_Reading]],
        *,
        loop_within_s: float = LOOP_WITHIN_S,
        client_within_s: float = CLIENT_WITHIN_S,
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        self._listener = listener
        self._pages = pages
        self._loop_within_s = loop_within_s
        self._client_within_s = client_within_s
        self._max_clients = max_clients
        self._clients: dict[socket.socket, _Client] = {}  # in the order of their arrival
        self._ask: Ask[_Reading] | None = None
        self._is_asked = False
        self._readings: list[_Reading | None] = []  # at most one; put by the loop, taken here
        self._stops = False
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self, ask: Ask[_Reading]) -> None:
        """Serves from now on."""
        self._ask = ask
        for one in (self._wake, self._woken):
            one.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; connections are closed. Waits for a page that is being made."""
        self._stops = True
        self._ring()
        if self._thread.ident is not None:
            self._thread.join()
        for one in (self._listener, self._wake, self._woken):
            one.close()
        self._selector.close()

    # -- the loop's side

    def _take(self, reading: _Reading | None) -> None:
        self._readings.append(reading)
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # full: it rings already; or closed
            self._wake.send(b"!")

    # -- the thread

    def _run(self) -> None:
        while not self._stops:
            try:
                self._step()
            except Exception:
                log.exception("the HTTP server failed in an unforeseen way, and goes on")
                time.sleep(1)
        for client in list(self._clients.values()):
            self._drop(client)

    def _step(self) -> None:
        for key, _ in self._selector.select(self._patience_s()):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._woken:
                self._hear()
            elif (client := self._clients.get(key.data)) is not None:
                self._go_on(client)
        now_s = time.monotonic()
        for client in list(self._clients.values()):
            if client.page and client.page_until_s <= now_s:
                self._reply(client, None)
            elif client.until_s <= now_s:
                self._drop(client)

    def _patience_s(self) -> float | None:
        ends = [c.page_until_s if c.page else c.until_s for c in self._clients.values()]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError as error:
            if not isinstance(error, BlockingIOError | ConnectionError):  # no descriptors left
                log.debug("nobody can be heard: %s", error)
                time.sleep(0.1)
            return
        accepted.setblocking(False)
        if len(self._clients) >= self._max_clients:
            self._drop(next(iter(self._clients.values())))
        self._clients[accepted] = _Client(accepted, time.monotonic() + self._client_within_s)
        self._selector.register(accepted, selectors.EVENT_READ, accepted)

    def _go_on(self, client: _Client) -> None:
        try:
            if client.answer is not None:
                self._send(client)
            elif data := client.socket.recv(MAX_HEAD_BYTES):
                self._read(client, data)
            else:
                self._drop(client)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
        except Exception:
            log.exception("a request failed in an unforeseen way")
            self._drop(client)

    def _read(self, client: _Client, data: bytes) -> None:
        client.head += data
        is_whole = b"\r\n\r\n" in client.head or b"\n\n" in client.head
        if not is_whole and len(client.head) <= MAX_HEAD_BYTES:
            return
        # What comes behind a request is nothing to us, and its end isn't the client's.
        self._selector.unregister(client.socket)
        if not is_whole:
            self._begin(client, Answer.line(431, "the request is too long"))
            return
        words = bytes(client.head).partition(b"\n")[0].decode("latin-1").split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            self._begin(client, Answer.line(400, "that is no request"))
            return
        client.is_head = words[0] == "HEAD"
        path = words[1].partition("?")[0]
        if words[0] not in ("GET", "HEAD"):
            self._begin(client, Answer.line(405, "only GET and HEAD are answered"))
        elif path not in self._pages:
            known = ", ".join(self._pages)
            self._begin(client, Answer.line(404, f"there is nothing here; there are {known}"))
        else:
            client.page, client.page_until_s = path, time.monotonic() + self._loop_within_s
            self._ask_loop()

    def _ask_loop(self) -> None:
        if self._is_asked or self._ask is None:
            return
        try:
            self._ask(self._take)
            self._is_asked = True
        except RuntimeError:  # the loop has ended; who waits is told when its time is over
            log.debug("the loop has ended")

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
        if not self._readings:
            return
        reading = self._readings.pop()
        self._is_asked = False
        for client in list(self._clients.values()):
            if client.page:
                self._reply(client, reading)

    def _reply(self, client: _Client, reading: _Reading | None) -> None:
        page, client.page = client.page, ""
        try:
            answer = self._pages[page](reading)
        except Exception:
            log.exception("%s could not be answered", page)
            answer = Answer.line(500, "this page failed; the log says why")
        self._begin(client, answer)

    def _begin(self, client: _Client, answer: Answer) -> None:
        lines = (
            f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(answer.body)}",
            *("Cache-Control: no-store", "Connection: close", "", ""),
        )
        body = b"" if client.is_head else answer.body
        client.answer = memoryview("\r\n".join(lines).encode() + body)
        self._selector.register(client.socket, selectors.EVENT_WRITE, client.socket)

    def _send(self, client: _Client) -> None:
        assert client.answer is not None
        client.answer = client.answer[client.socket.send(client.answer) :]
        if not client.answer:
            with contextlib.suppress(OSError):
                client.socket.shutdown(socket.SHUT_WR)
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        self._clients.pop(client.socket, None)
        with contextlib.suppress(KeyError):  # it waits for a page
            self._selector.unregister(client.socket)
        client.socket.close()
