"""The arithmetic and the texts of S3's writes."""

import hashlib
import itertools
from dataclasses import fields

import crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.errors import (
    ContainerMissing,
    Corrupt,
    Denied,
    NameNotAllowed,
    QuotaExceeded,
    RemoteError,
    Throttled,
    Unreachable,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.base import Upload
from mountd.remotes.rest import RestAnswer
from mountd.remotes.s3_errors import error_code, write_error
from mountd.remotes.s3_multipart import MAX_OBJECT_BYTES, PART_BYTES, part_spans
from mountd.remotes.s3_payload import HELD_BYTES, Digests, crc32c_text, payload_of_part
from mountd.remotes.s3_probe import Proven
from mountd.remotes.s3_write import capabilities_of, headers_of
from mountd.remotes.s3_xml import MadePart, complete_body, etag_in, mtime_ns_in, upload_id_in
from tests.fakes.body import BytesBody

_FLAGS = [each.name for each in fields(Proven) if each.name != "proven_s"]
ALL = Proven(**dict.fromkeys(_FLAGS, True), proven_s=1_700_000_000)


@given(st.integers(1, MAX_OBJECT_BYTES))
def test_parts_cover_an_object_and_are_few_and_equal(size: int) -> None:
    spans = part_spans(size, PART_BYTES)
    assert len(spans) <= 10_000
    assert (spans[0][0], spans[-1][1]) == (0, size)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    lengths = {end - start for start, end in spans[:-1]}
    assert len(lengths) <= 1
    assert all(PART_BYTES <= length <= 5 << 30 for length in lengths)
    assert spans[-1][1] - spans[-1][0] <= 5 << 30


def test_what_is_larger_than_all_parts_is_unsupported() -> None:
    with pytest.raises(Unsupported):
        part_spans(MAX_OBJECT_BYTES + 1, PART_BYTES)


def test_a_complete_lists_the_parts_in_order() -> None:
    body = complete_body([MadePart('"a"'), MadePart('"b<"', "AAAAAA==")])
    assert body.index(b'<PartNumber>1</PartNumber><ETag>"a"') < body.index(b"<PartNumber>2")
    assert b"b&lt;" in body
    assert body.count(b"Checksum") == 2
    assert b"<ChecksumCRC32C>AAAAAA==</ChecksumCRC32C></Part></Complete" in body


def test_results_are_read_after_the_white_space_that_kept_the_connection() -> None:
    result = (
        b'  \n<?xml version="1.0"?><CopyObjectResult xmlns="x"><ETag>"e"</ETag>'
        b"<LastModified>2026-11-21T12:00:00.900Z</LastModified></CopyObjectResult>"
    )
    assert etag_in(result) == '"e"'
    assert mtime_ns_in(result) == 1_795_262_400_000_000_000
    assert (etag_in(b""), mtime_ns_in(b"")) == ("", 0)
    with pytest.raises(Corrupt):
        upload_id_in(b"<InitiateMultipartUploadResult/>")


ERRORS: list[tuple[int, str, bool, type[RemoteError]]] = [
    (412, "PreconditionFailed", True, VersionChanged),
    (412, "", True, VersionChanged),
    (409, "ConditionalRequestConflict", True, VersionChanged),
    (409, "OperationAborted", True, Throttled),
    (404, "NoSuchKey", True, VersionChanged),
    (404, "NoSuchKey", False, Unreachable),
    (404, "NoSuchBucket", True, ContainerMissing),
    (404, "NoSuchUpload", True, Unreachable),
    (404, "", True, Unreachable),
    (403, "AccessDenied", False, Denied),
    (403, "QuotaExceeded", False, QuotaExceeded),
    (507, "XMinioStorageFull", False, QuotaExceeded),
    (400, "BadDigest", False, Corrupt),
    (400, "RequestTimeout", False, Unreachable),
    (400, "KeyTooLongError", False, NameNotAllowed),
    (400, "EntityTooLarge", False, Unsupported),
    (400, "MetadataTooLarge", False, Unsupported),
    (501, "NotImplemented", False, Unsupported),
    (503, "SlowDown", False, Throttled),
    (500, "InternalError", False, Unreachable),
    (200, "InternalError", False, Unreachable),
    (200, "PreconditionFailed", False, VersionChanged),
    (200, "SomethingNew", False, Unreachable),
]


@pytest.mark.parametrize(("status", "code", "is_conditional", "expected"), ERRORS)
def test_an_error_of_a_write_is_told_by_its_code(
    status: int, code: str, is_conditional: bool, expected: type[RemoteError]
) -> None:
    body = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
    error = write_error(RestAnswer(status, {}, body), "s3://b/k", is_conditional)
    assert type(error) is expected


def test_an_object_that_looks_like_an_error_is_none() -> None:
    assert error_code(b"<Result><Code>NoSuchKey</Code></Result>") == ""
    assert error_code(b"<html><body>502") == ""


def test_what_goes_with_an_upload_is_in_the_headers() -> None:
    upload = Upload("id", 1_500_000_000_123_456_789, {"mode": "33188"})
    assert headers_of("d/file.txt", upload) == {
        "x-amz-meta-mountd-upload": "id",
        "x-amz-meta-mtime": "1500000000.123456789",
        "x-amz-meta-mode": "33188",
        "Content-Type": "text/plain",
    }
    assert headers_of("d/", Upload()) == {"Content-Type": "application/x-directory"}


@pytest.mark.parametrize("value", ["\u00fc", "a\r\nx-amz-acl: public-read"])
def test_an_attribute_that_no_header_carries_is_unsupported(value: str) -> None:
    with pytest.raises(Unsupported):
        headers_of("k", Upload("", 0, {"name": value}))


def test_what_was_proved_survives_being_stored() -> None:
    assert Proven.from_dict(ALL.to_dict()) == ALL
    for name in ALL.to_dict():
        assert Proven.from_dict({**ALL.to_dict(), name: "yes"}) is None
        assert Proven.from_dict({k: v for k, v in ALL.to_dict().items() if k != name}) is None


def test_capabilities_claim_no_more_than_was_proved() -> None:
    assert not capabilities_of(None).conditional_put
    assert capabilities_of(None, assumed=True).conditional_delete
    assert capabilities_of(ALL).conditional_put
    for name in ALL.to_dict():
        some = Proven.from_dict({**ALL.to_dict(), name: 0})
        assert some is not None
        found = capabilities_of(some)
        assert found.conditional_put is not name.startswith(("put_if", "complete_if"))
        assert found.conditional_delete is (name != "delete_if_match")
        assert found.server_copy is (name != "copies")


@pytest.mark.parametrize("size", [0, 10, HELD_BYTES + 1])
def test_a_large_part_is_read_twice_and_a_small_one_once(size: int) -> None:
    data = bytes(size)
    read: list[int] = []
    body = BytesBody(data, lambda start, end: read.append(end - start))
    payload = payload_of_part(body, 0, size, Digests(md5=True, sha256=True, crc32c=True))
    assert payload.md5 == hashlib.md5(data, usedforsecurity=False).digest()
    assert payload.sha256 == hashlib.sha256(data).hexdigest()
    assert payload.crc32c == crc32c_text(crc32c.crc32c(data))
    assert sum(len(memoryview(buffer)) for buffer in payload.sent.buffers()) == size
    assert sum(read) == (2 * size if size > HELD_BYTES else size)


def test_a_body_that_gives_too_little_is_corrupt() -> None:
    class Short:
        size = 10

        def read(self, start: int, end: int) -> bytes:
            return b"1"

    with pytest.raises(Corrupt):
        payload_of_part(Short(), 0, 10, Digests(md5=True, sha256=False, crc32c=False))
