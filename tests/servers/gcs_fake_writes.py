"""The JSON API's writes, as documented: insert (multipart, resumable), rewrite, patch, delete.

Generation conditions are enforced, twice in a session: when it begins and when it ends. A sum that
comes with the bytes is compared. A file's bytes are never there in part.

https://cloud.google.com/storage/docs/performing-resumable-uploads
https://cloud.google.com/storage/docs/json_api/v1/objects/rewrite
"""

import json
import re
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.servers.gcs_fake_state import (
    FakeObject,
    FakeRequest,
    GcsFake,
    Refused,
    Session,
    resource_of,
    sum_of,
)

# A copy of more than this takes two requests, as one to another place does at Google.
REWRITE_BYTES = 1 << 20
_UNIT_BYTES = 256 << 10
_UPLOAD = "/upload/storage/v1/b/"
_OBJECTS = "/storage/v1/b/"
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_OWN_FIELDS = frozenset(
    ("name", "bucket", "size", "generation", "timeCreated", "crc32c", "md5Hash", "id", "etag")
)

Reply = tuple[int, Mapping[str, Any], Mapping[str, str]]


def change(fake: GcsFake, request: FakeRequest, data: bytes) -> Reply:
    """Status, JSON and headers. The caller holds the fake's lock. Raises Refused."""
    parts = urlsplit(request.target)
    query = {
        name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()
    }
    if fake.before_change is not None:
        meanwhile, fake.before_change = fake.before_change, None
        meanwhile()
    if fake.refuse is not None:
        refused, fake.refuse = fake.refuse, None
        raise refused
    prefix = _UPLOAD if parts.path.startswith(_UPLOAD) else _OBJECTS
    bucket, _, rest = parts.path.removeprefix(prefix).partition("/o")
    if unquote(bucket) != fake.bucket:
        raise Refused(404, "notFound", "The specified bucket does not exist.")
    if prefix == _UPLOAD:
        return _upload(fake, request, query, data)
    source, _, target = rest.removeprefix("/").partition("/rewriteTo/b/")
    if target:
        return _rewrite(fake, unquote(source), target, query, data)
    if request.method == "DELETE":
        return _delete(fake, unquote(source), query)
    raise Refused(405, "methodNotAllowed")


def _upload(fake: GcsFake, request: FakeRequest, query: Mapping[str, str], data: bytes) -> Reply:
    session = query.get("upload_id", "")
    if session:
        if session not in fake.sessions:
            raise Refused(404, "notFound", "no such session")
        if request.method == "DELETE":
            del fake.sessions[session]
            return 499, {}, {}
        return _continue(fake, session, request, data)
    if query.get("uploadType") == "resumable":
        return _begin(fake, query, data)
    resource, content = _parts(request.headers["content-type"], data)
    key = str(resource["name"])
    _check(fake, key, query)
    return 200, _make(fake, key, content, resource, str(resource.get("crc32c", ""))), {}


def _begin(fake: GcsFake, query: Mapping[str, str], data: bytes) -> Reply:
    resource = json.loads(data)
    key = str(resource["name"])
    _check(fake, key, query)
    name = secrets.token_hex(8)
    fake.sessions[name] = Session(key, query, resource)
    # Another host than ours may be said; the path is what counts.
    place = f"https://storage.googleapis.com{_UPLOAD}{fake.bucket}/o?upload_id={name}"
    return 200, {}, {"Location": place}


def keep_part(fake: GcsFake, request: FakeRequest, data: bytes) -> None:
    """What a session keeps of a part whose connection was cut: whole units."""
    name = parse_qs(urlsplit(request.target).query)["upload_id"][0]
    match = _CONTENT_RANGE.fullmatch(request.headers["content-range"])
    assert match is not None
    session = fake.sessions[name]
    session.data[int(match[1]) :] = data[: len(data) // _UNIT_BYTES * _UNIT_BYTES]


def _continue(fake: GcsFake, name: str, request: FakeRequest, data: bytes) -> Reply:
    session = fake.sessions[name]
    place = request.headers.get("content-range", "")
    if place.startswith("bytes */"):
        return 308, {}, _kept(session)
    match = _CONTENT_RANGE.fullmatch(place)
    if match is None:
        raise Refused(400, "invalid", "no Content-Range")
    start, end, total = int(match[1]), int(match[2]) + 1, int(match[3])
    if end - start != len(data) or start > len(session.data):
        raise Refused(400, "invalid", "the range is not that of the bytes")
    is_last = end == total
    if not is_last and len(data) % _UNIT_BYTES:
        raise Refused(400, "invalid", "a part must be a multiple of 256 KiB")
    if fake.keep_bytes is not None:
        data, fake.keep_bytes, is_last = data[: fake.keep_bytes], None, False
    session.data[start:] = data
    if not is_last:
        return 308, {}, _kept(session)
    _check(fake, session.key, session.query)
    claimed = request.headers.get("x-goog-hash", "").removeprefix("crc32c=")
    made = _make(fake, session.key, bytes(session.data), session.resource, claimed)
    del fake.sessions[name]
    return 200, made, {}


def _kept(session: Session) -> dict[str, str]:
    return {"Range": f"bytes=0-{len(session.data) - 1}"} if session.data else {}


def _make(
    fake: GcsFake, key: str, content: bytes, resource: Mapping[str, Any], claimed: str
) -> dict[str, Any]:
    if fake.spoil and content:
        content = bytes([content[0] ^ 1]) + content[1:]
    if claimed and claimed != sum_of(content) and not fake.blind:
        text = f"Provided CRC32C '{claimed}' doesn't match calculated CRC32C '{sum_of(content)}'."
        raise Refused(400, "invalid", text)
    kept = {name: value for name, value in resource.items() if name not in _OWN_FIELDS}
    kept.setdefault("contentType", "application/octet-stream")
    return resource_of(key, fake.put(key, content, kept))


def _delete(fake: GcsFake, key: str, query: Mapping[str, str]) -> Reply:
    _there(fake, key)
    _check(fake, key, query)
    fake.remove(key)
    return 204, {}, {}


def _rewrite(
    fake: GcsFake, source: str, target: str, query: Mapping[str, str], data: bytes
) -> Reply:
    bucket, _, key = target.partition("/o/")
    if unquote(bucket) != fake.bucket:
        raise Refused(404, "notFound")
    key = unquote(key)
    found = _there(fake, source)
    if query.get("ifSourceGenerationMatch") not in (None, str(found.generation)):
        raise Refused(412, "conditionNotMet")
    _check(fake, key, query)
    if len(found.data) > REWRITE_BYTES and not query.get("rewriteToken"):
        return 200, {"done": False, "rewriteToken": "the next step"}, {}
    # What is given replaces all of what the source has.
    resource = json.loads(data) if data else found.resource
    made = _make(fake, key, found.data, resource, "")
    return 200, {"done": True, "resource": made}, {}


def _there(fake: GcsFake, key: str) -> FakeObject:
    if key not in fake.objects:
        raise Refused(404, "notFound", "No such object")
    return fake.objects[key]


def _check(fake: GcsFake, key: str, query: Mapping[str, str]) -> None:
    if not 0 < len(key.encode()) <= 1024 or "\r" in key or "\n" in key:
        raise Refused(400, "invalid", "Disallowed unicode characters present in object name")
    if "ifGenerationMatch" not in query:
        return
    wanted = int(query["ifGenerationMatch"])
    found = fake.objects[key].generation if key in fake.objects else 0
    if found != wanted:
        raise Refused(412, "conditionNotMet", "a condition you specified did not hold")


def _parts(content_type: str, data: bytes) -> tuple[dict[str, Any], bytes]:
    """The resource and the bytes of a multipart/related body."""
    boundary = content_type.partition("boundary=")[2].encode()
    if not content_type.startswith("multipart/related") or not boundary:
        raise Refused(400, "badContent")
    begin, end = b"--" + boundary + b"\r\n", b"\r\n--" + boundary + b"--\r\n"
    if not data.startswith(begin) or not data.endswith(end):
        raise Refused(400, "parseError", "the body is not whole")
    first, _, second = data[len(begin) : -len(end)].partition(b"\r\n" + begin)
    resource = json.loads(first.partition(b"\r\n\r\n")[2])
    return resource, second.partition(b"\r\n\r\n")[2]
