"""The scriptable S3 server's multipart uploads: parts, copied parts, Complete."""

import hashlib
import re

import pytest

from tests.servers.raw_s3 import Answer, RawClient, begin, complete, send_part
from tests.servers.s3.launch import S3Server
from tests.servers.s3.seeding import synthetic_bytes

pytestmark = pytest.mark.server

PART = 5 * 2**20
BIG = bytes(range(256)) * 1024


def test_parts_become_one_object_with_the_multipart_etag(
    s3_server: S3Server, raw: RawClient
) -> None:
    pieces = [b"a" * PART, BIG * 24, b"end"]
    upload = begin(raw, "k", {"x-amz-meta-a": "1", "Content-Type": "text/x"})
    parts = [
        (number, send_part(raw, "k", upload, number, piece))
        for number, piece in zip((2, 5, 10_000), pieces, strict=True)
    ]
    assert s3_server.keys("b") == []
    done = complete(raw, "k", upload, parts)
    digests = b"".join(hashlib.md5(piece).digest() for piece in pieces)
    assert done.element("ETag") == f"{hashlib.md5(digests).hexdigest()}-3"
    whole = b"".join(pieces)
    assert raw.request("GET", "b", "k").body == whole
    across = raw.request("GET", "b", "k", headers={"Range": f"bytes={PART - 3}-{PART + 2}"})
    assert across.body == whole[PART - 3 : PART + 3]
    head = raw.request("HEAD", "b", "k").headers
    assert (head["x-amz-meta-a"], head["content-type"]) == ("1", "text/x")
    assert complete(raw, "k", upload, parts).code == "NoSuchUpload"


def test_a_wrong_complete_is_refused_and_leaves_the_upload(
    s3_server: S3Server, raw: RawClient
) -> None:
    upload = begin(raw, "k")
    one, two = (send_part(raw, "k", upload, number, b"small") for number in (1, 2))
    assert complete(raw, "k", upload, [(1, one), (2, two)]).code == "EntityTooSmall"
    assert complete(raw, "k", upload, [(2, two), (1, one)]).code == "InvalidPartOrder"
    assert complete(raw, "k", upload, [(1, '"00"')]).code == "InvalidPart"
    assert complete(raw, "k", upload, [(3, one)]).code == "InvalidPart"
    assert complete(raw, "k", upload, []).code == "MalformedXML"
    assert complete(raw, "other", upload, [(1, one)]).code == "NoSuchUpload"
    assert s3_server.keys("b") == []
    s3_server.set_knobs(small_parts=True)
    assert complete(raw, "k", upload, [(1, one), (2, two)]).status == 200
    assert s3_server.read("b", "k") == b"smallsmall"


def test_a_part_can_be_copied_from_a_range_of_an_object_of_any_size(
    s3_server: S3Server, raw: RawClient
) -> None:
    s3_server.seed("b", keys=["big"], size=10**12)
    upload = begin(raw, "k")
    query = {"uploadId": upload, "partNumber": "1"}
    source = {"x-amz-copy-source": "/b/big"}

    def copy(text: str) -> Answer:
        headers = {**source, "x-amz-copy-source-range": text}
        return raw.request("PUT", "b", "k", query=query, headers=headers)

    for wrong in ("bytes=5-", "bytes=-5", "0-5", f"bytes=0-{10**12}", f"bytes={10**12}-{10**12}"):
        assert copy(wrong).status in (400, 416), wrong
    assert copy(f"bytes=0-{5 * 2**30}").code == "InvalidRequest"
    copied = copy(f"bytes=7-{PART + 6}").element("ETag")
    assert copied == hashlib.md5(synthetic_bytes("big", 7, PART + 7)).hexdigest()
    end = send_part(raw, "k", upload, 2, b"end")
    assert complete(raw, "k", upload, [(1, copied), (2, end)]).status == 200
    assert raw.request("GET", "b", "k").body == synthetic_bytes("big", 7, PART + 7) + b"end"


def test_parts_and_uploads_are_listed_in_pages_until_aborted(
    s3_server: S3Server, raw: RawClient
) -> None:
    uploads = sorted((key, begin(raw, key)) for key in ("a", "k", "k", "z"))
    key, upload = uploads[1]
    for number in (1, 2, 3):
        send_part(raw, key, upload, number, b"x" * number)
    page = raw.request("GET", "b", key, query={"uploadId": upload, "max-parts": "2"})
    assert re.findall("<PartNumber>(.)</PartNumber>", page.text) == ["1", "2"]
    rest = raw.request("GET", "b", key, query={"uploadId": upload, "part-number-marker": "2"})
    assert re.findall("<Size>(.)</Size>", rest.text) == ["3"]
    seen: list[str] = []
    query = {"uploads": "", "max-uploads": "1"}
    for _ in range(4):
        listed = raw.request("GET", "b", query=query)
        seen.append(listed.element("UploadId"))
        if "<IsTruncated>true" in listed.text:
            query["key-marker"] = listed.element("NextKeyMarker")
            query["upload-id-marker"] = listed.element("NextUploadIdMarker")
    assert seen == [upload_id for _key, upload_id in uploads]
    assert raw.request("DELETE", "b", key, query={"uploadId": upload}).status == 204
    gone = raw.request("GET", "b", key, query={"uploadId": upload})
    assert gone.code == "NoSuchUpload"


def test_an_error_can_hide_in_a_200(s3_server: S3Server, raw: RawClient) -> None:
    upload = begin(raw, "k")
    parts = [(1, send_part(raw, "k", upload, 1, b"x"))]
    s3_server.faults(
        {"op": "CompleteMultipartUpload", "times": 1, "status": 500, "error_as_200": True}
    )
    answer = complete(raw, "k", upload, parts)
    assert (answer.status, answer.code) == (200, "InternalError")
    assert s3_server.keys("b") == []
