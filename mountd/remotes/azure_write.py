"""Changes in a container of Azure Blob, each under If-Match or If-None-Match.

https://learn.microsoft.com/rest/api/storageservices/specifying-conditional-headers-for-blob-service-operations
"""

import base64
import binascii
import hashlib
import time
from collections.abc import Mapping
from typing import Self

from mountd.errors import Corrupt, NameNotAllowed, Unreachable, VersionChanged
from mountd.remotes.azure_blocks import BLOCK_BYTES, MAX_BLOB_BYTES, AzureBlocks
from mountd.remotes.azure_http import (
    AzureHttp,
    blob_of,
    metadata_headers,
    metadata_in,
)
from mountd.remotes.base import ABSENT, Body, Capabilities, KeyLimit, Upload
from mountd.remotes.call import upload_timeout_s
from mountd.remotes.object_metadata import UPLOAD_ID, content_type_of, copied, metadata_of
from mountd.remotes.object_store import FoundObject, ListedObject
from mountd.remotes.rest import RestAnswer
from mountd.remotes.untrusted import size_in

_MAX_NAME_CHARACTERS = 1024
CAPABILITIES = Capabilities(
    strong_version=True,
    conditional_read=True,
    real_directories=False,
    conditional_put=True,
    conditional_delete=True,
    server_copy=True,
    keeps_attributes=True,
    lists_attributes=True,
    keeps_mtime=True,
    max_put_bytes=MAX_BLOB_BYTES,
    key_limit=KeyLimit(_MAX_NAME_CHARACTERS, in_characters=True),
)

# Copy Blob From URL takes no more; it alone makes a copy in one step.
ONE_STEP_COPY_BYTES = 256 << 20
_POLL_S = (0.1, 0.2, 0.5, 1.0)
_MAX_SEGMENTS = 254


class AzureWrites:
    """The write half of a `Provider`. Thread-safe."""

    def __init__(self, http: AzureHttp, one_step_copy_bytes: int = ONE_STEP_COPY_BYTES) -> None:
        self._http = http
        self._one_step_copy_bytes = one_step_copy_bytes
        self._blocks = AzureBlocks(http)

    def head(self, key: str) -> ListedObject:
        return _found(key, self._head(key))

    def identify(self, key: str) -> FoundObject:
        answer = self._head(key)
        upload_id = metadata_in(answer.headers).get(UPLOAD_ID, "")
        if answer.headers.get("x-ms-copy-status", "success") != "success":
            # A copy has its metadata before it has its bytes.
            upload_id = ""
        try:
            md5 = base64.b64decode(answer.header("content-md5"), validate=True).hex()
        except binascii.Error as error:
            raise Corrupt(f"{self._http.what(key)}: an unreadable MD5") from error
        return FoundObject(_found(key, answer), upload_id, md5)

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> ListedObject:
        """Up to one block's size in one request, which Azure compares with its MD5."""
        _check_name(key)
        metadata = metadata_of(upload)
        headers = metadata_headers(metadata) | _condition(expect)
        if kind := content_type_of(key):
            headers["x-ms-blob-content-type"] = kind
        if body.size > BLOCK_BYTES:
            answer = self._blocks.put(key, body, headers, upload, is_bound=expect is not None)
        else:
            data = body.read(0, body.size)
            md5 = hashlib.md5(data, usedforsecurity=False).digest()
            headers |= {
                "x-ms-blob-type": "BlockBlob",
                "Content-MD5": base64.b64encode(md5).decode(),
            }
            answer = self._http.send("PUT", key, {}, headers, body=data)
            if answer.status != 201:
                raise self._http.error(answer, key)
        return blob_of(key, body.size, answer, metadata)

    def delete(self, key: str, expect: str | None) -> None:
        if expect == ABSENT:
            self.head(key)  # raises where nothing is there
            raise VersionChanged(self._http.what(key))
        answer = self._http.send("DELETE", key, {}, _condition(expect))
        if answer.status != 202:
            error = self._http.error(answer, key)
            if isinstance(error, VersionChanged):
                self.head(key)  # raises where nothing is there
            raise error

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> ListedObject:
        return self.copy_from(self, source, version, key, expect, upload)

    def copy_from(
        self,
        other: Self,
        source: str,
        version: str,
        key: str,
        expect: str | None,
        upload: Upload,
    ) -> ListedObject:
        """In one step up to 256 MiB. What is larger is usually there at once, too; where Azure
        takes its time, an empty blob is at `key` until the copy ends."""
        _check_name(key)
        answer = other._head(source)
        before = _found(source, answer)
        if before.version != version:
            raise VersionChanged(other._http.what(source))
        metadata = copied(metadata_in(answer.headers), upload)
        if source == key and other._http.container == self._http.container:
            if expect not in (None, version):
                raise VersionChanged(self._http.what(key))
            return self._set_metadata(before, metadata)
        headers = metadata_headers(metadata) | _condition(expect) | other._copy_source(before)
        done = self._http.send("PUT", key, {}, headers)
        if done.status not in (201, 202):
            raise self._http.error(done, key)
        if done.headers.get("x-ms-copy-status", "success") != "success":
            done = self._copied(key, done.header("x-ms-copy-id"), before.size)
        # Without metadata of its own a copy has the source's.
        return blob_of(key, before.size, done, metadata or metadata_in(answer.headers))

    def close(self) -> None:
        self._blocks.close()

    def _head(self, key: str) -> RestAnswer:
        answer = self._http.send("HEAD", key, {}, {})
        if answer.status != 200:
            raise self._http.error(answer, key)
        return answer

    def _set_metadata(self, found: ListedObject, metadata: Mapping[str, str]) -> ListedObject:
        """A blob can't be copied onto itself in one step; its metadata can."""
        headers = metadata_headers(metadata) | _condition(found.version)
        answer = self._http.send("PUT", found.key, {"comp": "metadata"}, headers)
        if answer.status != 200:
            raise self._http.error(answer, found.key)
        return blob_of(found.key, found.size, answer, metadata)

    def _copy_source(self, source: ListedObject) -> dict[str, str]:
        """The headers that say what is copied, and that we may read it."""
        account = self._http.account
        right: Mapping[str, str] = {}
        headers = {"x-ms-source-if-match": source.version}
        if source.size <= self._one_step_copy_bytes:
            # Only the two-step copy takes it from the request itself that the source is ours.
            headers["x-ms-requires-sync"] = "true"
            if account.key:
                right = account.read_sas(self._http.container, source.key)
            elif bearer := account.bearer_token():
                headers["x-ms-copy-source-authorization"] = f"Bearer {bearer}"
        return {**headers, "x-ms-copy-source": self._http.url_of(source.key, right)}

    def _copied(self, key: str, copy_id: str, size: int) -> RestAnswer:
        """Waits until the copy has ended; the answer of the last look."""
        until_s = time.monotonic() + upload_timeout_s(self._http.timeout_s, size)
        looks = 0
        while True:
            answer = self._head(key)
            status = answer.header("x-ms-copy-status")
            if answer.header("x-ms-copy-id") != copy_id:
                raise VersionChanged(f"{self._http.what(key)}: somebody wrote it during the copy")
            if status == "success":
                return answer
            if status != "pending" or time.monotonic() > until_s:
                text = f"{self._http.what(key)}: the copy is {status or 'lost'}"
                raise Unreachable(text, answered=True)
            time.sleep(_POLL_S[min(looks, len(_POLL_S) - 1)])
            looks += 1


def _found(key: str, answer: RestAnswer) -> ListedObject:
    try:
        size = size_in(answer.header("content-length"))
    except ValueError as error:
        raise Corrupt(f"{key}: HEAD answers without a length") from error
    return blob_of(key, size, answer, metadata_in(answer.headers))


def _condition(expect: str | None) -> dict[str, str]:
    if expect is None:
        return {}
    return {"If-None-Match": "*"} if expect == ABSENT else {"If-Match": expect}


def _check_name(key: str) -> None:
    """Refuses what Azure would refuse, or silently take for another name.

    https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata
    """
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise NameNotAllowed(f"{key!r}: only UTF-8 can be a name here") from error
    segments = key.split("/")
    if len(key) > _MAX_NAME_CHARACTERS or len(segments) > _MAX_SEGMENTS:
        raise NameNotAllowed(f"{key!r} is too long or too deep for az://")
    if "\\" in key or "." in segments or ".." in segments:
        raise NameNotAllowed(f"az:// can't have the name {key!r}")
