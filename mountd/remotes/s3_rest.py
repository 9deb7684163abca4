"""S3's REST interface: HEAD, ListObjectsV2, ranged GET and ListBuckets, signed by botocore.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote, unquote_plus, urlencode, urlsplit
from xml.etree.ElementTree import Element

from mountd.errors import (
    ContainerMissing,
    Corrupt,
    Denied,
    NotFound,
    RemoteError,
    Throttled,
)
from mountd.remotes.base import Capabilities
from mountd.remotes.http_range import opaque_tag
from mountd.remotes.http_status import mtime_ns_of_http_date, retry_after_s
from mountd.remotes.object_store import CAPABILITIES, ListedObject, ListPage
from mountd.remotes.rest import (
    RestAnswer,
    RestClient,
    check_tag,
    checked_range,
    range_header,
    status_error,
)
from mountd.remotes.xml_pages import children, parse_xml, texts

_ERROR_BODY_BYTES = 1 << 16
# What is not an answer to the request but to who asks, by S3's code: some come as 400.
_DENIED_CODES = frozenset(
    (
        *("AccessDenied", "AllAccessDisabled", "ExpiredToken", "InvalidAccessKeyId"),
        *("InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired", "AccountProblem"),
        *("AuthorizationHeaderMalformed", "RequestTimeTooSkewed", "NotSignedUp"),
    )
)
_THROTTLED_CODES = frozenset(("SlowDown", "RequestLimitExceeded", "ThrottlingException"))


@dataclass(frozen=True, slots=True)
class S3Keys:
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


Credentials = Callable[[], S3Keys | None]


@dataclass(frozen=True, slots=True)
class S3Place:
    """Where a bucket answers. `origin` is `http[s]://host[:port]`; `base_path` is "" for a
    virtual host and `/bucket` in path style (`/` for the account itself); nothing is encoded."""

    origin: str
    base_path: str
    bucket: str
    region: str

    @property
    def what(self) -> str:
        return f"s3://{self.bucket}"


class S3Rest:
    """A `Provider` and `PlainReads` for one bucket. `credentials` answers None for anonymous."""

    def __init__(self, place: S3Place, credentials: Credentials, timeout_s: float) -> None:
        self._place = place
        self._credentials = credentials
        self._client = RestClient(place.origin, timeout_s)
        self.ranges_come_as_200 = False

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def head(self, key: str) -> ListedObject:
        answer = self._send("HEAD", key, {}, {})
        if answer.status != 200:
            # A HEAD has no body, so what 403, 404 and 400 mean is asked with a GET.
            raise self._error(answer, key) if answer.status >= 500 else self._error_of_get(key)
        size = answer.header("content-length")
        version = opaque_tag(answer.header("etag"))
        if not size.isdigit() or not version:
            raise Corrupt(f"{key}: HEAD answers without a length or an ETag")
        mtime_ns = mtime_ns_of_http_date(answer.header("last-modified"))
        return ListedObject(key, int(size), mtime_ns, version)

    def list_page(self, prefix: str, delimiter: str, token: str, limit: int | None) -> ListPage:
        # Only url-encoded can XML say all keys; a tab or a newline would be lost.
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
        if delimiter:
            query["delimiter"] = delimiter
        if token:
            query["continuation-token"] = token
        if limit is not None:
            query["max-keys"] = str(limit)
        answer = self._send("GET", "", query, {})
        if answer.status != 200:
            raise self._error(answer, prefix)
        return page_of(parse_xml(answer.body))

    def read_range(
        self, key: str, start: int, end: int, version: str, timeout_s: float | None = None
    ) -> bytes:
        headers = {"Range": range_header(start, end)}
        if version:
            headers["If-Match"] = version
        max_bytes = max(end - start, _ERROR_BODY_BYTES)
        answer = self._send("GET", key, {}, headers, timeout_s, max_bytes)
        if answer.status not in (200, 206):
            raise self._error(answer, key)
        check_tag(answer, key, version)
        data = checked_range(answer, start, end)
        self.ranges_come_as_200 = self.ranges_come_as_200 or answer.status == 200
        return data

    def bucket_names(self) -> Sequence[str]:
        """The account's buckets; only where the place has no bucket of its own."""
        answer = self._send("GET", "", {}, {})
        if answer.status != 200:
            raise self._error(answer, "the account's buckets")
        found = dict(children(parse_xml(answer.body)))
        if "Buckets" not in found:
            raise Corrupt("a list of buckets without Buckets")
        return [texts(bucket).get("Name", "") for _, bucket in children(found["Buckets"])]

    def close(self) -> None:
        self._client.close()

    def _send(
        self,
        method: str,
        key: str,
        query: dict[str, str],
        headers: dict[str, str],
        timeout_s: float | None = None,
        max_bytes: int | None = None,
    ) -> RestAnswer:
        path = quote(f"{self._place.base_path}/{key}" if key else self._bucket_path, safe="/-_.~")
        target = f"{path}?{urlencode(query, quote_via=quote, safe='-_.~')}" if query else path
        signed = sign(method, self._place, target, headers, self._credentials())
        if max_bytes is None:
            return self._client.send(method, target, signed, timeout_s)
        return self._client.send(method, target, signed, timeout_s, max_bytes)

    @property
    def _bucket_path(self) -> str:
        return self._place.base_path or "/"

    def _error_of_get(self, key: str) -> RemoteError:
        answer = self._send("GET", key, {}, {"Range": "bytes=0-0"}, max_bytes=_ERROR_BODY_BYTES)
        if answer.status in (200, 206, 416):
            return Corrupt(f"{key}: HEAD fails and GET does not")
        return self._error(answer, key)

    def _error(self, answer: RestAnswer, key: str) -> RemoteError:
        return s3_error(answer, f"{self._place.what}/{key}")


def sign(
    method: str,
    place: S3Place,
    target: str,
    headers: dict[str, str],
    keys: S3Keys | None,
) -> dict[str, str]:
    """`headers` with those of Signature Version 4 (80 us); unchanged without credentials."""
    if keys is None:
        return headers
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import ReadOnlyCredentials

    who = ReadOnlyCredentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
    request = AWSRequest(method=method, url=place.origin + target, headers=dict(headers))
    S3SigV4Auth(who, "s3", place.region).add_auth(request)
    return dict(request.headers.items())


def s3_error(answer: RestAnswer, what: str) -> RemoteError:
    """The error by S3's code where there is one, else by the status."""
    code = error_code(answer.body)
    shown = f"{what}: {code or 'HTTP'} ({answer.status})"
    if code in _DENIED_CODES:
        return Denied(shown)
    if code == "NoSuchBucket":
        return ContainerMissing(shown)
    if code == "NoSuchKey":
        return NotFound(shown)
    if code in _THROTTLED_CODES:
        return Throttled(shown, retry_after_s(answer.headers.get("retry-after")))
    region = answer.header("x-amz-bucket-region")
    if answer.status in (301, 307, 400) and region:
        return Denied(f"{shown}: the bucket is in region {region}; set -o region={region}")
    return status_error(answer, shown)


def error_code(body: bytes) -> str:
    """S3's code in an error's body, or ""."""
    if not body.lstrip().startswith(b"<"):
        return ""
    try:
        return texts(parse_xml(body)).get("Code", "")
    except Corrupt:
        # A proxy's page of HTML.
        return ""


def page_of(root: Element) -> ListPage:
    """A ListObjectsV2 answer. Raises Corrupt for one that can't be whole."""
    prefixes: list[str] = []
    top: dict[str, str] = {}
    contents: list[dict[str, str]] = []
    for tag, element in children(root):
        if tag == "Contents":
            contents.append(texts(element))
        elif tag == "CommonPrefixes":
            prefixes.append(texts(element).get("Prefix", ""))
        else:
            top[tag] = element.text or ""
    if "IsTruncated" not in top:
        raise Corrupt("a listing without IsTruncated")
    if top.get("EncodingType") == "url":
        prefixes = [unquote_plus(prefix) for prefix in prefixes]
        for found in contents:
            found["Key"] = unquote_plus(found.get("Key", ""))
    objects = [_object_of(found) for found in contents]
    token = top.get("NextContinuationToken", "")
    if top["IsTruncated"] == "true" and not token:
        raise Corrupt("a listing that is cut off and has no continuation")
    return ListPage(objects, prefixes, token if top["IsTruncated"] == "true" else "")


def _object_of(found: dict[str, str]) -> ListedObject:
    try:
        # HEAD says whole seconds, so the listing must not say more.
        mtime_ns = int(datetime.fromisoformat(found["LastModified"]).timestamp()) * 1_000_000_000
        version = opaque_tag(found["ETag"])
        if not version or not found["Key"]:
            raise ValueError("an object without a key or an ETag")
        return ListedObject(found["Key"], int(found["Size"]), mtime_ns, version)
    except (KeyError, ValueError) as error:
        raise Corrupt(f"an unreadable entry in a listing: {found}") from error


def split_endpoint(endpoint: str) -> tuple[str, str]:
    """(origin, path without a slash at its end) of an endpoint URL."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
