"""Multipart uploads that are begun, gone on with, or ended: all but their parts and Complete.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListParts.html
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mountd.errors import Corrupt, RemoteError, Throttled, Unreachable
from mountd.remotes.http_range import opaque_tag
from mountd.remotes.rest import RestAnswer
from mountd.remotes.s3_errors import error_code, write_error
from mountd.remotes.s3_rest import S3Rest
from mountd.remotes.s3_xml import parts_in, upload_id_in

logger = logging.getLogger(__name__)

_LEAD = "s3-parts "
_LEAD_CRC32C = "s3-parts-crc32c "
BY_CRC32C: Mapping[str, str] = MappingProxyType({"x-amz-checksum-algorithm": "CRC32C"})

# By part number: its size, and its ETag.
Parts = Mapping[int, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Begun:
    """`by_crc32c`: each part, and Complete, must say it (AWS refuses them without, and refuses it
    of any other upload). `there`: of the upload that is gone on with."""

    upload_id: str
    by_crc32c: bool = False
    there: Parts = field(default_factory=dict)

    @property
    def token(self) -> str:
        return (_LEAD_CRC32C if self.by_crc32c else _LEAD) + self.upload_id


def begun_of(token: str) -> Begun:
    """The opposite of `Begun.token`; without an id for any other text."""
    for lead in (_LEAD, _LEAD_CRC32C):
        if token.startswith(lead):
            return Begun(token.removeprefix(lead), lead == _LEAD_CRC32C)
    return Begun("")


class S3Uploads:
    """Thread-safe."""

    def __init__(self, rest: S3Rest) -> None:
        self._rest = rest

    def create(self, key: str, headers: Mapping[str, str], *, by_crc32c: bool = False) -> Begun:
        """A new upload."""
        headers = {**headers, **BY_CRC32C} if by_crc32c else headers
        answer = self._rest.send("POST", key, {"uploads": ""}, headers)
        if answer.status >= 300:
            raise self._error(answer, key)
        return Begun(upload_id_in(answer.body), by_crc32c)

    def parts(self, key: str, upload_id: str) -> Parts | None:
        """What is there of an upload. None where there is no such upload any more, and where it
        can't be listed: then it is ended, if we may. Raises Unreachable and Throttled."""
        try:
            return self._listed(key, upload_id)
        except (Unreachable, Throttled):
            raise
        except RemoteError:  # a right that is missing, or a server that doesn't know the request
            self.give_up(key, upload_id)
            return None

    def give_up(self, key: str, upload_id: str) -> None:
        """As `abort`; where we may not, it stays there. Raises Unreachable and Throttled."""
        try:
            self.abort(key, upload_id)
        except (Unreachable, Throttled):
            raise
        except RemoteError as error:
            logger.info("an unfinished upload of %r stays on the remote: %s", key, error)

    def abort(self, key: str, upload_id: str) -> None:
        """Ends it, with its parts. It may be gone already. Raises as any request."""
        if not upload_id:
            return  # without an id the request would delete the object
        answer = self._rest.send("DELETE", key, {"uploadId": upload_id})
        if answer.status >= 300 and not _is_gone(answer):
            raise self._error(answer, key)

    def _listed(self, key: str, upload_id: str) -> Parts | None:
        found: dict[int, tuple[int, str]] = {}
        after = 0
        while True:
            query = {"uploadId": upload_id}
            if after:
                query["part-number-marker"] = str(after)
            answer = self._rest.send("GET", key, query)
            if _is_gone(answer):
                return None
            if answer.status != 200:
                raise self._error(answer, key)
            page, following = parts_in(answer.body)
            found |= page
            if not following:
                return found
            if following <= after:
                raise Corrupt(f"{self._rest.what(key)}: a list of parts that doesn't go on")
            after = following

    def _error(self, answer: RestAnswer, key: str) -> RemoteError:
        return write_error(answer, self._rest.what(key), False)


def _is_gone(answer: RestAnswer) -> bool:
    """Whether the server says that there is no such upload (some say so without a code)."""
    return answer.status == 404 and error_code(answer.body) != "NoSuchBucket"


def is_there(parts: Parts, number: int, size: int, md5: bytes) -> str:
    """The ETag of a part that has these bytes, or "". An ETag that is no MD5 proves nothing."""
    found_size, tag = parts.get(number, (0, ""))
    is_same = found_size == size and tag.strip('"').lower() == md5.hex()
    return opaque_tag(tag) if is_same else ""
