"""Connections that are kept: used again, bounded, and closed when nobody needs them."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpcore
import pytest

from mountd.errors import Closed, Unreachable
from mountd.remotes.deadline import ClosedHere, DeadlineStream
from mountd.remotes.http_connections import HttpConnections
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.latency import Latencies


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        server.peers.append(self.client_address)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        if self.path == "/close":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None: ...


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.peers: list[object] = []


@pytest.fixture
def server() -> Iterator[_Server]:
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _pool(server: _Server, most: int = 2) -> HttpPool:
    return HttpPool(f"http://127.0.0.1:{server.server_port}", {}, most, 5.0)


def _get(pool: HttpPool, target: str = "/") -> bytes:
    with pool.ask("GET", target, {}) as answer:
        return answer.chunk()


def test_a_connection_is_used_again_and_one_that_the_server_closes_is_not(server: _Server) -> None:
    pool = _pool(server)
    for target in ("/", "/", "/close", "/", "/"):
        assert _get(pool, target) == b"ok"
    assert len(set(server.peers[:3])) == 1
    assert len(set(server.peers)) == 2
    pool.close()
    assert _get(pool) == b"ok"
    assert len(set(server.peers)) == 3
    pool.close()


def test_an_answer_that_nobody_read_gives_its_connection_back(server: _Server) -> None:
    pool = _pool(server, most=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), pool.ask("GET", "/", {}):
            raise ZeroDivisionError
    assert _get(pool) == b"ok"
    pool.close()


def test_who_finds_no_free_connection_in_time_is_told_so(server: _Server) -> None:
    pool = _pool(server, most=1)
    with (
        pool.ask("GET", "/", {}),
        pytest.raises(Unreachable, match="no answer in time"),
        pool.ask("GET", "/", {}, until_s=time.monotonic() + 0.05),
    ):
        pass
    assert _get(pool) == b"ok"
    assert len(server.peers) == 2
    pool.close()


def test_a_server_that_refuses_costs_no_slot() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        pool = HttpPool(f"http://127.0.0.1:{closed.getsockname()[1]}", {}, 1, 5.0)
        for _ in range(3):
            with pytest.raises(Unreachable, match="refused"):
                _get(pool)
    pool.close()


def test_who_waits_for_a_connection_gets_one_when_there_may_be_more() -> None:
    most = [1]
    pool = HttpConnections(_NeverMade, lambda: most[0])
    until_s = time.monotonic() + 60.0
    first = pool.take(until_s)
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(pool.take, until_s) for _ in range(3)]
        with pytest.raises(httpcore.PoolTimeout):
            pool.take(time.monotonic())
        most[0] = 3  # the one that is given back and two more
        pool.give_back(first)
        assert len({each.result(60.0) for each in waiting}) == 3
    pool.close()


def test_close_closes_also_what_is_under_way(server: _Server) -> None:
    pool = HttpConnections(_NeverMade, lambda: 2)
    until_s = time.monotonic() + 60.0
    first, second = pool.take(until_s), pool.take(until_s)
    pool.give_back(first)
    pool.close()
    assert (first.is_closed(), second.is_closed()) == (True, True)
    pool.give_back(second)


def test_who_waits_for_an_answer_is_told_when_all_are_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as threads:
        pool = HttpPool(f"http://127.0.0.1:{silent.getsockname()[1]}", {}, 1, 60.0)
        asks = threads.submit(_get, pool)
        peer, _ = silent.accept()
        with peer:
            assert peer.recv(4096).startswith(b"GET / ")
            pool.close()
            assert peer.recv(4096) == b""
            assert isinstance(asks.exception(30.0), Closed)


def test_what_our_own_end_has_cut_is_not_told_as_a_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A mount that is broken off says why, and nothing else."""
    caplog.set_level(logging.INFO)
    for error in (Closed("closed"), Unreachable("reset")):
        with pytest.raises(Unreachable), Latencies().timing("list", "d"):
            raise error
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == ["reset"]


def test_a_connection_that_is_closed_before_its_request_has_begun_is_unreachable(
    server: _Server,
) -> None:
    pool = _pool(server)

    class Closing(dict[str, str]):
        """Headers that are looked at when the connection was taken."""

        def items(self) -> Any:
            pool.close()
            return super().items()

    assert _get(pool) == b"ok"
    with pytest.raises(Closed, match="closed here"), pool.ask("GET", "/", Closing()):
        pass


class _Held(httpcore.NetworkStream):
    """A read begins, and goes on to the socket when it may."""

    def __init__(self, sock: socket.socket) -> None:
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.is_closed = False
        self._sock = sock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.begun.set()
        assert self.may_go_on.wait(30)
        return self._sock.recv(max_bytes)

    def close(self) -> None:
        self.is_closed = True
        self._sock.close()

    def get_extra_info(self, info: str) -> socket.socket:
        return self._sock


def test_a_socket_that_a_thread_reads_from_is_closed_by_that_one_and_no_end_of_a_body() -> None:
    """Its number may be another connection's at once, and be waited for."""
    ours, theirs = socket.socketpair()
    with theirs, ThreadPoolExecutor(1) as threads:
        held = _Held(ours)
        stream = DeadlineStream(held)
        reads = threads.submit(stream.read, 10)
        assert held.begun.wait(30)
        stream.close()
        was_closed = held.is_closed
        held.may_go_on.set()
        assert isinstance(reads.exception(30), ClosedHere)
        assert (was_closed, held.is_closed) == (False, True)
        with pytest.raises(ClosedHere):
            stream.read(10)


def test_a_connection_that_is_made_while_all_are_closed_is_closed_too() -> None:
    made: list[_NeverMade] = []

    def make() -> _NeverMade:
        made.append(_NeverMade())
        pool.close()
        return made[-1]

    pool = HttpConnections(make, lambda: 1)
    for _ in range(2):
        with pytest.raises(ClosedHere, match="closed"):
            pool.take(time.monotonic() + 60.0)
    assert [each.is_closed() for each in made] == [True, True]


class _NeverMade(httpcore.ConnectionInterface):
    """A connection that is idle until it is closed."""

    def __init__(self) -> None:
        self._is_closed = False

    def close(self) -> None:
        self._is_closed = True

    def is_closed(self) -> bool:
        return self._is_closed

    def is_idle(self) -> bool:
        return not self._is_closed

    def has_expired(self) -> bool:
        return False
