"""One thread, one epoll, edge-triggered: sockets, timers, and work put off to the next turn.

Hand-written because the request path is then one epoll_wait, one recv, one send and one sendfile;
asyncio's transports cost about as much again, and can't cut, reset or pace a body exactly.
"""

import select
import socket
import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

EDGE_MASK = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class Handler(Protocol):
    def on_event(self, mask: int) -> None: ...


class Loop:
    """Owns the epoll. A socket closed through `close` stays open until the turn ends, so that a
    stale event of this turn can't reach a new connection with the same descriptor."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = count()
        self._soon: list[Callable[[], None]] = []
        self._closing: list[socket.socket] = []
        self._running = True

    def add(self, sock: socket.socket, handler: Handler) -> None:
        """A connection: edge-triggered, both ways."""
        self._handlers[sock.fileno()] = handler
        self._epoll.register(sock.fileno(), EDGE_MASK)

    def add_fd(self, fd: int, handler: Handler) -> None:
        """Something that is only read: level-triggered."""
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, sock: socket.socket) -> None:
        """Forgets a socket that its owner closes at once."""
        self._epoll.unregister(sock.fileno())
        del self._handlers[sock.fileno()]

    def close(self, sock: socket.socket) -> None:
        self.remove(sock)
        self._closing.append(sock)

    def call_at(self, when_s: float, callback: Callable[[], None]) -> None:
        """`when_s` is on time.monotonic(). Never cancelled: callbacks check for themselves."""
        heappush(self._timers, (when_s, next(self._sequence), callback))

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        poll, handlers = self._epoll.poll, self._handlers
        while self._running:
            for fd, mask in poll(self._timeout_s(), 256):
                handler = handlers.get(fd)
                if handler is not None:
                    handler.on_event(mask)
            if self._timers:
                self._run_timers()
            if self._soon:
                soon, self._soon = self._soon, []
                for callback in soon:
                    callback()
            if self._closing:
                for sock in self._closing:
                    sock.close()
                self._closing.clear()

    def _timeout_s(self) -> float:
        if self._soon:
            return 0.0
        if self._timers:
            return max(0.0, self._timers[0][0] - time.monotonic())
        return -1.0

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heappop(self._timers)[2]()
