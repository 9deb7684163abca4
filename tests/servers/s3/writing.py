"""PutObject, CopyObject, DeleteObject and DeleteObjects. What is checked and what is done happen
in one turn of the loop, so a condition that held still holds."""

import time
from hashlib import blake2b
from xml.etree import ElementTree

from tests.servers.s3.bodies import Body
from tests.servers.s3.knobs import Effects
from tests.servers.s3.message import Request, Response, S3Error, decode_path
from tests.servers.s3.reading import check_read_conditions, etag_matches, precondition_failed
from tests.servers.s3.receivers import Received
from tests.servers.s3.service import Service
from tests.servers.s3.store import Bucket, StoredObject
from tests.servers.s3.xmltext import document, iso_date, malformed, parse, tag

MAX_KEY_BYTES = 1024
MAX_METADATA_BYTES = 2048
MAX_COPY = 5 * 2**30
MAX_DELETES = 1000
# A copy whose ETag must be an MD5 is hashed up to here; 1 GB/s would stall the loop on more.
MAX_HASHED_COPY = 64 * 2**20
_KEPT_HEADERS = {
    "cache-control": "Cache-Control",
    "content-disposition": "Content-Disposition",
    "content-encoding": "Content-Encoding",
    "content-language": "Content-Language",
    "content-type": "Content-Type",
    "expires": "Expires",
}


def object_headers(headers: dict[str, str]) -> dict[str, str]:
    """What a later GET sends back of a PUT's headers. Raises MetadataTooLarge."""
    kept = {"Content-Type": "binary/octet-stream"}
    metadata_size = 0
    for name, value in headers.items():
        if name.startswith("x-amz-meta-"):
            kept[name] = value
            metadata_size += len(name) - len("x-amz-meta-") + len(value)
        elif name in _KEPT_HEADERS:
            kept[_KEPT_HEADERS[name]] = value
    if metadata_size > MAX_METADATA_BYTES:
        raise S3Error(400, "MetadataTooLarge", "Your metadata headers exceed the maximum size")
    encoding = [
        each.strip() for each in kept.pop("Content-Encoding", "").split(",") if each.strip()
    ]
    if "aws-chunked" in encoding:
        encoding.remove("aws-chunked")
    if encoding:
        kept["Content-Encoding"] = ",".join(encoding)
    return kept


def check_key(key: str) -> None:
    if len(key.encode()) > MAX_KEY_BYTES:
        raise S3Error(400, "KeyTooLongError", "Your key is too long")


def check_write_conditions(
    headers: dict[str, str], bucket: Bucket, key: str, effects: Effects
) -> None:
    """Raises PreconditionFailed, or NoSuchKey for an If-Match on nothing, as S3 does."""
    if effects.ignore_conditionals:
        return
    none_match = headers.get("if-none-match")
    if none_match is not None:
        if none_match.strip() != "*":
            raise S3Error(
                501,
                "NotImplemented",
                "A header you provided implies functionality that is not implemented",
                {"Header": "If-None-Match"},
            )
        if bucket.get(key) is not None:
            raise precondition_failed("If-None-Match")
    match = headers.get("if-match")
    if match is not None and not etag_matches(match, bucket.require(key).etag):
        raise precondition_failed("If-Match")


def put_object(
    service: Service, request: Request, effects: Effects, received: Received
) -> Response:
    bucket = service.store.require(request.bucket)
    check_key(request.key)
    kept = object_headers(request.headers)
    check_write_conditions(request.headers, bucket, request.key, effects)
    stored = StoredObject(received.body, received.etag, time.time(), kept, received.checksums)
    bucket.put(request.key, stored)
    return Response(200, {"ETag": f'"{received.etag}"', **received.checksums})


def copy_source(service: Service, request: Request, effects: Effects) -> StoredObject:
    """The object that x-amz-copy-source names, if its conditions hold."""
    raw, _, version = request.headers["x-amz-copy-source"].partition("?versionId=")
    if version not in ("", "null"):
        raise S3Error(400, "InvalidArgument", "Invalid version id specified")
    bucket_name, slash, key = decode_path(raw).removeprefix("/").partition("/")
    if not slash or not key:
        raise S3Error(400, "InvalidArgument", "Copy Source must mention the source bucket and key")
    stored = service.store.require(bucket_name).require(key)
    if not effects.ignore_conditionals and not check_read_conditions(
        request.headers, stored, "x-amz-copy-source-"
    ):
        raise precondition_failed("x-amz-copy-source-If-None-Match")
    return stored


def copied_etag(body: Body, source: StoredObject, effects: Effects) -> str:
    """The MD5 of a copied body; for a large one something that only looks like it."""
    if body is source.body and "-" not in source.etag:
        return source.etag
    if effects.opaque_etag or body.size > MAX_HASHED_COPY:
        extents = [(offset, size) for _source, offset, size in body.extents]
        return blake2b(f"{source.etag}{extents}".encode(), digest_size=16).hexdigest()
    return body.md5_hex()


def copy_object(service: Service, request: Request, effects: Effects) -> Response:
    bucket = service.store.require(request.bucket)
    check_key(request.key)
    source = copy_source(service, request, effects)
    directive = request.headers.get("x-amz-metadata-directive", "COPY").upper()
    if directive not in ("COPY", "REPLACE"):
        raise S3Error(400, "InvalidArgument", "Unknown metadata directive.")
    if directive == "COPY" and bucket.get(request.key) is source:
        raise S3Error(
            400,
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself without "
            "changing the object's metadata",
        )
    if source.body.size > MAX_COPY:
        raise S3Error(
            400, "InvalidRequest", "The specified copy source is larger than the maximum allowable"
        )
    check_write_conditions(request.headers, bucket, request.key, effects)
    kept = source.headers if directive == "COPY" else object_headers(request.headers)
    etag = copied_etag(source.body, source, effects)
    checksums = {} if "-" in source.etag else source.checksums
    stored = StoredObject(source.body, etag, time.time(), kept, checksums)
    bucket.put(request.key, stored)
    inner = tag("LastModified", iso_date(int(stored.mtime_s))) + tag("ETag", f'"{etag}"')
    return document("CopyObjectResult", inner)


def delete_object(service: Service, request: Request, effects: Effects) -> Response:
    """204, also for a key that doesn't exist, unless If-Match says that it must."""
    bucket = service.store.require(request.bucket)
    match = request.headers.get("if-match")
    if (
        match is not None
        and not effects.ignore_conditionals
        and not etag_matches(match, bucket.require(request.key).etag)
    ):
        raise precondition_failed("If-Match")
    bucket.delete(request.key)
    return Response(204)


def delete_objects(
    service: Service, request: Request, effects: Effects, received: Received
) -> Response:
    bucket = service.store.require(request.bucket)
    if not received.promised:
        raise S3Error(
            400,
            "InvalidRequest",
            "Missing required header for this request: Content-MD5 OR x-amz-checksum-*",
        )
    asked = parse(received.body.read(), "Delete")
    items = asked.findall("Object")
    if not 0 < len(items) <= MAX_DELETES:
        raise malformed()
    quiet = (asked.findtext("Quiet") or "").strip() == "true"
    rows = [_delete_one(bucket, item, effects, quiet=quiet) for item in items]
    return document("DeleteResult", "".join(rows))


def _delete_one(bucket: Bucket, item: ElementTree.Element, effects: Effects, *, quiet: bool) -> str:
    key = item.findtext("Key")
    if not key:
        raise malformed()
    match = item.findtext("ETag")
    stored = bucket.get(key)
    if match is not None and not effects.ignore_conditionals:
        code = ""
        if stored is None:
            code = "NoSuchKey"
        elif not etag_matches(match, stored.etag):
            code = "PreconditionFailed"
        if code:
            return f"<Error>{tag('Key', key)}{tag('Code', code)}{tag('Message', code)}</Error>"
    bucket.delete(key)
    return "" if quiet else f"<Deleted>{tag('Key', key)}</Deleted>"
