"""One bucket of Google Cloud Storage: metadata, objects.list, ranged media, buckets.list.

https://cloud.google.com/storage/docs/json_api/v1/objects
"""

from collections.abc import Sequence
from typing import Self

from mountd.errors import Unsupported, VersionChanged
from mountd.remotes.base import Body, Capabilities, Upload
from mountd.remotes.gcs_credentials import GcsAccess
from mountd.remotes.gcs_http import (
    OBJECT_FIELDS,
    GcsHttp,
    items_in,
    json_of,
    object_of,
    text_in,
    texts_in,
)
from mountd.remotes.gcs_write import GcsWrites
from mountd.remotes.object_store import FoundObject, ListedObject, ListPage
from mountd.remotes.rest import RestAnswer, checked_range, range_header
from mountd.remotes.untrusted import Advance

_ERROR_BODY_BYTES = 1 << 16
_LIST_FIELDS = f"nextPageToken,prefixes,items({OBJECT_FIELDS})"


class GcsRest:
    """A `Provider` and `PlainReads` for one bucket; with bucket "", the account.

    A version is the object's generation.
    """

    def __init__(self, access: GcsAccess, bucket: str, timeout_s: float) -> None:
        self._http = GcsHttp(access, bucket, timeout_s)
        self._writes = GcsWrites(self._http)
        self.ranges_come_as_200 = False

    @property
    def capabilities(self) -> Capabilities:
        return self._writes.capabilities

    def head(self, key: str) -> ListedObject:
        return self._writes.head(key)

    def list_page(self, prefix: str, delimiter: str, token: str, limit: int | None) -> ListPage:
        query = {"prefix": prefix, "fields": _LIST_FIELDS, "maxResults": str(limit or 1000)}
        if delimiter:
            query["delimiter"] = delimiter
        if token:
            query["pageToken"] = token
        answer = self._http.send("GET", self._http.objects_path, query)
        if answer.status == 404:
            raise self._http.bucket_missing()
        if answer.status != 200:
            raise self._http.error(answer, prefix)
        found = json_of(answer)
        objects = [object_of(item) for item in items_in(found)]
        prefixes = texts_in(found, "prefixes")
        return ListPage(objects, prefixes, text_in(found, "nextPageToken"))

    def read_range(
        self, key: str, start: int, end: int, version: str, timeout_s: float | None = None
    ) -> bytes:
        query = {"alt": "media"} | ({"ifGenerationMatch": version} if version else {})
        # Without this a gzip-encoded object comes decompressed and whole.
        headers = {"Range": range_header(start, end), "Accept-Encoding": "gzip"}
        max_bytes = max(end - start, _ERROR_BODY_BYTES)
        path = self._http.object_path(key)
        answer = self._http.send(
            "GET", path, query, headers, timeout_s=timeout_s, max_bytes=max_bytes
        )
        if answer.status not in (200, 206):
            raise self._http.object_error(answer, key)
        if version:
            self._check_generation(answer, key, version)
        data = checked_range(answer, start, end)
        self.ranges_come_as_200 = self.ranges_come_as_200 or answer.status == 200
        return data

    def bucket_names(self) -> Sequence[str]:
        names: list[str] = []
        advance = Advance("the project's buckets")
        query = {"project": self._http.access.project, "fields": "nextPageToken,items(name)"}
        while True:
            answer = self._http.send("GET", self._http.buckets_path, query)
            if answer.status != 200:
                raise self._http.error(answer, "the project's buckets")
            found = json_of(answer)
            items = items_in(found)
            names += [text_in(item, "name") for item in items]
            token = text_in(found, "nextPageToken")
            advance.page(len(items), token)
            if not token:
                return names
            query["pageToken"] = token

    def identify(self, key: str) -> FoundObject:
        return self._writes.identify(key)

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> ListedObject:
        return self._writes.put(key, body, expect, upload)

    def put_delta(
        self,
        key: str,
        body: Body,
        expect: str | None,
        upload: Upload,
        source: str,
        version: str,
        same: Sequence[tuple[int, int]],
    ) -> ListedObject:
        raise Unsupported("here every file is sent whole")

    def abandon(self, key: str, token: str) -> None:
        self._writes.abandon(key, token)

    def delete(self, key: str, expect: str | None) -> None:
        self._writes.delete(key, expect)

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> ListedObject:
        return self._writes.copy(source, version, key, expect, upload)

    def copy_from(
        self,
        other: Self,
        source: str,
        version: str,
        key: str,
        expect: str | None,
        upload: Upload,
    ) -> ListedObject:
        return self._writes.copy_from(other._writes, source, version, key, expect, upload)

    def close(self) -> None:
        self._http.close()

    def _check_generation(self, answer: RestAnswer, key: str, version: str) -> None:
        found = answer.header("x-goog-generation")
        if not found:
            # An emulator that ignores preconditions. Generations only grow: if it is still this
            # one now, the bytes that came before were of this one, too.
            found = self.head(key).version
        if found != version:
            raise VersionChanged(key)
