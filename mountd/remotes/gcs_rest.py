"""Google Cloud Storage's JSON API: metadata, objects.list, ranged media, buckets.list.

https://cloud.google.com/storage/docs/json_api/v1/objects
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from mountd.errors import (
    ContainerMissing,
    Corrupt,
    Denied,
    NotFound,
    RemoteError,
    VersionChanged,
)
from mountd.remotes.base import Capabilities
from mountd.remotes.gcs_credentials import GcsAccess
from mountd.remotes.object_store import CAPABILITIES, ListedObject, ListPage
from mountd.remotes.rest import RestAnswer, RestClient, checked_range, range_header, status_error

_ERROR_BODY_BYTES = 1 << 16
_LIST_FIELDS = "nextPageToken,prefixes,items(name,size,generation,timeCreated)"
_HEAD_FIELDS = "name,size,generation,timeCreated"


class GcsRest:
    """A `Provider` and `PlainReads` for one bucket; with bucket "", the account.

    A version is the object's generation.
    """

    def __init__(self, access: GcsAccess, bucket: str, timeout_s: float) -> None:
        parts = urlsplit(access.endpoint)
        self._access = access
        self._bucket = bucket
        self._base = f"{parts.path}/storage/v1/b"
        self._client = RestClient(f"{parts.scheme}://{parts.netloc}", timeout_s)
        self.ranges_come_as_200 = False

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def head(self, key: str) -> ListedObject:
        answer = self._send(self._object(key), {"fields": _HEAD_FIELDS}, {})
        if answer.status != 200:
            raise self._object_error(answer, key)
        return _object_of(_json(answer))

    def list_page(self, prefix: str, delimiter: str, token: str, limit: int | None) -> ListPage:
        query = {"prefix": prefix, "fields": _LIST_FIELDS, "maxResults": str(limit or 1000)}
        if delimiter:
            query["delimiter"] = delimiter
        if token:
            query["pageToken"] = token
        answer = self._send(f"{self._base}/{quote(self._bucket, safe='')}/o", query, {})
        if answer.status == 404:
            raise ContainerMissing(f"gs://{self._bucket}: there is no such bucket")
        if answer.status != 200:
            raise self._error(answer, prefix)
        found = _json(answer)
        objects = [_object_of(item) for item in found.get("items", ())]
        return ListPage(objects, found.get("prefixes", ()), found.get("nextPageToken", ""))

    def read_range(
        self, key: str, start: int, end: int, version: str, timeout_s: float | None = None
    ) -> bytes:
        query = {"alt": "media"} | ({"ifGenerationMatch": version} if version else {})
        # Without this a gzip-encoded object comes decompressed and whole.
        headers = {"Range": range_header(start, end), "Accept-Encoding": "gzip"}
        max_bytes = max(end - start, _ERROR_BODY_BYTES)
        answer = self._send(self._object(key), query, headers, timeout_s, max_bytes)
        if answer.status not in (200, 206):
            raise self._object_error(answer, key)
        if version:
            self._check_generation(answer, key, version)
        data = checked_range(answer, start, end)
        self.ranges_come_as_200 = self.ranges_come_as_200 or answer.status == 200
        return data

    def bucket_names(self) -> Sequence[str]:
        names: list[str] = []
        query = {"project": self._access.project, "fields": "nextPageToken,items(name)"}
        while True:
            answer = self._send(self._base, query, {})
            if answer.status != 200:
                raise self._error(answer, "the project's buckets")
            found = _json(answer)
            names += [str(item["name"]) for item in found.get("items", ())]
            if not found.get("nextPageToken"):
                return names
            query["pageToken"] = found["nextPageToken"]

    def close(self) -> None:
        self._client.close()

    def _object(self, key: str) -> str:
        return f"{self._base}/{quote(self._bucket, safe='')}/o/{quote(key, safe='')}"

    def _check_generation(self, answer: RestAnswer, key: str, version: str) -> None:
        found = answer.header("x-goog-generation")
        if not found:
            # An emulator that ignores preconditions. Generations only grow: if it is still this
            # one now, the bytes that came before were of this one, too.
            found = self.head(key).version
        if found != version:
            raise VersionChanged(key)

    def _send(
        self,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        timeout_s: float | None = None,
        max_bytes: int | None = None,
    ) -> RestAnswer:
        target = f"{path}?{urlencode(query, quote_via=quote, safe='-_.~')}"
        whole = {**headers, **self._access.headers()}
        if max_bytes is None:
            return self._client.send("GET", target, whole, timeout_s)
        return self._client.send("GET", target, whole, timeout_s, max_bytes)

    def _object_error(self, answer: RestAnswer, key: str) -> RemoteError:
        if answer.status != 404:
            return self._error(answer, key)
        # Object and bucket have one reason, so a listing tells which of them isn't there.
        try:
            self.list_page("", "", "", 1)
        except ContainerMissing as error:
            return error
        except Denied:
            # Who may read but not list can't know more than this.
            pass
        return NotFound(f"gs://{self._bucket}/{key}")

    def _error(self, answer: RestAnswer, key: str) -> RemoteError:
        return status_error(answer, f"gs://{self._bucket}/{key}")


def _json(answer: RestAnswer) -> dict[str, Any]:
    try:
        found = json.loads(answer.body)
    except ValueError as error:
        raise Corrupt("the answer is no JSON") from error
    if not isinstance(found, dict):
        raise Corrupt("the answer is no JSON object")
    return found


def _object_of(item: Mapping[str, Any]) -> ListedObject:
    try:
        created = datetime.fromisoformat(item["timeCreated"])
        mtime_ns = int(created.timestamp()) * 1_000_000_000 + created.microsecond * 1000
        return ListedObject(item["name"], int(item["size"]), mtime_ns, str(item["generation"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"an unreadable object: {item}") from error
