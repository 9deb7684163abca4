"""Requests to Google Cloud Storage's JSON API, their errors, and an object's resource.

https://cloud.google.com/storage/docs/json_api/v1
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from typing_extensions import Buffer

from mountd.errors import (
    ContainerMissing,
    Corrupt,
    Denied,
    NotFound,
    QuotaExceeded,
    RemoteError,
    Throttled,
    Unreachable,
)
from mountd.remotes.gcs_credentials import GcsAccess
from mountd.remotes.http_status import retry_after_s
from mountd.remotes.object_metadata import MTIME, attributes_of, mtime_ns_of, ns_of_datetime
from mountd.remotes.object_store import ListedObject
from mountd.remotes.request_body import SentBody
from mountd.remotes.rest import MAX_BODY_BYTES, RestAnswer, RestClient, status_error
from mountd.remotes.untrusted import can_be_a_tag, size_in, time_in

# `metadata` as a whole: the mtime is in it, and a listing shows it without a request per file.
OBJECT_FIELDS = "name,size,generation,timeCreated,metadata"
JSON_TYPE = "application/json; charset=UTF-8"
_GSUTIL_MTIME = "goog-reserved-file-mtime"  # whole seconds
# 403 says what is wrong in a reason. https://cloud.google.com/storage/docs/json_api/v1/status-codes
_THROTTLED = frozenset(("rateLimitExceeded", "userRateLimitExceeded"))
_QUOTA = frozenset(("quotaExceeded", "storageQuotaExceeded", "insufficientStorageSpace"))


class GcsHttp:
    """Signed requests for one bucket (or none); `path`s are without the API's own prefix."""

    def __init__(self, access: GcsAccess, bucket: str, timeout_s: float) -> None:
        parts = urlsplit(access.endpoint)
        self.access = access
        self.bucket = bucket
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._prefix = parts.path
        self._client = RestClient(self._origin, timeout_s, access.tls)
        self.timeout_s = timeout_s

    @property
    def buckets_path(self) -> str:
        return f"{self._prefix}/storage/v1/b"

    @property
    def objects_path(self) -> str:
        return f"{self.buckets_path}/{quote(self.bucket, safe='')}/o"

    @property
    def upload_path(self) -> str:
        return f"{self._prefix}/upload/storage/v1/b/{quote(self.bucket, safe='')}/o"

    def object_path(self, key: str) -> str:
        return f"{self.objects_path}/{quote(key, safe='')}"

    def what(self, key: str) -> str:
        return f"gs://{self.bucket}/{key}"

    def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        *,
        body: Buffer | SentBody = b"",
        timeout_s: float | None = None,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> RestAnswer:
        """`RestClient.send` for an encoded path and a query that is not."""
        target = f"{path}?{urlencode(query, quote_via=quote, safe='-_.~')}" if query else path
        return self.send_to(
            method, target, headers or {}, body=body, timeout_s=timeout_s, max_bytes=max_bytes
        )

    def send_json(
        self, method: str, path: str, query: Mapping[str, str], sent: Mapping[str, Any]
    ) -> RestAnswer:
        headers = {"Content-Type": JSON_TYPE} if sent else {}
        return self.send(
            method, path, query, headers, body=json.dumps(sent).encode() if sent else b""
        )

    def send_to(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        *,
        body: Buffer | SentBody = b"",
        timeout_s: float | None = None,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> RestAnswer:
        """The same for a target that is encoded already, as a session's is."""
        whole = {**headers, **self.access.headers()}
        return self._client.send(method, target, whole, timeout_s, max_bytes, body)

    def target_of(self, location: str) -> str:
        """Path and query of a URL that the server gave. The host stays ours: behind a private
        endpoint Google names the public one."""
        parts = urlsplit(location)
        if not parts.path.startswith("/"):
            raise Corrupt(f"{self._origin} answers with a place that is no URL")
        return f"{parts.path}?{parts.query}"

    def object_error(self, answer: RestAnswer, key: str) -> RemoteError:
        """The error of an answer about an object, by one request more for a 404.

        A 404 that doesn't say what is missing may be a proxy's, while what is behind it is started
        again. Google's own always says it; an emulator's, which doesn't, has to say it twice, with
        an answer about the bucket in between.
        """
        if answer.status != 404:
            return self.error(answer, key)
        if not _says_what(answer) and self.access.has_xml_api:
            return Unreachable(f"{self.what(key)}: HTTP 404, not an answer of GCS", answered=True)
        # Object and bucket have one reason, so a listing tells which of them isn't there.
        try:
            listed = self.send("GET", self.objects_path, {"maxResults": "1", "fields": "kind"})
        except Denied:
            # Who may read but not list can't know more than this.
            return self._still_missing(answer, key)
        if listed.status == 404:
            return self.bucket_missing()
        if listed.status not in (200, 401, 403):
            return self.error(listed, key)
        return self._still_missing(answer, key)

    def _still_missing(self, answer: RestAnswer, key: str) -> RemoteError:
        if not _says_what(answer):
            again = self.send("GET", self.object_path(key), {"fields": "name"})
            if again.status != 404:
                text = f"{self.what(key)}: HTTP 404, and then {again.status}"
                return Unreachable(text, answered=True)
        return NotFound(self.what(key))

    def bucket_missing(self) -> ContainerMissing:
        return ContainerMissing(f"gs://{self.bucket}: there is no such bucket")

    def error(self, answer: RestAnswer, key: str) -> RemoteError:
        """The error by the reason that the answer gives, else by its status."""
        reason = _reason(answer)
        shown = f"{self.what(key)}: {reason or 'HTTP'} ({answer.status})"
        if reason in _THROTTLED:
            return Throttled(shown, retry_after_s(answer.headers.get("retry-after")))
        if reason in _QUOTA:
            return QuotaExceeded(shown)
        if answer.status == 400 and b"CRC32C" in answer.body:
            # The reason is "invalid" for everything; only a wrong sum is said with this word.
            return Corrupt(f"{shown}: what arrived is not what was sent")
        return status_error(answer, self.what(key))

    def close(self) -> None:
        self._client.close()


def json_of(answer: RestAnswer) -> dict[str, Any]:
    """The answer's JSON object. Raises Corrupt for anything else."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise Corrupt("the answer is no JSON") from error
    if not isinstance(found, dict):
        raise Corrupt("the answer is no JSON object")
    return found


def items_in(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """`items` of a listing. Raises Corrupt for anything but a list of objects."""
    items = found.get("items", [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise Corrupt("a listing whose items are none")
    return items


def texts_in(found: Mapping[str, Any], name: str) -> list[str]:
    """Raises Corrupt for anything but a list of texts."""
    values = found.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise Corrupt(f"an answer whose {name} are none")
    return values


def text_in(found: Mapping[str, Any], name: str) -> str:
    """ "" where it isn't there. Raises Corrupt for anything but a text."""
    value = found.get(name, "")
    if not isinstance(value, str):
        raise Corrupt(f"an answer whose {name} is no text")
    return value


def object_of(item: Mapping[str, Any]) -> ListedObject:
    """An object's resource. Its time is that of the file it was made from, where that is known."""
    try:
        created = datetime.fromisoformat(item["timeCreated"])
        made_ns = time_in(ns_of_datetime(created))
        metadata = {str(name): str(text) for name, text in (item.get("metadata") or {}).items()}
        kept_ns = _kept_mtime_ns(metadata)
        mtime_ns = made_ns if kept_ns is None else kept_ns
        size, version = size_in(str(item["size"])), str(item["generation"])
        if not can_be_a_tag(version) or not text_in(item, "name"):
            raise ValueError("an object without a name or a generation")
        return ListedObject(item["name"], size, mtime_ns, version, attributes_of(metadata))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"an unreadable object: {item}") from error


def _kept_mtime_ns(metadata: Mapping[str, str]) -> int | None:
    kept_ns = mtime_ns_of(metadata)
    if kept_ns is None and _GSUTIL_MTIME in metadata:
        return mtime_ns_of({MTIME: metadata[_GSUTIL_MTIME]})
    return kept_ns


def _says_what(answer: RestAnswer) -> bool:
    """A 404 of GCS itself: a download's is a line of text."""
    return bool(_reason(answer)) or answer.body.startswith(b"No such object")


def _reason(answer: RestAnswer) -> str:
    """The first reason of Google's error form, or ""."""
    try:
        error = json.loads(answer.body)["error"]
        return str(error["errors"][0]["reason"])
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        # HTML of a load balancer, or nothing.
        return ""
