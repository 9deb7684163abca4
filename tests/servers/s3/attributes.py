"""GetObjectAttributes: what is told of an object's parts, where their checksums were given."""

import base64

from tests.servers.s3.checksums import LEAD, MAKERS
from tests.servers.s3.knobs import Effects
from tests.servers.s3.message import Request, Response, S3Error
from tests.servers.s3.service import Service
from tests.servers.s3.xmltext import document, tag


def object_attributes(service: Service, request: Request, effects: Effects) -> Response:
    """ETag and ObjectParts, whatever is asked for of them."""
    stored = service.store.require(request.bucket).require(request.key)
    wanted = request.headers.get("x-amz-object-attributes", "").split(",")
    if not wanted or not {one.strip() for one in wanted} <= {"ETag", "ObjectParts"}:
        raise S3Error(501, "NotImplemented", "only ETag and ObjectParts in this test server")
    after = int(request.headers.get("x-amz-part-number-marker", "0"))
    limit = int(request.headers.get("x-amz-max-parts", "1000"))
    limit = min(limit, effects.page_size or 1000)
    kept = [name for name in stored.checksums if name in MAKERS]
    facts, start, count = "", 0, len(stored.part_sizes)
    for number, size in enumerate(stored.part_sizes, 1):
        if kept and after < number <= after + limit:
            part = tag("PartNumber", number) + tag("Size", size)
            for name in kept:
                digest = MAKERS[name]()
                digest.update(memoryview(stored.body.cut(start, start + size).read()))
                text = base64.b64encode(digest.digest()).decode()
                part += tag("Checksum" + name.removeprefix(LEAD).upper(), text)
            facts += f"<Part>{part}</Part>"
        start += size
    is_more = bool(kept) and after + limit < count
    facts += tag("PartsCount", count) + tag("IsTruncated", is_more)
    facts += tag("NextPartNumberMarker", min(after + limit, count)) + tag("MaxParts", limit)
    inner = tag("ETag", stored.etag)
    if count:
        inner += f"<ObjectParts>{facts}</ObjectParts>"
    return document("GetObjectAttributesResponse", inner)
