"""A TCP proxy in front of a DAV server that cuts a request short, or loses an answer.

    with cutting_proxy(server) as proxy:
        store = open_at(proxy.authority)
        proxy.cut(b"PUT", 50_000)     # the next PUT arrives with 50,000 bytes of head and body
        proxy.lose_answer(b"MOVE")    # the next MOVE takes effect, and nobody hears of it

`proxy.heads` has the first line of each request that began a piece of data, for counting.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

_PIECE = 65_536
_METHODS = (
    b"PUT ",
    b"MOVE ",
    b"COPY ",
    b"DELETE ",
    b"MKCOL ",
    b"PROPFIND ",
    b"GET ",
    b"PROPPATCH ",
)


class Served(Protocol):
    @property
    def authority(self) -> str: ...


@dataclass(slots=True)
class CuttingProxy:
    authority: str
    heads: list[str] = field(default_factory=list)
    happened: threading.Event = field(default_factory=threading.Event)
    _armed: dict[bytes, int] = field(default_factory=dict)

    def cut(self, method: bytes, after_bytes: int) -> None:
        self.happened.clear()
        self._armed[method] = after_bytes

    def lose_answer(self, method: bytes) -> None:
        self.happened.clear()
        self._armed[method] = -1

    def take(self, data: bytes) -> int | None:
        """What is to happen to the request that begins with `data`; only once."""
        if not data.startswith(_METHODS):
            return None
        self.heads.append(data.partition(b"\r\n")[0].decode("latin-1"))
        return self._armed.pop(data.partition(b" ")[0], None)


@contextmanager
def cutting_proxy(server: Served) -> Iterator[CuttingProxy]:
    host, _, port = server.authority.partition(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = CuttingProxy(f"127.0.0.1:{listener.getsockname()[1]}")
        sockets: list[socket.socket] = [listener]
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                upstream = socket.create_connection((host, int(port)))
                sockets.extend((client, upstream))
                pair = _Pair(proxy, client, upstream)
                for run in (pair.up, pair.down):
                    threads.append(threading.Thread(target=run, daemon=True))
                    threads[-1].start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield proxy
        finally:
            for sock in sockets:
                _shut(sock)
            accepting.join(5)
            for thread in threads:
                thread.join(5)
            for sock in sockets:
                sock.close()


class _Pair:
    """One client connection and its connection to the server."""

    def __init__(self, proxy: CuttingProxy, client: socket.socket, upstream: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._upstream = upstream
        self._left: int | None = None
        self._is_deaf = False

    def up(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(_PIECE):
                if self._left is None:
                    what = self._proxy.take(data)
                    self._is_deaf = what == -1
                    self._left = None if self._is_deaf else what
                if self._left is None:
                    self._upstream.sendall(data)
                    continue
                self._upstream.sendall(data[: self._left])
                self._left -= len(data)
                if self._left <= 0:
                    self._proxy.happened.set()
                    break
        _shut(self._upstream)
        _shut(self._client)

    def down(self) -> None:
        with suppress(OSError):
            while data := self._upstream.recv(_PIECE):
                if self._is_deaf:
                    self._proxy.happened.set()
                    break
                self._client.sendall(data)
        _shut(self._client)
        _shut(self._upstream)


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
