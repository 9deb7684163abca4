"""Buckets and objects. Objects are immutable; an overwrite replaces one by another.

Keys are kept sorted for listing (code points sort as UTF-8 bytes do, which is S3's order). A
single new key is inserted in place (a memmove: 0.3 ms at 1,000,000 keys); many new keys are
sorted in at the next listing. Deleted keys stay in the order as tombstones until they are many.
"""

import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.servers.s3.bodies import Body
from tests.servers.s3.message import S3Error

INSERT_LIMIT = 64


class StoredObject:
    """`etag` without quotes; `headers` are sent back as they are (metadata, content type, ...)."""

    __slots__ = ("body", "checksums", "etag", "headers", "mtime_s", "part_sizes")

    def __init__(
        self,
        body: Body,
        etag: str,
        mtime_s: float,
        headers: dict[str, str] | None = None,
        checksums: dict[str, str] | None = None,
        part_sizes: tuple[int, ...] = (),
    ) -> None:
        self.body = body
        self.etag = etag
        self.mtime_s = mtime_s
        self.headers = DEFAULT_HEADERS if headers is None else headers
        self.checksums = NO_CHECKSUMS if checksums is None else checksums
        self.part_sizes = part_sizes


DEFAULT_HEADERS = {"Content-Type": "binary/octet-stream"}
NO_CHECKSUMS: dict[str, str] = {}


@dataclass(slots=True)
class Part:
    body: Body
    etag: str
    mtime_s: float
    checksums: dict[str, str]


@dataclass(slots=True)
class Upload:
    """A multipart upload under way."""

    upload_id: str
    key: str
    initiated_s: float
    headers: dict[str, str]
    algorithm: str = ""  # of its parts' checksums, in lower case
    is_composite: bool = True
    parts: dict[int, Part] = field(default_factory=dict)


class Bucket:
    def __init__(self, name: str) -> None:
        self.name = name
        self.created_s = time.time()
        self.uploads: dict[str, Upload] = {}
        self._objects: dict[str, StoredObject] = {}
        self._order: list[str] = []
        self._unsorted: list[str] = []
        self._tombstones: set[str] = set()

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: str) -> StoredObject | None:
        return self._objects.get(key)

    def require(self, key: str) -> StoredObject:
        """Raises NoSuchKey."""
        found = self._objects.get(key)
        if found is None:
            raise S3Error(404, "NoSuchKey", "The specified key does not exist.", {"Key": key})
        return found

    def put(self, key: str, stored: StoredObject) -> None:
        if key not in self._objects:
            if key in self._tombstones:
                self._tombstones.discard(key)
            else:
                self._unsorted.append(key)
        self._objects[key] = stored

    def delete(self, key: str) -> bool:
        if self._objects.pop(key, None) is None:
            return False
        self._tombstones.add(key)
        if len(self._tombstones) > max(1000, len(self._objects)):
            self._order = sorted(self._objects)
            self._unsorted.clear()
            self._tombstones.clear()
        return True

    def ordered(self, after: str, *, inclusive: bool) -> "Cursor":
        """A cursor at the first key that is > `after` (>= where inclusive)."""
        if len(self._unsorted) < INSERT_LIMIT:
            for key in self._unsorted:
                insort(self._order, key)
        else:
            self._unsorted.sort()
            self._order += self._unsorted
            self._order.sort()  # Two sorted runs: timsort merges them.
        self._unsorted = []
        return Cursor(self._order, self._objects, after, inclusive=inclusive)

    def keys(self) -> Iterator[str]:
        cursor = self.ordered("", inclusive=True)
        while (found := cursor.next()) is not None:
            yield found[0]


class Cursor:
    """Walks the keys in order, leaving out deleted ones, and can jump ahead."""

    def __init__(
        self, order: list[str], objects: dict[str, StoredObject], after: str, *, inclusive: bool
    ) -> None:
        self._order = order
        self._objects = objects
        self._at = bisect_left(order, after) if inclusive else bisect_right(order, after)

    def next(self) -> tuple[str, StoredObject] | None:
        while self._at < len(self._order):
            key = self._order[self._at]
            self._at += 1
            stored = self._objects.get(key)
            if stored is not None:
                return key, stored
        return None

    def skip_prefix(self, prefix: str) -> None:
        """Jumps past every key that starts with `prefix`."""
        after = successor(prefix)
        self._at = len(self._order) if after is None else bisect_left(self._order, after, self._at)


def successor(prefix: str) -> str | None:
    """The smallest string that sorts after everything that starts with `prefix`."""
    while prefix:
        last = ord(prefix[-1])
        if last < 0x10FFFF:
            return prefix[:-1] + chr(0xE000 if last == 0xD7FF else last + 1)
        prefix = prefix[:-1]
    return None


class Store:
    """All buckets of one server."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}

    def require(self, name: str) -> Bucket:
        """Raises NoSuchBucket."""
        bucket = self.buckets.get(name)
        if bucket is None:
            raise S3Error(
                404, "NoSuchBucket", "The specified bucket does not exist", {"BucketName": name}
            )
        return bucket

    def ensure(self, name: str) -> Bucket:
        if name not in self.buckets:
            self.buckets[name] = Bucket(name)
        return self.buckets[name]
