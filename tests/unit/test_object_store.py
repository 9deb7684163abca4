"""Listings that no good server sends, and XML that no good server writes."""

import contextlib
import http.server
import threading
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import pytest

from mountd.config import Settings
from mountd.config.source import parse_source
from mountd.errors import Corrupt, Unreachable
from mountd.remotes import call
from mountd.remotes.base import Body, Capabilities, Upload
from mountd.remotes.object_store import (
    CAPABILITIES,
    FoundObject,
    ListedObject,
    ListPage,
    ObjectStore,
    PlainReader,
)
from mountd.remotes.s3 import open_s3
from mountd.remotes.s3_rest import page_of
from mountd.remotes.xml_pages import parse_xml
from mountd.types import Entry, Kind


class Pages:
    """A provider that has nothing but pages to give."""

    ranges_come_as_200 = False

    def __init__(self, *pages: ListPage) -> None:
        self._pages = list(pages)

    def head(self, key: str) -> ListedObject:
        raise NotImplementedError

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def identify(self, key: str) -> FoundObject:
        raise NotImplementedError

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> ListedObject:
        raise NotImplementedError

    def put_delta(
        self,
        key: str,
        body: Body,
        expect: str | None,
        upload: Upload,
        source: str,
        version: str,
        same: Sequence[tuple[int, int]],
    ) -> ListedObject:
        raise NotImplementedError

    def abandon(self, key: str, token: str) -> None:
        raise NotImplementedError

    def delete(self, key: str, expect: str | None) -> None:
        raise NotImplementedError

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> ListedObject:
        raise NotImplementedError

    def list_page(self, prefix: str, delimiter: str, token: str, limit: int | None) -> ListPage:
        return self._pages.pop(0)

    def read_range(
        self, key: str, start: int, end: int, version: str, timeout_s: float | None = None
    ) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        pass


def page(keys: Sequence[str] = (), prefixes: Sequence[str] = (), token: str = "") -> ListPage:
    return ListPage([ListedObject(key, 1, 0, '"v"') for key in keys], prefixes, token)


def listed(directory: str, *pages: ListPage) -> list[Entry]:
    provider = Pages(*pages)
    store = ObjectStore(provider, PlainReader(provider), "top")
    return [entry for each in store.list(directory) for entry in each]


def test_a_directory_that_comes_on_two_pages_is_listed_once() -> None:
    found = listed("d/", page(["top/d/x"], ["top/d/s/"], "1"), page(["top/d/y"], ["top/d/s/"]))
    assert sorted((entry.name, entry.kind) for entry in found) == [
        ("s", Kind.DIRECTORY),
        ("x", Kind.FILE),
        ("y", Kind.FILE),
    ]


def test_a_server_that_does_not_group_still_shows_directories_once() -> None:
    found = listed("d/", page(["top/d/", "top/d/s/", "top/d/s/deep/x"]))
    assert [(entry.name, entry.kind) for entry in found] == [("s", Kind.DIRECTORY)]


def test_an_empty_page_is_not_the_end() -> None:
    found = listed("", page(token="1"), page(["top/x"]))
    assert [entry.name for entry in found] == ["x"]


@pytest.mark.parametrize(
    "pages",
    [
        pytest.param([page(["other/x"])], id="a key from elsewhere"),
        pytest.param([page([], ["top/d"])], id="a prefix without its slash"),
        pytest.param([page([], ["top/d/a/b/"])], id="a prefix too deep"),
        pytest.param([page(token="1"), page(token="1")], id="a token that does not advance"),
    ],
)
def test_a_listing_that_makes_no_sense_is_corrupt(pages: list[ListPage]) -> None:
    with pytest.raises(Corrupt):
        listed("d/", *pages)


@pytest.mark.parametrize(
    "body",
    [
        b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>',
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x><x/>'.encode("utf-16"),
        b"<x><y></x>",
        b"\xff\xfe\x00",
        b"",
    ],
)
def test_xml_with_a_document_type_or_none_at_all_is_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt):
        parse_xml(body)


@pytest.mark.parametrize(
    "body",
    [
        b"<html><body>welcome to the hotel</body></html>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b"<r><IsTruncated>false</IsTruncated><Contents><Size>1</Size></Contents></r>",
        b"<r><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType>"
        b"<Contents><Size>1</Size></Contents></r>",
    ],
)
def test_a_200_that_is_no_whole_listing_is_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt):
        page_of(parse_xml(body))


ONE_KEY = """<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>k</Key>
<LastModified>2026-01-02T03:04:05Z</LastModified><ETag>%s</ETag><Size>%s</Size></Contents>
</ListBucketResult>""".replace("\n", "")


@pytest.mark.parametrize(
    "etag", ['"a&#13;&#10;X-Evil: 1"', '"a\u0085"', '"\u65e5"', "&#32;", '"' + "a" * 2000 + '"']
)
def test_a_version_that_no_header_can_carry_is_refused(etag: str) -> None:
    """obstore panics on it, which ended the daemon: a panic is no Exception."""
    with pytest.raises(Corrupt):
        page_of(parse_xml((ONE_KEY % (etag, 5)).encode()))


@pytest.mark.parametrize("size", ["-1", "1_0", "+1", "\u00b2", "9" * 5000, ""])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    with pytest.raises(Corrupt):
        page_of(parse_xml((ONE_KEY % ('"e"', size)).encode()))


class Circle(Pages):
    """Its pages never end."""

    def list_page(self, prefix: str, delimiter: str, token: str, limit: int | None) -> ListPage:
        self._pages.append(self._pages[0])
        return self._pages.pop(0)


def test_a_listing_that_goes_round_in_a_circle_is_corrupt() -> None:
    for ask in (ObjectStore.list, ObjectStore.list_tree):
        circle = Circle(page(["a"], token="1"), page(["b"], token="2"), page(["c"], token="1"))
        with pytest.raises(Corrupt, match="does not advance"):
            list(ask(ObjectStore(circle, PlainReader(circle), ""), ""))


def test_asking_whether_there_is_a_directory_ends_although_the_pages_never_do() -> None:
    circle = Circle(page(token="1"), page(token="2"), page(token="3"))
    with pytest.raises(Corrupt, match="does not advance"):
        ObjectStore(circle, PlainReader(circle), "").stat("d/")


@pytest.mark.parametrize(
    "body",
    [
        b"<a>" + b"<b/>" * 700_000 + b"</a>",
        b"<a " + b" ".join(b'b%d=""' % number for number in range(700_000)) + b"/>",
    ],
)
def test_xml_of_nothing_but_elements_is_refused_before_it_fills_the_memory(body: bytes) -> None:
    with pytest.raises(Corrupt, match="too many elements"):
        parse_xml(body)


def test_a_panic_of_obstore_is_corrupt_and_not_the_end_of_the_daemon() -> None:
    source = parse_source("s3://bucket")
    anonymous = MappingProxyType({"anonymous": "true"})
    settings = Settings(Path("/c"), endpoint="http://127.0.0.1:9", credentials=anonymous)
    store = open_s3(source, settings)
    with pytest.raises(Corrupt, match="obstore"):
        store.read("key", 0, 4, '"a\r\nX-Evil: 1"')
    store.close()


def test_a_body_that_is_longer_than_its_range_is_not_taken_into_memory() -> None:
    class Endless(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(206)
            for name, value in (
                ("ETag", '"e"'),
                ("Content-Range", "bytes 0-3/4"),
                ("Content-Length", str(1 << 40)),
                ("Last-Modified", "Sat, 21 Nov 2026 19:00:00 GMT"),
            ):
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 20))

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        settings = Settings(
            Path("/c"),
            endpoint=f"http://127.0.0.1:{server.server_port}",
            credentials=MappingProxyType({"anonymous": "true"}),
        )
        store = open_s3(parse_source("s3://bucket"), settings)
        try:
            with pytest.raises(Unreachable, match="more than 4 bytes"):
                store.read("key", 0, 4, '"e"')
            room = bytearray(8)
            token = call.reads_into.set(memoryview(room))
            with pytest.raises(Unreachable, match="more than 4 bytes"):
                store.read("key", 0, 4, '"e"')
            call.reads_into.reset(token)
            assert room == bytes(8)
        finally:
            store.close()
            server.shutdown()
            thread.join()
