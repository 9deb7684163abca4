"""Many synthetic objects by one call, and what a client must read from them."""

import time
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from zlib import crc32

from tests.servers.s3.bodies import PATTERN_PERIOD, Body, Extent, PatternSource, pattern_bytes
from tests.servers.s3.store import Bucket, StoredObject


@dataclass(frozen=True, slots=True)
class SeedPlan:
    """`directories` x `files` objects of `size` bytes below `prefix`.

    Names are `directory_format.format(d)` (left out when `directories` is 0) followed by
    `file_format.format(f)`. Explicit `keys` come on top, with the same size. Contents follow from
    the key and `seed` (see `synthetic_bytes`); another seed is another version of every object.
    A given `etag` is every object's, for one that another server also serves.
    """

    bucket: str
    prefix: str = ""
    directories: int = 0
    files: int = 0
    size: int = 0
    seed: int = 0
    mtime_s: float | None = None
    directory_format: str = "d{:05d}/"
    file_format: str = "f{:06d}.bin"
    keys: tuple[str, ...] = ()
    etag: str = ""

    def all_keys(self) -> list[str]:
        names = [self.file_format.format(number) for number in range(self.files)]
        if not self.directories:
            keys = [self.prefix + name for name in names]
        else:
            keys = [
                folder + name
                for number in range(self.directories)
                for folder in (self.prefix + self.directory_format.format(number),)
                for name in names
            ]
        return keys + list(self.keys)


def pattern_offset(key: str, seed: int) -> int:
    """Where in the pattern an object's contents start."""
    return (crc32(key.encode()) + seed * 7_368_787) % PATTERN_PERIOD


def synthetic_etag(key: str, seed: int, size: int) -> str:
    # As of an upload in parts: rclone takes 32 bare hex digits for an MD5 and fails the read (EIO).
    return blake2b(f"{seed}/{size}/{key}".encode(), digest_size=16).hexdigest() + "-1"


@lru_cache(maxsize=1)
def _pattern() -> bytes:
    return pattern_bytes()


def synthetic_bytes(key: str, start: int, end: int, seed: int = 0) -> bytes:
    """The bytes [start, end) that a seeded object has; for any process."""
    pattern = _pattern()
    at = (pattern_offset(key, seed) + start) % PATTERN_PERIOD
    out = bytearray()
    while len(out) < end - start:
        out += pattern[at : at + end - start - len(out)]
        at = 0
    return bytes(out)


def seed_bucket(bucket: Bucket, plan: SeedPlan, source: PatternSource) -> int:
    """Puts all of the plan's objects and returns how many: 1,000,000 take about 4 s."""
    mtime_s = time.time() if plan.mtime_s is None else plan.mtime_s
    keys = plan.all_keys()
    for key in keys:
        body = Body((Extent(source, pattern_offset(key, plan.seed), plan.size),))
        etag = plan.etag or synthetic_etag(key, plan.seed, plan.size)
        bucket.put(key, StoredObject(body, etag, mtime_s))
    return len(keys)
