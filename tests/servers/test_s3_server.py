"""The scriptable S3 server's read side: what it answers, and that its faults are what they say."""

import re
from datetime import UTC, datetime, timedelta
from itertools import chain

import obstore
import pytest
from obstore.store import S3Store

from tests.servers.raw_s3 import RawClient
from tests.servers.s3.launch import S3Server
from tests.servers.s3.seeding import synthetic_bytes

pytestmark = pytest.mark.server

ODD_KEYS = [
    "plain.txt",
    "with space",
    "per%cent",
    "per%20cent",
    "plus+plus",
    "hash#hash",
    "question?mark",
    "emoji-\U0001f600",
    "nfc-\u00e9",
    "nfd-e\u0301",
    "a//b",
    "x/../y",
    "./x",
    "k/dir/",
    "/lead",
    "amp&lt<gt>quot\"'",
    "tilde~star*colon:",
    "l" * 1024,
]


def store_of(server: S3Server, bucket: str = "b") -> S3Store:
    return S3Store(
        bucket,
        endpoint=server.endpoint,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        region=server.region,
        client_options={"allow_http": True, "timeout": "10s"},
        retry_config={"max_retries": 0},
    )


# Ranges and conditions


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=90-", 90, 100),
        ("bytes=90-1000", 90, 100),
        ("bytes=-7", 93, 100),
        ("bytes=-1000", 0, 100),
    ],
)
def test_a_range_is_answered_206_with_exactly_its_bytes(
    s3_server: S3Server, raw: RawClient, asked: str, start: int, end: int
) -> None:
    data = bytes(range(100))
    s3_server.put("b", "k", data)
    answer = raw.request("GET", "b", "k", headers={"Range": asked})
    assert (answer.status, answer.body) == (206, data[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/100"
    head = raw.request("HEAD", "b", "k", headers={"Range": asked})
    assert (head.status, head.headers["content-length"], head.body) == (206, str(end - start), b"")


@pytest.mark.parametrize("asked", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_behind_the_end_is_answered_416(
    s3_server: S3Server, raw: RawClient, asked: str
) -> None:
    s3_server.put("b", "k", bytes(100))
    answer = raw.request("GET", "b", "k", headers={"Range": asked})
    assert (answer.status, answer.code) == (416, "InvalidRange")
    assert "<ActualObjectSize>100</ActualObjectSize>" in answer.text


def test_any_range_of_an_empty_object_is_answered_416(s3_server: S3Server, raw: RawClient) -> None:
    s3_server.put("b", "k", b"")
    assert raw.request("GET", "b", "k", headers={"Range": "bytes=0-"}).status == 416
    assert raw.request("GET", "b", "k").status == 200


@pytest.mark.parametrize("asked", ["bytes=9-3", "bytes=-", "lines=1-2", "bytes=1-2,5-6"])
def test_a_range_that_s3_does_not_understand_gives_the_whole_object(
    s3_server: S3Server, raw: RawClient, asked: str
) -> None:
    s3_server.put("b", "k", b"0123456789")
    answer = raw.request("GET", "b", "k", headers={"Range": asked})
    assert (answer.status, answer.body) == (200, b"0123456789")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": '"{etag}"'}, 200),
        ({"If-Match": "{etag}"}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": '"other", "{etag}"'}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-None-Match": '"{etag}"'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-Modified-Since": "Tue, 14 Nov 2023 22:13:20 GMT"}, 304),
        ({"If-Modified-Since": "Tue, 14 Nov 2023 22:13:19 GMT"}, 200),
        ({"If-Modified-Since": "no date"}, 200),
        ({"If-Unmodified-Since": "Tue, 14 Nov 2023 22:13:20 GMT"}, 200),
        ({"If-Unmodified-Since": "Tue, 14 Nov 2023 22:13:19 GMT"}, 412),
        (
            {"If-Match": '"{etag}"', "If-Unmodified-Since": "Tue, 14 Nov 2023 22:13:19 GMT"},
            200,
        ),
        (
            {"If-None-Match": '"{etag}"', "If-Modified-Since": "Tue, 14 Nov 2023 22:13:19 GMT"},
            304,
        ),
        ({"If-Match": '"other"', "If-None-Match": '"{etag}"'}, 412),
        ({"If-Match": '"other"', "Range": "bytes=5-"}, 412),
    ],
)
def test_conditions_are_enforced_on_reads(
    s3_server: S3Server, raw: RawClient, method: str, headers: dict[str, str], status: int
) -> None:
    etag = s3_server.put("b", "k", b"abc", mtime_s=1_700_000_000.7)
    filled = {name: value.replace("{etag}", etag) for name, value in headers.items()}
    answer = raw.request(method, "b", "k", headers=filled)
    assert answer.status == status
    if status == 304:
        assert (answer.headers["etag"], answer.body) == (f'"{etag}"', b"")


def test_missing_things_are_told_apart(s3_server: S3Server, raw: RawClient) -> None:
    s3_server.make_bucket("b")
    assert raw.request("GET", "b", "no").code == "NoSuchKey"
    assert raw.request("GET", "no", "k").code == "NoSuchBucket"
    assert raw.request("GET", "no", query={"list-type": "2"}).code == "NoSuchBucket"
    assert raw.request("HEAD", "no").status == 404
    assert raw.request("HEAD", "b").status == 200
    assert raw.request("HEAD", "b", "no").body == b""
    assert raw.request("GET", "b", "k", query={"acl": ""}).status == 501


def test_a_synthetic_object_of_6_tb_reads_the_promised_bytes_anywhere(s3_server: S3Server) -> None:
    size = 6 * 10**12
    s3_server.seed("b", keys=["big"], size=size)
    store = store_of(s3_server)
    assert obstore.head(store, "big")["size"] == size
    for start, length in [(0, 10), (16_777_213 - 5, 40_000_000), (size - 1000, 1000)]:
        got = bytes(obstore.get_range(store, "big", start=start, length=length))
        assert got == synthetic_bytes("big", start, start + length)
    assert synthetic_bytes("big", 0, 1000, seed=1) != synthetic_bytes("big", 0, 1000)


# Listings


def entries(text: str) -> list[str]:
    return re.findall(r"<(?:Contents><Key|CommonPrefixes><Prefix)>(.*?)</(?:Key|Prefix)>", text)


def flat(pages: list[list[str]]) -> list[str]:
    return list(chain.from_iterable(pages))


def all_pages(raw: RawClient, page: int, **query: str) -> list[list[str]]:
    pages: list[list[str]] = []
    asked = {"list-type": "2", "max-keys": str(page), **query}
    while True:
        answer = raw.request("GET", "b", query=asked)
        assert answer.status == 200
        pages.append(entries(answer.text))
        assert f"<KeyCount>{len(pages[-1])}</KeyCount>" in answer.text
        token = re.search("<NextContinuationToken>(.*?)</", answer.text)
        assert ("<IsTruncated>true" in answer.text) == (token is not None)
        if token is None:
            return pages
        asked["continuation-token"] = token.group(1)


@pytest.mark.parametrize("page", [1, 2, 3, 100])
def test_common_prefixes_count_as_entries_and_no_page_repeats_one(
    s3_server: S3Server, raw: RawClient, page: int
) -> None:
    for key in ("a", "b/1", "b/2", "b/c/3", "b0", "c/1", "d"):
        s3_server.put("b", key, b"")
    pages = all_pages(raw, page, delimiter="/")
    assert sorted(flat(pages)) == ["a", "b/", "b0", "c/", "d"]
    assert all(len(each) == page for each in pages[:-1])
    assert flat(all_pages(raw, page, prefix="b/")) == ["b/1", "b/2", "b/c/3"]
    assert sorted(flat(all_pages(raw, page, prefix="b/", delimiter="/"))) == [
        "b/1",
        "b/2",
        "b/c/",
    ]
    assert sorted(flat(all_pages(raw, page, prefix="b", delimiter="/"))) == ["b/", "b0"]


def test_listings_start_after_a_key_and_sort_as_utf8_does(
    s3_server: S3Server, raw: RawClient
) -> None:
    keys = ["a", "a/", "a//b", "a0", "z", "\u00e9", "\uffff", "\U0001f600"]
    s3_server.put_many("b", reversed(keys))
    listed = raw.request("GET", "b", query={"list-type": "2", "start-after": "a/"}).text
    assert entries(listed.replace("&#xffff;", "\uffff")) == keys[2:]
    assert sorted(keys, key=str.encode) == keys


def test_max_keys_is_bounded_and_zero_is_an_empty_page(s3_server: S3Server, raw: RawClient) -> None:
    s3_server.seed("b", files=1500)
    assert [len(each) for each in all_pages(raw, 5000)] == [1000, 500]
    empty = raw.request("GET", "b", query={"list-type": "2", "max-keys": "0"}).text
    assert entries(empty) == []
    assert "<IsTruncated>false" in empty
    s3_server.set_knobs(page_size=600)
    assert [len(each) for each in all_pages(raw, 5000)] == [600, 600, 300]


def test_deleted_and_recreated_keys_are_listed_once(s3_server: S3Server, raw: RawClient) -> None:
    s3_server.seed("b", files=5)
    s3_server.delete("b", "f000002.bin")
    assert "f000002.bin" not in s3_server.keys("b")
    s3_server.put("b", "f000002.bin", b"")
    assert flat(all_pages(raw, 2)) == [f"f{number:06d}.bin" for number in range(5)]


def test_10000_keys_are_listed_in_well_under_a_second(s3_server: S3Server) -> None:
    s3_server.seed("b", directories=100, files=100, size=5)
    before_s = s3_server.cpu_seconds()
    assert len(obstore.list(store_of(s3_server)).collect()) == 10_000
    assert s3_server.cpu_seconds() - before_s < 0.5


def test_odd_keys_are_read_and_listed_as_they_are(s3_server: S3Server, raw: RawClient) -> None:
    for key in ODD_KEYS:
        s3_server.put("b", key, key.encode())
    for key in ODD_KEYS:
        assert raw.request("GET", "b", key).body == key.encode(), key
    assert s3_server.keys("b") == sorted(ODD_KEYS)


# Signatures


def test_wrong_credentials_are_refused_each_with_its_own_code(s3_server: S3Server) -> None:
    s3_server.put("b", "k", b"x")
    right = (s3_server.access_key, s3_server.secret_key)
    cases = [
        ((right[0], "wrong"), None, "us-east-1", 403, "SignatureDoesNotMatch"),
        (("AKIDOTHER", right[1]), None, "us-east-1", 403, "InvalidAccessKeyId"),
        (right, "a token", "us-east-1", 400, "InvalidToken"),
        (right, None, "eu-west-1", 400, "AuthorizationHeaderMalformed"),
        (right, None, "us-east-1", 200, ""),
    ]
    for (access_key, secret_key), token, region, status, code in cases:
        client = RawClient("127.0.0.1", s3_server.port, access_key, secret_key, token, region)
        answer = client.request("GET", "b", "k")
        client.close()
        assert (answer.status, answer.code) == (status, code)


def test_a_session_token_must_be_the_right_one_and_can_expire(s3_server: S3Server) -> None:
    s3_server.put("b", "k", b"x")
    identity = {"access_key": "ASIA", "secret_key": "S", "session_token": "tok"}
    s3_server.set_identities(identity)
    for token, expected in [("tok", ""), ("other", "InvalidToken"), (None, "InvalidToken")]:
        client = RawClient("127.0.0.1", s3_server.port, "ASIA", "S", token)
        assert client.request("GET", "b", "k").code == expected
        client.close()
    s3_server.set_knobs(token_expired=True)
    client = RawClient("127.0.0.1", s3_server.port, "ASIA", "S", "tok")
    answer = client.request("GET", "b", "k")
    client.close()
    assert (answer.status, answer.code) == (400, "ExpiredToken")


def test_anonymous_requests_pass_only_where_a_knob_allows_them(
    s3_server: S3Server, raw: RawClient
) -> None:
    s3_server.put("b", "k", b"x")
    assert raw.send("GET", "/b/k", {}).status == 403
    s3_server.set_knobs(allow_anonymous=True)
    assert raw.send("GET", "/b/k", {}).body == b"x"


def test_a_header_changed_or_added_after_signing_is_noticed(
    s3_server: S3Server, raw: RawClient
) -> None:
    s3_server.put("b", "k", b"x")
    signed = raw.sign("GET", "/b/k", {"x-amz-meta-a": "1"}, b"")
    assert raw.send("GET", "/b/k", signed).status == 200
    changed = {**signed, "x-amz-meta-a": "2"}
    assert raw.send("GET", "/b/k", changed).code == "SignatureDoesNotMatch"
    assert raw.send("GET", "/b/k?prefix=a", signed).code == "SignatureDoesNotMatch"
    added = {**signed, "x-amz-meta-b": "2"}
    assert raw.send("GET", "/b/k", added).code == "AccessDenied"


@pytest.mark.parametrize("off_minutes", [-20, 20])
def test_a_request_signed_for_another_time_is_too_skewed(
    s3_server: S3Server, raw: RawClient, off_minutes: int
) -> None:
    s3_server.put("b", "k", b"x")
    signed = raw.sign("GET", "/b/k", {}, b"")
    other = datetime.now(UTC) + timedelta(minutes=off_minutes)
    day = signed["X-Amz-Date"][:8]
    signed["X-Amz-Date"] = other.strftime("%Y%m%dT%H%M%SZ")
    authorization = signed["Authorization"]
    signed["Authorization"] = authorization.replace(f"/{day}/", f"/{other:%Y%m%d}/")
    assert raw.send("GET", "/b/k", signed).code == "RequestTimeTooSkewed"


def test_obstore_presigned_urls_work_and_expire_with_their_signature(
    s3_server: S3Server, raw: RawClient
) -> None:
    s3_server.put("b", "k v+%", b"signed")
    url = obstore.sign(store_of(s3_server), "GET", "k v+%", expires_in=timedelta(minutes=5))
    target = url.removeprefix(s3_server.endpoint)
    assert raw.send("GET", target, {}).body == b"signed"
    assert raw.send("GET", target[:-1] + "z", {}).code == "SignatureDoesNotMatch"
    other = target.replace("X-Amz-Expires=300", "X-Amz-Expires=301")
    assert raw.send("GET", other, {}).code == "SignatureDoesNotMatch"
