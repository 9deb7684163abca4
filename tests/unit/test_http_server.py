"""The HTTP server beside the loop: bounded whoever connects, and it never waits for the loop."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from mountd.control.http_server import Answer, HttpServer, address_of, listen
from mountd.errors import ExitCode, StartError
from tests.conftest import ExpectedLog

Take = Callable[[str | None], None]


class Loop:
    """Answers at once with its number of calls, until it is stuck."""

    def __init__(self) -> None:
        self.calls = 0
        self.is_stuck = False
        self.has_ended = False
        self.waiting: list[Take] = []
        self.asked = threading.Event()

    def ask(self, take: Take) -> None:
        if self.has_ended:
            raise RuntimeError("ended")
        self.calls += 1
        if self.is_stuck:
            self.waiting.append(take)
        else:
            take(f"reading {self.calls}")
        self.asked.set()


def page(reading: str | None) -> Answer:
    return Answer.line(503 if reading is None else 200, str(reading))


def fails(reading: str | None) -> Answer:
    raise ValueError("of the page")


@contextmanager
def served(loop: Loop, **bounds: float) -> Iterator[tuple[str, int]]:
    listener = listen("127.0.0.1:0")
    max_clients = int(bounds.pop("max_clients", 64))
    pages = {"/page": page, "/long": lambda reading: Answer(200, b"x" * 50_000_000), "/bad": fails}
    server: HttpServer[str] = HttpServer(listener, pages, max_clients=max_clients, **bounds)
    host, _, port = address_of(listener).rpartition(":")
    server.start(loop.ask)
    try:
        yield host, int(port)
    finally:
        server.stop()


def talk(address: tuple[str, int], request: bytes, *, half_close: bool = False) -> str:
    """All that is answered until the server closes."""
    with socket.create_connection(address, timeout=20) as sock:
        sock.sendall(request)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        return rest(sock)


def rest(sock: socket.socket) -> str:
    parts = []
    while data := sock.recv(1 << 16):
        parts.append(data)
    return b"".join(parts).decode()


def get(address: tuple[str, int], path: str = "/page") -> str:
    return talk(address, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def test_a_page_is_answered_and_the_connection_closed() -> None:
    with served(Loop()) as address:
        head, _, body = get(address, "/page?x=1").partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert "Connection: close" in head
    assert "Content-Length: 10" in head
    assert body == "reading 1\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"HEAD /page HTTP/1.1\r\n\r\n", 200),
        (b"GET /page HTTP/1.0\n\n", 200),
        (b"GET /elsewhere HTTP/1.1\r\n\r\n", 404),
        (b"GET http://127.0.0.1/page HTTP/1.1\r\n\r\n", 404),
        (b"POST /page HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"\x16\x03\x01\x02\r\n\r\n", 400),
        (b"GET //[/page HTTP/1.1\r\n\r\n", 404),
        (b"GET /page HTTP/1.1\r\nX: " + b"x" * 9000, 431),
    ],
)
def test_every_request_has_its_answer(request_: bytes, status: int) -> None:
    with served(Loop()) as address:
        found = talk(address, request_, half_close=True)
        assert found.startswith(f"HTTP/1.1 {status} ")
        assert found.endswith("\r\n\r\n") == request_.startswith(b"HEAD")
        assert "reading" in get(address)


def test_a_loop_that_is_stuck_is_told_after_the_bound_and_asked_once() -> None:
    loop = Loop()
    loop.is_stuck = True
    with served(loop, loop_within_s=0.1) as address:
        assert get(address).startswith("HTTP/1.1 503 ")
        assert get(address).startswith("HTTP/1.1 503 ")
        assert loop.calls == 1
        loop.is_stuck = False
        loop.waiting.pop()("late")  # nobody waits for that one any more, or the next one takes it
        assert "reading" in get(address) or "late" in get(address)


def test_many_who_wait_share_one_reading() -> None:
    loop = Loop()
    loop.is_stuck = True
    with served(loop, loop_within_s=20) as address:
        sockets = [socket.create_connection(address, timeout=20) for _ in range(5)]
        for sock in sockets:
            sock.sendall(b"GET /page HTTP/1.1\r\n\r\n")
        assert loop.asked.wait(10)
        assert talk(address, b"GET /x HTTP/1.1\r\n\r\n").startswith("HTTP/1.1 404")  # all are read
        loop.waiting.pop()("one for all")
        for sock in sockets:
            assert "one for all" in rest(sock)
            sock.close()
    assert loop.calls == 1


def test_a_loop_that_has_ended_is_told() -> None:
    loop = Loop()
    loop.has_ended = True
    with served(loop, loop_within_s=0.1) as address:
        assert get(address).startswith("HTTP/1.1 503 ")


def test_clients_that_say_nothing_or_read_nothing_keep_nobody_waiting() -> None:
    with served(Loop(), max_clients=8) as address:
        silent = [socket.create_connection(address, timeout=20) for _ in range(20)]
        deaf = [socket.create_connection(address, timeout=20) for _ in range(20)]
        for sock in deaf:
            sock.sendall(b"GET /long HTTP/1.1\r\n\r\n")
        assert "reading" in get(address)
        assert silent[0].recv(1) == b""  # who came first has made room
        for sock in (*silent, *deaf):
            sock.close()
        assert "reading" in get(address)


def test_a_client_that_takes_too_long_is_closed() -> None:
    with served(Loop(), client_within_s=0.1) as address:
        with socket.create_connection(address, timeout=20) as sock:
            sock.sendall(b"GET /pa")
            assert sock.recv(1) == b""
        while "reading" not in get(address):  # we may be too slow ourselves, on a busy machine
            pass


def test_a_page_that_fails_is_a_500_and_a_line_in_the_log(expected_log: ExpectedLog) -> None:
    expected_log("/bad could not be answered")
    with served(Loop()) as address:
        assert get(address, "/bad").startswith("HTTP/1.1 500 ")
        assert "reading" in get(address)


def test_stop_ends_the_thread_and_closes_the_port() -> None:
    before = set(threading.enumerate())
    with served(Loop()) as address:
        assert "reading" in get(address)
    assert set(threading.enumerate()) <= before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


@pytest.mark.parametrize("where", ["{taken}", "no-such-host.invalid:80", "203.0.113.1:80"])
def test_a_port_that_is_refused_is_one_line_and_exit_code_1(where: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(StartError, match=r"metrics=.*: cannot listen there: .*") as caught:
            listen(where.format(taken=taken))
    assert caught.value.exit_code == ExitCode.RUNTIME
    assert "\n" not in str(caught.value)
