"""What our GCS holds: objects, unfinished sessions, and the knobs of its failures."""

import base64
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

import crc32c


@dataclass(frozen=True, slots=True)
class FakeObject:
    """`resource` is what came with the bytes: metadata, contentType, ..."""

    data: bytes
    generation: int
    created: datetime
    resource: Mapping[str, Any]
    crc32c: str
    md5: str


@dataclass(frozen=True, slots=True)
class FakeRequest:
    """A request that changes something; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    size: int


@dataclass(slots=True)
class Session:
    """An unfinished resumable upload."""

    key: str
    query: Mapping[str, str]
    resource: Mapping[str, Any]
    data: bytearray = field(default_factory=bytearray)


class Refused(Exception):
    """An answer that is no success, in Google's form of an error."""

    def __init__(self, status: int, reason: str, message: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self._reason = reason
        self._message = message

    def body(self) -> dict[str, Any]:
        error = {"domain": "global", "reason": self._reason, "message": self._message}
        return {"error": {"code": self.status, "message": self._message, "errors": [error]}}


@dataclass(slots=True)
class GcsFake:
    """The objects of one bucket. `xml_gets` are the paths that the XML API was asked for, and
    `changes` are all requests of the JSON API but GETs.

    Knobs: `fail_with` answers everything with a status. `refuse` answers the next change with a
    status and a reason. `spoil` turns a bit of every file that arrives, before its sum is looked
    at; with `blind` no sum is. `lose_answer` closes the connection after the next change, which
    takes effect. `keep_bytes` is how much a session keeps of its next part. `cut_after` closes the
    connection after so many bytes of the next part, once for each number. `before_change` is called
    once, when the next change has come and nothing was looked at yet.
    """

    bucket: str = "contract"
    endpoint: str = ""
    objects: dict[str, FakeObject] = field(default_factory=dict)
    xml_gets: list[str] = field(default_factory=list)
    changes: list[FakeRequest] = field(default_factory=list)
    sessions: dict[str, Session] = field(default_factory=dict)
    fail_with: int = 0
    refuse: Refused | None = None
    spoil: bool = False
    blind: bool = False
    lose_answer: bool = False
    keep_bytes: int | None = None
    cut_after: list[int] = field(default_factory=list)
    before_change: Callable[[], object] | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)
    _generations: Iterator[int] = field(default_factory=lambda: count(1_700_000_000_000_000))

    def put(self, key: str, data: bytes, resource: Mapping[str, Any] | None = None) -> FakeObject:
        with self.lock:
            generation = next(self._generations)
            md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
            now = datetime.now(UTC)
            made = FakeObject(data, generation, now, resource or {}, sum_of(data), md5)
            self.objects[key] = made
            return made

    def remove(self, key: str) -> None:
        with self.lock:
            del self.objects[key]

    def snapshot(self) -> dict[str, FakeObject]:
        with self.lock:
            return dict(self.objects)


def sum_of(data: bytes) -> str:
    """CRC32C as Google writes it: base64 of the big-endian number."""
    return base64.b64encode(crc32c.crc32c(data).to_bytes(4, "big")).decode()


def resource_of(key: str, found: FakeObject) -> dict[str, Any]:
    return {
        **found.resource,
        "name": key,
        "size": str(len(found.data)),
        "generation": str(found.generation),
        "timeCreated": found.created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "crc32c": found.crc32c,
        "md5Hash": found.md5,
    }
