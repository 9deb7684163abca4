"""Where https is asked for and the server speaks plain http, that is said, and soon."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from mountd.errors import Unreachable
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.tls import make_tls
from tests.servers.tls_front import certificates

GREETING = b"\x16"  # the first byte of a TLS handshake
PLAIN = "it speaks plain http there, and no https; .*endpoint=http://HOST:PORT"


@contextmanager
def served(serve: Callable[[socket.socket, bytes], None]) -> Iterator[int]:
    """A port whose connections are `serve`d, with what came first, each in a thread of its own."""

    def each(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection, connection.recv(1, socket.MSG_PEEK))

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                found = listener.accept()[0]
                threading.Thread(target=each, args=(found,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def ask(port: int) -> None:
    pool = HttpPool(f"https://127.0.0.1:{port}", {}, 1, 30.0)
    with closing(pool), pool.ask("GET", "/lab", {}):
        pass


def until_closed(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def test_a_server_that_waits_for_more_of_the_greeting_is_known_long_before_the_timeout() -> None:
    asked: list[bytes] = []

    def serve(connection: socket.socket, first: bytes) -> None:
        if first == GREETING:
            until_closed(connection)
            return
        asked.append(connection.recv(4096))
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with served(serve) as port, pytest.raises(Unreachable, match=PLAIN):
        ask(port)
    assert len(asked) == 1
    assert b"uthorization" not in asked[0]


def test_a_server_that_answers_the_greeting_in_plain_http_is_named_for_it() -> None:
    def serve(connection: socket.socket, first: bytes) -> None:
        connection.recv(4096)
        status = b"400 Bad Request" if first == GREETING else b"200 OK"
        connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status)

    with served(serve) as port, pytest.raises(Unreachable, match=PLAIN):
        ask(port)


@pytest.mark.parametrize("there", [b"http://127.0.0.1/index.php/login", b"/login"])
def test_a_nextcloud_that_sends_on_to_its_login_page_is_named_for_plain_http(there: bytes) -> None:
    def serve(connection: socket.socket, first: bytes) -> None:
        connection.recv(4096)
        if first == GREETING:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return
        for piece in (b"HTTP/1.1 302 Found\r\nX-Powered-By: PHP\r\n", b"Location: ", there):
            connection.sendall(piece)
        connection.sendall(b"\r\n\r\n")

    with served(serve) as port, pytest.raises(Unreachable, match=PLAIN):
        ask(port)


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request",
        b"HTTP/1.1 301 Moved Permanently",
        b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://127.0.0.1/",
        b"220 mail ready",
    ],
)
def test_what_a_tls_server_in_trouble_says_to_plain_http_proves_nothing(said: bytes) -> None:
    def serve(connection: socket.socket, first: bytes) -> None:
        connection.recv(4096)
        if first != GREETING:
            connection.sendall(said + b"\r\n\r\n")

    with served(serve) as port, pytest.raises(Unreachable) as caught:
        ask(port)
    assert "plain http" not in str(caught.value)


def test_a_slow_server_is_looked_at_and_then_waited_for(tmp_path: Path) -> None:
    was_asked = threading.Event()
    ca_file, chain = certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)

    def serve(connection: socket.socket, first: bytes) -> None:
        if first != GREETING:
            was_asked.set()
            return
        was_asked.wait(20)
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(4096)
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with served(serve) as port:
        tls = make_tls(ca_file, is_verified=True)
        pool = HttpPool(f"https://127.0.0.1:{port}", {}, 1, 30.0, tls=tls)
        with closing(pool), pool.ask("GET", "/lab", {}) as answer:
            assert (answer.status, answer.chunk()) == (200, b"ok")
