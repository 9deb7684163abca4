"""The small XML of S3's writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from xml.sax.saxutils import escape

from mountd.errors import Corrupt
from mountd.remotes.http_range import opaque_tag
from mountd.remotes.object_metadata import ns_of_datetime
from mountd.remotes.untrusted import size_in, time_in
from mountd.remotes.xml_pages import children, parse_xml, texts

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass(frozen=True, slots=True)
class MadePart:
    """`crc32c`: as its request said it, where its upload was begun for that; else ""."""

    tag: str
    crc32c: str = ""


def complete_body(made: Sequence[MadePart]) -> bytes:
    """The body of CompleteMultipartUpload for the parts 1, 2, ..."""
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(part.tag)}</ETag>"
        f"{f'<ChecksumCRC32C>{part.crc32c}</ChecksumCRC32C>' if part.crc32c else ''}</Part>"
        for number, part in enumerate(made, 1)
    )
    text = f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">{parts}</CompleteMultipartUpload>'
    return text.encode()


def upload_id_in(body: bytes) -> str:
    """Raises Corrupt where CreateMultipartUpload's answer has none."""
    found = _result(body).get("UploadId", "")
    if not found:
        raise Corrupt("an upload in parts without an UploadId")
    return found


def parts_in(body: bytes) -> tuple[dict[int, tuple[int, str]], int]:
    """A page of ListParts: size and ETag by part number, and the number after which the next page
    begins; 0: there is none. Raises Corrupt for what can't be read."""
    root = parse_xml(body.strip())
    top = texts(root)
    try:
        rows = [texts(element) for tag, element in children(root) if tag == "Part"]
        found = {
            size_in(row["PartNumber"]): (size_in(row["Size"]), opaque_tag(row["ETag"]))
            for row in rows
        }
        is_more = top["IsTruncated"] == "true"
        return found, size_in(top["NextPartNumberMarker"]) if is_more else 0
    except (KeyError, ValueError) as error:
        raise Corrupt("an unreadable list of parts") from error


def etag_in(body: bytes) -> str:
    """The version that a Complete or a copy tells, "" where it doesn't."""
    return opaque_tag(_result(body).get("ETag", ""))


def mtime_ns_in(body: bytes) -> int:
    """LastModified of a copy in whole seconds, as HEAD says it; 0 where it isn't told."""
    try:
        text = _result(body)["LastModified"]
        return time_in(ns_of_datetime(datetime.fromisoformat(text).replace(microsecond=0)))
    except (KeyError, ValueError):
        return 0


def _result(body: bytes) -> dict[str, str]:
    # S3 may send white space while it is still at work.
    return texts(parse_xml(body.strip())) if body.strip() else {}
