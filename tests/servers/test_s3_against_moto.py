"""The same requests to moto and to the scriptable S3 server: where moto is right, both agree.

moto is the independent check that our server is honest. What moto does not enforce or gets wrong
is not asked here: If-Match on Complete, copy-source conditions, checksums, tokens;
also a part sent after Complete (moto: 500), a bucket with a capital letter (moto: allowed).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote_plus, urlsplit

import pytest

from tests.servers.moto import running_moto
from tests.servers.raw_s3 import Answer, RawClient
from tests.servers.s3.launch import S3Server
from tests.servers.test_s3_server import ODD_KEYS

pytestmark = pytest.mark.server

BUCKET = "contract"


@dataclass(frozen=True, slots=True)
class Pair:
    """One client for each server; `ask` sends the same to both and returns both answers."""

    ours: RawClient
    moto: RawClient

    def ask(
        self,
        method: str,
        key: str = "",
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> tuple[Answer, Answer]:
        ours = self.ours.request(method, BUCKET, key, query, headers, body)
        return ours, self.moto.request(method, BUCKET, key, query, headers, body)


@pytest.fixture(scope="module")
def pair(s3_server_process: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    server = s3_server_process
    server.reset()
    server.make_bucket(BUCKET)
    with running_moto(tmp_path_factory.mktemp("moto")) as moto:
        port = urlsplit(moto.endpoint).port
        assert port is not None
        both = Pair(
            RawClient("127.0.0.1", server.port, server.access_key, server.secret_key),
            RawClient("127.0.0.1", port, moto.access_key_id, moto.secret_access_key),
        )
        both.ask("PUT", "ranged", body=bytes(range(100)), headers={"x-amz-meta-a": "1"})
        both.ask("PUT", "empty")
        yield both
        both.ours.close()
        both.moto.close()
    server.reset()


COMPARED = ("etag", "content-range", "content-length", "x-amz-meta-a", "accept-ranges")


def facts(answer: Answer) -> dict[str, str | int | bytes]:
    """What must agree of an object's answer; of an error's document only the code."""
    found: dict[str, str | int | bytes] = {"status": answer.status}
    if answer.status == 304:
        # moto's HEAD adds the object's other headers; S3 and RFC 9110 need only these two.
        return found | {"etag": answer.headers["etag"], "body": answer.body}
    if answer.status >= 400:
        code = re.search("<Code>(.*?)</Code>", answer.body.decode())
        found["code"] = code.group(1) if code else ""
        return found
    for name in COMPARED:
        if name in answer.headers:
            found[name] = answer.headers[name]
    return found


def same(answers: tuple[Answer, Answer]) -> Answer:
    """Asserts that status, code, compared headers and body agree; returns ours."""
    ours, moto = answers
    assert facts(ours) == facts(moto)
    if ours.status < 300 and not ours.headers.get("content-type", "").endswith("xml"):
        assert ours.body == moto.body
    return ours


LIST_FACTS = ("Key", "Size", "ETag", "Prefix", "KeyCount", "MaxKeys", "IsTruncated", "Delimiter")


def listed(answer: Answer) -> list[tuple[str, str]]:
    """The elements of a listing in their order, without what differs by nature; unescaped."""
    found = re.findall(r"<(\w+)>([^<]*)</\1>", answer.body.decode())
    return sorted(
        (name, unquote_plus(text.replace("&quot;", '"').replace("&#34;", '"')))
        for name, text in found
        if name in LIST_FACTS
    )


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "text",
    [
        "bytes=0-0",
        "bytes=10-19",
        "bytes=90-",
        "bytes=90-500",
        "bytes=-7",
        "bytes=100-",
        "bytes=5-2",
    ],
)
def test_ranges_agree(pair: Pair, method: str, text: str) -> None:
    same(pair.ask(method, "ranged", headers={"Range": text}))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"If-Match": '"ETAG"'},
        {"If-Match": '"other"'},
        {"If-None-Match": '"ETAG"'},
        {"If-None-Match": '"other"'},
        {"If-Modified-Since": "Tue, 14 Nov 2023 22:13:20 GMT"},
        {"If-Unmodified-Since": "Tue, 14 Nov 2023 22:13:20 GMT"},
        {"If-Match": '"other"', "Range": "bytes=1-2"},
        {"If-Match": '"ETAG"', "Range": "bytes=1-2"},
    ],
)
def test_conditional_reads_agree(pair: Pair, method: str, headers: dict[str, str]) -> None:
    etag = pair.ours.request("HEAD", BUCKET, "ranged").headers["etag"].strip('"')
    given = {name: value.replace("ETAG", etag) for name, value in headers.items()}
    same(pair.ask(method, "ranged", headers=given))


def test_missing_keys_and_buckets_agree(pair: Pair) -> None:
    same(pair.ask("GET", "missing"))
    same(pair.ask("HEAD", "missing"))
    for method, query in [("GET", {"list-type": "2"}), ("HEAD", None), ("DELETE", None)]:
        ours = pair.ours.request(method, "no-such-bucket", query=query)
        moto = pair.moto.request(method, "no-such-bucket", query=query)
        same((ours, moto))


def test_conditional_writes_agree(pair: Pair) -> None:
    etag = same(pair.ask("PUT", "cond", body=b"1")).headers["etag"]
    same(pair.ask("PUT", "cond", body=b"2", headers={"If-None-Match": "*"}))
    same(pair.ask("PUT", "fresh", body=b"2", headers={"If-None-Match": "*"}))
    same(pair.ask("PUT", "cond", body=b"2", headers={"If-Match": '"other"'}))
    same(pair.ask("PUT", "cond", body=b"2", headers={"If-Match": etag}))
    same(pair.ask("PUT", "absent", body=b"2", headers={"If-Match": etag}))
    same(pair.ask("GET", "cond"))
    same(pair.ask("DELETE", "cond", headers={"If-Match": etag}))
    same(pair.ask("DELETE", "absent", headers={"If-Match": etag}))
    same(pair.ask("DELETE", "cond"))
    same(pair.ask("DELETE", "absent"))
    same(pair.ask("GET", "cond"))


def test_odd_keys_agree(pair: Pair) -> None:
    # Below a prefix a key of 1024 bytes would be too long.
    keys = [f"odd/{key}" for key in ODD_KEYS if len(key) < 1000]
    for key in keys:
        same(pair.ask("PUT", key, body=key.encode()))
    for key in keys:
        same(pair.ask("GET", key))
    for delimiter in ("", "/"):
        query = {"list-type": "2", "prefix": "odd/", "encoding-type": "url"}
        if delimiter:
            query["delimiter"] = delimiter
        ours, moto = pair.ask("GET", query=query)
        assert listed(ours) == listed(moto)


@pytest.mark.parametrize("page", ["1", "2", "3", "1000"])
@pytest.mark.parametrize(
    "query",
    [
        {},
        {"delimiter": "/"},
        {"prefix": "tree/"},
        {"prefix": "tree/", "delimiter": "/"},
        {"prefix": "tree/a", "delimiter": "/"},
        {"prefix": "tree/a/", "delimiter": "/"},
        {"prefix": "tree", "delimiter": "/"},
        {"prefix": "nothing/"},
        {"prefix": "tree/", "start-after": "tree/a/1"},
    ],
)
def test_listings_agree_page_by_page(pair: Pair, page: str, query: dict[str, str]) -> None:
    for key in ("a/1", "a/2", "a/b/3", "a0", "b/1", "c", "dir/"):
        if pair.ours.request("HEAD", BUCKET, f"tree/{key}").status == 404:
            pair.ask("PUT", f"tree/{key}", body=key.encode())
    if "prefix" not in query:
        query = {**query, "prefix": "tree"}
    ours_query = {"list-type": "2", "max-keys": page, **query}
    moto_query = dict(ours_query)
    for _ in range(20):
        ours = pair.ours.request("GET", BUCKET, query=ours_query)
        moto = pair.moto.request("GET", BUCKET, query=moto_query)
        assert listed(ours) == listed(moto)
        if "<IsTruncated>true" not in ours.text:
            return
        ours_query["continuation-token"] = token(ours)
        moto_query["continuation-token"] = token(moto)
    raise AssertionError("the listing does not end")


def token(answer: Answer) -> str:
    found = re.search("<NextContinuationToken>(.*?)<", answer.text)
    assert found
    return found.group(1)


def test_copies_agree(pair: Pair) -> None:
    source = {"x-amz-copy-source": f"/{BUCKET}/ranged"}
    for headers in (
        source,
        {**source, "x-amz-metadata-directive": "REPLACE", "x-amz-meta-a": "2"},
        {"x-amz-copy-source": f"/{BUCKET}/missing"},
    ):
        ours, moto = pair.ask("PUT", "copied", headers=headers)
        assert ours.status == moto.status
        assert re.findall("ETag>(.*?)</ETag", ours.text) == [
            each.replace("&#34;", "&quot;").replace('"', "&quot;")
            for each in re.findall("ETag>(.*?)</ETag", moto.text)
        ]
        same(pair.ask("GET", "copied"))
    onto_itself = {"x-amz-copy-source": f"/{BUCKET}/copied"}
    same(pair.ask("PUT", "copied", headers=onto_itself))


def upload_ids(answers: tuple[Answer, Answer]) -> list[str]:
    found = [re.search("<UploadId>(.*?)<", answer.text) for answer in answers]
    return [each.group(1) for each in found if each is not None]


def test_multipart_uploads_agree(pair: Pair) -> None:
    ids = upload_ids(pair.ask("POST", "multi", {"uploads": ""}))
    clients = (pair.ours, pair.moto)

    def both(
        method: str,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> tuple[Answer, Answer]:
        ours, moto = (
            client.request(
                method, BUCKET, "multi", {**(query or {}), "uploadId": upload}, headers, body
            )
            for client, upload in zip(clients, ids, strict=True)
        )
        return ours, moto

    def complete(parts: list[tuple[int, str]]) -> tuple[Answer, Answer]:
        rows = "".join(
            f"<Part><ETag>{etag}</ETag><PartNumber>{number}</PartNumber></Part>"
            for number, etag in parts
        )
        text = f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{rows}'
        return both("POST", body=f"{text}</CompleteMultipartUpload>".encode())

    small = same(both("PUT", {"partNumber": "1"}, body=b"small")).headers["etag"]
    last = same(both("PUT", {"partNumber": "2"}, body=b"last")).headers["etag"]
    same(complete([(1, small), (2, last)]))
    same(complete([(1, '"00000000000000000000000000000000"'), (2, last)]))
    first = same(both("PUT", {"partNumber": "1"}, body=b"x" * 5 * 2**20)).headers["etag"]
    ours, moto = both("GET")
    assert re.findall("<Size>(.*?)<", ours.text) == re.findall("<Size>(.*?)<", moto.text)
    ours, moto = complete([(1, first), (2, last)])
    assert (ours.status, moto.status) == (200, 200)
    same(pair.ask("HEAD", "multi"))
    same(pair.ask("GET", "multi", headers={"Range": "bytes=5242878-5242882"}))


def test_bucket_questions_agree(pair: Pair) -> None:
    assert {answer.status for answer in pair.ask("HEAD")} == {200}
    for answer in pair.ask("GET", query={"location": ""}):
        assert answer.status == 200
        assert re.search("LocationConstraint[^>]*(/>|></LocationConstraint>)", answer.text)
    for name in ("ab", "x" * 64):
        same((pair.ours.request("PUT", name), pair.moto.request("PUT", name)))


def test_wrong_signatures_agree(pair: Pair, s3_server_process: S3Server) -> None:
    for access_key, secret_key in [(None, "wrong"), ("AKIDOTHER", "wrong")]:
        answers = []
        for client in (pair.ours, pair.moto):
            known = client.access_key
            wrong = RawClient("127.0.0.1", client.port, access_key or known, secret_key)
            answers.append(wrong.request("GET", BUCKET, "ranged"))
            wrong.close()
        same((answers[0], answers[1]))
