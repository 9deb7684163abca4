"""What goes with an object beside its bytes: the names and texts of its metadata. Pure.

`mtime` is seconds with a fraction, as rclone writes it on S3 and s3fs reads it. On GCS and Azure
rclone writes RFC 3339, so both are read.
"""

import mimetypes
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from mountd.remotes.base import Upload

UPLOAD_ID = "mountd-upload"
MTIME = "mtime"

_SECONDS = re.compile(r"(-?)(\d{1,11})(?:\.(\d{1,9})\d*)?", re.ASCII)


def metadata_of(upload: Upload) -> dict[str, str]:
    """Everything that is kept with the object, by its plain name."""
    found = dict(upload.attributes)
    if upload.mtime_ns:
        found[MTIME] = mtime_text(upload.mtime_ns)
    if upload.upload_id:
        found[UPLOAD_ID] = upload.upload_id
    return found


def mtime_text(mtime_ns: int) -> str:
    seconds, fraction_ns = divmod(abs(mtime_ns), 1_000_000_000)
    return f"{'-' if mtime_ns < 0 else ''}{seconds}.{fraction_ns:09d}"


def mtime_ns_of(metadata: Mapping[str, str]) -> int | None:
    """None where the metadata has no mtime that can be read."""
    text = metadata.get(MTIME, "")
    if match := _SECONDS.fullmatch(text):
        mtime_ns = int(match[2]) * 1_000_000_000 + int((match[3] or "").ljust(9, "0"))
        return -mtime_ns if match[1] else mtime_ns
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    when = when.replace(tzinfo=when.tzinfo or UTC)
    whole = when.replace(microsecond=0)
    return int(whole.timestamp()) * 1_000_000_000 + when.microsecond * 1000


def content_type_of(key: str) -> str:
    """By the name's ending, for whoever serves the bucket to browsers; "" where it isn't known."""
    kind, encoding = mimetypes.guess_type(key.rpartition("/")[2])
    return "" if kind is None or encoding is not None else kind
