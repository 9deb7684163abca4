"""A network backend for httpcore whose every blocking step ends at one deadline.

httpcore's timeouts hold per `recv`: a server that sends one byte every 59 s keeps a call alive for
as long as it likes. A synchronous call does all its socket work in the thread that made it, so the
deadline is a value of that thread, and each step waits for what is left of it.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
from typing_extensions import Buffer

CONNECT_TIMEOUT_S = 5.0
# httpcore asks for 64 KiB. With 256 a large body costs a tenth less CPU: fewer calls, each of which
# gives the interpreter away.
_READ_BYTES = 256 << 10


class _Deadline(threading.local):
    until_s: float | None = None


_deadline = _Deadline()


@contextlib.contextmanager
def socket_deadline(until_s: float) -> Iterator[None]:
    """Inside, every socket step of this thread ends by `until_s` (of `time.monotonic`)."""
    before, _deadline.until_s = _deadline.until_s, until_s
    try:
        yield
    finally:
        _deadline.until_s = before


def renew_socket_deadline(until_s: float) -> None:
    """Moves this thread's deadline; only inside `socket_deadline`, which restores the former."""
    _deadline.until_s = until_s


def _left_s(wanted_s: float | None, expired: type[Exception]) -> float | None:
    if _deadline.until_s is None:
        return wanted_s
    left_s = _deadline.until_s - time.monotonic()
    if left_s <= 0:
        raise expired("the time for this call is over")
    return left_s if wanted_s is None else min(wanted_s, left_s)


def _bound(sock: socket.socket, left_s: float | None) -> None:
    """Its steps end within that time, or up to a tenth sooner. To say that anew is a system call in
    which threads change places, so a bound that is a little less is left as it is."""
    known_s = sock.gettimeout()
    if left_s is None or left_s < 1.0:
        sock.settimeout(left_s)
    elif known_s is None or not 0.9 * left_s <= known_s <= left_s:
        sock.settimeout(0.97 * left_s)


class ClosedHere(httpcore.NetworkError):
    """By us, in another thread."""


class DeadlineStream(httpcore.NetworkStream):
    """A stream that never waits past the deadline of the calling thread. One thread at a time uses
    it; any may close it, which fails what that one is at."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._is_used = False  # a thread may wait for it
        self._is_closed = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        limit_s = _left_s(timeout, httpcore.ReadTimeout)
        self._begin()
        try:
            return self._stream.read(max(max_bytes, _READ_BYTES), limit_s)
        finally:
            self._end()

    def read_into(self, view: memoryview) -> int:
        """As `read`, into memory that is there. Not on TLS inside TLS (a proxy's)."""
        sock = self._socket()
        self._begin()
        try:
            while True:
                _bound(sock, _left_s(None, httpcore.ReadTimeout))
                try:
                    return sock.recv_into(view)
                except TimeoutError:
                    continue  # if any time is left
                except OSError as error:
                    raise httpcore.ReadError(error) from error
        finally:
            self._end()

    @property
    def holds_more(self) -> bool:
        """Whether more has come of a TLS record than was read: no poll of the socket shows that."""
        sock = self._socket()
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        limit_s = _left_s(timeout, httpcore.WriteTimeout)
        self._begin()
        try:
            self._stream.write(buffer, limit_s)
        finally:
            self._end()

    def write_all(self, data: Buffer) -> None:
        """As `write`, with few calls, and up to a tenth of the time less. Not on TLS inside TLS."""
        sock = self._socket()
        self._begin()
        try:
            _bound(sock, _left_s(None, httpcore.WriteTimeout))
            sock.sendall(data)
        except TimeoutError as error:
            raise httpcore.WriteTimeout(error) from error
        except OSError as error:
            raise httpcore.WriteError(error) from error
        finally:
            self._end()

    def close(self) -> None:
        """Not the socket of a thread that waits for it: nothing would wake that one until its
        deadline, and its descriptor's number may be another connection's at once."""
        self._is_closed = True
        if not self._is_used:
            self._stream.close()
            return
        with contextlib.suppress(OSError):  # its thread has closed it just now
            # Not SSLSocket's own, which would go on in plain text.
            socket.socket.shutdown(self._socket(), socket.SHUT_RDWR)

    def _begin(self) -> None:
        self._is_used = True
        if self._is_closed:
            self._end()

    def _end(self) -> None:
        """Raises ClosedHere where somebody has: what came may be cut off there."""
        self._is_used = False
        if self._is_closed:
            self._stream.close()
            raise ClosedHere("the connection was closed here")

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        limit_s = _left_s(timeout, httpcore.ConnectTimeout)
        return DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, limit_s))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _socket(self) -> socket.socket:
        found: socket.socket = self._stream.get_extra_info("socket")
        return found


class DeadlineBackend(httpcore.NetworkBackend):
    """Opens `DeadlineStream`s. A connect also ends after `CONNECT_TIMEOUT_S` per address.

    Looking the host's name up is the C library's business and not bounded here.
    """

    def __init__(self) -> None:
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        limit_s = _left_s(CONNECT_TIMEOUT_S, httpcore.ConnectTimeout)
        stream = self._backend.connect_tcp(host, port, limit_s, local_address, socket_options)
        return DeadlineStream(stream)
