"""The process: the service's port, and the control path's own."""

import gc
import json
import resource
import signal
import socket
from dataclasses import dataclass
from itertools import count

from tests.servers.nextcloud.app import App
from tests.servers.nextcloud.control import Control
from tests.servers.nextcloud.push import PushConnection, PushHub
from tests.servers.nextcloud.service import Service
from tests.servers.s3.connection import Connection
from tests.servers.s3.loop import Loop
from tests.servers.s3.server import Listener, StdinWatch
from tests.servers.s3.service import spool_in


@dataclass(frozen=True, slots=True)
class Options:
    """How a server starts. `port` 0 takes a free one; `data` is where uploads are spooled."""

    user: str
    password: str
    port: int = 0
    data: str | None = None
    exit_with_stdin: bool = False


class Server:
    def __init__(self, options: Options) -> None:
        self._loop = Loop()
        self._numbers = count(1)
        service = Service(spool_in(options.data), self._loop)
        service.add_account(options.user, options.password)
        self.dav: Listener[Connection] = Listener(
            self._loop, options.port, lambda sock: self._connect(sock, self.dav)
        )
        self.control: Listener[Connection] = Listener(
            self._loop, 0, lambda sock: self._connect(sock, self.control)
        )
        hub = PushHub(service)
        self.push: Listener[PushConnection] = Listener(
            self._loop, 0, lambda sock: PushConnection(self._loop, sock, hub, self.push.forget)
        )
        service.port = self.dav.port
        service.push_port = self.push.port
        self._app = App(service, Control(service, self.dav, self.push))
        if options.exit_with_stdin:
            StdinWatch(self._loop)

    def _connect(self, sock: socket.socket, listener: Listener[Connection]) -> Connection:
        return Connection(self._loop, sock, self._app, next(self._numbers), listener.forget)

    def run(self) -> None:
        """Prints one line of JSON with the ports, then serves until a signal or stdin's end."""
        gc.set_threshold(50_000, 20, 100_000)
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print(json.dumps({"port": self.dav.port, "control_port": self.control.port}), flush=True)
        self._loop.run()
