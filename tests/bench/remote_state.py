"""What the server must have in the end, since when it had it, and whether every byte is right.

Asked through the server's control port: no such request is logged, delayed or counted. Since when
is read from the server's log of requests, so the polling doesn't blur it.
"""

import http.client
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from tests.bench.readers import MIB, WrongData
from tests.bench.remote import Remote
from tests.servers.s3.seeding import synthetic_bytes

# A poll costs the server about 1 ms per 1,000 keys, which a contestant then waits for.
_POLL_S = 0.05
_LOG_POLL_S = 0.25
_TIDY_S = 3.0
_WRITES = ("PutObject", "CopyObject", "CompleteMultipartUpload")
_DELETES = ("DeleteObject", "DeleteObjects")


class Content(Protocol):
    """What an object must hold."""

    @property
    def size(self) -> int: ...

    def piece(self, start: int, end: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Synthetic:
    key: str
    size: int

    def piece(self, start: int, end: int) -> bytes:
        return synthetic_bytes(self.key, start, end)


@dataclass(frozen=True, slots=True)
class Edited:
    """`base` with `data` at `offset`."""

    base: Content
    offset: int
    data: bytes

    @property
    def size(self) -> int:
        return self.base.size

    def piece(self, start: int, end: int) -> bytes:
        found = bytearray(self.base.piece(start, end))
        first, last = max(start, self.offset), min(end, self.offset + len(self.data))
        if first < last:
            found[first - start : last - start] = self.data[
                first - self.offset : last - self.offset
            ]
        return bytes(found)


@dataclass(frozen=True, slots=True)
class LocalFile:
    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def piece(self, start: int, end: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)


class RemoteState(Protocol):
    """A state that the server must reach."""

    def reached_s(self, server: Remote) -> float | None:
        """When it did, in time.monotonic(); None: not yet."""

    def check(self, server: Remote) -> None:
        """Raises WrongData where the server has anything else."""


@dataclass(frozen=True, slots=True)
class Objects:
    """These objects; with `alone` no others but markers of directories. `gone`: a prefix that must
    be empty first.

    Reached when each was written whole since the log was cleared: s3fs makes empty objects first.
    """

    bucket: str
    wanted: Mapping[str, Content]
    alone: bool = True
    gone: str = ""

    def reached_s(self, server: Remote) -> float | None:
        keys = set(server.keys(self.bucket))
        if not self.wanted.keys() <= keys:
            return None
        gone_s = 0.0
        if self.gone:
            if any(key.startswith(self.gone) for key in keys):
                return None
            gone_s = _last_delete_s(server, self.bucket)
        first: dict[str, float] = {}
        for op in _WRITES:
            for entry in server.log(op=op, bucket=self.bucket):
                content = self.wanted.get(entry.key)
                if content is None or entry.status != 200:
                    continue
                if op == "PutObject" and entry.bytes_received < content.size:
                    continue
                first[entry.key] = min(first.get(entry.key, entry.done_s), entry.done_s)
        if len(first) < len(self.wanted):
            time.sleep(_LOG_POLL_S)
            return None
        return max(gone_s, *first.values())

    def check(self, server: Remote) -> None:
        if self.alone:
            until_s = time.monotonic() + _TIDY_S
            while (foreign := self._foreign(server)) and time.monotonic() < until_s:
                time.sleep(_LOG_POLL_S)  # what a program has made to try the server goes soon
            if foreign:
                raise WrongData(f"{len(foreign)} objects nobody asked for: {foreign[:3]}")
        where = urlsplit(server.contents_url(self.bucket, ""))
        with closing(http.client.HTTPConnection(where.netloc, timeout=60)) as connection:
            for key, content in self.wanted.items():
                _compare(connection, server.contents_url(self.bucket, key), key, content)

    def _foreign(self, server: Remote) -> list[str]:
        found = (key for key in server.keys(self.bucket) if not _is_marker(key))
        return [key for key in found if key not in self.wanted]


@dataclass(frozen=True, slots=True)
class Gone:
    """No object below `prefix`, the marker of the directory itself included."""

    bucket: str
    prefix: str

    def reached_s(self, server: Remote) -> float | None:
        if any(key.startswith(self.prefix) for key in server.keys(self.bucket)):
            return None
        return _last_delete_s(server, self.bucket)

    def check(self, server: Remote) -> None:
        left = [key for key in server.keys(self.bucket) if key.startswith(self.prefix)]
        if left:
            raise WrongData(f"{len(left)} objects came back: {left[:3]}")


def wait_for(
    state: RemoteState, server: Remote, limit_s: float, alive: Callable[[], bool]
) -> float | None:
    """When the state was reached; None when it wasn't in `limit_s` or nobody works on it."""
    deadline_s = time.monotonic() + limit_s
    while True:
        reached_s = state.reached_s(server)
        if reached_s is not None or time.monotonic() > deadline_s or not alive():
            return reached_s
        time.sleep(_POLL_S)


def _last_delete_s(server: Remote, bucket: str) -> float:
    done = [entry.done_s for op in _DELETES for entry in server.log(op=op, bucket=bucket)]
    return max(done, default=time.monotonic())


def _is_marker(key: str) -> bool:
    return key.endswith("/") or "_$folder$" in key


def _compare(connection: http.client.HTTPConnection, url: str, key: str, content: Content) -> None:
    where = urlsplit(url)
    connection.request("GET", f"{where.path}?{where.query}")
    answer = connection.getresponse()
    if answer.status != 200:
        answer.read()
        raise WrongData(f"{key} is not on the server any more")
    offset = 0
    while data := answer.read(MIB):
        if data != content.piece(offset, offset + len(data)):
            answer.read()
            raise WrongData(f"{key}: what the server has at {offset} is not what was written")
        offset += len(data)
    if offset != content.size:
        raise WrongData(f"{key}: the server has {offset} bytes instead of {content.size}")
