"""Changes in a bucket of Google Cloud Storage, each under a condition on the generation.

https://cloud.google.com/storage/docs/request-preconditions
"""

import base64
import binascii
import time
from collections.abc import Mapping
from typing import Any, Self

from mountd.errors import Corrupt, NameNotAllowed, NotFound, Unreachable, VersionChanged
from mountd.remotes.base import ABSENT, Body, Capabilities, KeyLimit, Upload
from mountd.remotes.call import upload_timeout_s
from mountd.remotes.gcs_http import OBJECT_FIELDS, GcsHttp, json_of, object_of
from mountd.remotes.gcs_session import end_session, session_in
from mountd.remotes.gcs_upload import upload as upload_bytes
from mountd.remotes.object_metadata import UPLOAD_ID, content_type_of, copied, metadata_of
from mountd.remotes.object_store import FoundObject, ListedObject

MAX_OBJECT_BYTES = 5 << 40
_MAX_NAME_BYTES = 1024
# Metadata that is given with a copy replaces all of this, too.
_KEPT_FIELDS = (
    *("contentType", "contentEncoding", "contentDisposition", "contentLanguage"),
    *("cacheControl", "customTime", "storageClass"),
)


class GcsWrites:
    """The write half of a `Provider`. Thread-safe.

    Emulators take generation conditions and ignore them, so there it looks first and then acts.
    """

    def __init__(self, http: GcsHttp) -> None:
        self._http = http
        enforced = http.access.has_xml_api
        self.capabilities = Capabilities(
            strong_version=True,
            conditional_read=True,
            real_directories=False,
            conditional_put=enforced,
            conditional_delete=enforced,
            server_copy=True,
            keeps_attributes=True,
            lists_attributes=True,
            keeps_mtime=True,
            max_put_bytes=MAX_OBJECT_BYTES,
            key_limit=KeyLimit(_MAX_NAME_BYTES) if enforced else None,
        )

    def head(self, key: str) -> ListedObject:
        return object_of(self._resource(key, OBJECT_FIELDS))

    def identify(self, key: str) -> FoundObject:
        found = self._resource(key, f"{OBJECT_FIELDS},md5Hash,crc32c")
        upload_id = (found.get("metadata") or {}).get(UPLOAD_ID, "")
        try:
            # A composed object has no MD5.
            md5 = base64.b64decode(found.get("md5Hash") or "", validate=True).hex()
            crc = base64.b64decode(found.get("crc32c") or "", validate=True).hex()
        except binascii.Error as error:
            raise Corrupt(f"{self._http.what(key)}: an unreadable checksum") from error
        return FoundObject(object_of(found), upload_id, md5, sums={"crc32c": crc} if crc else {})

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> ListedObject:
        self._check_name(key)
        self._look_first(key, expect)
        resource: dict[str, Any] = {"name": key, "metadata": metadata_of(upload)}
        if kind := content_type_of(key):
            resource["contentType"] = kind
        query = {"fields": f"{OBJECT_FIELDS},crc32c"} | _condition(expect)
        return object_of(upload_bytes(self._http, query, resource, body, upload))

    def abandon(self, key: str, token: str) -> None:
        session = session_in(self._http, token)
        if session:
            end_session(self._http, key, session)

    def delete(self, key: str, expect: str | None) -> None:
        looks = expect is not None and not self.capabilities.conditional_delete
        if looks and self.head(key).version != expect:
            raise VersionChanged(self._http.what(key))
        answer = self._http.send("DELETE", self._http.object_path(key), _condition(expect))
        if answer.status == 412:
            self.head(key)  # raises where nothing is there
        if answer.status not in (200, 204):
            raise self._http.object_error(answer, key)

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
        """As `copy`, from another bucket."""
        self._check_name(key)
        found = other._resource(source, ",".join((OBJECT_FIELDS, *_KEPT_FIELDS)))
        before = object_of(found)
        if before.version != version:
            raise VersionChanged(other._http.what(source))
        self._look_first(key, expect)
        resource: dict[str, Any] = {}
        if metadata_of(upload) or upload.attributes:
            kept = {name: found[name] for name in _KEPT_FIELDS if name in found}
            metadata = copied(found.get("metadata") or {}, upload)
            resource = {**kept, "metadata": metadata}
        condition = {"ifSourceGenerationMatch": version} | _condition(expect)
        path = other._http.object_path(source)
        return self._rewrite(path, before, key, condition, resource)

    def _rewrite(
        self,
        path: str,
        source: ListedObject,
        key: str,
        condition: Mapping[str, str],
        resource: Mapping[str, Any],
    ) -> ListedObject:
        """One request, or several where bytes have to move (another place or class)."""
        target = self._http.object_path(key).removeprefix(self._http.buckets_path)
        path = f"{path}/rewriteTo/b{target}"
        query = {"fields": f"done,rewriteToken,resource({OBJECT_FIELDS})", **condition}
        until_s = time.monotonic() + upload_timeout_s(self._http.timeout_s, source.size)
        while True:
            answer = self._http.send_json("POST", path, query, resource)
            if answer.status != 200:
                raise self._http.object_error(answer, source.key)
            found = json_of(answer)
            if found.get("done") is True:
                return object_of(self._with_metadata(key, found.get("resource") or {}, resource))
            query["rewriteToken"] = str(found.get("rewriteToken", ""))
            if not query["rewriteToken"] or time.monotonic() > until_s:
                raise Unreachable(f"{self._http.what(key)}: the copy didn't end", answered=True)

    def _with_metadata(
        self, key: str, made: Mapping[str, Any], wanted: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """The copy's resource. An emulator copies the source's metadata whatever it is told."""
        metadata = wanted.get("metadata", made.get("metadata"))
        if metadata == made.get("metadata"):
            return made
        query = {"fields": OBJECT_FIELDS, "ifGenerationMatch": str(made.get("generation", ""))}
        path = self._http.object_path(key)
        answer = self._http.send_json("PATCH", path, query, {"metadata": metadata})
        if answer.status != 200:
            raise self._http.object_error(answer, key)
        return json_of(answer)

    def _resource(self, key: str, fields: str) -> dict[str, Any]:
        answer = self._http.send("GET", self._http.object_path(key), {"fields": fields})
        if answer.status != 200:
            raise self._http.object_error(answer, key)
        return json_of(answer)

    def _check_name(self, key: str) -> None:
        """https://cloud.google.com/storage/docs/objects#naming"""
        try:
            size = len(key.encode())
        except UnicodeEncodeError as error:
            raise NameNotAllowed(f"{key!r}: only UTF-8 can be a name here") from error
        if not self._http.access.has_xml_api:
            return
        if size > _MAX_NAME_BYTES or key in (".", "..") or "\r" in key or "\n" in key:
            raise NameNotAllowed(f"gs:// can't have the name {key!r}")
        if key.startswith(".well-known/acme-challenge/"):
            raise NameNotAllowed(f"{key!r}: Google keeps this name for itself")

    def _look_first(self, key: str, expect: str | None) -> None:
        """Where the remote doesn't enforce `expect`: raises VersionChanged if it isn't met now."""
        if expect is None or self.capabilities.conditional_put:
            return
        try:
            found = self.head(key).version
        except NotFound:
            found = ABSENT
        if found != expect:
            raise VersionChanged(self._http.what(key))


def _condition(expect: str | None) -> dict[str, str]:
    return {} if expect is None else {"ifGenerationMatch": expect if expect != ABSENT else "0"}
