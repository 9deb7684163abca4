"""POST /remote.php/dav/bulk: many files in one multipart/related body.

Read as strictly as Nextcloud reads it: CRLF everywhere, Content-Length and X-File-MD5 or
OC-Checksum (which is then the one that counts) in each part, the last boundary followed by CRLF. A
part that can't be read ends it with a 400 and what is written so far; a part that can't be written
is an entry with `error` in a 200, but for a name like `x.part`, which makes it all a 500 after the
parts before it were written.
"""

import hashlib
import json
from typing import Any

from tests.servers.nextcloud.mtimes import sane_mtime
from tests.servers.nextcloud.names import check_new_name, normal
from tests.servers.nextcloud.permissions import (
    check_quota,
    check_unlocked,
    need,
    permissions,
)
from tests.servers.nextcloud.properties import oc_id
from tests.servers.nextcloud.refusals import refused
from tests.servers.nextcloud.service import Account, Service
from tests.servers.s3.bodies import body_of_bytes
from tests.servers.s3.message import Request, Response, S3Error


class _BadPart(Exception):
    """The body can't be read on from here."""


def bulk(service: Service, account: Account, request: Request, body: bytes) -> Response:
    boundary = _boundary(request.headers.get("content-type", ""))
    reader = _Parts(body, boundary)
    written: dict[str, Any] = {}
    status = 200
    while not reader.is_at_end():
        try:
            headers, content = reader.next_part()
        except _BadPart:
            status = 400
            break
        path = headers.get("x-file-path", "")
        if path.lower().endswith((".part", ".filepart")):
            raise refused(500, "Call to a member function getETag() on null", "Error")
        try:
            written[path] = _write(service, account, path, headers, content)
        except S3Error as error:
            written[path] = {"error": True, "message": error.message}
    # PHP writes an empty array for an empty map.
    text = json.dumps(written or [])
    return Response(status, {"Content-Type": "text/html; charset=UTF-8"}, text.encode())


def _boundary(content_type: str) -> bytes:
    kind, _, parameter = content_type.partition(";")
    name, _, value = parameter.partition("=")
    if kind.strip() != "multipart/related" or name.strip() != "boundary":
        raise refused(400, "Content-Type must be multipart/related")
    return value.strip().strip('"').encode("latin-1")


class _Parts:
    def __init__(self, body: bytes, boundary: bytes) -> None:
        self._body = body
        self._at = 0
        self._begin = b"--" + boundary + b"\r\n"
        self._end = b"--" + boundary + b"--\r\n"

    def is_at_end(self) -> bool:
        return self._body.startswith(self._end, self._at)

    def next_part(self) -> tuple[dict[str, str], bytes]:
        if not self._body.startswith(self._begin, self._at):
            raise _BadPart("Boundary not found where it should be.")
        start = self._at + len(self._begin)
        blank = self._body.find(b"\r\n\r\n", start)
        if blank < 0:
            raise _BadPart("An error occurred while reading headers of a part")
        headers: dict[str, str] = {}
        for line in self._body[start:blank].decode("utf-8", "replace").split("\r\n"):
            name, colon, value = line.partition(":")
            if not colon:
                raise _BadPart("An error occurred while reading headers of a part")
            headers[name.strip().lower()] = value.strip()
        length = headers.get("content-length", "")
        promised = headers.get("oc-checksum") or f"md5:{headers.get('x-file-md5', '')}"
        if not length.isdecimal() or promised == "md5:":
            raise _BadPart("Content-Length and a checksum must be there")
        start = blank + 4
        content = self._body[start : start + int(length)]
        _check_hash(content, promised)
        self._at = start + int(length) + 2
        return headers, content


def _check_hash(content: bytes, promised: str) -> None:
    algorithm, _, digest = promised.partition(":")
    name = algorithm.lower()
    if name not in ("md5", "sha1", "sha256"):
        raise _BadPart(f"{algorithm} is unknown")
    if hashlib.new(name, content, usedforsecurity=False).hexdigest() != digest:
        raise _BadPart(f"Computed {name} hash is incorrect.")


def _write(
    service: Service, account: Account, path: str, headers: dict[str, str], content: bytes
) -> dict[str, Any]:
    """Like a PUT without conditions: what was there is overwritten."""
    tree = account.tree
    where = normal(path.replace("\\", "/").strip("/"))
    parent, name = tree.parent_of(where)
    existing = parent.entries().get(name)
    if existing is None:
        check_new_name(name, service.settings)
        need(service, parent, "C")
    else:
        need(service, existing, "W")
        check_unlocked(existing, account.user)
    check_quota(service, account.user, len(content))
    mtime = headers.get("x-file-mtime") or headers.get("x-oc-mtime")
    mtime_s = None if mtime is None else sane_mtime(mtime)
    uploaded_s = 0 if existing is None else existing.uploaded_s
    node = tree.write(parent, name, body_of_bytes(content), mtime_s)
    node.uploaded_s = uploaded_s
    service.announce(account.user, [node.id])
    return {
        "error": False,
        "etag": node.etag,
        "fileid": oc_id(node),
        "permissions": permissions(service, node),
    }
