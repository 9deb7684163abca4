"""An S3 bucket as a `Provider`: conditional puts, deletes and copies.

Small files are one PUT and no other request: the ETag of its answer is the version, its Date the
mtime (a listing may say a second more or less). What is made in parts or copied costs requests
anyway, and one HEAD more tells what listings will show.
"""

import contextlib
import hashlib
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Self

from mountd.errors import (
    Corrupt,
    Denied,
    NotFound,
    RemoteError,
    Unreachable,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.base import ABSENT, Body, Capabilities, KeyLimit, Upload
from mountd.remotes.http_range import opaque_tag
from mountd.remotes.http_status import mtime_ns_of_http_date
from mountd.remotes.object_metadata import UPLOAD_ID, content_type_of, copied, metadata_of
from mountd.remotes.object_store import CAPABILITIES, FoundObject, ListedObject, ListPage
from mountd.remotes.obstore_puts import NotPut, ObstorePuts
from mountd.remotes.rest import RestAnswer
from mountd.remotes.s3_body_parts import Proofs
from mountd.remotes.s3_checksums import CHECKSUM_MODE, checksums_in_answer
from mountd.remotes.s3_delta import delta_parts
from mountd.remotes.s3_errors import error_code, s3_error, write_error
from mountd.remotes.s3_multipart import (
    COPY_BYTES_PER_S,
    MAX_OBJECT_BYTES,
    S3Multipart,
    Target,
)
from mountd.remotes.s3_part_sums import sum_from_parts
from mountd.remotes.s3_payload import HELD_BYTES, Digests, payload_of_part
from mountd.remotes.s3_probe import Proven, Prover
from mountd.remotes.s3_rest import META, S3Rest, attributes_in, metadata_in, object_of_head
from mountd.remotes.s3_xml import etag_in, mtime_ns_in

SINGLE_PUT_BYTES = HELD_BYTES
MAX_COPY_BYTES = 5 << 30  # by CopyObject
KEY_LIMIT = KeyLimit(1024)
_MD5_TAG = re.compile(r'"[0-9a-fA-F]{32}"')
_DIRECTORY_TYPE = "application/x-directory"
# What a copy loses with its old metadata, unless it is said again.
_COPIED_HEADERS = (
    *("content-type", "content-encoding", "content-language", "content-disposition"),
    *("cache-control", "expires"),
)


class S3Bucket:
    """A `Provider` for one bucket. The first write proves what the server enforces (`prover`).
    With `small_puts` what they take goes through them."""

    def __init__(self, rest: S3Rest, prover: Prover, small_puts: ObstorePuts | None = None) -> None:
        self._rest = rest
        self._prover = prover
        self._small_puts = small_puts
        self._told: tuple[Proven | None, Capabilities] | None = None
        self._multipart = S3Multipart(rest)

    @property
    def capabilities(self) -> Capabilities:
        known = self._prover.known
        if self._told is None or self._told[0] is not known:  # asked several times per upload
            self._told = known, capabilities_of(known, self._rest.place.is_aws)
        return self._told[1]

    @property
    def proven(self) -> Proven | None:
        """What was proved or remembered; None before the first write."""
        return self._prover.known

    def prepare_changes(self) -> None:
        self._prover.proven()

    def head(self, key: str) -> ListedObject:
        return self._rest.head(key)

    def list_page(self, prefix: str, delimiter: str, token: str, limit: int | None) -> ListPage:
        return self._rest.list_page(prefix, delimiter, token, limit)

    def identify(self, key: str) -> FoundObject:
        return self._found(key, self._rest.look(key))

    def checksums(self, key: str) -> FoundObject:
        try:
            answer = self._rest.look(key, CHECKSUM_MODE)
        except Denied:  # of an object that KMS encrypts it takes the right to decrypt
            answer = self._rest.look(key)
        found = self._found(key, answer)
        sums = checksums_in_answer(answer.header)
        return replace(found, sums=sums or sum_from_parts(self._rest, found.object, answer.header))

    def _found(self, key: str, answer: RestAnswer) -> FoundObject:
        found = object_of_head(key, answer)
        known = self._prover.known
        # Unproved, it may be no MD5; then it is equal to none.
        may_be_md5 = (known is None or known.etag_is_md5) and _is_md5(answer, found.version)
        md5 = found.version.strip('"').lower() if may_be_md5 else ""
        id_ = answer.header("x-amz-version-id")
        return FoundObject(
            found, answer.header(META + UPLOAD_ID), md5, "" if id_ == "null" else id_
        )

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> ListedObject:
        """Up to 16 MiB one PUT; beyond in parts, checked before the first and with Complete.

        Unsupported for a marker where it would become something else.
        """
        proven = self._prover.proven()
        if key.endswith("/") and not proven.keeps_markers:
            raise Unsupported(f"{self._rest.place.what} has no objects for directories")
        if body.size > SINGLE_PUT_BYTES:
            return self._put_parts(proven, key, body, expect, _recognisable(upload))
        may_be_there: NotPut | None = None
        try:
            if expect is not None and (made := self._put_small(proven, key, body, expect, upload)):
                return made
        except NotPut as error:
            may_be_there = error if error.may_be_there else None
        try:
            return self._put_whole(proven, key, body, expect, upload)
        except RemoteError as error:
            if may_be_there is None or isinstance(error, Unreachable):
                raise
            # It may be our own that is there now, or comes yet, whatever this answer says: only
            # who asks for the upload id knows.
            raise Unreachable(f"{key}: {may_be_there}; then {error}", answered=True) from error

    def _put_small(
        self, proven: Proven, key: str, body: Body, expect: str, upload: Upload
    ) -> ListedObject | None:
        """None where it can't go this way. Raises as `ObstorePuts.put`."""
        puts, metadata = self._small_puts, metadata_of(upload)
        is_enforced = proven.put_if_none_match if expect == ABSENT else proven.put_if_match
        if puts is None or not is_enforced or not proven.etag_is_md5:
            return None
        if not puts.takes(key, body.size, metadata):
            return None
        data = body.read(0, body.size)
        version = puts.put(key, data, expect, metadata, _type_of(key))
        made = ListedObject(key, body.size, time.time_ns() // 10**9 * 10**9, version)
        if not version:
            return self._as_listed(key, made, upload)
        md5 = hashlib.md5(data, usedforsecurity=False)
        if version.strip('"').lower() == md5.hexdigest():
            return made
        # An ETag of something encrypted is no MD5; only the headers say that, and obstore keeps
        # them to itself. The next ones go with Content-MD5.
        self._small_puts = None
        answer = self._rest.look(key)
        if opaque_tag(answer.header("etag")) == version:
            self._check_made(proven, key, answer, md5.digest())
        return made

    def _put_whole(
        self, proven: Proven, key: str, body: Body, expect: str | None, upload: Upload
    ) -> ListedObject:
        headers = headers_of(key, upload)
        digests = Digests(md5=True, sha256=self._rest.signs_bodies, crc32c=False)
        payload = payload_of_part(body, 0, body.size, digests)
        is_enforced = proven.put_if_none_match if expect == ABSENT else proven.put_if_match
        headers |= self._condition(key, expect, is_enforced)
        answer = self._rest.send("PUT", key, headers=headers, payload=payload)
        if answer.status >= 300:
            raise write_error(answer, self._rest.what(key), "If-Match" in headers)
        version = opaque_tag(answer.header("etag"))
        if not version:
            return self._as_listed(key, ListedObject(key, body.size, 0, ""), upload)
        self._check_made(proven, key, answer, payload.md5)
        return ListedObject(key, body.size, _mtime_ns(answer), version)

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
        """In parts, each sent or copied under a condition. Unsupported where the server doesn't
        enforce that: the source might change between two parts.

        The parts go while it is proved what the server enforces: before Complete they are nobody's.
        """
        if self._prover.known is None:
            self._prover.begin()
        else:
            self._proven_for_delta()
        parts = delta_parts(body.size, same)
        upload = _recognisable(upload)
        what = {
            "x-amz-copy-source": self._rest.copy_source(source),
            "x-amz-copy-source-if-match": version,
        }

        def condition() -> Mapping[str, str]:
            proven = self._proven_for_delta()
            return self._condition(key, expect, proven.completes_if(expect))

        def check_tag(answer: RestAnswer, md5: bytes) -> None:
            self._check_tag(self._prover.proven(), answer, md5)

        target = Target(key, body.size, headers_of(key, upload), condition, upload)
        made = self._multipart.put_delta(target, parts, body, check_tag, what)
        return self._as_listed(key, ListedObject(key, body.size, 0, made), upload)

    def _proven_for_delta(self) -> Proven:
        proven = self._prover.proven()
        if not proven.part_copy_source_if_match:
            raise Unsupported(f"{self._rest.place.what} does not copy parts of a certain version")
        return proven

    def abandon(self, key: str, token: str) -> None:
        self._multipart.abandon(key, token)

    def delete(self, key: str, expect: str | None) -> None:
        """One request where DELETE is conditional, else two: S3 doesn't say that nothing was
        there."""
        proven = self._prover.proven()
        headers: Mapping[str, str] = {}
        if expect and proven.delete_if_match:
            headers = {"If-Match": expect}
        else:
            found = self._rest.head(key)
            if expect is not None and found.version != expect:
                raise VersionChanged(f"{key} is {found.version} and not {expect or 'absent'}")
        answer = self._rest.send("DELETE", key, headers=headers)
        if answer.status >= 300:
            raise s3_error(answer, self._rest.what(key))

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
        """HEAD of the source (its size, and headers that would be lost), then the copy."""
        proven = self._prover.proven()
        if not proven.copies:
            raise Unsupported(f"{self._rest.place.what} does not copy objects")
        answer = other._rest.look(source)
        found = object_of_head(source, answer)
        if found.version != version:
            raise VersionChanged(f"{source} is {found.version} and not {version}")
        headers = {name: answer.header(name) for name in _COPIED_HEADERS if answer.header(name)}
        upload = _recognisable(upload)
        metadata = copied(metadata_in(answer), upload)
        headers |= _metadata_headers(metadata)
        what = {"x-amz-copy-source": other._rest.copy_source(source)}
        if proven.copy_source_if_match:
            what["x-amz-copy-source-if-match"] = version
        if found.size > MAX_COPY_BYTES:
            self._require(key, expect)
            target = self._target(proven, key, found.size, expect, upload, headers)
            tag = self._multipart.copy(target, what)
            return self._as_listed(key, ListedObject(key, found.size, 0, tag), upload)
        answer = self._copy_whole(proven, key, expect, found, {**headers, **what})
        mtime_ns, tag = mtime_ns_in(answer.body), etag_in(answer.body)
        made = ListedObject(key, found.size, mtime_ns, tag, attributes_in(metadata))
        return made if made.version and made.mtime_ns else self._as_listed(key, made, upload)

    def close(self) -> None:
        self._multipart.close()
        self._rest.close()

    def _put_parts(
        self,
        proven: Proven,
        key: str,
        body: Body,
        expect: str | None,
        upload: Upload,
    ) -> ListedObject:
        target = self._target(proven, key, body.size, expect, upload)
        version = self._multipart.put(
            target,
            body,
            partial(self._check_tag, proven),
            # Looks first, so that gigabytes aren't sent for nothing; Complete has the last word.
            partial(self._require, key, expect),
            Proofs(proven.checks_sha256, proven.checks_crc32c),
        )
        return self._as_listed(key, ListedObject(key, body.size, 0, version), upload)

    def _target(
        self,
        proven: Proven,
        key: str,
        size: int,
        expect: str | None,
        upload: Upload,
        headers: Mapping[str, str] | None = None,
    ) -> Target:
        enforced = proven.completes_if(expect)
        headers = headers_of(key, upload) if headers is None else headers
        return Target(key, size, headers, lambda: self._condition(key, expect, enforced), upload)

    def _copy_whole(
        self,
        proven: Proven,
        key: str,
        expect: str | None,
        found: ListedObject,
        headers: Mapping[str, str],
    ) -> RestAnswer:
        is_enforced = proven.copy_if_none_match if expect == ABSENT else proven.copy_if_match
        condition = self._condition(key, expect, is_enforced)
        replaced = {"x-amz-metadata-directive": "REPLACE"}
        timeout_s = self._rest.timeout_s + found.size / COPY_BYTES_PER_S
        answer = self._rest.send(
            "PUT", key, headers={**headers, **replaced, **condition}, timeout_s=timeout_s
        )
        if answer.status >= 300 or error_code(answer.body):
            error = s3_error(answer, self._rest.what(key))
            if isinstance(error, NotFound) and "If-Match" in condition:
                # Of the source or of the target? Only the source's absence is NotFound.
                self._rest.head(found.key)
                raise VersionChanged(*error.args)
            raise error
        return answer

    def _condition(self, key: str, expect: str | None, is_enforced: bool) -> dict[str, str]:
        """The header that makes a request conditional; where it would be ignored, a look instead,
        which raises VersionChanged."""
        if expect is not None and is_enforced:
            return {"If-None-Match": "*"} if expect == ABSENT else {"If-Match": expect}
        self._require(key, expect)
        return {}

    def _require(self, key: str, expect: str | None) -> None:
        if expect is None:
            return
        if expect == ABSENT:
            if not self._rest.is_absent(key):
                raise VersionChanged(f"{key} is there")
            return
        try:
            found = self._rest.head(key).version
        except NotFound as error:
            raise VersionChanged(f"{key} is gone") from error
        if found != expect:
            raise VersionChanged(f"{key} is {found} and not {expect}")

    def _as_listed(self, key: str, made: ListedObject, upload: Upload) -> ListedObject:
        """What listings show of an object just made, also where they show another version than
        the write told. If it can't be asked: it is there all the same."""
        with contextlib.suppress(RemoteError):
            found = self.identify(key)
            is_same = found.object.version == made.version
            is_ours = upload.upload_id and found.upload_id == upload.upload_id
            if is_same or (is_ours and found.object.size == made.size):
                return found.object
        if not made.version:
            raise Unreachable(f"{key}: it was made, but its version is not told", answered=True)
        return replace(made, mtime_ns=time.time_ns())

    def _check_tag(self, proven: Proven, answer: RestAnswer, md5: bytes) -> None:
        tag = opaque_tag(answer.header("etag"))
        if not proven.etag_is_md5 or not _is_md5(answer, tag):
            return
        if tag.strip('"').lower() != md5.hex():
            raise Corrupt(f"sent {md5.hex()}, and {tag} is there")

    def _check_made(self, proven: Proven, key: str, answer: RestAnswer, md5: bytes) -> None:
        """Corrupt for a wrong tag; then what arrived is gone."""
        try:
            self._check_tag(proven, answer, md5)
        except Corrupt:
            self._take_back(key, opaque_tag(answer.header("etag")))
            raise

    def _take_back(self, key: str, version: str) -> None:
        """Removes what arrived wrong, unless somebody has replaced it already. Best effort."""
        with contextlib.suppress(RemoteError):
            self.delete(key, version)


def capabilities_of(proven: Proven | None, assumed: bool = False) -> Capabilities:
    """`assumed`: whether conditions are believed in before they are proved."""
    puts = deletes = assumed
    if proven is not None:
        puts = proven.put_if_match and proven.put_if_none_match
        puts = puts and proven.complete_if_match and proven.complete_if_none_match
        deletes = proven.delete_if_match
    return replace(
        CAPABILITIES,
        conditional_put=puts,
        conditional_delete=deletes,
        server_copy=proven is None or proven.copies,
        put_delta=proven is None or proven.part_copy_source_if_match,
        keeps_attributes=True,
        max_put_bytes=MAX_OBJECT_BYTES,
        key_limit=KEY_LIMIT,
    )


def _recognisable(upload: Upload) -> Upload:
    """With an id, by which `_as_listed` finds it again on servers that tell no version of it, or
    another one than they show (`rclone serve s3` on Complete)."""
    return upload if upload.upload_id else replace(upload, upload_id=uuid.uuid4().hex)


def headers_of(key: str, upload: Upload) -> dict[str, str]:
    """The headers of a new object. Raises Unsupported for attributes that no header carries."""
    kind = _type_of(key)
    headers = _metadata_headers(metadata_of(upload))
    return headers | ({"Content-Type": kind} if kind else {})


def _type_of(key: str) -> str:
    return _DIRECTORY_TYPE if key.endswith("/") else content_type_of(key)


def _metadata_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    for name, value in metadata.items():
        if not (name + value).isascii() or not (name + value).isprintable():
            raise Unsupported(f"the attribute {name!r} is not plain ASCII")
    return {META + name: value for name, value in metadata.items()}


def _is_md5(answer: RestAnswer, tag: str) -> bool:
    """Whether a tag has the form of an MD5, and not that of an object encrypted by KMS or us."""
    is_encrypted = answer.header("x-amz-server-side-encryption").startswith("aws:kms")
    is_encrypted |= bool(answer.header("x-amz-server-side-encryption-customer-algorithm"))
    return not is_encrypted and _MD5_TAG.fullmatch(tag) is not None


def _mtime_ns(answer: RestAnswer) -> int:
    """By the server's clock, as listings have it."""
    return mtime_ns_of_http_date(answer.headers.get("date")) or time.time_ns()
