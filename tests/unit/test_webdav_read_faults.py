"""Reads of the WebDAV store against answers that no decent server gives."""

import pytest

from mountd.errors import (
    Corrupt,
    NotFound,
    Unreachable,
    Unsupported,
    VersionChanged,
)
from tests.servers.raw_http import Step, answer, cut
from tests.unit.test_webdav_faults import ETAG, multistatus, part, response, scripted


@pytest.mark.parametrize("missing_bytes", [1, 4, 5])
def test_a_cut_body_is_unreachable(missing_bytes: int) -> None:
    short = cut(part(b"hello", "bytes 0-4/20"), missing_bytes)
    with scripted(short) as (store, _), pytest.raises(Unreachable):
        store.read("f", 0, 5, ETAG)


def test_a_body_that_is_shorter_than_its_range_is_unreachable() -> None:
    with scripted(part(b"hel", "bytes 0-4/20")) as (store, _), pytest.raises(Unreachable):
        store.read("f", 0, 5, ETAG)


@pytest.mark.parametrize(
    "content_range", ["bytes 1-5/20", "bytes 0-3/20", "bytes 0-5/20", "bytes */20", "nonsense"]
)
def test_another_range_is_corrupt(content_range: str) -> None:
    with scripted(part(b"hello", content_range)) as (store, _), pytest.raises(Corrupt):
        store.read("f", 0, 5, ETAG)


def test_an_encoded_body_is_corrupt() -> None:
    encoded = answer(
        206, b"hello", {"Content-Range": "bytes 0-4/20", "Content-Encoding": "gzip", "ETag": ETAG}
    )
    with scripted(encoded) as (store, _), pytest.raises(Corrupt):
        store.read("f", 0, 5, ETAG)


def test_a_server_that_ignores_ranges_is_read_to_the_end_of_the_range_only() -> None:
    body = bytes(range(256)) * 32_768  # 8 MiB, more than the socket buffers hold
    with scripted(answer(200, body, {"ETag": ETAG})) as (store, server):
        assert store.read("f", 1000, 1300, ETAG) == body[1000:1300]
    assert server.sent_bytes < len(body)


def test_a_range_far_inside_a_server_that_ignores_ranges_is_refused_at_once() -> None:
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 9000000000\r\nETag: "v1"\r\n\r\n'
    with scripted(Step(head, hang=True)) as (store, _), pytest.raises(Unsupported):
        store.read("f", 8_000_000_000, 8_000_000_010, ETAG)


def test_a_server_that_ignores_if_match_is_caught() -> None:
    now = multistatus(response("/dav/f", '"v2"'))
    other = part(b"other", "bytes 0-4/20", '"v2"')
    with scripted(other, now) as (store, _), pytest.raises(VersionChanged):
        store.read("f", 0, 5, ETAG)


def test_a_file_that_shrank_is_another_version() -> None:
    now = multistatus(response("/dav/f", '"v2"', size=3))
    for first in (answer(416), answer(412), part(b"abc", "bytes 0-2/3", '"v2"')):
        with scripted(first, now) as (store, _), pytest.raises(VersionChanged):
            store.read("f", 0, 5, ETAG)


def test_a_file_that_is_gone_when_412_is_looked_into_is_not_found() -> None:
    with scripted(answer(412), answer(404)) as (store, _), pytest.raises(NotFound):
        store.read("f", 0, 5, ETAG)


def test_a_412_for_a_weak_tag_is_a_false_alarm_and_is_remembered() -> None:
    weak = 'W/"v1"'
    good = part(b"hello", "bytes 0-4/20", weak)
    now = multistatus(response("/dav/f", weak))
    with scripted(answer(412), now, good) as (store, server):
        assert store.read("f", 0, 5, ETAG) == b"hello"
        assert store.read("f", 0, 5, ETAG) == b"hello"
    methods = [(seen.method, "if-match" in seen.headers) for seen in server.requests]
    assert methods == [("GET", True), ("PROPFIND", False), ("GET", False), ("GET", False)]


def test_an_answer_without_a_tag_is_checked_by_a_second_look() -> None:
    bare = part(b"hello", "bytes 0-4/20", None)
    with scripted(bare, multistatus(response("/dav/f"))) as (store, server):
        assert store.read("f", 0, 5, ETAG) == b"hello"
    assert [seen.method for seen in server.requests] == ["GET", "PROPFIND"]
    changed = multistatus(response("/dav/f", '"v2"'))
    with scripted(bare, changed) as (store, _), pytest.raises(VersionChanged):
        store.read("f", 0, 5, ETAG)


def test_without_tags_size_and_time_are_the_version() -> None:
    untagged = multistatus(response("/dav/f", ""))
    bare = part(b"hello", "bytes 0-4/20", None)
    with scripted(untagged, bare) as (store, server):
        version = store.stat("f").version
        assert store.read("f", 0, 5, version) == b"hello"
    assert "if-match" not in server.requests[1].headers
    assert len(server.requests) == 2
