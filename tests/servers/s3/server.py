"""The two listening sockets and the process around them."""

import gc
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Generic, Protocol, TypeVar

from tests.servers.s3.app import App
from tests.servers.s3.connection import Connection
from tests.servers.s3.control import Control
from tests.servers.s3.loop import Loop
from tests.servers.s3.service import Service, spool_in
from tests.servers.s3.sigv4 import Credentials, Verifier

BACKLOG = 1024
ACCEPTS_PER_TURN = 64


class Abortable(Protocol):
    def abort(self) -> None: ...


_Connection = TypeVar("_Connection", bound=Abortable)


class Listener(Generic[_Connection]):
    """A TCP port on 127.0.0.1 and its connections. `connect` makes a connection of a socket."""

    def __init__(
        self, loop: Loop, port: int, connect: Callable[[socket.socket], _Connection]
    ) -> None:
        self._loop = loop
        self._connect = connect
        self._connections: set[_Connection] = set()
        self._sock = _bound(port)
        self.port: int = self._sock.getsockname()[1]
        self._open = False
        self._epoch = 0
        self.reopen()

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    def on_event(self, mask: int) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            sock.setblocking(False)
            self._connections.add(self._connect(sock))

    def forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)

    def reopen(self) -> None:
        if not self._open:
            self._open = True
            self._epoch += 1
            self._sock.listen(BACKLOG)
            self._loop.add_fd(self._sock.fileno(), self)

    def shut(self, *, drop: bool, for_s: float | None) -> None:
        """Refuses connections from now on; `drop` also resets the existing ones.

        The port stays bound by a socket that doesn't listen, so that nobody else can take it.
        """
        if self._open:
            self._open = False
            self._epoch += 1
            self._loop.remove(self._sock)
            self._sock.close()
            self._sock = _bound(self.port)
        if drop:
            self.drop_connections()
        if for_s is not None:
            epoch = self._epoch
            when_s = time.monotonic() + for_s
            self._loop.call_at(when_s, lambda: self._reopen_if(epoch))

    def _reopen_if(self, epoch: int) -> None:
        if self._epoch == epoch:
            self.reopen()

    def drop_connections(self) -> None:
        for connection in list(self._connections):
            connection.abort()


def _bound(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted sockets inherit it.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", port))
    return sock


@dataclass(frozen=True, slots=True)
class Options:
    """How a server starts. `port` 0 takes a free one; `data` is where uploads are spooled."""

    credentials: Credentials
    port: int = 0
    region: str = "us-east-1"
    data: str | None = None
    exit_with_stdin: bool = False


class StdinWatch:
    """Ends the process when whoever started it is gone, killed or not: stdin then reads EOF."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        loop.add_fd(sys.stdin.fileno(), self)

    def on_event(self, mask: int) -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            self._loop.stop()


class Server:
    def __init__(self, options: Options) -> None:
        self._loop = Loop()
        self._numbers = count(1)
        verifier = Verifier(options.credentials, options.region)
        service = Service(verifier, spool_in(options.data), options.region)
        self.s3: Listener[Connection] = Listener(
            self._loop, options.port, lambda sock: self._connect(sock, self.s3)
        )
        self.control: Listener[Connection] = Listener(
            self._loop, 0, lambda sock: self._connect(sock, self.control)
        )
        self._app = App(service, Control(service, self.s3))
        if options.exit_with_stdin:
            StdinWatch(self._loop)

    def _connect(self, sock: socket.socket, listener: Listener[Connection]) -> Connection:
        return Connection(self._loop, sock, self._app, next(self._numbers), listener.forget)

    def run(self) -> None:
        """Prints one line of JSON with the ports, then serves until a signal or stdin's end."""
        # Nothing here makes many cycles, and a full collection over 1,000,000 objects would stop
        # the server for half a second: young garbage only, and seeded objects are frozen.
        gc.set_threshold(50_000, 20, 100_000)
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        ready = {"port": self.s3.port, "control_port": self.control.port}
        print(json.dumps(ready), flush=True)
        self._loop.run()
