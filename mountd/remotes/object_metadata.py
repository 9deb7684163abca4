"""What goes with an object beside its bytes: the names and texts of its metadata. Pure.

`mtime` is seconds with a fraction, as rclone writes it on S3 and s3fs reads it. On GCS and Azure
rclone writes RFC 3339, so both are read.
"""

import contextlib
import mimetypes
import re
import stat
from collections.abc import Mapping
from datetime import datetime, timedelta

from mountd.remotes.base import Upload
from mountd.remotes.untrusted import time_in

UPLOAD_ID = "mountd-upload"
MTIME = "mtime"
MODE, UID, GID, XATTR = "mode", "uid", "gid", "xattr"

MAX_XATTR_CHARACTERS = 8192  # Azure and GCS take 8 KiB of metadata, S3 2 KiB
_MAX_ID = (1 << 32) - 2
_TYPES = frozenset((0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK))
_DIGITS = re.compile(r"\d{1,10}", re.ASCII)
_EPOCH = datetime(1970, 1, 1)

_SECONDS = re.compile(r"(-?)(\d{1,11})(?:\.(\d{1,9})\d*)?", re.ASCII)


def metadata_of(upload: Upload) -> dict[str, str]:
    """Everything that is kept with the object, by its plain name."""
    found = {name: value for name, value in upload.attributes.items() if value}
    if upload.mtime_ns:
        found[MTIME] = mtime_text(upload.mtime_ns)
    if upload.upload_id:
        found[UPLOAD_ID] = upload.upload_id
    return found


def copied(source: Mapping[str, str], upload: Upload) -> dict[str, str]:
    """The metadata of a copy: its source's, anybody's, with what comes with the copy on top, but
    for what was not set here. An attribute "" is taken away, and so is what no header can carry."""
    kept = {
        name: value
        for name, value in source.items()
        if name != UPLOAD_ID and upload.attributes.get(name) != "" and _is_plain(name + value)
    }
    given = metadata_of(upload)
    return {**kept, **{n: v for n, v in given.items() if n not in upload.unset or n not in kept}}


def attributes_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """`Entry.attributes`, normalised: untrusted, so what makes no sense is left out."""
    found: dict[str, str] = {}
    mode = mode_in(metadata.get(MODE, ""))
    if mode is not None:
        found[MODE] = str(mode)
    for name in (UID, GID):
        text = metadata.get(name, "")
        if _DIGITS.fullmatch(text) and int(text) <= _MAX_ID:
            found[name] = str(int(text))
    xattr = metadata.get(XATTR, "")
    if xattr and len(xattr) <= MAX_XATTR_CHARACTERS and _is_plain(xattr):
        found[XATTR] = xattr
    return found


def mode_in(text: str) -> int | None:
    """Decimal as s3fs writes it. Octal where it begins with 0, or is no file's mode in decimal:
    rclone writes 100644."""
    if not _DIGITS.fullmatch(text):
        return None
    if not text.startswith("0") and _is_mode(int(text)):
        return int(text)
    with contextlib.suppress(ValueError):
        if _is_mode(int(text, 8)):
            return int(text, 8)
    return None


def _is_mode(mode: int) -> bool:
    return mode <= 0o177777 and stat.S_IFMT(mode) in _TYPES


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def mtime_text(mtime_ns: int) -> str:
    seconds, fraction_ns = divmod(abs(mtime_ns), 1_000_000_000)
    return f"{'-' if mtime_ns < 0 else ''}{seconds}.{fraction_ns:09d}"


def mtime_ns_of(metadata: Mapping[str, str]) -> int | None:
    """None where the metadata has no mtime that can be read."""
    text = metadata.get(MTIME, "")
    if match := _SECONDS.fullmatch(text):
        mtime_ns = int(match[2]) * 1_000_000_000 + int((match[3] or "").ljust(9, "0"))
        mtime_ns = -mtime_ns if match[1] else mtime_ns
    else:
        try:
            mtime_ns = ns_of_datetime(datetime.fromisoformat(text))
        except ValueError:
            return None
    return mtime_ns if time_in(mtime_ns) == mtime_ns else None


def ns_of_datetime(when: datetime) -> int:
    """Nanoseconds since the epoch; not by float, and for any year. A naive time is UTC."""
    since = when.replace(tzinfo=None) - _EPOCH
    since -= when.utcoffset() or timedelta()
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


def content_type_of(key: str) -> str:
    """By the name's ending, for whoever serves the bucket to browsers; "" where it isn't known."""
    kind, encoding = mimetypes.guess_type(key.rpartition("/")[2])
    return "" if kind is None or encoding is not None else kind
