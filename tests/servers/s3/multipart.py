"""Multipart uploads: parts may be sent or copied, and come together by sharing their extents."""

import os
import time
from hashlib import md5
from xml.etree import ElementTree

from tests.servers.s3.bodies import join_bodies
from tests.servers.s3.checksums import LEAD, MAKERS, composite
from tests.servers.s3.knobs import Effects
from tests.servers.s3.listing import OWNER, Encoder
from tests.servers.s3.message import Request, Response, S3Error
from tests.servers.s3.reading import resolve_range
from tests.servers.s3.receivers import Received
from tests.servers.s3.service import Service
from tests.servers.s3.store import Bucket, Part, StoredObject, Upload
from tests.servers.s3.writing import (
    MAX_COPY,
    check_key,
    check_write_conditions,
    copied_etag,
    copy_source,
    object_headers,
)
from tests.servers.s3.xmltext import document, iso_date, malformed, parse, tag

MIN_PART = 5 * 2**20
MAX_PART_NUMBER = 10_000
MAX_LISTED = 1000


def create_upload(service: Service, request: Request) -> Response:
    bucket = service.store.require(request.bucket)
    check_key(request.key)
    upload = Upload(
        os.urandom(16).hex(),
        request.key,
        time.time(),
        object_headers(request.headers),
        request.headers.get("x-amz-checksum-algorithm", "").lower(),
        request.headers.get("x-amz-checksum-type", "COMPOSITE").upper() == "COMPOSITE",
    )
    bucket.uploads[upload.upload_id] = upload
    inner = tag("Bucket", bucket.name) + tag("Key", request.key)
    response = document("InitiateMultipartUploadResult", inner + tag("UploadId", upload.upload_id))
    for name in ("x-amz-checksum-algorithm", "x-amz-checksum-type"):
        if name in request.headers:
            response.headers[name] = request.headers[name]
    return response


def require_upload(service: Service, request: Request) -> tuple[Bucket, Upload]:
    """Raises NoSuchBucket or NoSuchUpload."""
    bucket = service.store.require(request.bucket)
    upload = bucket.uploads.get(request.query["uploadId"])
    if upload is None or upload.key != request.key:
        raise S3Error(
            404,
            "NoSuchUpload",
            "The specified upload does not exist. The upload ID may be invalid, or the upload may "
            "have been aborted or completed.",
            {"UploadId": request.query["uploadId"]},
        )
    return bucket, upload


def part_number(request: Request) -> int:
    text = request.query.get("partNumber", "")
    if not text.isdecimal() or not 1 <= int(text) <= MAX_PART_NUMBER:
        raise S3Error(
            400,
            "InvalidArgument",
            "Part number must be an integer between 1 and 10000, inclusive",
            {"ArgumentName": "partNumber", "ArgumentValue": text},
        )
    return int(text)


def upload_part(
    service: Service, request: Request, effects: Effects, received: Received
) -> Response:
    _bucket, upload = require_upload(service, request)
    _check_algorithm(upload, request, received)
    part = Part(received.body, received.etag, time.time(), received.checksums)
    upload.parts[part_number(request)] = part
    return Response(200, {"ETag": f'"{received.etag}"', **received.checksums})


def _check_algorithm(upload: Upload, request: Request, received: Received) -> None:
    """A part has the checksum that its upload was begun for, and no other."""
    named = {f"{LEAD}{each}" for each in ("crc32", "crc32c", "crc64nvme", "sha1", "sha256")}
    given = {name.removeprefix(LEAD) for name in named & (request.headers.keys())}
    given |= {name.removeprefix(LEAD) for name in received.checksums}
    actual = next(iter(given), "")
    is_missing = upload.algorithm and upload.is_composite and not actual
    if is_missing or (actual and actual != upload.algorithm):
        raise S3Error(
            400,
            "InvalidRequest",
            "Checksum Type mismatch occurred, expected checksum Type: "
            f"{upload.algorithm or 'null'}, actual checksum Type: {actual or 'null'}",
        )


def upload_part_copy(service: Service, request: Request, effects: Effects) -> Response:
    _bucket, upload = require_upload(service, request)
    number = part_number(request)
    source = copy_source(service, request, effects)
    body = source.body
    text = request.headers.get("x-amz-copy-source-range")
    if text is not None:
        body = body.cut(*_copy_range(text, body.size))
    if body.size > MAX_COPY:
        raise S3Error(
            400, "InvalidRequest", "The specified copy source is larger than the maximum allowable"
        )
    part = Part(body, copied_etag(body, source, effects), time.time(), {})
    upload.parts[number] = part
    inner = tag("LastModified", iso_date(int(part.mtime_s))) + tag("ETag", f'"{part.etag}"')
    return document("CopyPartResult", inner)


def _copy_range(text: str, size: int) -> tuple[int, int]:
    """Unlike Range this must be `bytes=first-last`, and all of it must exist."""
    first, dash, last = text.removeprefix("bytes=").partition("-")
    whole = text.startswith("bytes=") and dash and first.isdecimal() and last.isdecimal()
    if not whole or resolve_range(f"bytes={first}-{last}", size) is None:
        raise S3Error(
            400,
            "InvalidArgument",
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first "
            "and last are the zero-based offsets of the first and last bytes to copy",
        )
    if int(last) >= size:
        raise S3Error(
            400,
            "InvalidArgument",
            f"Range specified is not valid for source object of size: {size}",
        )
    return int(first), int(last) + 1


def abort_upload(service: Service, request: Request, effects: Effects) -> Response:
    bucket, upload = require_upload(service, request)
    del bucket.uploads[upload.upload_id]
    return Response(204)


def complete_upload(
    service: Service, request: Request, effects: Effects, received: Received
) -> Response:
    """Once done, the upload is gone: a second Complete is NoSuchUpload."""
    asked = parse(received.body.read(), "CompleteMultipartUpload").findall("Part")
    if not asked:
        raise malformed()
    bucket, upload = require_upload(service, request)
    parts = _chosen_parts(upload, asked)
    if not effects.small_parts:
        for part in parts[:-1]:
            if part.body.size < MIN_PART:
                raise S3Error(
                    400,
                    "EntityTooSmall",
                    "Your proposed upload is smaller than the minimum allowed size",
                    {"ProposedSize": str(part.body.size), "MinSizeAllowed": str(MIN_PART)},
                )
    body = join_bodies([part.body for part in parts])
    claimed = request.headers.get("x-amz-mp-object-size")
    if claimed is not None and claimed != str(body.size):
        raise S3Error(400, "InvalidRequest", "The provided x-amz-mp-object-size does not match")
    check_write_conditions(request.headers, bucket, request.key, effects)
    digests = b"".join(bytes.fromhex(part.etag) for part in parts)
    etag = f"{md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"
    bucket.put(
        request.key,
        StoredObject(
            body,
            etag,
            time.time(),
            upload.headers,
            _composite_checksums(parts),
            tuple(part.body.size for part in parts),
        ),
    )
    del bucket.uploads[upload.upload_id]
    inner = tag("Location", request.raw_path) + tag("Bucket", bucket.name)
    inner += tag("Key", request.key) + tag("ETag", f'"{etag}"')
    return document("CompleteMultipartUploadResult", inner)


def _chosen_parts(upload: Upload, asked: list[ElementTree.Element]) -> list[Part]:
    """The named parts in ascending order. Raises InvalidPartOrder or InvalidPart."""
    parts: list[Part] = []
    last = 0
    for element in asked:
        text = element.findtext("PartNumber") or ""
        etag = (element.findtext("ETag") or "").strip().strip('"')
        if not text.strip().isdecimal() or not etag:
            raise malformed()
        number = int(text)
        if number <= last:
            raise S3Error(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
        last = number
        part = upload.parts.get(number)
        if upload.algorithm and upload.is_composite:
            _require_checksum(upload.algorithm, element, number)
        if part is None or part.etag != etag or not _checksums_agree(part, element):
            raise S3Error(
                400,
                "InvalidPart",
                "One or more of the specified parts could not be found.",
                {"PartNumber": str(number), "ETag": etag},
            )
        parts.append(part)
    return parts


def _require_checksum(algorithm: str, element: ElementTree.Element, number: int) -> None:
    if element.findtext(f"Checksum{algorithm.upper()}") is None:
        raise S3Error(
            400,
            "InvalidRequest",
            f"The upload was created using a {algorithm} checksum. The complete request must "
            "include the checksum for each part. It was missing for part "
            f"{number} in the request.",
        )


def _checksums_agree(part: Part, element: ElementTree.Element) -> bool:
    for name, value in part.checksums.items():
        claimed = element.findtext("Checksum" + name.removeprefix(LEAD).upper())
        if claimed is not None and claimed != value:
            return False
    return True


def _composite_checksums(parts: list[Part]) -> dict[str, str]:
    for name in MAKERS:
        values = [part.checksums[name] for part in parts if name in part.checksums]
        if len(values) == len(parts):
            return {name: composite(name, values), "x-amz-checksum-type": "COMPOSITE"}
    return {}


def _number(request: Request, name: str, default: int) -> int:
    text = request.query.get(name, "") or str(default)
    if not text.isdecimal():
        raise S3Error(400, "InvalidArgument", f"Provided {name} not an integer or within range")
    return int(text)


def list_parts(service: Service, request: Request, effects: Effects) -> Response:
    bucket, upload = require_upload(service, request)
    after = _number(request, "part-number-marker", 0)
    limit = min(_number(request, "max-parts", MAX_LISTED), MAX_LISTED)
    limit = min(limit, effects.page_size or MAX_LISTED)
    numbers = [number for number in sorted(upload.parts) if number > after]
    shown = numbers[:limit]
    inner = tag("Bucket", bucket.name) + tag("Key", upload.key)
    inner += tag("UploadId", upload.upload_id) + tag("PartNumberMarker", after)
    inner += tag("NextPartNumberMarker", shown[-1] if shown else 0) + tag("MaxParts", limit)
    inner += tag("IsTruncated", len(numbers) > len(shown))
    for number in shown:
        part = upload.parts[number]
        facts = tag("PartNumber", number) + tag("LastModified", iso_date(int(part.mtime_s)))
        facts += tag("ETag", f'"{part.etag}"') + tag("Size", part.body.size)
        inner += f"<Part>{facts}</Part>"
    return document("ListPartsResult", inner + OWNER + tag("StorageClass", "STANDARD"))


def list_uploads(service: Service, request: Request, effects: Effects) -> Response:
    query = request.query
    bucket = service.store.require(request.bucket)
    if query.get("delimiter"):
        raise S3Error(501, "NotImplemented", "no delimiter for uploads in this test server")
    encode = Encoder(url=query.get("encoding-type") == "url")
    prefix, after = query.get("prefix", ""), query.get("key-marker", "")
    after_id = query.get("upload-id-marker", "")
    limit = min(_number(request, "max-uploads", MAX_LISTED), MAX_LISTED)
    limit = min(limit, effects.page_size or MAX_LISTED)
    uploads = sorted(
        (
            upload
            for upload in bucket.uploads.values()
            if upload.key.startswith(prefix)
            and (upload.key > after or (after_id and _slot(upload) > (after, after_id)))
        ),
        key=_slot,
    )
    shown = uploads[:limit]
    inner = tag("Bucket", bucket.name) + f"<KeyMarker>{encode(after)}</KeyMarker>"
    inner += tag("UploadIdMarker", after_id)
    if len(uploads) > len(shown) and shown:
        inner += f"<NextKeyMarker>{encode(shown[-1].key)}</NextKeyMarker>"
        inner += tag("NextUploadIdMarker", shown[-1].upload_id)
    inner += f"<Prefix>{encode(prefix)}</Prefix>" + tag("MaxUploads", limit)
    if query.get("encoding-type") == "url":
        inner += tag("EncodingType", "url")
    inner += tag("IsTruncated", len(uploads) > len(shown))
    for upload in shown:
        facts = f"<Key>{encode(upload.key)}</Key>" + tag("UploadId", upload.upload_id)
        facts += OWNER + tag("StorageClass", "STANDARD")
        inner += f"<Upload>{facts}{tag('Initiated', iso_date(int(upload.initiated_s)))}</Upload>"
    return document("ListMultipartUploadsResult", inner)


def _slot(upload: Upload) -> tuple[str, str]:
    return upload.key, upload.upload_id
