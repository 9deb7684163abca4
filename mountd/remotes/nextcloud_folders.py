"""The folders below `/remote.php/dav/uploads/USER/` in which chunks of large files wait.

https://docs.nextcloud.com/server/latest/developer_manual/client_apis/WebDAV/chunking.html
"""

import contextlib
import hashlib
import logging
import platform
import re
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mountd.errors import NotFound, RemoteError, Unreachable
from mountd.remotes.base import MAX_TOKEN
from mountd.remotes.http_pool import Answer, HttpPool
from mountd.remotes.http_status import error_of_status, mtime_ns_of_http_date
from mountd.remotes.request_body import SentBody
from mountd.remotes.webdav_leftovers import Leftovers
from mountd.remotes.webdav_path import target_of
from mountd.remotes.webdav_read import DavReader
from mountd.types import Entry, Kind

logger = logging.getLogger(__name__)

_FOLDER = re.compile(r"mountd-([0-9a-f]{8})-[0-9a-f]{32}")
_TOKEN = re.compile(
    r"nc1:(mountd-[0-9a-f]{8}-[0-9a-f]{32}):(\d{1,12}):(\d{1,5}):([0-9a-f]{32}|)", re.ASCII
)
# A folder is touched by each chunk, and a server forgets one after a day without any.
_STALE_NS = 24 * 3600 * 1_000_000_000
_MAX_SWEPT = 100
TOTAL_HEADER = "OC-Total-Length"


class UploadLost(Exception):
    """The folder is gone: it expired, or somebody has removed it."""


@dataclass(frozen=True, slots=True)
class Token:
    """What an upload needs to go on. The first `done` chunks were taken by the server, and `md5`
    is the sum of their bytes: a body with another one is not gone on with."""

    folder: str
    chunk_bytes: int
    done: int = 0
    md5: str = ""

    def __str__(self) -> str:
        text = f"nc1:{self.folder}:{self.chunk_bytes}:{self.done}:{self.md5}"
        assert len(text) <= MAX_TOKEN
        return text

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for what no `str` of this class gives."""
        match = _TOKEN.fullmatch(text)
        if match is None or int(match[2]) <= 0 or bool(int(match[3])) != bool(match[4]):
            return None
        return cls(match[1], int(match[2]), int(match[3]), match[4])


def machine() -> str:
    """Eight digits that tell this machine's folders from those of others; never changes."""
    try:
        identity = Path("/etc/machine-id").read_text().strip()
    except OSError:
        identity = ""
    text = f"mountd uploads {identity or platform.node()}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class UploadFolders:
    """Requests below `root`, an encoded path without a slash at its end. Thread-safe.

    Where the server has chunking 2.0, each needs the `Destination`; 1.0 ignores it.
    """

    def __init__(self, pool: HttpPool, root: str, machine_id: str) -> None:
        self._pool = pool
        self._root = root
        self._machine = machine_id
        self._listings = DavReader(pool, root, Leftovers())
        self._lock = threading.Lock()
        self._has_swept = False
        self._abandoned: set[str] = set()

    def target_of(self, folder: str, name: str) -> str:
        return target_of(self._root, f"{folder}/{name}")

    def make(self, destination: str, size: int) -> str:
        """A new folder's name."""
        folder = f"mountd-{self._machine}-{uuid.uuid4().hex}"
        headers = {"Destination": destination, TOTAL_HEADER: str(size)}
        try:
            with self._pool.ask("MKCOL", target_of(self._root, folder), headers) as answer:
                if 200 <= answer.status < 300:
                    return folder
                raise error_of(answer)
        except Unreachable:
            self.remove(folder)  # it may be there, and nobody else knows its name
            raise

    def put(self, folder: str, number: int, sent: SentBody, headers: Mapping[str, str]) -> None:
        """One chunk. Raises UploadLost, and Unreachable where it may be sent again."""
        target = self.target_of(folder, f"{number:05}")
        with self._pool.ask("PUT", target, headers, sent) as answer:
            if 200 <= answer.status < 300:
                return
            if answer.status in (404, 409, 412):
                # 412: what a server with chunking 2.0 remembered about the folder is gone.
                raise UploadLost(f"{answer.what}: HTTP {answer.status}")
            if answer.status in (400, 423):
                # Cut on its way, or held by a former try that still ends.
                raise Unreachable(f"{answer.what}: HTTP {answer.status}", answered=True)
            raise error_of(answer)

    def sizes(self, folder: str) -> dict[int, int]:
        """The chunks that are there, by number. Raises UploadLost."""
        found: dict[int, int] = {}
        try:
            for page in self._listings.list(f"{folder}/"):
                for entry in page:
                    if entry.kind is Kind.FILE and entry.name.isascii() and entry.name.isdigit():
                        found[int(entry.name)] = entry.size
        except NotFound as error:
            raise UploadLost(str(error)) from error
        return found

    def is_there(self, folder: str) -> bool:
        try:
            self._listings.stat(f"{folder}/")
        except NotFound:
            return False
        return True

    def remove(self, folder: str) -> None:
        """Whatever comes of it: the server forgets it in the end."""
        try:
            with self._pool.ask("DELETE", target_of(self._root, folder), {}) as answer:
                if answer.status >= 300 and answer.status != 404:
                    logger.info("an upload's folder stays: %s", error_of(answer))
        except RemoteError as error:
            logger.info("an upload's folder stays: %s", error)

    def abandon(self, folder: str) -> None:
        """As `remove`; and no `put` of this process makes another in its stead."""
        with self._lock:
            self._abandoned.add(folder)
        self.remove(folder)

    def is_abandoned(self, folder: str) -> bool:
        with self._lock:
            return folder in self._abandoned

    def sweep(self) -> None:
        """Once: removes this machine's folders that nothing came into for a day."""
        with self._lock:
            if self._has_swept:
                return
            self._has_swept = True
        with contextlib.suppress(RemoteError):
            now_ns = self._now_ns()
            found = [entry for page in self._listings.list("") for entry in page]
            old = [entry.name for entry in found if self._is_stale(entry, now_ns)]
            for folder in old[:_MAX_SWEPT]:
                self.remove(folder)

    def _is_stale(self, entry: Entry, now_ns: int) -> bool:
        match = _FOLDER.fullmatch(entry.name)
        is_ours = match is not None and match[1] == self._machine
        return is_ours and 0 < entry.mtime_ns < now_ns - _STALE_NS

    def _now_ns(self) -> int:
        """The server's time, 0 where it doesn't tell."""
        with self._pool.ask("OPTIONS", f"{self._root}/", {}) as answer:
            return mtime_ns_of_http_date(answer.headers.get("date"))


def error_of(answer: Answer) -> RemoteError:
    return error_of_status(answer.status, answer.what, answer.headers.get("retry-after"))
