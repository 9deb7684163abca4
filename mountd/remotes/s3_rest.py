"""S3's REST interface: signed requests, and what only reads (HEAD, ListObjectsV2, ranged GET).

https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
"""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, unquote_plus, urlencode, urlsplit
from xml.etree.ElementTree import Element

from mountd.errors import Corrupt, NotFound, RemoteError, Unreachable
from mountd.remotes.http_pool import proxy_for
from mountd.remotes.http_range import opaque_tag
from mountd.remotes.http_status import mtime_ns_of_http_date
from mountd.remotes.object_metadata import (
    MTIME,
    attributes_of,
    mtime_ns_of,
    mtime_text,
    ns_of_datetime,
)
from mountd.remotes.object_store import ListedObject, ListPage
from mountd.remotes.request_body import SentBody
from mountd.remotes.rest import (
    MAX_BODY_BYTES,
    RestAnswer,
    RestClient,
    check_tag,
    checked_range,
    range_header,
)
from mountd.remotes.s3_errors import s3_error
from mountd.remotes.s3_payload import Payload
from mountd.remotes.tls import VERIFIED, Tls
from mountd.remotes.untrusted import size_in, time_in
from mountd.remotes.xml_pages import children, parse_xml, texts

_ERROR_BODY_BYTES = 1 << 16
META = "x-amz-meta-"
CRC32C = "x-amz-checksum-crc32c"
NOTHING: Mapping[str, str] = MappingProxyType({})
_NO_BODY = SentBody.of(b"")
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


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

    @property
    def url(self) -> str:
        """`https://host/bucket`, with what comes before the bucket: a gateway has several servers
        at one host."""
        base = self.base_path.removesuffix(f"/{self.bucket}").removesuffix("/")
        return f"{self.origin}{base}/{self.bucket}"

    @property
    def is_aws(self) -> bool:
        host = urlsplit(self.origin).hostname or ""
        return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


class S3Rest:
    """`PlainReads` for one bucket, and the requests that `S3Bucket` makes its writes of.

    `credentials` answers None for anonymous. `signs_bodies`: a request's signature has to have
    its body's SHA-256, because no TLS protects it. `may_leave_unsigned`: or nobody is on the way
    who could put another there.
    """

    def __init__(
        self, place: S3Place, credentials: Credentials, timeout_s: float, tls: Tls = VERIFIED
    ) -> None:
        self.place = place
        self._credentials = credentials
        self._client = RestClient(place.origin, timeout_s, tls)
        self.ranges_come_as_200 = False
        self.signs_bodies = not (place.origin.startswith("https://") and tls.is_verified)
        self.may_leave_unsigned = not self.signs_bodies or _is_this_machine(place.origin)
        self.timeout_s = timeout_s

    def look(self, key: str, headers: Mapping[str, str] = NOTHING) -> RestAnswer:
        """A good answer to HEAD. Raises NotFound and the like."""
        return self._checked(key, self.send("HEAD", key, headers=headers))

    def head(self, key: str) -> ListedObject:
        return object_of_head(key, self.look(key))

    def is_absent(self, key: str) -> bool:
        """One request, also where nothing is: only for a write that follows, and which then tells
        whether it is the bucket that is missing. A 404 without S3's headers
        (CloudFront has others of that kind) may be a proxy's, while S3 itself is started again, and
        the write would go over what is there: it is looked into."""
        answer = self.send("HEAD", key)
        own = (name for name in answer.headers if name.startswith("x-amz-"))
        if answer.status == 404 and any(not name.startswith("x-amz-cf-") for name in own):
            return True
        try:
            self._checked(key, answer)
        except NotFound:
            return True
        return False

    def list_page(self, prefix: str, delimiter: str, token: str, limit: int | None) -> ListPage:
        # Only url-encoded can XML say all keys; a tab or a newline would be lost.
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
        if delimiter:
            query["delimiter"] = delimiter
        if token:
            query["continuation-token"] = token
        if limit is not None:
            query["max-keys"] = str(limit)
        answer = self.send("GET", "", query)
        if answer.status != 200:
            raise self.error(answer, prefix)
        return page_of(parse_xml(answer.body))

    def read_range(
        self, key: str, start: int, end: int, version: str, timeout_s: float | None = None
    ) -> bytes:
        headers = {"Range": range_header(start, end)}
        if version:
            headers["If-Match"] = version
        max_bytes = max(end - start, _ERROR_BODY_BYTES)
        answer = self.send("GET", key, headers=headers, timeout_s=timeout_s, max_bytes=max_bytes)
        if answer.status not in (200, 206):
            raise self.error(answer, key)
        check_tag(answer, key, version)
        data = checked_range(answer, start, end)
        self.ranges_come_as_200 = self.ranges_come_as_200 or answer.status == 200
        return data

    def bucket_names(self) -> Sequence[str]:
        """The account's buckets; only where the place has no bucket of its own."""
        answer = self.send("GET", "")
        if answer.status != 200:
            raise self.error(answer, "the account's buckets")
        found = dict(children(parse_xml(answer.body)))
        if "Buckets" not in found:
            raise Corrupt("a list of buckets without Buckets")
        return [texts(bucket).get("Name", "") for _, bucket in children(found["Buckets"])]

    def close(self) -> None:
        self._client.close()

    def send(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] = NOTHING,
        headers: Mapping[str, str] = NOTHING,
        *,
        payload: Payload | None = None,
        timeout_s: float | None = None,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> RestAnswer:
        """The answer, whatever its status; as `RestClient.send`. A payload brings its digests."""
        path = self._path(key)
        target = f"{path}?{urlencode(query, quote_via=quote, safe='-_.~')}" if query else path
        body, sha256 = _NO_BODY, _EMPTY_SHA256
        if payload is not None:
            if payload.md5:
                headers = {**headers, "Content-MD5": payload.content_md5}
            if payload.crc32c:
                headers = {**headers, CRC32C: payload.crc32c}
            body, sha256 = payload.sent, payload.sha256
        signed = sign(method, self.place, target, headers, self._credentials(), sha256)
        return self._client.send(method, target, signed, timeout_s, max_bytes, body)

    def error(self, answer: RestAnswer, key: str) -> RemoteError:
        return s3_error(answer, self.what(key))

    def what(self, key: str) -> str:
        """How messages name a key."""
        return f"{self.place.what}/{key}"

    def copy_source(self, key: str) -> str:
        """`x-amz-copy-source` for a key of this bucket."""
        return quote(f"/{self.place.bucket}/{key}", safe="/-_.~")

    def _path(self, key: str) -> str:
        base = self.place.base_path
        return quote(f"{base}/{key}" if key else base or "/", safe="/-_.~")

    def _checked(self, key: str, answer: RestAnswer) -> RestAnswer:
        if answer.status != 200:
            # A HEAD has no body, so what 403, 404 and 400 mean is asked with a GET.
            is_servers = answer.status >= 500
            raise self.error(answer, key) if is_servers else self._error_of_get(key, answer.status)
        return answer

    def _error_of_get(self, key: str, status: int) -> RemoteError:
        headers = {"Range": "bytes=0-0"}
        answer = self.send("GET", key, headers=headers, max_bytes=_ERROR_BODY_BYTES)
        if answer.status in (200, 206, 416):
            if status in (404, 410):
                # A proxy's, and S3 is there again.
                return Unreachable(f"{key}: HTTP {status}, and now it is there", answered=True)
            return Corrupt(f"{key}: HEAD fails and GET does not")
        return self.error(answer, key)


def _is_this_machine(origin: str) -> bool:
    """Whether what is sent there leaves it not even through a proxy."""
    parts = urlsplit(origin)
    host = parts.hostname or ""
    try:
        is_here = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
    return is_here and proxy_for(parts.scheme, host) is None


def object_of_head(key: str, answer: RestAnswer) -> ListedObject:
    version = opaque_tag(answer.header("etag"))
    if not version:
        raise Corrupt(f"{key}: HEAD answers without an ETag")
    try:
        size = size_in(answer.header("content-length"))
    except ValueError as error:
        raise Corrupt(f"{key}: HEAD answers without a length") from error
    mtime_ns = mtime_ns_of_http_date(answer.header("last-modified"))
    return ListedObject(key, size, mtime_ns, version, attributes_in(metadata_in(answer)))


def metadata_in(answer: RestAnswer) -> dict[str, str]:
    """The metadata of an answer, by its plain names."""
    headers = answer.headers.items()
    return {name.removeprefix(META): text for name, text in headers if name.startswith(META)}


def attributes_in(metadata: Mapping[str, str]) -> dict[str, str]:
    """With `mtime`, because a listing has the time of arrival only."""
    kept_ns = mtime_ns_of(metadata)
    found = attributes_of(metadata)
    return found if kept_ns is None else {**found, MTIME: mtime_text(kept_ns)}


@functools.cache
def _auth_class() -> Any:
    # Made when it is first used, because importing botocore is dear.
    from botocore.auth import S3SigV4Auth

    class KnownBodyAuth(S3SigV4Auth):
        """botocore would hash the body itself; here it is a stream, and its digest is known."""

        def __init__(self, who: Any, region: str, body_sha256: str) -> None:
            super().__init__(who, "s3", region)
            self._body_sha256 = body_sha256

        def payload(self, request: Any) -> str:
            return self._body_sha256

    return KnownBodyAuth


def sign(
    method: str,
    place: S3Place,
    target: str,
    headers: Mapping[str, str],
    keys: S3Keys | None,
    body_sha256: str = _EMPTY_SHA256,
) -> Mapping[str, str]:
    """`headers` with those of Signature Version 4 (80 us); unchanged without credentials."""
    if keys is None:
        return headers
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import ReadOnlyCredentials

    who = ReadOnlyCredentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
    request = AWSRequest(method=method, url=place.origin + target, headers=dict(headers))
    _auth_class()(who, place.region, body_sha256).add_auth(request)
    return dict(request.headers.items())


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
        mtime_ns = whole_seconds_ns(found["LastModified"])
        version = opaque_tag(found["ETag"])
        if not version or not found["Key"]:
            raise ValueError("an object without a key or an ETag")
        return ListedObject(found["Key"], size_in(found["Size"]), mtime_ns, version)
    except (KeyError, ValueError) as error:
        raise Corrupt(f"an unreadable entry in a listing: {found}") from error


def whole_seconds_ns(text: str) -> int:
    """LastModified. HEAD says whole seconds, so the others must not say more. ValueError."""
    return time_in(ns_of_datetime(datetime.fromisoformat(text).replace(microsecond=0)))


def split_endpoint(endpoint: str) -> tuple[str, str]:
    """(origin, path without a slash at its end) of an endpoint URL."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
