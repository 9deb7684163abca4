"""The mtime of a file that is on a Nextcloud already: PROPPATCH of `{DAV:}lastmodified`.

Measured on 32.0.1. It takes Unix seconds alone (an HTTP date, and the first day of 1970, are a 500
without effect), heeds If-Match, and gives file and folders new ETags. It also clears the sum that
the uploader told, and `oc:checksums` can't be set along (403, and 424 for the time). What stays is
the file's id and when it was uploaded: by these a look afterwards tells that no other content came
in between. Who may only read a share can set the owner's time with it (the ETag stays): not from
here. rclone sends the same request without a condition.
"""

import logging
import threading
from dataclasses import dataclass
from typing import Final

from mountd.errors import (
    Denied,
    NotFound,
    SignInRefused,
    Unreachable,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.base import Upload
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.http_range import is_tag, tag_of
from mountd.remotes.nextcloud_dav import rights_of
from mountd.remotes.nextcloud_version import upload_in
from mountd.remotes.webdav_changes import DavChanges
from mountd.remotes.webdav_read import DavReader
from mountd.remotes.webdav_write import FIRST_DAY_S
from mountd.remotes.webdav_xml import DavItem
from mountd.types import Entry, Kind

log = logging.getLogger(__name__)

SECOND_NS: Final = 1_000_000_000
MOST_REFUSALS: Final = 8  # of one file's time; a minute or two, as the queue asks again
_MAX_REMEMBERED: Final = 1024
_MAX_REFUSED: Final = 1 << 17


@dataclass(frozen=True, slots=True)
class _Asked:
    """A time that was asked for, perhaps without an answer."""

    uploaded: str
    mtime_ns: int
    upload_id: str

    def is_it(self, found: Entry, item: DavItem) -> bool:
        return self.uploaded == upload_in(item) and self.mtime_ns == found.mtime_ns


class NextcloudTimes:
    """Thread-safe."""

    def __init__(self, pool: HttpPool, reader: DavReader, changes: DavChanges) -> None:
        self._pool = pool
        self._reader = reader
        self._changes = changes
        self._remembering = threading.Lock()
        self._asked: dict[str, _Asked] = {}
        self._refusals: dict[str, int] = {}  # by key, in a row
        self._has_told = False

    def set(self, key: str, version: str, upload: Upload) -> Entry:
        """Two looks and a PROPPATCH; one look where the file has the time already. Raises
        VersionChanged where it isn't that version, or was replaced in the same instant, and
        Unsupported where the server takes no such time, or has failed at it MOST_REFUSALS times
        while it answered the looks."""
        mtime_ns = upload.mtime_ns // SECOND_NS * SECOND_NS
        if mtime_ns // SECOND_NS <= FIRST_DAY_S or not is_tag(version):
            raise Unsupported(f"{key!r}: this server takes no such time")
        until_s = self._pool.deadline_s()
        before, item = self._look(key, until_s)
        if before.version != version:
            raise VersionChanged(f"{key!r} was {version} and is {before.version}")
        if before.mtime_ns == mtime_ns:
            return before
        if "w" in rights_of(item).get("denied", ""):
            # The server would answer 200, and change the owner's time.
            raise Unsupported(f"{key!r} may not be changed, nor its time")
        self._remember(key, _Asked(upload_in(item), mtime_ns, upload.upload_id))
        if not self._patch(key, mtime_ns, until_s, tag_of(version), key):
            raise VersionChanged(f"{key!r} is no longer {version}")
        after, now = self._look(key, until_s)
        if upload_in(now) != upload_in(item):
            raise VersionChanged(f"{key!r} was replaced while its time was set")
        if after.mtime_ns != mtime_ns:
            # Or somebody has replaced it by what leaves the time of upload as it was.
            raise Unsupported(f"{key!r}: this server keeps another time")
        return after

    def set_on_own(self, key: str, made: Entry, mtime_ns: int, wanted: str) -> Entry:
        """As `set`, on a file that nobody else knows of and that will be `wanted`. What the server
        doesn't take stays."""
        mtime_ns = mtime_ns // SECOND_NS * SECOND_NS
        if mtime_ns // SECOND_NS <= FIRST_DAY_S or made.mtime_ns == mtime_ns:
            return made
        until_s = self._pool.deadline_s()
        try:
            self._patch(key, mtime_ns, until_s, "", wanted)
        except Unsupported:
            return made
        return self._look(key, until_s)[0]

    def upload_id_of(self, key: str, found: Entry, item: DavItem) -> str:
        """The upload that gave it this time, where this process asked for it; else ""."""
        with self._remembering:
            asked = self._asked.get(key)
        return asked.upload_id if asked is not None and asked.is_it(found, item) else ""

    def _patch(self, key: str, mtime_ns: int, until_s: float, if_match: str, wanted: str) -> bool:
        try:
            is_done = self._changes.set_mtime(key, mtime_ns // SECOND_NS, until_s, if_match)
        except SignInRefused:
            raise
        except Denied as error:
            raise Unsupported(f"{key!r}: its time can't be set: {error}") from error
        except Unreachable as error:
            # A server that is down, or in maintenance, answers no look either.
            if not error.answered or not self._is_last_refusal(wanted):
                raise
            self._tell(wanted, error)
            raise Unsupported(f"{key!r}: its time can't be set: {error}") from error
        with self._remembering:
            self._refusals.pop(wanted, None)
        return is_done

    def _is_last_refusal(self, key: str) -> bool:
        with self._remembering:
            count = self._refusals.pop(key, 0) + 1
            if count >= MOST_REFUSALS:
                return True
            if len(self._refusals) >= _MAX_REFUSED:
                del self._refusals[next(iter(self._refusals))]
            self._refusals[key] = count
        return False

    def _tell(self, key: str, error: Unreachable) -> None:
        level = logging.DEBUG if self._has_told else logging.WARNING
        self._has_told = True
        text = "the server failed %d times to set the time of %r, which is kept here only: %s"
        log.log(level, text, MOST_REFUSALS, key, error)

    def _look(self, key: str, until_s: float) -> tuple[Entry, DavItem]:
        entry, item = self._reader.look(key, until_s)
        if entry.kind is not Kind.FILE:
            raise NotFound(f"{key!r} is a directory")
        return entry, item

    def _remember(self, key: str, asked: _Asked) -> None:
        with self._remembering:
            self._asked.pop(key, None)
            if len(self._asked) >= _MAX_REMEMBERED:
                del self._asked[next(iter(self._asked))]
            self._asked[key] = asked
