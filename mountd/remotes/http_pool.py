"""One HTTP/1.1 server, its kept-alive connections, and exchanges that end in time.

httpcore (httpx's own engine) and not httpx itself: httpx rewrites request targets and offers no
bound on a whole call (`deadline.py`).
"""

import contextlib
import functools
import logging
import threading
import time
import urllib.request
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urljoin, urlsplit

import httpcore
from typing_extensions import Buffer

from mountd.errors import Closed, Unreachable
from mountd.remotes import direct_get, direct_put
from mountd.remotes.deadline import ClosedHere, DeadlineBackend, DeadlineStream, socket_deadline
from mountd.remotes.http_connections import KEEPALIVE_S, HttpConnections, has_leftovers
from mountd.remotes.late import stood_s
from mountd.remotes.on_wire import on_wire_s
from mountd.remotes.plain_http import LookingSocket
from mountd.remotes.request_body import BodyFailed, BodyFeed, SentBody
from mountd.remotes.sign_in import SignIn
from mountd.remotes.tls import VERIFIED, Tls, why_not_trusted
from mountd.remotes.width import Asked, Width

log = logging.getLogger(__name__)

_DRAIN_BYTES = 64 << 10  # of an error's body, so that its connection can be kept
_REDIRECTS = frozenset((301, 302, 307, 308))
_MAX_REDIRECTS = 3
_READS = frozenset(("GET", "HEAD", "OPTIONS", "PROPFIND"))
_Response = httpcore.Response | direct_get.DirectAnswer
_WITH_LENGTH = frozenset(("PUT", "POST", "PATCH"))  # said even of an empty body


class Answer:
    """A response whose body is read in chunks.

    All waiting ends at one deadline; who reads a long stream page by page calls `renew` for each
    page. Any transport error is `Unreachable`. Leaving the `with` block reads a short rest, or
    closes the connection where the rest is long.
    """

    def __init__(
        self,
        response: _Response,
        target: str,
        what: str,
        until_s: float,
        ended: Callable[[], None],
    ) -> None:
        """`ended` is called when the response is closed."""
        self.status: int = response.status
        self.target = target
        self.headers: dict[str, str] = {}
        for name, value in response.headers:
            self.headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
        self.what = what
        self._response = response
        self._chunks = response.iter_stream()
        self._until_s = until_s
        self._ended = ended

    def renew(self, until_s: float) -> None:
        """More time, for the next page of a stream."""
        self._until_s = until_s

    def chunk(self) -> bytes:
        """The next bytes of the body, or b"" at its end. Raises Unreachable."""
        with _transport_errors(self.what, answered=True), socket_deadline(self._until_s):
            return next(self._chunks, b"")

    @property
    def reads_into(self) -> bool:
        """Whether `read_into` works, and saves copies."""
        return isinstance(self._response.stream, direct_get.DirectBody)

    def read_into(self, view: memoryview) -> int:
        """As `chunk`, into memory that is there; how many bytes came."""
        body = self._response.stream
        assert isinstance(body, direct_get.DirectBody)
        with _transport_errors(self.what, answered=True), socket_deadline(self._until_s):
            return body.read_into(view)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None or self.status >= 300:
                self._drain()
        finally:
            try:
                self._response.close()
            finally:
                self._ended()

    def _drain(self) -> None:
        """Reads a short rest. Why it failed doesn't matter: what was asked for has arrived."""
        self._until_s = min(self._until_s, time.monotonic() + 1.0)
        left = _DRAIN_BYTES
        with contextlib.suppress(Unreachable):
            while left > 0 and (chunk := self.chunk()):
                left -= len(chunk)


class HttpPool:
    """Connections to one origin (`https://host[:port]`). Thread-safe.

    `headers` go with every request. A call ends within `timeout_s`, name look-up aside. TLS is
    verified as `tls` says.
    `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are obeyed.
    """

    def __init__(
        self,
        origin: str,
        headers: Mapping[str, str],
        max_connections: int,
        timeout_s: float,
        sign_in: SignIn | None = None,
        width: Width | None = None,
        tls: Tls = VERIFIED,
    ) -> None:
        """`sign_in`: what a 401 means to later requests; without it, nothing. `width` hears of each
        request, and its own number counts where it is less than that of its `most`."""
        parts = urlsplit(origin)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self._host = parts.hostname or ""
        self._port = parts.port
        self._scheme = parts.scheme
        self._timeout_s = timeout_s
        self._headers = [("Host", parts.netloc), *headers.items()]
        self._max_connections = max_connections
        self.sign_in = sign_in
        self._width = width
        self.tls = tls
        self.writes = 0  # requests that may have changed something, those under way included
        self._lock = threading.Lock()
        self._made: HttpConnections | None = None
        # By connection, where httpcore has told: what it talks through.
        self._streams: weakref.WeakKeyDictionary[httpcore.ConnectionInterface, DeadlineStream]
        self._streams = weakref.WeakKeyDictionary()
        self._gets_directly = self._puts_directly = proxy_for(self._scheme, self._host) is None

    def deadline_s(self) -> float:
        """When a call that begins now must end, on `time.monotonic`."""
        return time.monotonic() + self._timeout_s

    def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: Buffer | SentBody = b"",
        until_s: float | None = None,
        *,
        is_large: bool = False,
    ) -> Answer:
        """Sends one request for `target` (a percent-encoded path) and returns its answer's head.

        The answer, its body included, has time until `until_s` (default: the pool's timeout from
        now). With a request body that span holds for each piece of it that is taken, and once
        more for the answer: however long the body, only standing still ends the call. What the
        body's own iterator raises passes through as it is, and the connection is closed.
        Content-Length is said here. Redirects within this origin are followed (the body is sent
        again), others raise Unreachable: a captive portal answers like that, and the credentials
        are for nobody else. Messages leave out the query: it may hold a signature. `is_large`: of a
        GET whose body is worth to be read by `read_into`, which the answer then may have.
        """
        until_s = self.deadline_s() if until_s is None else until_s
        body = body if isinstance(body, SentBody) else SentBody.of(body)
        for _ in range(_MAX_REDIRECTS + 1):
            try:
                answer = self._ask_once(method, target, headers, body, until_s, is_large)
            except direct_get.NotUnderstood as error:
                log.debug("%s answers in a form for httpcore: %s", self.origin, error)
                self._gets_directly = self._gets_directly and error.is_refusal
                answer = self._ask_once(method, target, headers, body, until_s, False)
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or location is None:
                return answer
            with answer:
                target = self._redirected(answer, location)
        raise Unreachable(f"{answer.what}: redirected in a circle")

    def close(self) -> None:
        """Closes the connections; calls under way fail with Unreachable. Can be used again."""
        with self._lock:
            made, self._made = self._made, None
        if made is not None:
            made.close()

    def _ask_once(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: SentBody,
        until_s: float,
        is_large: bool,
    ) -> Answer:
        what = f"{method} {self.origin}{target.partition('?')[0]}"
        is_try = self.sign_in is not None and self.sign_in.check(what)
        self.writes += method not in _READS
        feed = BodyFeed(body, until_s)
        response: _Response | None = None
        connections = self._connections()
        try:
            with contextlib.suppress(BodyFailed), _transport_errors(what), socket_deadline(until_s):
                connection = connections.take(until_s)
                asked = self._asked(method, headers, body, connection)
                feed.stood_s = stood_s() if asked is not None and not body.size else 0.0
                try:
                    response = self._answered(connection, method, target, headers, feed, is_large)
                finally:
                    if response is None:
                        self._ended(connections, connection, asked)
        except Unreachable:
            if self._width is not None:
                self._width.failed()
            raise
        finally:
            if self.sign_in is not None:
                status = response.status if response is not None else None
                self.sign_in.heard(status, is_try=is_try)
        if response is None:
            raise feed.failure()
        if self._width is not None and asked is not None:
            wire_s = on_wire_s(response)
            late_s = max(stood_s() - feed.stood_s, 0.0) if wire_s is None else 0.0
            self._width.answered(asked, response.status, feed.sent_s, late_s, wire_s)
        # A server that refused it before it came may go on with the body as if that were requests.
        # (Of a Google's upload 308 says how much has come.)
        is_refused = response.status >= 300 and response.status != 308
        is_unread = is_refused and body.size > direct_put.IN_ONE_BYTES
        ended = functools.partial(self._ended, connections, connection, asked, is_unread=is_unread)
        return Answer(response, target, what, feed.until_s, ended)

    def _answered(
        self,
        connection: httpcore.ConnectionInterface,
        method: str,
        target: str,
        headers: Mapping[str, str],
        feed: BodyFeed,
        is_large: bool,
    ) -> _Response:
        response: _Response | None = None
        if is_large:
            response = self._got(connection, target, headers)
        elif method == "PUT" and feed.size:
            response = self._put(connection, target, headers, feed)
        if response is None:
            response = connection.handle_request(self._request(method, target, headers, feed))
            stream = response.extensions.get("network_stream")
            if isinstance(stream, DeadlineStream):
                self._streams[connection] = stream
        return response

    def _request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        feed: BodyFeed,
        content: Iterable[bytes] | None = None,
    ) -> httpcore.Request:
        return httpcore.Request(
            method,
            httpcore.URL(scheme=self._scheme, host=self._host, port=self._port, target=target),
            headers=self._fields(method, headers, feed.size),
            content=content or (feed if feed.size else None),
        )

    def _fields(self, method: str, headers: Mapping[str, str], size: int) -> list[tuple[str, str]]:
        return [*self._headers, *headers.items(), *_length(method, headers, size)]

    def _directly(
        self, connection: httpcore.ConnectionInterface, target: str, fields: list[tuple[str, str]]
    ) -> DeadlineStream | None:
        """What such a request may be sent through; None where it is for httpcore."""
        stream = self._streams.get(connection)
        if stream is None or not connection.is_idle() or not direct_get.can_be_sent(target, fields):
            return None
        return stream

    def _got(
        self, connection: httpcore.ConnectionInterface, target: str, headers: Mapping[str, str]
    ) -> _Response | None:
        """None where it is for httpcore; nothing was sent then. Raises NotUnderstood, too."""
        fields = self._fields("GET", headers, 0)
        stream = self._directly(connection, target, fields) if self._gets_directly else None
        if stream is None:
            return None
        try:
            return direct_get.get(stream, target, fields, connection.close)
        except BaseException:
            connection.close()
            raise

    def _put(
        self,
        connection: httpcore.ConnectionInterface,
        target: str,
        headers: Mapping[str, str],
        feed: BodyFeed,
    ) -> _Response | None:
        """None where it is for httpcore; nothing was sent then."""
        fields = self._fields("PUT", headers, feed.size)
        stream = self._directly(connection, target, fields) if self._puts_directly else None
        if stream is None:
            return None
        is_one = feed.size <= direct_put.IN_ONE_BYTES
        body = (feed.whole(),) if is_one else feed.views()
        close = connection.close
        try:
            found, came = direct_put.put(stream, target, fields, body, close, feed.sent)
            if found is not None:
                return found
            request = self._request("PUT", target, headers, feed, direct_put.nothing(feed.size))
            response = direct_put.heard(stream, request, came, close)
        except BaseException:
            close()
            raise
        log.debug("%s answers a PUT in a form for httpcore", self.origin)
        self._puts_directly = self._puts_directly and response.status >= 400
        return response

    def _asked(
        self,
        method: str,
        headers: Mapping[str, str],
        body: SentBody,
        connection: httpcore.ConnectionInterface,
    ) -> Asked | None:
        """What is compared: a new connection takes its time, and so does a large body."""
        if self._width is None:
            return None
        is_new = not connection.is_idle()
        kind = f"{method} {headers.get('Depth', '')} {body.size.bit_length() // 3} {is_new}"
        return self._width.begin(kind)

    def _ended(
        self,
        connections: HttpConnections,
        connection: httpcore.ConnectionInterface,
        asked: Asked | None,
        *,
        is_unread: bool = False,
    ) -> None:
        if self._width is not None and asked is not None:
            self._width.end()
        stream = self._streams.get(connection)
        is_left = connection.is_idle() and has_leftovers(connection)
        if is_unread or is_left or (connection.is_idle() and stream and stream.holds_more):
            connection.close()
        connections.give_back(connection)

    def _redirected(self, answer: Answer, location: str) -> str:
        parts = urlsplit(urljoin(f"{self.origin}{answer.target}", location))
        if f"{parts.scheme}://{parts.netloc}" != self.origin:
            raise Unreachable(
                f"{answer.what}: redirected to {parts.scheme}://{parts.netloc}, which is another "
                f"server; if that is the right one, put it into SOURCE"
            )
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def _most(self) -> int:
        """As many fewer than `max_connections` as the width is below what it may become."""
        if self._width is None:
            return self._max_connections
        return self._max_connections - (self._width.most - self._width.now)

    def _connections(self) -> HttpConnections:
        with self._lock:
            if self._made is None:
                # Only to make connections by: it knows how, also through a proxy.
                proxy = proxy_for(self._scheme, self._host)
                context = self.tls.context() if self._scheme == "https" else None
                if context is not None and proxy is None:
                    context.sslsocket_class = LookingSocket
                pool = httpcore.ConnectionPool(
                    ssl_context=context,
                    proxy=proxy,
                    keepalive_expiry=KEEPALIVE_S,
                    network_backend=DeadlineBackend(),
                )
                origin = httpcore.URL(
                    scheme=self._scheme, host=self._host, port=self._port, target="/"
                ).origin
                make = functools.partial(pool.create_connection, origin)
                self._made = HttpConnections(make, self._most)
            return self._made


def _length(method: str, headers: Mapping[str, str], size: int) -> list[tuple[str, str]]:
    if not size and method not in _WITH_LENGTH:
        return []
    if any(name.lower() == "content-length" for name in headers):
        return []
    return [("Content-Length", str(size))]


@contextlib.contextmanager
def _transport_errors(what: str, answered: bool = False) -> Iterator[None]:
    """`answered`: the head of the answer is there, so a cut connection is not a dead remote. One
    that falls silent may be."""
    try:
        yield
    except httpcore.TimeoutException as error:
        raise Unreachable(f"{what}: no answer in time") from error
    except (ClosedHere, httpcore.ConnectionNotAvailable) as error:
        raise Closed(f"{what}: its connection was closed here") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError) as error:
        text = f"{what}: {why_not_trusted(error) or error or type(error).__name__}"
        raise Unreachable(text, answered=answered) from error
    except OSError as error:
        # ssl.SSLError from a read is not mapped by every httpcore; a closed pool is EBADF.
        raise Unreachable(f"{what}: {error}", answered=answered) from error


def proxy_for(scheme: str, host: str) -> httpcore.Proxy | None:
    """The one that the environment names for it."""
    proxies = urllib.request.getproxies()
    address = proxies.get(scheme) or proxies.get("all")
    if not address or urllib.request.proxy_bypass(host):
        return None
    parts = urlsplit(address if "://" in address else f"http://{address}")
    auth = (parts.username, parts.password or "") if parts.username else None
    return httpcore.Proxy(f"{parts.scheme}://{parts.hostname}:{parts.port or 3128}", auth=auth)
