"""GetObject and HeadObject: conditions, then the range, then the body."""

import re

from tests.servers.s3.knobs import Effects
from tests.servers.s3.message import Request, Response, S3Error, http_date, parse_http_date
from tests.servers.s3.store import Bucket, StoredObject

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def etag_matches(condition: str, etag: str) -> bool:
    """Whether an If-Match or If-None-Match value names this ETag; quotes don't matter, as in S3."""
    if condition.strip() == "*":
        return True
    return any(each.strip().removeprefix("W/").strip('"') == etag for each in condition.split(","))


def precondition_failed(condition: str) -> S3Error:
    return S3Error(
        412,
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold",
        {"Condition": condition},
    )


def check_read_conditions(headers: dict[str, str], stored: StoredObject, lead: str = "") -> bool:
    """True if the object is to be sent, False if it is 304. Raises PreconditionFailed.

    If-Match that holds switches If-Unmodified-Since off, and If-None-Match switches
    If-Modified-Since off (RFC 9110, 13.2.2). `lead` is "x-amz-copy-source-" for copies.
    """
    # S3 compares whole seconds: dates have no more.
    mtime_s = int(stored.mtime_s)
    match = headers.get(lead + "if-match")
    if match is not None:
        if not etag_matches(match, stored.etag):
            raise precondition_failed("If-Match")
    else:
        unmodified = parse_http_date(headers.get(lead + "if-unmodified-since", ""))
        if unmodified is not None and mtime_s > unmodified:
            raise precondition_failed("If-Unmodified-Since")
    none_match = headers.get(lead + "if-none-match")
    if none_match is not None:
        return not etag_matches(none_match, stored.etag)
    modified = parse_http_date(headers.get(lead + "if-modified-since", ""))
    return modified is None or mtime_s > modified


def resolve_range(text: str, size: int) -> tuple[int, int] | None:
    """[start, end) of a Range header; None for one that S3 ignores. Raises InvalidRange."""
    match = _RANGE.fullmatch(text.replace(" ", ""))
    if match is None:
        return None
    first, last = match.groups()
    if first:
        start = int(first)
        if last and int(last) < start:
            return None
        end = min(int(last) + 1, size) if last else size
    elif last:
        start, end = max(0, size - int(last)), size
    else:
        return None
    if start >= size or start == end:
        error = S3Error(
            416,
            "InvalidRange",
            "The requested range is not satisfiable",
            {"ActualObjectSize": str(size), "RangeRequested": text},
        )
        error.headers["Content-Range"] = f"bytes */{size}"
        raise error
    return start, end


def read_object(bucket: Bucket, request: Request, effects: Effects) -> Response:
    """Answers GET and HEAD; the connection leaves the body out for HEAD."""
    stored = bucket.require(request.key)
    headers = request.headers
    answer = {"ETag": f'"{stored.etag}"', "Last-Modified": http_date(int(stored.mtime_s))}
    if not effects.ignore_conditionals and not check_read_conditions(headers, stored):
        return Response(304, answer)
    if "partNumber" in request.query:
        raise S3Error(501, "NotImplemented", "partNumber is not implemented by this test server")
    answer["Accept-Ranges"] = "bytes"
    answer.update(stored.headers)
    size = stored.body.size
    text = "" if effects.ignore_range else headers.get("range", "")
    span = resolve_range(text, size) if text else None
    if span is None:
        if headers.get("x-amz-checksum-mode", "").upper() == "ENABLED":
            answer.update(stored.checksums)
        return Response(200, answer, stored.body)
    start, end = span
    answer["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    response = Response(206, answer, stored.body.cut(start, end))
    response.start = start
    return response
