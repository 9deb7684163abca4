"""What Nextcloud's WebDAV says beyond the RFC: its properties, its sums and its locks.

https://docs.nextcloud.com/server/latest/developer_manual/client_apis/WebDAV/basic.html
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from typing_extensions import Buffer

from mountd.errors import Corrupt, Locked, LockedByUser, RemoteError
from mountd.remotes.base import Quota
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.nextcloud_version import (
    CHECKSUMS,
    FILE_ID,
    UPLOAD_TIME,
    identity_in,
    proves,
    version_in,
)
from mountd.remotes.webdav_leftovers import Leftovers
from mountd.remotes.webdav_read import DavReader, Dialect
from mountd.remotes.webdav_xml import DavItem
from mountd.types import Entry

_OC = "{http://owncloud.org/ns}"
_NC = "{http://nextcloud.org/ns}"
_DAV = "{DAV:}"
_FREE, _USED = f"{_DAV}quota-available-bytes", f"{_DAV}quota-used-bytes"
_PERMISSIONS, _MOUNT_TYPE = f"{_OC}permissions", f"{_NC}mount-type"
_LOCK, _LOCK_OWNER = f"{_NC}lock", f"{_NC}lock-owner-displayname"
_PREFIXES = {_DAV: "D", _OC: "oc", _NC: "nc"}
_EVERY_FILE = tuple(
    f"{_DAV}{name}" for name in ("resourcetype", "getcontentlength", "getlastmodified", "getetag")
)
_MAX_OWNER_CHARS = 200

_DIGITS = {"MD5": 32, "SHA1": 40, "SHA256": 64}
_SUM = re.compile(r"(?:^|\s)(MD5|SHA1|SHA256):([0-9a-fA-F]{32,64})(?=\s|$)")
_MAX_SUM_CHARS = 1024
_ALL: Final[Mapping[str, str]] = MappingProxyType({})


def _not_told(item: DavItem) -> None:
    return None


def _asking(
    *extra: str, attributes: Callable[[DavItem], Mapping[str, str] | None] = _not_told
) -> Dialect:
    """The PROPFIND for what an entry needs, and these."""
    asked = "".join(_element(tag) for tag in (*_EVERY_FILE, *extra))
    body = (
        '<?xml version="1.0" encoding="utf-8"?><D:propfind xmlns:D="DAV:" '
        'xmlns:oc="http://owncloud.org/ns" xmlns:nc="http://nextcloud.org/ns">'
        f"<D:prop>{asked}</D:prop></D:propfind>"
    )
    inside = {f"{_OC}checksum"} if CHECKSUMS in extra else set()
    return Dialect(
        has_tree_tags=True,
        is_apart=is_apart,
        attributes=attributes,
        propfind=body.encode(),
        extra=frozenset(extra) | inside,
        check_whole=check_sum,
        version=version_in,
        proves=proves,
        identity=identity_in,
    )


def is_apart(item: DavItem) -> bool:
    """Whether it is in an external storage, a group folder or a share: what changes there may not
    reach the tags above, nor its own. Releases that don't know nc:mount-type have S (shared) and M
    (mounted). A share may be of an external storage, or of another server."""
    more = item.more
    return bool(more.get(_MOUNT_TYPE)) or not {"S", "M"}.isdisjoint(more.get(_PERMISSIONS, ""))


def rights_of(item: DavItem) -> Mapping[str, str]:
    """What the server's letters deny, in those of `Entry.attributes`; nothing where it tells
    none."""
    letters = item.more.get(_PERMISSIONS, "")
    return _denied(letters, item.is_collection) if letters else _ALL


@lru_cache(maxsize=256)
def _denied(letters: str, is_collection: bool) -> Mapping[str, str]:
    needed = "dnvck" if is_collection else "wdnv"
    denied = "".join(letter for letter in needed if letter.upper() not in letters)
    return MappingProxyType({"denied": denied}) if denied else _ALL


def _element(tag: str) -> str:
    namespace, _, name = tag.rpartition("}")
    return f"<{_PREFIXES[namespace + '}']}:{name}/>"


def sums_in(text: str) -> dict[str, str]:
    """`SHA1:... MD5:...` as it stands in OC-Checksum and oc:checksums: the sums that we can add up
    ourselves, in lower case."""
    return {name: value.lower() for name, value in _SUM.findall(text[:_MAX_SUM_CHARS])}


def check_sum(what: str, headers: Mapping[str, str], data: Buffer) -> None:
    """Compares a whole file with the sum that came with it. Raises Corrupt.

    The server keeps the sum of whoever uploaded the file, and never looked at it itself.
    """
    sums = sums_in(headers.get("oc-checksum", ""))
    for name in ("SHA256", "SHA1", "MD5"):
        if name in sums:
            found = hashlib.new(name.lower(), data, usedforsecurity=False).hexdigest()
            if found != sums[name]:
                raise Corrupt(f"{what}: its {name} is {found}, and it was uploaded as {sums[name]}")
            return


_VERSION = (CHECKSUMS, UPLOAD_TIME, FILE_ID)
LISTING: Final = _asking(*_VERSION, _PERMISSIONS, _MOUNT_TYPE, attributes=rights_of)
# What comes of a change: that the server keeps no attributes doesn't say that there are none.
CHANGED: Final = _asking(*_VERSION, _PERMISSIONS, _MOUNT_TYPE)
_DETAILS: Final = _asking(*_VERSION, _LOCK, _LOCK_OWNER)
_ROOM: Final = _asking(_FREE, _USED)


class Details:
    """Questions about one file or directory that no listing asks: dear, or seldom needed."""

    def __init__(self, pool: HttpPool, base: str) -> None:
        self._pool = pool
        self._files = DavReader(pool, base, Leftovers(), _DETAILS)
        self._room = DavReader(pool, base, Leftovers(), _ROOM)

    def find(self, key: str) -> tuple[Entry, str]:
        """What is at a key, and the MD5 (hex) that its uploader told, or "". Raises NotFound."""
        entry, sums = self.sums(key)
        return entry, sums.get("md5", "")

    def sums(self, key: str) -> tuple[Entry, dict[str, str]]:
        """As `find`, with all sums that its uploader told."""
        entry, item = self.look(key)
        return entry, all_sums_in(item)

    def look(self, key: str) -> tuple[Entry, DavItem]:
        """What is at a key, with all that the server told. Raises NotFound."""
        return self._files.look(key, self._pool.deadline_s())

    def room(self, directory: str) -> Quota:
        """What fits in there. Raises NotFound."""
        _, item = self._room.look(directory, self._pool.deadline_s())
        return quota_in(item)

    def explained(self, error: Locked, key: str) -> Locked:
        """The same, or LockedByUser where it is the kind of lock that a person takes."""
        try:
            _, item = self._files.look(key, self._pool.deadline_s())
        except RemoteError:
            return error
        if item.more.get(_LOCK) not in ("1", "true"):
            return error
        owner = item.more.get(_LOCK_OWNER, "")[:_MAX_OWNER_CHARS] or "somebody"
        return LockedByUser(f"{key!r} is locked by {owner!r}")


def all_sums_in(item: DavItem) -> dict[str, str]:
    """Those that its uploader told: hex, by `md5`, `sha1` and `sha256`."""
    found = sums_in(item.more.get(CHECKSUMS, ""))
    return {name.lower(): value for name, value in found.items() if len(value) == _DIGITS[name]}


def quota_in(item: DavItem) -> Quota:
    """-1 is not computed, -2 unknown and -3 unlimited."""
    free = _number(item.more.get(_FREE, ""))
    used = _number(item.more.get(_USED, ""))
    return Quota(used or 0, free)


def _number(text: str) -> int | None:
    is_one = text.isascii() and text.isdigit() and len(text) < 19
    return int(text) if is_one else None
