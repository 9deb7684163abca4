"""PUTs that go past httpcore: sent once, whatever the answer looks like."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpcore
import pytest
from typing_extensions import Buffer

from mountd.errors import Corrupt, Unreachable
from mountd.remotes import direct_put
from mountd.remotes.deadline import DeadlineStream
from mountd.remotes.direct_put import IN_ONE_BYTES
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.request_body import SentBody
from mountd.remotes.tls import Tls
from tests.servers.raw_http import RawServer, Step, answer, cut, raw_http
from tests.servers.tls_front import running_tls_front

BODY = bytes(range(256)) * 80
LARGE = BODY * 50  # 1 MB
HEADERS = {"If-None-Match": "*", "OC-Checksum": "MD5:00"}
CREATED = answer(201, headers={"ETag": '"v1"'})


@contextmanager
def pool_at(*script: Step, timeout_s: float = 5.0) -> Iterator[tuple[HttpPool, RawServer]]:
    with raw_http(*script) as server:
        pool = HttpPool(f"http://{server.authority}", {"X-Always": "yes"}, 2, timeout_s)
        yield pool, server
        pool.close()


def put(pool: HttpPool, body: bytes = BODY) -> tuple[int, str, bytes]:
    with pool.ask("PUT", "/f%20g", HEADERS, body) as got:
        read = b""
        while chunk := got.chunk():
            read += chunk
        return got.status, got.headers.get("etag", ""), read


def bodies(server: RawServer) -> Sequence[bytes]:
    return [request.body for request in server.requests]


def test_the_second_on_a_connection_says_what_the_first_has_said_through_httpcore() -> None:
    with pool_at(CREATED) as (pool, server):
        assert [put(pool), put(pool), put(pool)] == 3 * [(201, '"v1"', b"")]
    assert server.connections == 1
    first, second, third = server.requests
    assert first == second == third
    assert second.headers["content-length"] == str(len(BODY))


def test_one_with_nothing_in_it_and_one_too_large_go_as_well() -> None:
    sizes = (1, 0, IN_ONE_BYTES, IN_ONE_BYTES + 1)
    with pool_at(CREATED) as (pool, server):
        for size in sizes:
            assert put(pool, b"x" * size) == (201, '"v1"', b"")
    assert [len(body) for body in bodies(server)] == list(sizes)
    assert server.connections == 1


HEAD = b'HTTP/1.1 201 Created\r\nETag: "v1"\r\n'
ODD = {
    "chunked": Step(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    "a folded line": Step(HEAD + b"X-Folded: one\r\n two\r\nContent-Length: 3\r\n\r\nabc"),
    "an interim answer": Step(
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + HEAD + b"Content-Length: 3\r\n\r\nabc"
    ),
    "until the end": Step(HEAD + b"\r\nabc", close=True),
    "HTTP/1.0": Step(HEAD.replace(b"1.1", b"1.0") + b"\r\nabc", close=True),
    "slowly": Step(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", drip_s=0.001),
}


@pytest.mark.parametrize("body", [BODY, LARGE], ids=len)
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_answer_of_another_form_is_understood_and_nothing_sent_twice(
    odd: Step, body: bytes
) -> None:
    with pool_at(CREATED, odd) as (pool, server):
        assert put(pool, body) == (201, '"v1"', b"")
        for _ in range(3):
            assert put(pool, body) == (201, '"v1"', b"abc")
    assert bodies(server) == 4 * [body]


def test_a_large_one_goes_in_the_pieces_in_which_it_is_read() -> None:
    read: list[int] = []

    def buffers() -> Iterator[bytes]:
        for at in range(0, len(LARGE), 100_000):
            read.append(at)
            yield LARGE[at : at + 100_000]

    with pool_at(CREATED) as (pool, server):
        put(pool)
        with pool.ask("PUT", "/f", HEADERS, SentBody(len(LARGE), buffers)) as got:
            assert got.status == 201
        with pytest.raises(Corrupt):
            pool.ask("PUT", "/f", HEADERS, SentBody(len(LARGE) + 1, buffers))
        put(pool)
    assert bodies(server)[:2] == [BODY, LARGE]
    assert read == 2 * list(range(0, len(LARGE), 100_000))
    assert server.connections == 2  # that with the half of one is closed


def test_what_a_large_body_raises_on_its_way_is_raised_and_ends_the_connection() -> None:
    def broken() -> Iterator[bytes]:
        yield LARGE
        raise OSError("the disk")

    with pool_at(CREATED) as (pool, server):
        put(pool)
        with pytest.raises(OSError, match="the disk"):
            pool.ask("PUT", "/f", HEADERS, SentBody(2 * len(LARGE), broken))
        put(pool)
    assert [body for body in bodies(server) if body == BODY] == [BODY, BODY]
    assert server.connections == 2


def test_a_204_needs_no_length_and_keeps_its_connection() -> None:
    with pool_at(CREATED, Step(b'HTTP/1.1 204 No Content\r\nETag: "v2"\r\n\r\n')) as (pool, server):
        put(pool)
        assert [put(pool), put(pool)] == 2 * [(204, '"v2"', b"")]
    assert server.connections == 1


def test_a_refusal_tells_why_and_keeps_its_connection() -> None:
    with pool_at(CREATED, answer(412, b"not met"), CREATED) as (pool, server):
        assert [put(pool)[0], put(pool)[2], put(pool)[0]] == [201, b"not met", 201]
    assert server.connections == 1


def test_a_large_one_that_is_refused_ends_its_connection() -> None:
    # Whoever has not read its body may take that for requests, and answer them.
    to_another = answer(307, headers={"Location": "/other"})
    script = answer(412, b"not met"), CREATED, answer(503), to_another, CREATED
    with pool_at(*script) as (pool, server):
        assert [put(pool, LARGE)[0] for _ in range(4)] == [412, 201, 503, 201]
    assert server.connections == 4


def test_what_came_behind_an_answer_is_nobodys() -> None:
    longer = Step(CREATED.data + CREATED.data.replace(b"v1", b"v0"))
    with pool_at(CREATED, longer, answer(201, headers={"ETag": '"v2"'})) as (pool, server):
        assert [put(pool)[1], put(pool)[1], put(pool)[1]] == ['"v1"', '"v1"', '"v2"']
    assert server.connections == 2


LEFT_BEHIND = CREATED.data.replace(b"v1", b"v0")
IN_A_HEADER = LEFT_BEHIND.index(b"v0") + 3


@pytest.mark.parametrize("left", [1, IN_A_HEADER, len(LEFT_BEHIND) - 1, len(LEFT_BEHIND)])
@pytest.mark.parametrize("size", [0, 1, IN_ONE_BYTES + 1])
def test_what_a_server_says_behind_an_answer_is_no_part_of_the_next(size: int, left: int) -> None:
    longer = Step(CREATED.data + LEFT_BEHIND[:left])
    with pool_at(longer, answer(201, headers={"ETag": '"v2"'})) as (pool, server):
        assert put(pool, b"x" * size)[1] == '"v1"'
        assert [put(pool, b"y" * size)[1] for _ in range(2)] == ['"v2"', '"v2"']
    assert server.connections == 2


@pytest.mark.parametrize("missing_bytes", [1, 10, len(CREATED.data)])
def test_one_without_a_whole_answer_is_unreachable_and_not_sent_again(missing_bytes: int) -> None:
    with pool_at(CREATED, cut(CREATED, missing_bytes), CREATED) as (pool, server):
        put(pool)
        with pytest.raises(Unreachable):
            put(pool)
        assert len(server.requests) == 2
        assert put(pool)[0] == 201


def test_a_connection_that_the_answer_ends_is_not_used_again() -> None:
    last = answer(201, headers={"Connection": "close"})
    with pool_at(CREATED, last, CREATED) as (pool, server):
        assert [put(pool)[0] for _ in range(3)] == 3 * [201]
    assert server.connections == 2


def test_an_answer_that_drips_ends_at_the_deadline() -> None:
    with pool_at(CREATED, Step(CREATED.data, drip_s=0.05), timeout_s=0.5) as (pool, _):
        put(pool)
        with pytest.raises(Unreachable, match="in time"):
            put(pool)


def test_what_the_body_raises_is_raised_and_nothing_was_sent() -> None:
    def broken() -> Iterator[bytes]:
        yield b"some"
        raise OSError("the disk")

    with pool_at(CREATED) as (pool, server):
        put(pool)
        with pytest.raises(OSError, match="the disk"):
            pool.ask("PUT", "/f", HEADERS, SentBody(100, broken))
        put(pool)
    assert bodies(server) == [BODY, BODY]
    assert server.connections == 1


def test_a_head_that_is_too_long_is_not_taken_for_whole() -> None:
    # Its end is told only later: what follows is of the same head, and no next answer.
    lines = b"".join(b"X-%d: %b\r\n" % (n, b"y" * 60) for n in range(1200))
    long = Step(HEAD + b"Content-Length: 3\r\n" + lines + b"\r\nabc")
    with pool_at(CREATED, long, CREATED) as (pool, server):
        put(pool)
        with contextlib.suppress(Unreachable):
            assert put(pool)[2] == b"abc"
        assert put(pool) == (201, '"v1"', b"")
    assert len(server.requests) == 3
    assert server.connections == 2


def test_an_answer_to_a_body_that_did_not_go_whole_ends_its_connection() -> None:
    stream = _Halfway(CREATED.data)
    closed: list[bool] = []
    got, _ = direct_put.put(stream, "/f", [], (b"body",), lambda: closed.append(True), lambda: None)
    assert got is not None
    got.close()
    assert (got.status, closed) == (201, [True])


def test_what_came_behind_an_answer_is_nobodys_through_tls_too(tmp_path: Path) -> None:
    # In a record that was taken off the socket: no poll shows it.
    longer = answer(201, b"x" * 20_000)
    longer = Step(longer.data + CREATED.data.replace(b"v1", b"v0"))
    with (
        raw_http(CREATED, longer, answer(201, headers={"ETag": '"v2"'})) as server,
        running_tls_front(tmp_path, int(server.authority.rpartition(":")[2])) as front,
    ):
        pool = HttpPool(front.origin, {}, 2, 5.0, tls=Tls(front.ca_file.read_text()))
        try:
            assert [put(pool)[1] for _ in range(3)] == ['"v1"', "", '"v2"']
        finally:
            pool.close()
    assert server.connections == 2


class _Halfway(DeadlineStream):
    """Takes no more bytes, as the server has answered already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def write_all(self, data: Buffer) -> None:
        raise httpcore.WriteError("reset")

    @property
    def holds_more(self) -> bool:
        return False

    def read_into(self, view: memoryview) -> int:
        count = min(len(view), len(self._data))
        view[:count], self._data = self._data[:count], self._data[count:]
        return count
