"""The MOVE that makes a file of its chunks, and what to believe when its answer says nothing.

A server may need minutes for it. A proxy gives up before (502, 504), and so do we; who asks again
meanwhile gets 423. Nothing of that says whether the file will be there. So it is looked at: it has
landed when what is there has our sum, or, where the server kept none (chunking 2.0), our size and
mtime with the folder gone. A 404 never stands for success: the folder may have expired.

The condition goes as `If: <destination> (["tag"])`: If-Match would be compared with `.file`, the
source, and always fail (24.0.5). For a new file it is `Overwrite: F`.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from mountd.errors import (
    Denied,
    Locked,
    LockedByUser,
    NotFound,
    QuotaExceeded,
    RemoteError,
    Throttled,
    Unreachable,
    VersionChanged,
)
from mountd.remotes.base import ABSENT
from mountd.remotes.http_pool import Answer, HttpPool
from mountd.remotes.http_range import is_tag, tag_of
from mountd.remotes.nextcloud_dav import Details
from mountd.remotes.nextcloud_folders import TOTAL_HEADER, UploadFolders, UploadLost, error_of
from mountd.remotes.nextcloud_version import has_lost_its_sum, version_made
from mountd.remotes.webdav_write import FIRST_DAY_S
from mountd.types import Entry, Kind

logger = logging.getLogger(__name__)

PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)  # and then the last one, again and again
ASSEMBLY_BYTES_PER_S = 20 << 20
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Goal:
    """The file that is to come to `key`. `destination` is its URL, `target` its path there.
    `before`: the version that is there, or ABSENT; `md5` (hex) of the whole body. Both are known
    when the chunks are there."""

    key: str
    target: str
    destination: str
    size: int
    mtime_ns: int
    expect: str | None
    before: str = ABSENT
    md5: str = ""

    @property
    def mtime_s(self) -> int:
        """0 where none is sent."""
        mtime_s = self.mtime_ns // _SECOND_NS
        return mtime_s if mtime_s > FIRST_DAY_S else 0


class _Said(Enum):
    DONE = auto()
    UNMET = auto()  # the condition: 412
    MISSING = auto()  # the folder, what is to be replaced, or its directory: 404, 409
    NOTHING = auto()  # it may have happened, may be happening, or not


class Assembly:
    """Thread-safe. `closing`: a wait ends then."""

    def __init__(
        self,
        pool: HttpPool,
        folders: UploadFolders,
        details: Details,
        closing: threading.Event,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        self._pool = pool
        self._folders = folders
        self._details = details
        self._closing = closing
        self._pauses_s = pauses_s

    def finish(self, folder: str, goal: Goal) -> Entry:
        """Returns what is there as ours. Raises UploadLost where no MOVE was in doubt and the
        folder is gone, Corrupt and other errors as `RemoteStore.put`. After Unreachable and Locked
        the folder may still be there."""
        self._check_expected(goal)
        until_s = self._deadline_s(goal)
        in_doubt = False
        tries = 0
        while True:
            said, answer, error = self._move(folder, goal)
            if said is _Said.DONE:
                return self._entry(goal, answer)
            if error is None or in_doubt or not isinstance(error, Locked):
                landed = self._landed(folder, goal)
                if landed is not None:
                    self._folders.remove(folder)
                    return landed
            if said is _Said.UNMET:
                raise VersionChanged(f"{goal.key!r} is not {goal.expect or 'absent'}")
            if said is _Said.MISSING:
                raise self._missing(folder, goal, in_doubt)
            assert error is not None
            in_doubt = True
            logger.info("asked to assemble %r: %s", goal.key, error)
            pause_s = self._pauses_s[min(tries, len(self._pauses_s) - 1)]
            tries += 1
            if time.monotonic() + pause_s > until_s or self._closing.wait(pause_s):
                raise error

    def _deadline_s(self, goal: Goal) -> float:
        return self._pool.deadline_s() + goal.size / ASSEMBLY_BYTES_PER_S

    def _move(self, folder: str, goal: Goal) -> tuple[_Said, Answer | None, RemoteError | None]:
        source = self._folders.target_of(folder, ".file")
        until_s = self._deadline_s(goal)
        try:
            with self._pool.ask("MOVE", source, _headers(goal), until_s=until_s) as answer:
                if 200 <= answer.status < 300 and answer.status != 207:
                    return _Said.DONE, answer, None
                if answer.status == 412:
                    return _Said.UNMET, answer, None
                if answer.status in (404, 409, 410):
                    return _Said.MISSING, answer, None
                error = error_of(answer)
        except Unreachable as lost:
            return _Said.NOTHING, None, lost
        if answer.status == 400:
            # The chunks don't make up the whole: one of them isn't what it was taken for.
            raise UploadLost(f"{answer.what}: HTTP 400")
        if isinstance(error, Locked):
            error = self._details.explained(error, goal.key)
        if isinstance(error, LockedByUser | Denied | QuotaExceeded | Throttled):
            raise error
        if isinstance(error, Locked | Unreachable):
            return _Said.NOTHING, answer, error
        raise error

    # Looking

    def _check_expected(self, goal: Goal) -> None:
        """The chunks took their time, and the MOVE's condition is a tag, which is less than a
        version."""
        if not goal.expect:
            return
        try:
            entry, _ = self._details.find(goal.key)
        except NotFound:
            raise VersionChanged(f"{goal.key!r} is gone") from None
        if entry.version != goal.expect:
            raise VersionChanged(f"{goal.key!r} was {goal.expect} and is {entry.version}")

    def _landed(self, folder: str, goal: Goal) -> Entry | None:
        """The file, if it is ours beyond doubt."""
        try:
            entry, md5 = self._details.find(goal.key)
        except NotFound:
            return None
        if entry.kind is not Kind.FILE or entry.size != goal.size:
            return None
        is_new = entry.version != goal.before
        if md5:
            if md5 != goal.md5:
                return None
            # The same bytes with the same mtime are the same version: then the folder tells.
            return entry if is_new or not self._folders.is_there(folder) else None
        if not is_new or not goal.mtime_s or entry.mtime_ns != goal.mtime_s * _SECOND_NS:
            return None
        return None if self._folders.is_there(folder) else entry

    def _missing(self, folder: str, goal: Goal, in_doubt: bool) -> Exception:
        """What a 404 or 409 stands for where the file has not landed."""
        if self._folders.is_there(folder):
            if goal.before != ABSENT:
                return VersionChanged(f"{goal.key!r} is gone")
            return NotFound(f"{goal.key!r}: its directory is missing")
        if in_doubt:
            # It may have been made, and replaced or removed by somebody since.
            text = f"{goal.key!r}: the upload is gone, and so may be what it made"
            return Unreachable(text, answered=True)
        return UploadLost(folder)

    def _entry(self, goal: Goal, answer: Answer | None) -> Entry:
        """After a good answer. Who has replaced it at once is not taken for us."""
        version = ""
        if answer is not None:
            etag = answer.headers.get("oc-etag") or answer.headers.get("etag", "")
            version = version_made(etag, goal.size, goal.md5)
        ours = Entry(
            goal.key.rpartition("/")[2], Kind.FILE, goal.size, goal.mtime_s * _SECOND_NS, version
        )
        try:
            entry, _ = self._details.find(goal.key)
        except NotFound:
            if version:
                return ours
            raise
        if not version or has_lost_its_sum(entry.version, version):
            return entry
        return entry if entry.version == version else ours


def _headers(goal: Goal) -> dict[str, str]:
    headers = {
        "Destination": goal.destination,
        "Overwrite": "F" if goal.expect == ABSENT else "T",
        TOTAL_HEADER: str(goal.size),
        "OC-Checksum": f"MD5:{goal.md5}",
    }
    if goal.mtime_s:
        headers["X-OC-Mtime"] = str(goal.mtime_s)
    if goal.expect is not None and is_tag(goal.expect):
        headers["If"] = f"<{goal.target}> ([{tag_of(goal.expect)}])"
    return headers
