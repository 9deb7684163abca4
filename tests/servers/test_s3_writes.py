"""The scriptable S3 server's write side: conditions, checksums, copies, deletes."""

import hashlib
import hmac
import re

import pytest

from tests.fakes.stopwatch import fastest_s
from tests.servers.raw_s3 import (
    Answer,
    RawClient,
    begin,
    checksum_headers,
    complete,
    send_part,
)
from tests.servers.s3.launch import S3Server
from tests.servers.s3.sigv4 import ChunkSigning

pytestmark = pytest.mark.server

BIG = bytes(range(256)) * 1024  # 256 KiB: goes through the spool file


# PutObject


@pytest.mark.parametrize("data", [b"", b"small", BIG])
def test_what_is_put_is_read_back_with_its_metadata(
    s3_server: S3Server, raw: RawClient, data: bytes
) -> None:
    headers = {"x-amz-meta-mtime": "17.5", "Content-Type": "text/x", "Cache-Control": "no-cache"}
    put = raw.request("PUT", "b", "k", headers=headers, body=data)
    assert put.status == 200
    assert put.headers["etag"] == f'"{hashlib.md5(data).hexdigest()}"'
    got = raw.request("GET", "b", "k")
    assert (got.body, got.headers["etag"]) == (data, put.headers["etag"])
    assert got.headers["x-amz-meta-mtime"] == "17.5"
    assert (got.headers["content-type"], got.headers["cache-control"]) == ("text/x", "no-cache")
    assert s3_server.log(method="PUT")[0].bytes_received == len(data)


@pytest.mark.parametrize(
    ("key", "headers", "status", "code"),
    [
        ("there", {"If-None-Match": "*"}, 412, "PreconditionFailed"),
        ("absent", {"If-None-Match": "*"}, 200, ""),
        ("there", {"If-None-Match": '"abc"'}, 501, "NotImplemented"),
        ("there", {"If-Match": '"{etag}"'}, 200, ""),
        ("there", {"If-Match": "{etag}"}, 200, ""),
        ("there", {"If-Match": '"other"'}, 412, "PreconditionFailed"),
        ("absent", {"If-Match": '"{etag}"'}, 404, "NoSuchKey"),
    ],
)
def test_conditions_are_enforced_on_put_copy_and_complete(
    s3_server: S3Server,
    raw: RawClient,
    key: str,
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    source = {"x-amz-copy-source": "/b/source"}
    s3_server.put("b", "source", b"new")
    for method in ("put", "copy", "complete"):
        etag = s3_server.put("b", "there", b"old")
        s3_server.delete("b", "absent")
        given = {name: value.replace("{etag}", etag) for name, value in headers.items()}
        if method == "put":
            answer = raw.request("PUT", "b", key, headers=given, body=b"new")
        elif method == "copy":
            answer = raw.request("PUT", "b", key, headers=given | source)
        else:
            upload = begin(raw, key)
            parts = [(1, send_part(raw, key, upload, 1, b"new"))]
            answer = complete(raw, key, upload, parts, given)
        assert (answer.status, answer.code) == (status, code), method
        replaced = (status, key) == (200, "there")
        assert s3_server.read("b", "there") == (b"new" if replaced else b"old")


def test_conditions_are_enforced_on_delete(s3_server: S3Server, raw: RawClient) -> None:
    etag = s3_server.put("b", "k", b"x")
    refused = raw.request("DELETE", "b", "k", headers={"If-Match": '"other"'})
    assert (refused.status, s3_server.keys("b")) == (412, ["k"])
    assert raw.request("DELETE", "b", "k", headers={"If-Match": f'"{etag}"'}).status == 204
    assert s3_server.keys("b") == []
    assert raw.request("DELETE", "b", "k").status == 204
    assert raw.request("DELETE", "b", "k", headers={"If-Match": f'"{etag}"'}).status == 404


@pytest.mark.parametrize("name", list(checksum_headers(b"")))
@pytest.mark.parametrize("data", [b"some data", BIG])
def test_a_checksum_must_be_that_of_the_body(
    s3_server: S3Server, raw: RawClient, name: str, data: bytes
) -> None:
    right = {name: checksum_headers(data)[name]}
    wrong = {name: checksum_headers(data + b"!")[name]}
    refused = raw.request("PUT", "b", "k", headers=wrong, body=data)
    assert (refused.status, refused.code) == (400, "BadDigest")
    assert s3_server.keys("b") == []
    assert raw.request("PUT", "b", "k", headers=right, body=data).status == 200
    got = raw.request("GET", "b", "k", headers={"x-amz-checksum-mode": "ENABLED"})
    if name != "Content-MD5":
        assert got.headers[name] == right[name]


def test_the_signed_payload_hash_must_be_that_of_the_body(raw: RawClient) -> None:
    wrong = hashlib.sha256(b"other").hexdigest()
    refused = raw.request("PUT", "b", "k", body=b"data", payload_hash=wrong)
    assert (refused.status, refused.code) == (400, "XAmzContentSHA256Mismatch")
    assert raw.request("PUT", "b", "k", body=b"d", payload_hash="UNSIGNED-PAYLOAD").status == 200


def test_a_malformed_content_md5_is_an_invalid_digest(raw: RawClient) -> None:
    refused = raw.request("PUT", "b", "k", headers={"Content-MD5": "not base64"}, body=b"data")
    assert (refused.status, refused.code) == (400, "InvalidDigest")


def put_chunked(
    raw: RawClient, data: bytes, trailer: str, value: str, *, missing: bytes = b""
) -> Answer:
    """An aws-chunked PUT with an unsigned trailer, as the SDKs send it."""
    pieces = [data[at : at + 65536] for at in range(0, len(data), 65536)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    framed += b"0\r\n" + f"{trailer}:{value}\r\n\r\n".encode()
    headers = {
        "x-amz-trailer": trailer,
        "x-amz-decoded-content-length": str(len(data)),
        "Content-Encoding": "aws-chunked",
    }
    payload = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    return raw.request(
        "PUT", "b", "k", headers=headers, body=framed.removesuffix(missing), payload_hash=payload
    )


@pytest.mark.parametrize("data", [b"", b"some data", BIG])
def test_an_aws_chunked_body_is_decoded_and_its_trailer_verified(
    s3_server: S3Server, raw: RawClient, data: bytes
) -> None:
    name = "x-amz-checksum-crc32"
    right, wrong = checksum_headers(data)[name], checksum_headers(data + b"!")[name]
    refused = put_chunked(raw, data, name, wrong)
    assert (refused.status, refused.code) == (400, "BadDigest")
    assert put_chunked(raw, data, name, right).status == 200
    assert s3_server.read("b", "k") == data
    assert "content-encoding" not in raw.request("HEAD", "b", "k").headers
    crc64 = put_chunked(raw, data, "x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")
    assert crc64.headers["x-amz-checksum-crc64nvme"] == "AAAAAAAAAAA="


def test_an_aws_chunked_body_without_its_end_is_incomplete(raw: RawClient) -> None:
    name = "x-amz-checksum-crc32"
    trailer = f"0\r\n{name}:{checksum_headers(BIG)[name]}\r\n\r\n".encode()
    cut = put_chunked(raw, BIG, name, checksum_headers(BIG)[name], missing=trailer)
    assert (cut.status, cut.code) == (400, "IncompleteBody")


@pytest.mark.parametrize("spoilt", [False, True])
def test_signed_chunks_are_verified(s3_server: S3Server, raw: RawClient, spoilt: bool) -> None:
    payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    headers = {"x-amz-decoded-content-length": "10", "Content-Encoding": "aws-chunked"}
    signed = raw.sign("PUT", "/b/k", headers, b"", payload)
    claim = re.search(r"Credential=[^/]*/([^,]*),.*Signature=(\w+)", signed["Authorization"])
    assert claim
    scope, previous = claim.groups()
    key = f"AWS4{s3_server.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signing = ChunkSigning(key, signed["X-Amz-Date"], scope, previous)
    framed = b""
    for piece in (b"01234567", b"89", b""):
        previous = signing.chunk(previous, hashlib.sha256(piece).hexdigest())
        framed += f"{len(piece):x};chunk-signature={previous}\r\n".encode() + piece + b"\r\n"
    if spoilt:
        framed = framed.replace(b"89\r\n", b"8X\r\n")
    answer = raw.send("PUT", "/b/k", signed, framed)
    if spoilt:
        assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch")
        assert s3_server.keys("b") == []
    else:
        assert answer.status == 200
        assert s3_server.read("b", "k") == b"0123456789"


def test_a_body_may_come_in_http_chunks_where_its_size_is_told(
    s3_server: S3Server, raw: RawClient
) -> None:
    name = "x-amz-checksum-crc32"
    framed = b"5\r\nhello\r\n0\r\n" + f"{name}:{checksum_headers(b'hello')[name]}\r\n\r\n".encode()
    headers = {"x-amz-trailer": name, "x-amz-decoded-content-length": "5"}
    payload = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    signed = raw.sign("PUT", "/b/k", headers, b"", payload) | {"Transfer-Encoding": "chunked"}
    outer = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (framed[:7], framed[7:]))
    assert raw.send("PUT", "/b/k", signed, outer + b"0\r\n\r\n").status == 200
    assert s3_server.read("b", "k") == b"hello"


def test_limits_are_enforced(raw: RawClient) -> None:
    long_key = raw.request("PUT", "b", "k" * 1025, body=b"x")
    assert (long_key.status, long_key.code) == (400, "KeyTooLongError")
    metadata = raw.request("PUT", "b", "k", headers={"x-amz-meta-a": "v" * 2048}, body=b"x")
    assert metadata.code == "MetadataTooLarge"
    assert raw.request("PUT", "missing", "k", body=BIG).code == "NoSuchBucket"


def test_a_refusal_comes_before_the_body_for_who_asks_first(
    s3_server: S3Server, raw: RawClient
) -> None:
    signed = raw.sign("PUT", "/missing/k", {"Expect": "100-continue"}, b"x" * 10)
    raw.http.connect()
    sock = raw.http.sock
    assert sock is not None
    lines = [f"{name}: {value}\r\n" for name, value in signed.items()]
    if "Host" not in signed:
        lines.append(f"Host: 127.0.0.1:{s3_server.port}\r\n")
    head = "PUT /missing/k HTTP/1.1\r\n" + "".join(lines) + "Content-Length: 10\r\n\r\n"
    sock.sendall(head.encode())
    received = b""
    while data := sock.recv(65536):
        received += data
    assert received.startswith(b"HTTP/1.1 404 ")


# Copies


def test_a_copy_takes_the_metadata_or_replaces_it(s3_server: S3Server, raw: RawClient) -> None:
    etag = s3_server.put("b", "a b+%#?\u00e9", BIG, headers={"x-amz-meta-a": "1"})
    source = {"x-amz-copy-source": "/b/a%20b%2B%25%23%3F%C3%A9"}
    copied = raw.request("PUT", "b", "copy", headers=source)
    assert copied.element("ETag") == etag
    assert raw.request("HEAD", "b", "copy").headers["x-amz-meta-a"] == "1"
    replace = {**source, "x-amz-metadata-directive": "REPLACE", "x-amz-meta-b": "2"}
    assert raw.request("PUT", "b", "copy", headers=replace).status == 200
    head = raw.request("HEAD", "b", "copy").headers
    assert ("x-amz-meta-a" in head, head["x-amz-meta-b"]) == (False, "2")
    onto_itself = raw.request("PUT", "b", "copy", headers={"x-amz-copy-source": "b/copy"})
    assert onto_itself.code == "InvalidRequest"


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ({"x-amz-copy-source-if-match": "{etag}"}, 200),
        ({"x-amz-copy-source-if-match": "other"}, 412),
        ({"x-amz-copy-source-if-none-match": "{etag}"}, 412),
        ({"x-amz-copy-source-if-none-match": "other"}, 200),
    ],
)
def test_source_conditions_are_enforced_on_copies_of_objects_and_parts(
    s3_server: S3Server, raw: RawClient, condition: dict[str, str], status: int
) -> None:
    etag = s3_server.put("b", "source", b"data")
    headers = {name: value.replace("{etag}", etag) for name, value in condition.items()}
    headers["x-amz-copy-source"] = "/b/source"
    assert raw.request("PUT", "b", "copy", headers=headers).status == status
    upload = begin(raw, "k")
    query = {"uploadId": upload, "partNumber": "1"}
    assert raw.request("PUT", "b", "k", query=query, headers=headers).status == status


def test_space_of_overwritten_objects_is_given_back(s3_server: S3Server, raw: RawClient) -> None:
    data = BIG * 16
    raw.request("PUT", "b", "k", body=data)
    first = s3_server.stats()["spool_bytes"]
    for _ in range(5):
        raw.request("PUT", "b", "k", body=data)
    assert s3_server.stats()["spool_bytes"] <= first + len(data)
    assert s3_server.read("b", "k") == data


# Many at once, and replies that get lost


def delete_many(raw: RawClient, rows: str, headers: dict[str, str] | None = None) -> Answer:
    body = f"<Delete>{rows}</Delete>".encode()
    given = {"Content-MD5": checksum_headers(body)["Content-MD5"]} if headers is None else headers
    return raw.request("POST", "b", query={"delete": ""}, headers=given, body=body)


def test_many_objects_are_deleted_each_under_its_own_condition(
    s3_server: S3Server, raw: RawClient
) -> None:
    s3_server.put_many("b", ["a", "b&c", "kept"])
    rows = "<Object><Key>a</Key></Object><Object><Key>b&amp;c</Key></Object>"
    rows += "<Object><Key>kept</Key><ETag>other</ETag></Object><Object><Key>no</Key></Object>"
    refused = delete_many(raw, rows, {})
    assert refused.code == "InvalidRequest"
    answer = delete_many(raw, rows)
    assert re.findall("<Deleted><Key>(.*?)</Key>", answer.text) == ["a", "b&amp;c", "no"]
    assert re.findall("<Error><Key>(.*?)</Key><Code>(.*?)<", answer.text) == [
        ("kept", "PreconditionFailed")
    ]
    assert s3_server.keys("b") == ["kept"]
    quiet = delete_many(raw, "<Quiet>true</Quiet><Object><Key>kept</Key></Object>")
    assert ("<Deleted>" in quiet.text, s3_server.keys("b")) == (False, [])


def test_a_lost_reply_is_a_reset_after_the_effect(s3_server: S3Server, raw: RawClient) -> None:
    s3_server.faults({"method": "PUT", "times": 1, "lose_reply": True})
    with pytest.raises(ConnectionResetError) as caught:
        raw.request("PUT", "b", "k", body=b"data", headers={"If-None-Match": "*"})
    # http.client's RemoteDisconnected, for a FIN, is a ConnectionResetError too.
    assert caught.type is ConnectionResetError
    assert s3_server.read("b", "k") == b"data"
    again = raw.request("PUT", "b", "k", body=b"data", headers={"If-None-Match": "*"})
    assert again.status == 412


def test_an_ordered_error_on_a_put_leaves_the_object_alone(
    s3_server: S3Server, raw: RawClient
) -> None:
    s3_server.faults({"op": "PutObject", "times": 1, "status": 503})
    assert raw.request("PUT", "b", "k", body=BIG).status == 503
    assert s3_server.keys("b") == []
    assert raw.request("PUT", "b", "k", body=BIG).status == 200


def test_a_condition_can_be_ignored_on_writes(s3_server: S3Server, raw: RawClient) -> None:
    s3_server.put("b", "k", b"old")
    s3_server.set_knobs(ignore_conditionals=True)
    headers = {"If-None-Match": "*"}
    assert raw.request("PUT", "b", "k", headers=headers, body=b"new").status == 200
    assert raw.request("DELETE", "b", "k", headers={"If-Match": '"no"'}).status == 204


def test_bandwidth_holds_for_uploads_too(s3_server: S3Server, raw: RawClient) -> None:
    s3_server.set_knobs(bandwidth_bytes_s=40_000_000)
    data = bytes(12_000_000)

    def put() -> None:
        answer = raw.request("PUT", "b", "k", body=data, payload_hash="UNSIGNED-PAYLOAD")
        assert answer.status == 200

    assert 0.27 <= fastest_s(put, 3.0) < 3.0


def test_buckets_are_made_listed_and_removed(s3_server: S3Server, raw: RawClient) -> None:
    assert raw.request("PUT", "made").status == 200
    assert re.findall("<Name>(.*?)</Name>", raw.request("GET").text) == ["b", "made"]
    assert raw.request("GET", "made", query={"location": ""}).status == 200
    s3_server.put("made", "k", b"")
    assert raw.request("DELETE", "made").code == "BucketNotEmpty"
    s3_server.delete("made", "k")
    assert raw.request("DELETE", "made").status == 204
    assert raw.request("HEAD", "made").status == 404
    assert raw.request("PUT", "No_Name").code == "InvalidBucketName"
