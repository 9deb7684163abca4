"""ListObjectsV2 and ListObjects: one page costs what it shows, however large the bucket is."""

import base64
import binascii
from dataclasses import dataclass
from urllib.parse import quote_plus

from tests.servers.s3.knobs import Effects
from tests.servers.s3.message import Request, Response, S3Error
from tests.servers.s3.service import Service
from tests.servers.s3.store import Bucket, StoredObject
from tests.servers.s3.xmltext import document, escape, iso_date, tag

MAX_KEYS = 1000
OWNER = "<Owner><ID>owner</ID><DisplayName>owner</DisplayName></Owner>"


@dataclass(frozen=True, slots=True)
class Page:
    """Objects and common prefixes of one page; `last` is where the next page goes on."""

    objects: list[tuple[str, StoredObject]]
    prefixes: list[str]
    last: str
    truncated: bool


def collect(bucket: Bucket, prefix: str, delimiter: str, after: str, limit: int) -> Page:
    """The first `limit` entries after `after`; a common prefix counts as one entry.

    Where `after` is itself a common prefix, everything below it was listed already.
    """
    start = max(prefix, after)
    cursor = bucket.ordered(start, inclusive=not after or start != after)
    if (
        after
        and delimiter
        and after.startswith(prefix)
        and _group(after, prefix, delimiter) == after
    ):
        cursor.skip_prefix(after)
    objects: list[tuple[str, StoredObject]] = []
    prefixes: list[str] = []
    last = ""
    while (found := cursor.next()) is not None:
        key = found[0]
        if not key.startswith(prefix):
            break
        if len(objects) + len(prefixes) >= limit:
            return Page(objects, prefixes, last, truncated=limit > 0)
        group = _group(key, prefix, delimiter) if delimiter else ""
        if group:
            prefixes.append(group)
            cursor.skip_prefix(group)
            last = group
        else:
            objects.append(found)
            last = key
    return Page(objects, prefixes, last, truncated=False)


def _group(key: str, prefix: str, delimiter: str) -> str:
    at = key.find(delimiter, len(prefix))
    return "" if at < 0 else key[: at + len(delimiter)]


def _limit(query: dict[str, str], effects: Effects) -> tuple[int, int]:
    """(what was asked for, what is given)"""
    text = query.get("max-keys", "") or str(MAX_KEYS)
    if not text.isdecimal():
        raise S3Error(400, "InvalidArgument", "Provided max-keys not an integer or within range")
    asked = int(text)
    return min(asked, MAX_KEYS), min(asked, MAX_KEYS, effects.page_size or MAX_KEYS)


def _encoder(query: dict[str, str]) -> tuple[bool, "Encoder"]:
    kind = query.get("encoding-type", "")
    if kind not in ("", "url"):
        raise S3Error(400, "InvalidArgument", "Invalid Encoding Method specified in Request")
    return kind == "url", Encoder(url=kind == "url")


class Encoder:
    """Keys as text of the document: XML-escaped, or URL-encoded as form fields are."""

    def __init__(self, *, url: bool) -> None:
        self._url = url

    def __call__(self, text: str) -> str:
        return quote_plus(text, safe="/-_.*") if self._url else escape(text)


def _contents(page: Page, encode: Encoder, owner: str) -> str:
    entries = [
        f"<Contents><Key>{encode(key)}</Key><LastModified>{iso_date(int(stored.mtime_s))}"
        f"</LastModified><ETag>&quot;{stored.etag}&quot;</ETag><Size>{stored.body.size}</Size>"
        f"{owner}<StorageClass>STANDARD</StorageClass></Contents>"
        for key, stored in page.objects
    ]
    entries += [
        f"<CommonPrefixes><Prefix>{encode(group)}</Prefix></CommonPrefixes>"
        for group in page.prefixes
    ]
    return "".join(entries)


def list_objects_v2(service: Service, request: Request, effects: Effects) -> Response:
    query, bucket = request.query, service.store.require(request.bucket)
    asked, limit = _limit(query, effects)
    url, encode = _encoder(query)
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    token = query.get("continuation-token")
    start_after = query.get("start-after", "")
    after = start_after if token is None else _from_token(token)
    page = collect(bucket, prefix, delimiter, after, limit)
    inner = tag("Name", bucket.name) + f"<Prefix>{encode(prefix)}</Prefix>"
    if start_after:
        inner += f"<StartAfter>{encode(start_after)}</StartAfter>"
    if delimiter:
        inner += f"<Delimiter>{encode(delimiter)}</Delimiter>"
    if url:
        inner += tag("EncodingType", "url")
    if token is not None:
        inner += tag("ContinuationToken", token)
    if page.truncated:
        inner += tag("NextContinuationToken", _to_token(page.last))
    inner += tag("KeyCount", len(page.objects) + len(page.prefixes)) + tag("MaxKeys", asked)
    inner += tag("IsTruncated", page.truncated)
    owner = OWNER if query.get("fetch-owner") == "true" else ""
    return document("ListBucketResult", inner + _contents(page, encode, owner))


def list_objects_v1(service: Service, request: Request, effects: Effects) -> Response:
    query, bucket = request.query, service.store.require(request.bucket)
    asked, limit = _limit(query, effects)
    url, encode = _encoder(query)
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    marker = query.get("marker", "")
    page = collect(bucket, prefix, delimiter, marker, limit)
    inner = tag("Name", bucket.name) + f"<Prefix>{encode(prefix)}</Prefix>"
    inner += f"<Marker>{encode(marker)}</Marker>" + tag("MaxKeys", asked)
    if delimiter:
        inner += f"<Delimiter>{encode(delimiter)}</Delimiter>"
    if url:
        inner += tag("EncodingType", "url")
    if page.truncated and delimiter:
        inner += f"<NextMarker>{encode(page.last)}</NextMarker>"
    inner += tag("IsTruncated", page.truncated)
    return document("ListBucketResult", inner + _contents(page, encode, OWNER))


def _to_token(last: str) -> str:
    return base64.urlsafe_b64encode(b"after:" + last.encode()).decode()


def _from_token(token: str) -> str:
    try:
        text = base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, UnicodeDecodeError, UnicodeEncodeError):
        text = ""
    if not text.startswith("after:"):
        raise S3Error(400, "InvalidArgument", "The continuation token provided is incorrect")
    return text.removeprefix("after:")
