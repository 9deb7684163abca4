"""Large bodies that go from the socket to where they are wanted, and answers not for that."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

import pytest

from mountd.config import Settings
from mountd.config.source import Source
from mountd.errors import NotFound, Unreachable, VersionChanged
from mountd.remotes import direct_get
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.nextcloud import open_nextcloud
from mountd.remotes.width import Asked, Width
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.raw_http import Step, answer, cut, raw_http
from tests.servers.tls_front import running_tls_front
from tests.unit.test_webdav_faults import ETAG, multistatus, part, response, scripted

MIB = 1 << 20
BODY = bytes(range(256)) * (MIB // 256)
SMALL = part(b"hello", f"bytes 0-4/{2 * MIB}")
WHOLE = part(BODY, f"bytes 0-{MIB - 1}/{2 * MIB}")
HEAD = f'Content-Range: bytes 0-{MIB - 1}/{2 * MIB}\r\nETag: "v1"\r\n'.encode()


def large(*more: bytes, body: bytes = BODY, status: bytes = b"HTTP/1.1 206 Partial") -> Step:
    """The range with other lines in its head."""
    return Step(b"\r\n".join((status, *more, HEAD, body)))


@contextmanager
def pool_at(*script: Step) -> Iterator[HttpPool]:
    with raw_http(*script) as server:
        pool = HttpPool(f"http://{server.authority}", {}, 2, 5.0)
        yield pool
        pool.close()


def test_on_a_connection_that_was_used_a_large_body_goes_where_it_is_wanted() -> None:
    with pool_at(answer(200, b"hello"), answer(200, BODY), answer(200, b"hello")) as pool:
        said = []
        for is_large in (True, True, False):  # httpcore connects
            with pool.ask("GET", "/f", {}, is_large=is_large) as got:
                said.append(got.reads_into)
                if got.reads_into:
                    view = memoryview(bytearray(MIB + 1))
                    done = 0
                    while count := got.read_into(view[done:]):
                        done += count
                    assert view[:done] == BODY
        assert said == [False, True, False]


class Timed(Width):
    def __init__(self) -> None:
        super().__init__(1, 2)
        self.wires: list[float | None] = []

    def answered(
        self,
        asked: Asked,
        status: int,
        sent_s: float = 0.0,
        ours_s: float = 0.0,
        wire_s: float | None = None,
    ) -> None:
        self.wires.append(wire_s)


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")
def test_its_answer_is_timed_on_the_wire_like_any_other() -> None:
    timed, dripped = Timed(), Step(answer(200).data, drip_s=0.002)
    with raw_http(answer(200), dripped, dripped) as server:
        pool = HttpPool(f"http://{server.authority}", {}, 2, 5.0, width=timed)
        for is_large in (False, False, True):
            with pool.ask("GET", "/f", {}, is_large=is_large) as got:
                assert got.reads_into == is_large
        pool.close()
    assert [wire_s is not None for wire_s in timed.wires[1:]] == [True, True]


def test_ranges_one_after_the_other_are_whole_and_take_one_connection() -> None:
    with scripted(SMALL, WHOLE, WHOLE, SMALL) as (store, server):
        assert store.read("f", 0, 5, ETAG) == b"hello"
        for _ in range(2):
            assert store.read("f", 0, MIB, ETAG) == BODY
        assert store.read("f", 0, 5, ETAG) == b"hello"
    assert server.connections == 1
    assert server.requests[0].headers.keys() == server.requests[1].headers.keys()
    assert server.requests[1].headers["if-match"] == ETAG


CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (MIB, BODY)
LENGTH = b"Content-Length: %d" % MIB
ODD = {
    "chunked": large(b"Transfer-Encoding: chunked", body=CHUNKED),
    "two lengths": large(LENGTH, LENGTH),
    "a folded line": large(LENGTH, b"X-Folded: one\r\n two"),
    "an interim answer": Step(b"HTTP/1.1 103 Early Hints\r\n\r\n" + large(LENGTH).data),
    "until the end": Step(large(b"X: y").data, close=True),
    "HTTP/1.0": Step(large(LENGTH, status=b"HTTP/1.0 206 Partial").data, close=True),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_what_has_another_form_is_asked_again_by_httpcore_and_from_then_on(odd: Step) -> None:
    with scripted(SMALL, odd, odd, SMALL, odd) as (store, server):
        assert store.read("f", 0, 5, ETAG) == b"hello"
        assert store.read("f", 0, MIB, ETAG) == BODY
        assert len(server.requests) == 3
        assert store.read("f", 0, 5, ETAG) == b"hello"
        assert store.read("f", 0, MIB, ETAG) == BODY
        assert len(server.requests) == 5


def test_a_refusal_in_another_form_says_nothing_about_that_of_files() -> None:
    refusal = Step(b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    odd = ODD["chunked"]
    with scripted(SMALL, refusal, refusal, odd, odd) as (store, server):
        store.read("f", 0, 5, ETAG)
        with pytest.raises(NotFound):
            store.read("f", 0, MIB, ETAG)
        assert store.read("f", 0, MIB, ETAG) == BODY
    assert len(server.requests) == 5, "the last was asked for directly first"


def test_an_answer_with_more_than_its_length_is_not_believed() -> None:
    longer = large(b"Content-Length: 3", body=b"abcHTTP/1.1 206 Other")
    with scripted(SMALL, longer, WHOLE) as (store, server):
        store.read("f", 0, 5, ETAG)
        assert store.read("f", 0, MIB, ETAG) == BODY
    assert server.connections == 2


@pytest.mark.parametrize("missing_bytes", [1, MIB - 1, MIB, MIB + 20])
def test_a_large_body_that_is_cut_is_unreachable_and_the_next_one_whole(missing_bytes: int) -> None:
    with scripted(SMALL, cut(WHOLE, missing_bytes), SMALL, WHOLE) as (store, server):
        store.read("f", 0, 5, ETAG)
        with pytest.raises(Unreachable):
            store.read("f", 0, MIB, ETAG)
        store.read("f", 0, 5, ETAG)
        assert store.read("f", 0, MIB, ETAG) == BODY
    assert server.connections == 2


def test_a_connection_that_the_answer_ends_is_not_used_again() -> None:
    with scripted(SMALL, large(LENGTH, b"Connection: close"), WHOLE) as (store, server):
        store.read("f", 0, 5, ETAG)
        for _ in range(2):
            assert store.read("f", 0, MIB, ETAG) == BODY
    assert server.connections == 2


def test_refusals_are_the_same_as_for_a_small_range() -> None:
    gone = multistatus(response("/dav/f", '"v2"'))
    with scripted(SMALL, answer(404), answer(412), gone) as (store, server):
        store.read("f", 0, 5, ETAG)
        with pytest.raises(NotFound):
            store.read("f", 0, MIB, ETAG)
        with pytest.raises(VersionChanged):
            store.read("f", 0, MIB, ETAG)
    assert server.connections == 1


def test_a_drip_ends_at_the_deadline() -> None:
    drip = Step(WHOLE.data, drip_s=0.02)
    with scripted(SMALL, drip, timeout_s=2.0) as (store, _):
        store.read("f", 0, 5, ETAG)
        with pytest.raises(Unreachable, match="in time"):
            store.read("f", 0, MIB, ETAG)


@pytest.mark.parametrize("bad", ["a b", "a\r\nX: y", "a\x00", "\u2026"])
def test_nothing_is_sent_that_could_end_a_line(bad: str) -> None:
    assert not direct_get.can_be_sent(bad, [])
    assert direct_get.can_be_sent("/a%20b?c=d", [("Range", "bytes=0-1"), ("If-Match", '"v"')])
    if " " not in bad:
        assert not direct_get.can_be_sent("/a", [("If-Match", bad)])


@pytest.mark.server
def test_it_is_the_same_through_tls(nextcloud_server: NextcloudServer, tmp_path: Path) -> None:
    nextcloud_server.put("f", BODY * 3)
    port = urlsplit(nextcloud_server.url).port or 0
    with running_tls_front(tmp_path, port) as front:
        given = {"user": nextcloud_server.user, "password": nextcloud_server.password}
        settings = Settings(
            Path("/c"),
            endpoint=front.origin,
            ca_file=front.ca_file,
            credentials=MappingProxyType(given),
        )
        store = open_nextcloud(Source("nextcloud", "cloud", "", "nextcloud://cloud"), settings)
        version = store.stat("f").version
        for start in range(0, 2 * MIB, MIB // 2):
            assert store.read("f", start, start + MIB, version) == (BODY * 3)[start : start + MIB]
        store.close()
