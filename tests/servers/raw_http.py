"""A server that answers what a script says, byte for byte: the answers that no real server gives.

    with raw_http(answer(206, b"abc", {"Content-Range": "bytes 7-9/20"})) as server:
        ...
    assert server.requests[0].method == "GET"

Each request takes the next step of the script; when the script is over, the last step is repeated.
A connection is kept after a step that doesn't close it.
"""

import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_HANG_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """What goes out for one request. `hang`: then nothing more until the test ends. `drip_s`: one
    byte at a time, with this pause after each. `close`: then the connection is closed."""

    data: bytes
    close: bool = False
    hang: bool = False
    drip_s: float = 0.0


@dataclass(slots=True)
class RawServer:
    """`sent_bytes` counts what the kernel took, which for a reader that closes is less than all."""

    authority: str
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    sent_bytes: int = 0


def answer(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Step:
    """A whole answer with a Content-Length, unless `headers` gives another."""
    lines = {"Content-Length": str(len(body)), **(headers or {})}
    head = f"HTTP/1.1 {status} Status\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    return Step(head.encode("latin-1") + b"\r\n" + body)


def cut(step: Step, missing_bytes: int) -> Step:
    """The same answer without its last bytes, and then the connection closes."""
    return Step(step.data[:-missing_bytes], close=True)


@contextmanager
def raw_http(*script: Step) -> Iterator[RawServer]:
    """Runs the server in threads of this process until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = _Running(listener, script)
        thread = threading.Thread(target=server.accept, daemon=True)
        thread.start()
        try:
            yield server.shown
        finally:
            server.stop()
            thread.join(5)


class _Running:
    def __init__(self, listener: socket.socket, script: Sequence[Step]) -> None:
        port: int = listener.getsockname()[1]
        self.shown = RawServer(f"127.0.0.1:{port}")
        self._listener = listener
        self._script = script
        self._next = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.shown.connections += 1
                self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        self._stopped.set()
        # shutdown wakes accept and recv; close alone does not.
        with self._lock:
            for sock in (self._listener, *self._open):
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as incoming:
            while True:
                try:
                    request = _read_request(incoming.readline, incoming.read)
                    if request is None or not self._answer(connection, request):
                        return
                except OSError:
                    return

    def _answer(self, connection: socket.socket, request: Request) -> bool:
        with self._lock:
            self.shown.requests.append(request)
            step = self._script[min(self._next, len(self._script) - 1)]
            self._next += 1
        size = 1 if step.drip_s else 65_536
        for start in range(0, len(step.data), size):
            sent = step.data[start : start + size]
            connection.sendall(sent)
            self.shown.sent_bytes += len(sent)
            if step.drip_s and self._stopped.wait(step.drip_s):
                return False
        if step.hang:
            self._stopped.wait(_HANG_TIMEOUT_S)
        return not (step.close or step.hang)


def _read_request(readline: Callable[[], bytes], read: Callable[[int], bytes]) -> Request | None:
    first = readline()
    if not first:
        return None
    method, target, _ = first.decode("latin-1").split()
    headers: dict[str, str] = {}
    while (line := readline().decode("latin-1").strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Request(method, target, headers, read(int(headers.get("content-length", "0"))))
