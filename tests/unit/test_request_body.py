"""Bodies of requests: sent whole, each piece in its own time, and failing as what they are."""

import errno
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from typing_extensions import Buffer

from mountd.errors import Corrupt, NotFound, Unreachable
from mountd.remotes.request_body import SentBody
from mountd.remotes.rest import RestClient
from tests.fakes.body import BytesBody
from tests.fakes.stopwatch import fastest_s
from tests.servers.raw_http import Step, answer, cut, raw_http

DATA = bytes(range(256)) * 4096  # 1 MiB


def client(authority: str, timeout_s: float = 5.0) -> "closing[RestClient]":
    return closing(RestClient(f"http://{authority}", timeout_s))


@pytest.mark.parametrize("data", [DATA, bytearray(DATA), memoryview(DATA), b"", b"x"], ids=len)
def test_a_body_arrives_as_it_is_and_with_its_length(data: bytes) -> None:
    with raw_http(answer(200, b"ok")) as server, client(server.authority) as rest:
        rest.send("PUT", "/k", {}, body=data)
        (request,) = server.requests
        assert request.body == bytes(data)
        assert request.headers["content-length"] == str(len(data))


def test_a_part_of_a_body_is_read_while_it_is_sent() -> None:
    reads: list[tuple[int, int]] = []
    body = BytesBody(DATA * 3, lambda start, end: reads.append((start, end)))
    with raw_http(answer(200)) as server, client(server.authority) as rest:
        rest.send("PUT", "/k", {}, body=SentBody.part_of(body, 5, 2_500_000))
        assert server.requests[0].body == (DATA * 3)[5:2_500_000]
    assert len(reads) == 3
    assert reads[0][0] == 5
    assert reads[-1][1] == 2_500_000


def test_a_body_is_sent_again_after_a_redirect() -> None:
    steps = (answer(307, headers={"Location": "/there"}), answer(200))
    with raw_http(*steps) as server, client(server.authority) as rest:
        rest.send("PUT", "/here", {}, body=SentBody.of(DATA))
        assert [request.target for request in server.requests] == ["/here", "/there"]
        assert [request.body for request in server.requests] == [DATA, DATA]


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "disk"), Unreachable("the base"), NotFound("x"), TimeoutError()]
)
def test_what_a_body_raises_comes_out_as_it_is_and_the_connection_is_closed(
    error: Exception,
) -> None:
    def buffers() -> Iterator[Buffer]:
        yield DATA
        raise error

    with raw_http(answer(200)) as server, client(server.authority) as rest:
        rest.send("GET", "/before", {})
        with pytest.raises(type(error)) as raised:
            rest.send("PUT", "/k", {}, body=SentBody(len(DATA) * 2, buffers))
        assert raised.value is error
        assert rest.send("GET", "/after", {}).status == 200
        assert server.connections == 2
        assert max(len(request.body) for request in server.requests) <= len(DATA)


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
def test_a_body_of_another_length_than_it_said_is_corrupt(size: int) -> None:
    body = SentBody(size, lambda: (DATA,))
    with raw_http(answer(200)) as server, client(server.authority) as rest, pytest.raises(Corrupt):
        rest.send("PUT", "/k", {}, body=body)


def test_a_slow_body_takes_as_long_as_it_needs_if_it_moves() -> None:
    def buffers() -> Iterator[Buffer]:
        for _ in range(8):
            time.sleep(0.3)
            yield b"1234"

    with raw_http(answer(200, b"ok")) as server, client(server.authority, 2.0) as rest:
        begun_s = time.monotonic()
        found = rest.send("PUT", "/k", {}, body=SentBody(32, buffers))
        assert found.body == b"ok"
        assert time.monotonic() - begun_s > 2.0
        assert server.requests[0].body == b"1234" * 8


def test_a_body_that_nobody_takes_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        authority = f"127.0.0.1:{listener.getsockname()[1]}"

        def send() -> None:
            with client(authority, 0.3) as rest, pytest.raises(Unreachable, match="in time"):
                rest.send("PUT", "/k", {}, body=SentBody(1 << 40, endless))

        assert fastest_s(send, 5.0, tries=2) < 5.0


def endless() -> Iterator[Buffer]:
    while True:
        yield DATA


def test_the_answer_has_the_whole_time_after_the_body() -> None:
    with raw_http(Step(b"", hang=True)) as server, client(server.authority, 0.3) as rest:

        def send() -> None:
            with pytest.raises(Unreachable):
                rest.send("PUT", "/k", {}, body=DATA)

        assert 0.25 < fastest_s(send, 3.0, tries=3) < 3.0


def test_an_answer_that_comes_before_the_body_is_whole_is_the_answer() -> None:
    refusal = answer(403, b"no")

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(refusal.data)
                # Everything is read, so that closing sends no reset which would drop the answer.
                while connection.recv(1 << 16):
                    pass

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        authority = f"127.0.0.1:{listener.getsockname()[1]}"
        with client(authority) as rest:
            assert rest.send("PUT", "/k", {}, body=DATA).status == 403
        thread.join(10)


def test_a_signature_in_the_query_is_in_no_message() -> None:
    step = cut(answer(200, b"12345"), 3)
    with raw_http(step) as server, client(server.authority) as rest:
        with pytest.raises(Unreachable) as raised:
            rest.send("GET", "/k?sig=secret", {})
        assert "secret" not in str(raised.value)
        assert "/k" in str(raised.value)
