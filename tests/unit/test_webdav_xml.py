"""PROPFIND answers, honest and hostile; hrefs and keys; tags and ranges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.errors import Corrupt, NotFound, Unreachable
from mountd.remotes.http_range import (
    ContentRange,
    answers_for,
    opaque_tag,
    parse_content_range,
    version_of,
)
from mountd.remotes.webdav_path import Collection, target_of
from mountd.remotes.webdav_xml import DavItem, MultistatusReader

FILE = (
    "<d:response><d:href>/a/x.txt</d:href><d:propstat><d:prop><d:resourcetype/>"
    "<d:getcontentlength>12</d:getcontentlength>"
    "<d:getlastmodified>Thu, 01 Jan 1970 00:01:40 GMT</d:getlastmodified>"
    '<d:getetag>"e1"</d:getetag></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat>'
    "</d:response>"
)
DIRECTORY = (
    "<d:response><d:href>/a/</d:href><d:propstat><d:prop><d:resourcetype><d:collection/>"
    "</d:resourcetype></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat>"
    "<d:propstat><d:prop><d:getcontentlength/></d:prop>"
    "<d:status>HTTP/1.1 404 Not Found</d:status></d:propstat></d:response>"
)


def multistatus(*responses: str) -> bytes:
    inside = "".join(responses)
    return f'<?xml version="1.0"?><d:multistatus xmlns:d="DAV:">{inside}</d:multistatus>'.encode()


def read_all(data: bytes, piece_bytes: int = 1 << 16) -> list[DavItem]:
    reader = MultistatusReader()
    items: list[DavItem] = []
    for start in range(0, len(data), piece_bytes):
        items += reader.feed(data[start : start + piece_bytes])
    return items + reader.end()


@pytest.mark.parametrize("piece_bytes", [1, 7, 4096])
def test_a_file_and_a_directory_are_read_however_the_bytes_arrive(piece_bytes: int) -> None:
    file = DavItem("/a/x.txt", 200, False, 12, 100_000_000_000, '"e1"')
    directory = DavItem("/a/", 200, True, None, 0, "")
    assert read_all(multistatus(DIRECTORY, FILE), piece_bytes) == [directory, file]


def test_an_item_is_there_as_soon_as_its_element_ends() -> None:
    reader = MultistatusReader()
    whole = multistatus(DIRECTORY, FILE)
    assert len(reader.feed(whole[: whole.index(FILE.encode()) + 5])) == 1


def test_other_namespaces_prefixes_and_properties_are_not_taken_for_ours() -> None:
    data = (
        b'<multistatus xmlns="DAV:" xmlns:n="urn:n"><response><href>/f</href><propstat><prop>'
        b"<n:getcontentlength>99</n:getcontentlength><getcontentlength>5</getcontentlength>"
        b"<lockdiscovery><activelock><lockroot><href>/other</href></lockroot></activelock>"
        b"</lockdiscovery><resourcetype><n:collection/></resourcetype></prop>"
        b"<status>HTTP/1.1 200 OK</status></propstat></response></multistatus>"
    )
    assert read_all(data) == [DavItem("/f", 200, False, 5, 0, "")]


def test_a_property_that_the_server_failed_to_tell_is_not_a_missing_one() -> None:
    failing = FILE.replace("HTTP/1.1 200 OK", "HTTP/1.1 500 Oops")
    assert read_all(multistatus(failing))[0].status == 500


def test_a_response_that_failed_as_a_whole_says_so() -> None:
    response = (
        "<d:response><d:href>/a/x</d:href><d:status>HTTP/1.1 403 Forbidden</d:status></d:response>"
    )
    assert read_all(multistatus(response))[0].status == 403


BOMB = (
    b'<!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
    b'<d:multistatus xmlns:d="DAV:"><d:response><d:href>&b;</d:href></d:response></d:multistatus>'
)
EXTERNAL = (
    b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>'
    b'<d:multistatus xmlns:d="DAV:"><d:response><d:href>&f;</d:href></d:response></d:multistatus>'
)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(BOMB, id="entity bomb"),
        pytest.param(EXTERNAL, id="external entity"),
        pytest.param(
            b"<!DOCTYPE x>" + multistatus(DIRECTORY).partition(b"?>")[2], id="a DTD alone"
        ),
        pytest.param(b"<html><body>Sign in</body></html>", id="a page"),
        pytest.param(b"not xml at all", id="no XML"),
        pytest.param(multistatus("<d:response>" * 1000), id="nested without end"),
        pytest.param(
            multistatus(f"<d:response><d:href>/{'a' * 100_000}</d:href></d:response>"),
            id="an endless href",
        ),
        pytest.param(b'<?xml version="1.0" encoding="klingon"?><a/>', id="unknown encoding"),
    ],
)
def test_a_hostile_or_foreign_document_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        read_all(data)


def test_a_document_that_ends_anywhere_early_is_never_whole() -> None:
    whole = multistatus(DIRECTORY, FILE)
    for end in range(len(whole) - 1):
        with pytest.raises((Unreachable, Corrupt)):
            read_all(whole[:end])


# A path segment: no slash, no NUL, not a dot segment; lone surrogates are bytes that are no UTF-8.
segments = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=30
).filter(lambda name: name not in (".", ".."))


@given(st.lists(segments, max_size=3), segments)
def test_a_name_comes_back_from_the_target_that_was_made_of_it(
    parents: list[str], name: str
) -> None:
    directory = "".join(f"{parent}/" for parent in parents)
    collection = Collection(target_of("/base", directory))
    assert collection.name_of(target_of("/base", directory + name)) == name
    assert collection.name_of(target_of("/base", f"{directory}{name}/")) == name
    assert collection.name_of(target_of("/base", directory)) == ""


def test_bytes_that_are_no_utf8_come_back_as_they_are() -> None:
    name = Collection("/d/").name_of("/d/caf%E9")
    assert name == "caf\udce9"
    assert target_of("/d", name) == "/d/caf%E9"


@pytest.mark.parametrize(
    ("href", "name"),
    [
        ("/dav/a%20b/x", "x"),
        ("http://host:8080/dav/a%20b/x", "x"),
        ("/dav/a b/x", "x"),  # a server that doesn't encode
        ("/dav/a%20b/100%25.txt", "100%.txt"),
        ("/dav/a%20b/%2520", "%20"),
        ("/dav/a%20b/%23%3F", "#?"),
        ("/dav/a%20b/a+b", "a+b"),
        ("/dav/a%20b/", ""),
        ("/dav/a%20b", ""),
        ("/dav/other/x", None),
        ("/dav/a%20b/deeper/x", None),
        ("/dav/a%20b/..", None),
        ("/dav/a%20b/%2e%2e", None),
        ("/dav/a%20b/..%2F..%2Fetc%2Fpasswd", None),
        ("/dav/a%20b/nul%00", None),
        ("/dav/a%20bc", None),
        ("/", None),
        ("x", None),
        ("", None),
        ("http://host", None),
    ],
)
def test_an_href_is_a_name_in_the_collection_or_nothing(href: str, name: str | None) -> None:
    assert Collection("/dav/a%20b/").name_of(href) == name


def test_a_server_that_stores_names_composed_still_lists_what_was_asked_decomposed() -> None:
    decomposed = target_of("/d", "cafe\u0301/")
    assert Collection(decomposed).name_of("/d/caf%C3%A9/x") == "x"


@pytest.mark.parametrize("key", ["a//b", "/a", "../x", "a/../b", "./x", "a/.", "nul\0"])
def test_a_key_that_servers_would_resolve_elsewhere_is_not_found(key: str) -> None:
    with pytest.raises(NotFound):
        target_of("/base", key)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-9/20", ContentRange(0, 10, 20)),
        ("bytes 5-5/*", ContentRange(5, 6, None)),
        ("bytes */20", None),
        ("items 0-9/20", None),
        ("bytes 0-٩/20", None),
        ("bytes 0-99999999999999999999/20", None),
        (None, None),
    ],
)
def test_content_range(text: str | None, expected: ContentRange | None) -> None:
    assert parse_content_range(text) == expected


@pytest.mark.parametrize(
    ("etag", "tag"),
    [('"x"', '"x"'), ('W/"x"', '"x"'), ("x", '"x"'), ("", ""), ('""', ""), ("W/", "")],
)
def test_an_entity_tag_without_its_weakness(etag: str, tag: str) -> None:
    assert opaque_tag(etag) == tag


def test_an_answer_proves_its_version_by_tag_or_by_size_and_time() -> None:
    assert answers_for('"x"', {"etag": 'W/"x"'}, None)
    assert answers_for('"x"', {"etag": '"x-gzip"'}, None)
    assert not answers_for('"x"', {"etag": '"y"'}, None)
    assert not answers_for('"x"', {}, 5)
    version = version_of("", 5, 100_000_000_000)
    date = "Thu, 01 Jan 1970 00:01:40 GMT"
    assert answers_for(version, {"last-modified": date}, 5)
    assert not answers_for(version, {"last-modified": date}, 6)
    assert not answers_for(version, {"last-modified": date}, None)
    assert not answers_for(version, {}, 5)
