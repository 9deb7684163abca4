"""What tells two states of a file on a Nextcloud apart. Pure.

Its ETag alone does not: on a local disk that is a hash of mtime (whole seconds), inode and size,
and is kept while the mtime's second stays, even if the size changed. Two PUTs within a second, or
of one size and one X-OC-MTime, have one ETag (32.0.1). So a version is

    "tag";size;MD5:...          where the uploader told a sum, as mountd does and most clients do
    "tag";size;t170000000i42    else: when it was uploaded (second; 0: not known), and its file id

A sum needs no more: it is cleared or replaced with each PUT. Without one, two contents of the same
size that came within one second are not told apart: nothing that the server says differs.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from mountd.remotes.http_range import answers_for, is_tag, opaque_tag, tag_of, version_of
from mountd.remotes.webdav_xml import DavItem

CHECKSUMS: Final = "{http://owncloud.org/ns}checksums"
FILE_ID: Final = "{http://owncloud.org/ns}fileid"
UPLOAD_TIME: Final = "{http://nextcloud.org/ns}upload_time"

_PLAIN_SUM = re.compile(r"[A-Z][A-Z0-9]{0,15}:[0-9A-Za-z+/=]{1,128}")
_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_UNKNOWN = "0"
_MAX_SUMS = 4


def version_in(item: DavItem) -> str:
    """The version of a file in a listing. A listing that didn't ask for the properties above has
    another one."""
    if not opaque_tag(item.etag):
        return version_of("", item.size or 0, item.mtime_ns)
    mark = _mark_of_sums(item.more.get(CHECKSUMS, "")) or _mark_of_upload(item)
    return _joined(item.etag, item.size or 0, mark)


def upload_in(item: DavItem) -> str:
    """What stays of a file when only its time is set anew: that takes its tag and its sum away."""
    return f"{item.size or 0};{_mark_of_upload(item)}"


def bytes_in(version: str) -> str:
    """See `Capabilities.bytes_in`."""
    _, size, mark = _parts(version)
    return f"{size};{mark}" if mark else ""


def identity_in(item: DavItem) -> str:
    """Which file it is: its id stays over moves and over being replaced in place; "" where the
    server tells none."""
    file_id = _number(item.more.get(FILE_ID, ""))
    return "" if file_id == _UNKNOWN else file_id


def version_made(etag: str, size: int, md5: str) -> str:
    """As a listing will show it: a file that was sent with `OC-Checksum: MD5:<md5>`. "" without a
    tag."""
    return _joined(etag, size, f"MD5:{md5}") if opaque_tag(etag) else ""


def has_lost_its_sum(found: str, made: str) -> bool:
    """Whether `found` may be what was `made` with a sum, on a server that didn't keep it."""
    return (
        is_tag(found)
        and _parts(found)[:2] == _parts(made)[:2]
        and not _is_sum(_parts(found)[2])
        and _is_sum(_parts(made)[2])
    )


def proves(version: str, headers: Mapping[str, str], total: int | None, *, is_whole: bool) -> bool:
    """Whether a GET's answer with these headers is certainly about `version`.

    It tells the sum, and no time of upload. Without a sum it proves nothing by itself; only where
    it has every byte (`is_whole`) does nothing hang on it: there is nothing to mix them with.
    """
    tag, size, mark = _parts(version)
    if not mark:
        return answers_for(version, headers, total)
    if not answers_for(tag, headers, total) or str(total) != size:
        return False
    found = _mark_of_sums(headers.get("oc-checksum", ""))
    return found == mark if _is_sum(mark) else is_whole and not found


def is_of_nextcloud(version: str) -> bool:
    """Whether `version_in` made it. Then it says which bytes they are, under whatever name: the tag
    is made of an inode or at random, and beside it stands a sum, or the file's id."""
    return bool(_parts(version)[2])


def _mark_of_upload(item: DavItem) -> str:
    uploaded, file_id = (_number(item.more.get(name, "")) for name in (UPLOAD_TIME, FILE_ID))
    return f"t{uploaded}i{file_id}"


def _joined(etag: str, size: int, mark: str) -> str:
    return f"{opaque_tag(etag)};{size};{mark}"


def _parts(version: str) -> tuple[str, str, str]:
    """(tag, size, mark); the last two are "" in a version of another kind."""
    if not is_tag(version):
        return version, "", ""
    tag = tag_of(version)
    _, _, rest = version[len(tag) :].partition(";")
    size, _, mark = rest.partition(";")
    return tag, size, mark


def _is_sum(mark: str) -> bool:
    return bool(mark) and not mark.startswith("t")


def _mark_of_sums(text: str) -> str:
    """One word for what stands in OC-Checksum; "" for nothing. What looks odd is hashed."""
    sums = text.split()
    if len(sums) <= _MAX_SUMS and all(_PLAIN_SUM.fullmatch(each) for each in sums):
        return "+".join(sums)
    return "H:" + hashlib.sha256(" ".join(sums).encode("utf-8", "surrogateescape")).hexdigest()


def _number(text: str) -> str:
    return text if _NUMBER.fullmatch(text) else _UNKNOWN
