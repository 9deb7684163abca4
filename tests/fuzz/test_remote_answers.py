"""What a remote says: read, or refused with an error that mountd knows; never anything else.

What is read can be held by all that comes behind: names that the kernel bears, sizes and times of
64 bits, versions that can go back in a header.
"""

import json
from collections.abc import Sequence
from types import MappingProxyType
from urllib.parse import quote

import h11
from hypothesis import example, given
from hypothesis import strategies as st

from mountd.errors import RemoteError
from mountd.remotes import azure_rest, gcs_http, s3_rest, s3_xml
from mountd.remotes.azure_blocks import uncommitted_in
from mountd.remotes.fsspec_info import entry_of
from mountd.remotes.http_range import answers_for, opaque_tag, parse_content_range
from mountd.remotes.http_status import error_of_status, mtime_ns_of_http_date
from mountd.remotes.nextcloud_features import features_in
from mountd.remotes.object_metadata import attributes_of, mtime_ns_of
from mountd.remotes.object_store import ListedObject
from mountd.remotes.rest import RestAnswer, check_tag, checked_range
from mountd.remotes.s3_errors import s3_error
from mountd.remotes.webdav_listing import Listing as DavListing
from mountd.remotes.webdav_path import Collection
from mountd.remotes.webdav_xml import MultistatusReader
from mountd.remotes.xml_pages import parse_xml
from mountd.types import Entry, Kind
from mountd.vfs.listing_rows import merged
from tests.fuzz.hostile import fuzz, odd_texts, odd_values, read_or_refused, spoilt

_INT64 = 1 << 63
_S3 = b"""<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<Name>b</Name><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>
<EncodingType>url</EncodingType><Contents><Key>d/a</Key><LastModified>2026-01-02T03:04:05.6Z
</LastModified><ETag>&quot;e&quot;</ETag><Size>5</Size></Contents><CommonPrefixes><Prefix>d/s/
</Prefix></CommonPrefixes></ListBucketResult>""".replace(b"\n", b"")
_AZURE = b"""<?xml version="1.0"?><EnumerationResults><Blobs><Blob><Name>d/a</Name><Properties>
<Content-Length>5</Content-Length><Last-Modified>Fri, 02 Jan 2026 03:04:05 GMT</Last-Modified><Etag>
0x8D</Etag></Properties><Metadata><mode>33188</mode><mtime>1.5</mtime></Metadata></Blob><BlobPrefix>
<Name Encoded="true">d/s%2F</Name></BlobPrefix></Blobs><NextMarker>m</NextMarker>
</EnumerationResults>""".replace(b"\n", b"")
_DAV = b"""<?xml version="1.0"?><D:multistatus xmlns:D="DAV:" xmlns:oc="http://owncloud.org/ns">
<D:response><D:href>/dav/d/</D:href><D:propstat><D:prop><D:resourcetype><D:collection/>
</D:resourcetype><D:getetag>"c"</D:getetag></D:prop><D:status>HTTP/1.1 200 OK</D:status>
</D:propstat></D:response><D:response><D:href>/dav/d/a</D:href><D:propstat><D:prop><D:resourcetype/>
<D:getcontentlength>5</D:getcontentlength><D:getlastmodified>Fri, 02 Jan 2026 03:04:05 GMT
</D:getlastmodified><D:getetag>"e"</D:getetag></D:prop><D:status>HTTP/1.1 200 OK</D:status>
</D:propstat></D:response></D:multistatus>"""


def xml_of(template: bytes, old: bytes, text: str) -> bytes:
    """A text in place of another, as XML that is well formed but for what XML can't say."""
    plain = "".join(f"&#{ord(c)};" if ord(c) < 32 or c in "<>&" else c for c in text)
    return template.replace(old, plain.encode("utf-8", "replace"))


def check_listed(objects: Sequence[ListedObject]) -> None:
    for found in objects:
        check_entry(
            Entry(found.key, Kind.FILE, found.size, found.mtime_ns, found.version, found.attributes)
        )


def check_entry(entry: Entry) -> None:
    """All that comes behind can hold it."""
    assert 0 <= entry.size < _INT64
    assert abs(entry.mtime_ns) < _INT64
    if entry.version:
        entry.version.encode("ascii")
        h11.Request(method="GET", target="/", headers=[("Host", "h"), ("If-Match", entry.version)])
    for name, text in (entry.attributes or {}).items():
        (name + text).encode("ascii")
    check_shown([entry])


def check_shown(entries: Sequence[Entry]) -> None:
    """No name leads anywhere but to its own place, and no two are one."""
    rows = merged(entries, None, lambda count: 2, at_root=True)
    names = [rows.name(i) for i in range(len(rows))]
    assert len(set(names)) == len(names)
    for name in names:
        assert name not in (b"", b".", b"..", b".mountd")
        assert len(name) <= 255
        assert b"/" not in name
        assert b"\0" not in name


@fuzz
@given(spoilt(_S3))
def test_a_spoilt_s3_listing_is_read_or_refused(body: bytes) -> None:
    page = read_or_refused(lambda: s3_rest.page_of(parse_xml(body)), RemoteError)
    check_listed(page.objects if page else ())


@fuzz
@given(
    st.sampled_from((b"d/a", b"2026-01-02T03:04:05.6Z", b"&quot;e&quot;", b"5", b"true")), odd_texts
)
@example(b"&quot;e&quot;", '"a\r\nX-Evil: 1"')
@example(b"5", "-1")
@example(b"2026-01-02T03:04:05.6Z", "0001-01-01T00:00:00+14:00")
def test_an_odd_text_in_an_s3_listing_is_read_or_refused(old: bytes, text: str) -> None:
    body = xml_of(_S3, old, text)
    page = read_or_refused(lambda: s3_rest.page_of(parse_xml(body)), RemoteError)
    check_listed(page.objects if page else ())


@fuzz
@given(spoilt(_AZURE))
def test_a_spoilt_azure_listing_is_read_or_refused(body: bytes) -> None:
    page = read_or_refused(lambda: azure_rest.page_of(parse_xml(body)), RemoteError)
    check_listed(page.objects if page else ())


@fuzz
@given(
    st.sampled_from((b"d/a", b"Fri, 02 Jan 2026 03:04:05 GMT", b"0x8D", b"5", b"33188", b"1.5")),
    odd_texts,
)
def test_an_odd_text_in_an_azure_listing_is_read_or_refused(old: bytes, text: str) -> None:
    body = xml_of(_AZURE, old, text)
    page = read_or_refused(lambda: azure_rest.page_of(parse_xml(body)), RemoteError)
    check_listed(page.objects if page else ())


_GCS = {
    "name": "d/a",
    "size": "5",
    "generation": "17",
    "timeCreated": "2026-01-02T03:04:05.6Z",
    "metadata": {"mtime": "1.5", "mode": "33188"},
}


@fuzz
@given(st.sampled_from(sorted(_GCS)), st.one_of(odd_values, odd_texts))
def test_an_odd_value_in_a_google_resource_is_read_or_refused(name: str, value: object) -> None:
    found = read_or_refused(lambda: gcs_http.object_of({**_GCS, name: value}), RemoteError)
    check_listed([found] if found else [])


@fuzz
@given(spoilt(json.dumps({"items": [_GCS], "prefixes": ["d/s/"], "nextPageToken": "t"}).encode()))
def test_a_spoilt_google_listing_is_read_or_refused(body: bytes) -> None:
    def read() -> list[ListedObject]:
        found = gcs_http.json_of(RestAnswer(200, {}, body))
        gcs_http.texts_in(found, "prefixes")
        gcs_http.text_in(found, "nextPageToken")
        return [gcs_http.object_of(item) for item in gcs_http.items_in(found)]

    check_listed(read_or_refused(read, RemoteError) or [])


@fuzz
@given(spoilt(_DAV), st.integers(1, 400))
def test_a_spoilt_propfind_answer_is_read_or_refused(body: bytes, piece: int) -> None:
    check_dav(body, piece)


@fuzz
@given(
    st.sampled_from((b"/dav/d/a", b"Fri, 02 Jan 2026 03:04:05 GMT", b'"e"', b"5", b"200 OK")),
    odd_texts,
)
def test_an_odd_text_in_a_propfind_answer_is_read_or_refused(old: bytes, text: str) -> None:
    check_dav(xml_of(_DAV, old, text), 1 << 20)


@fuzz
@given(odd_texts)
def test_an_href_never_leads_out_of_its_collection(text: str) -> None:
    text = text.encode(errors="replace").decode()  # XML can't say a lone surrogate
    for href in (f"/dav/d/{text}", f"/dav/d/{quote(text, errors='replace')}", text):
        name = Collection("/dav/d").name_of(href)
        assert name is None or ("/" not in name and "\0" not in name and name not in (".", ".."))


def check_dav(body: bytes, piece: int) -> None:
    def read() -> Sequence[Entry]:
        reader = MultistatusReader(frozenset({"{http://owncloud.org/ns}fileid"}))
        listing = DavListing(
            "/dav/d",
            lambda name, item: Entry(
                name,
                Kind.DIRECTORY if item.is_collection else Kind.FILE,
                0 if item.is_collection else item.size or 0,
                item.mtime_ns,
                opaque_tag(item.etag),
            ),
        )
        for start in range(0, len(body), piece):
            listing.add(reader.feed(body[start : start + piece]))
        listing.add(reader.end())
        return listing.take()

    entries = read_or_refused(read, RemoteError) or ()
    for entry in entries:
        check_entry(entry)
    check_shown(entries)


_S3_ERROR = b"<Error><Code>NoSuchKey</Code><Message>m</Message></Error>"
_PARTS = (
    b"<ListPartsResult><IsTruncated>true</IsTruncated><NextPartNumberMarker>1"
    b"</NextPartNumberMarker><Part><PartNumber>1</PartNumber><ETag>e</ETag><Size>5</Size></Part>"
    b"</ListPartsResult>"
)
_BLOCKS = (
    b"<BlockList><UncommittedBlocks><Block><Name>eA==</Name><Size>5</Size></Block>"
    b"</UncommittedBlocks></BlockList>"
)


@fuzz
@given(spoilt(_S3_ERROR, _PARTS, _BLOCKS), st.sampled_from((200, 301, 400, 403, 404, 412, 503)))
def test_spoilt_errors_and_lists_of_parts_are_read_or_refused(body: bytes, status: int) -> None:
    answer = RestAnswer(status, {}, body)
    assert isinstance(s3_error(answer, "k"), RemoteError)
    read_or_refused(lambda: s3_xml.parts_in(body), RemoteError)
    read_or_refused(lambda: s3_xml.etag_in(body), RemoteError)
    read_or_refused(lambda: s3_xml.mtime_ns_in(body), RemoteError)
    read_or_refused(lambda: uncommitted_in(body), RemoteError)


_FEATURES = json.dumps(
    {
        "ocs": {
            "data": {
                "version": {"string": "30.0.1"},
                "capabilities": {
                    "files": {
                        "chunked_upload": {"max_size": 1, "max_parallel_count": 1},
                        "forbidden_filenames": [".htaccess"],
                    },
                    "dav": {"chunking": "1.0"},
                    "notify_push": {"endpoints": {"websocket": "wss://h/push/ws"}},
                },
            }
        }
    }
).encode()


@fuzz
@given(spoilt(_FEATURES))
def test_spoilt_capabilities_of_a_nextcloud_are_read(body: bytes) -> None:
    features_in(body)


@fuzz
@given(
    st.dictionaries(
        st.sampled_from(
            ("etag", "content-range", "last-modified", "content-length", "retry-after")
        ),
        odd_texts,
    ),
    st.binary(max_size=8),
    st.sampled_from((200, 206, 304, 416)),
)
def test_odd_headers_are_read_or_refused(headers: dict[str, str], body: bytes, status: int) -> None:
    answer = RestAnswer(status, headers, body)
    parse_content_range(answer.header("content-range"))
    assert abs(mtime_ns_of_http_date(answer.header("last-modified"))) < _INT64
    answers_for('"e"', headers, 5)
    assert isinstance(error_of_status(503, "x", answer.header("retry-after")), RemoteError)
    read_or_refused(lambda: check_tag(answer, "k", '"e"'), RemoteError)
    data = read_or_refused(lambda: checked_range(answer, 0, 4), RemoteError)
    assert data is None or len(data) == 4
    found = read_or_refused(lambda: s3_rest.object_of_head("k", answer), RemoteError)
    check_listed([found] if found else [])


@fuzz
@given(st.dictionaries(st.sampled_from(("mtime", "mode", "uid", "gid", "xattr")), odd_texts))
def test_odd_metadata_is_normalised(metadata: dict[str, str]) -> None:
    check_entry(Entry("k", Kind.FILE, 0, mtime_ns_of(metadata) or 0, "v", attributes_of(metadata)))


@fuzz
@given(
    st.dictionaries(
        st.sampled_from(("size", "mtime", "LastModified", "created", "ETag")), odd_values
    )
)
def test_odd_answers_of_a_foreign_file_system_are_read_or_refused(info: dict[str, object]) -> None:
    entry = read_or_refused(lambda: entry_of("k", {"type": "file", **info}), RemoteError)
    if entry is not None:
        assert 0 <= entry.size < _INT64
        assert abs(entry.mtime_ns) < _INT64


@fuzz
@given(st.lists(st.tuples(odd_texts, st.sampled_from(list(Kind))), max_size=8))
def test_any_names_of_a_directory_are_shown_without_a_way_out(rows: list[tuple[str, Kind]]) -> None:
    check_shown([Entry(name, kind, 0, 0, "v", MappingProxyType({})) for name, kind in set(rows)])
