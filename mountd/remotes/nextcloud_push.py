"""notify_push: a websocket on which a Nextcloud says at once that an account's files changed.

It is best effort on both sides: whoever polls anyway only sees changes sooner. So nothing here is
ever waited for, and no failure is more than a line in the log.

https://github.com/nextcloud/notify_push (README, "Developing")
"""

import contextlib
import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import trio
from trio_websocket import (
    ConnectionClosed,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)
from wsproto.utilities import ProtocolError

from mountd.errors import RemoteError
from mountd.remotes.http_pool import proxy_for
from mountd.remotes.sign_in import SignIn
from mountd.remotes.tls import VERIFIED, Tls

log = logging.getLogger(__name__)

SIGN_IN_WITHIN_S = 30.0
_MAX_MESSAGE_BYTES = 64 << 10
_CHANGED = "notify_file"  # also notify_file_id
_WRONG_PASSWORD = "err: Invalid credentials"
# How a connection ends. A group is what the library's own task ended with.
_ENDS = (
    *(RemoteError, OSError, trio.TooSlowError, trio.BrokenResourceError),
    *(HandshakeError, ConnectionClosed, ProtocolError, ExceptionGroup),
)


@dataclass(frozen=True, slots=True)
class Pace:
    """`again_s`: before a new connection, doubling from the first to the second, half of it jitter;
    from the first again after one that lasted `steady_s`. A peer that doesn't answer a ping in
    `pong_s` is gone. `at_most_every_s`: how often it is said that something changed; the second
    while what the server tells of may be our own doing."""

    again_s: tuple[float, float] = (5.0, 600.0)
    steady_s: float = 60.0
    at_most_every_s: tuple[float, float] = (1.0, 5.0)
    ping_every_s: float = 60.0
    pong_s: float = 30.0


@dataclass(frozen=True, slots=True)
class PushAddress:
    """Where to listen, and as whom. `origin`: of the server that the password is for."""

    url: str
    origin: str
    login_name: str
    password: str = field(repr=False)
    tls: Tls = VERIFIED


class PushRefused(Exception):
    """The peer said something else than `authenticated`."""


def why_not(address: PushAddress) -> str:
    """Why the password is not to be sent there, or "". It goes to the server that it is for, and
    not in clear where that one has TLS."""
    url, origin = urlsplit(address.url), urlsplit(address.origin)
    if url.hostname != origin.hostname or "@" in url.netloc:
        return "it is on another host"
    if url.scheme != "wss" and origin.scheme == "https":
        return "it has no TLS"
    if proxy_for(origin.scheme, url.hostname or "") is not None:
        return "it is behind a proxy"
    return ""


class Settling:
    """When what was heard is passed on. A server tells us of our own uploads, too: 200 small files
    that were passed on one by one cost 500 PROPFIND. Pure; `writes` grows with what we do."""

    def __init__(self, at_most_every_s: tuple[float, float]) -> None:
        self._every_s = at_most_every_s
        self._passed_s = -math.inf
        self._writes = 0
        self.due_s = math.inf

    def heard(self, now_s: float, writes: int) -> None:
        every_s = self._every_s[1 if writes != self._writes else 0]
        self.due_s = min(self.due_s, max(now_s, self._passed_s + every_s))

    def passed_on(self, now_s: float, writes: int) -> None:
        self.due_s, self._passed_s, self._writes = math.inf, now_s, writes


class PushListener:
    """Calls `changed` when files may have changed elsewhere, and after each new connection: nobody
    knows what was missed meanwhile.

    `find`: blocking, the address or None; it may raise RemoteError, and is asked again then.
    `writes`: grows with each request of ours that may be told back to us.
    """

    def __init__(
        self,
        find: Callable[[], PushAddress | None],
        sign_in: SignIn,
        changed: Callable[[], None],
        writes: Callable[[], int],
        *,
        pace: Pace | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._find = find
        self._sign_in = sign_in
        self._changed = changed
        self._writes = writes
        self._pace = pace or Pace()
        self._settling = Settling(self._pace.at_most_every_s)
        self._jitter = jitter
        self._listening_since_s = math.inf

    async def run(self) -> None:
        """Until cancelled, which closes the connection; ends by itself where the server offers no
        push, or refuses the sign-in."""
        first_s, last_s = self._pace.again_s
        delay_s = first_s
        while True:
            self._listening_since_s = math.inf
            try:
                if not await self._try():
                    return
            except PushRefused as error:
                log.info("push: %s", error)
                if str(error) == _WRONG_PASSWORD:
                    return
            except _ENDS as error:
                log.info("push is away: %s", str(error) or error.__cause__ or type(error).__name__)
            if trio.current_time() - self._listening_since_s >= self._pace.steady_s:
                delay_s = first_s
            await trio.sleep(delay_s * (0.5 + 0.5 * self._jitter()))
            delay_s = min(last_s, 2 * delay_s)

    async def _try(self) -> bool:
        """One connection. False where there is none to be had."""
        address = await trio.to_thread.run_sync(self._find, abandon_on_cancel=True)
        if address is None:
            return False
        reason = why_not(address)
        if reason:
            log.info("%s is not listened to: %s", address.url, reason)
            return False
        if not self._sign_in.is_refused:
            await self._talk(address)
        return True

    async def _talk(self, address: PushAddress) -> None:
        """From the beginning of a connection to its end, which is always an error."""
        with trio.fail_after(SIGN_IN_WITHIN_S):
            stream = await _connect(address)
        ended: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:  # for the library's task, too
                try:
                    with trio.fail_after(SIGN_IN_WITHIN_S):
                        connection = await _sign_in(address, nursery, stream)
                    nursery.start_soon(self._keep_alive, connection, stream)
                    await self._hear(connection)
                except (PushRefused, *_ENDS) as error:  # kept, so that it comes out as no group
                    ended = error
                nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(stream)
        if ended is not None:
            raise ended

    async def _hear(self, connection: WebSocketConnection) -> None:
        """Raises ConnectionClosed at the end."""
        log.info("push: listening")
        self._listening_since_s = trio.current_time()
        settling = self._settling
        settling.heard(self._listening_since_s, self._writes())
        while True:
            message: object = None
            with trio.move_on_at(settling.due_s):
                message = await connection.get_message()
            now_s = trio.current_time()
            if isinstance(message, str) and message.startswith(_CHANGED):
                settling.heard(now_s, self._writes())
            if now_s >= settling.due_s:
                self._changed()
                settling.passed_on(now_s, self._writes())

    async def _keep_alive(self, connection: WebSocketConnection, stream: trio.abc.Stream) -> None:
        """Closes the connection of a peer that is gone, which ends `_hear`. In a task of its own:
        a pong comes after the messages before it, and somebody has to take them."""
        with contextlib.suppress(ConnectionClosed, ProtocolError):
            while True:
                await trio.sleep(self._pace.ping_every_s)
                with trio.move_on_after(self._pace.pong_s) as waiting:
                    await connection.ping()
                if waiting.cancelled_caught:
                    await trio.aclose_forcefully(stream)
                    return


async def _connect(address: PushAddress) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    """Not by the library's own `open_websocket`: 0.12.2 leaves the socket of a connection that the
    peer has dropped to the garbage collector."""
    url = urlsplit(address.url)
    host, is_secure = url.hostname or "", url.scheme == "wss"
    stream = await trio.open_tcp_stream(host, url.port or (443 if is_secure else 80))
    if not is_secure:
        return stream
    try:
        context = await trio.to_thread.run_sync(address.tls.context, abandon_on_cancel=True)
        secured = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
        await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secured


async def _sign_in(
    address: PushAddress,
    nursery: trio.Nursery,
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
) -> WebSocketConnection:
    url = urlsplit(address.url)
    path = url.path or "/"
    connection = await wrap_client_stream(
        nursery,
        stream,
        url.netloc,
        f"{path}?{url.query}" if url.query else path,
        max_message_size=_MAX_MESSAGE_BYTES,
    )
    await connection.send_message(address.login_name)
    await connection.send_message(address.password)
    answer = await connection.get_message()
    if answer != "authenticated":
        raise PushRefused(str(answer)[:200])
    return connection
