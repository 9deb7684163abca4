"""Listings and inode numbers that survive a restart.

In memory packed listings, least recently used out first; on disk the same bytes, written by one
thread behind a bounded queue, in which later changes replace earlier ones. Everything on disk is
untrusted: it has CRCs, and what doesn't parse is not there.
"""

import math
import os
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from crc32c import crc32c

from mountd_cache.durable_io import make_private_dir
from mountd_cache.inode_numbers import InodeNumbers
from mountd_cache.listing import Listing
from mountd_cache.metadata_batch import Batch, CachedListing
from mountd_cache.metadata_store import MetadataStore

__all__ = ["CachedListing", "MetadataCache", "MetadataHealth"]

_TAG_SIZE: Final = 8
_TIME: Final = struct.Struct("<8sdI")  # tag of the listing, fetched_at, CRC32C; then the token
_ENTRY_BYTES: Final = 300  # a CachedListing and its place in the memory table
_CHUNK_BYTES: Final = 8 << 20  # per transaction, so that SQLite's log stays small
_RETRY_AFTER_S: Final = 10.0
MIB: Final = 1 << 20

Item = tuple[bytes, bytes | None]


@dataclass(frozen=True, slots=True)
class MetadataHealth:
    """How the disk behind the metadata is doing. `given_up`: listings kept in memory only."""

    errors: int
    last_reason: str | None
    given_up: int


class MetadataCache:
    """The listings of directories, by their key; inode numbers.

    Any thread may call anything. Calls cost microseconds, except for a listing that is only on
    disk (0.1 ms, 10 ms for 100,000 rows). Raises DirectoryNotPrivate or OSError when the folder
    can't be made or isn't ours alone; a database that can't be used is begun anew, and without a
    disk the memory still works. One process per folder: the caller holds the lock that makes it so.
    """

    def __init__(
        self,
        folder: Path,
        *,
        memory_limit_bytes: int = 128 * MIB,
        disk_limit_bytes: int = 1024 * MIB,
        backlog_bytes: int = 64 * MIB,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        make_private_dir(folder)
        self._listings = MetadataStore(folder / "listings", limit_bytes=disk_limit_bytes)
        self._inodes = InodeNumbers(folder / "inodes", wall_clock=wall_clock)
        self._wall_clock = wall_clock
        self._memory_limit_bytes = memory_limit_bytes
        self._backlog_bytes = backlog_bytes
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._memory: OrderedDict[str, CachedListing] = OrderedDict()
        self._memory_bytes = 0
        self._pending = Batch()
        self._writing = Batch()
        # Called with a directory's key when it has another listing, or none, from now on; in the
        # thread that says so, with the lock held: it must not wait, and not call anything here.
        self.listed: Callable[[str], None] = lambda key: None
        self._changes = 0  # so that a load from disk notices what overtook it
        self._given_up = 0
        self._resting = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="metadata-writer", daemon=True)
        self._thread.start()

    # Listings.

    def get(self, directory: str) -> CachedListing | None:
        """What is known of a directory. A `fetched_at` in the future comes back as 0."""
        with self._lock:
            cached = self._memory.get(directory)
            if cached is not None:
                self._memory.move_to_end(directory)
                return self._aged(cached)
            changes = self._changes
            cached, on_disk, expired = self._waiting(directory)
        if on_disk:
            cached = self._load(directory)
        if cached is None:
            return None
        if expired:
            cached = replace(cached, fetched_at=0.0, token="")
        with self._lock:
            if changes == self._changes:
                self._keep(directory, cached)
        return self._aged(cached)

    def put(self, directory: str, listing: Listing, fetched_at: float, token: str = "") -> None:
        """The directory's listing from now on; on disk a little later."""
        cached = CachedListing(listing, fetched_at, os.urandom(_TAG_SIZE), token)
        with self._changed:
            self._keep(directory, cached)
            self._pending.put(directory, cached)
            self._given_up += self._pending.shrink(self._backlog_bytes)
            self._announce()
            self.listed(directory)

    def touch(self, directory: str, fetched_at: float, token: str = "") -> None:
        """The listing was found unchanged at that time. Nothing happens to an unknown one."""
        cached = self.get(directory)
        if cached is None:
            return
        cached = replace(cached, fetched_at=fetched_at, token=token)
        with self._changed:
            newer = self._memory.get(directory)
            if newer is not None and newer.tag != cached.tag:
                return  # put meanwhile
            self._keep(directory, cached)
            self._pending.touch(directory, cached)
            self._announce()

    def revive(self, directory: str, tag: bytes, fetched_at: float) -> None:
        """As `touch`, in memory only: after a restart the older time holds again."""
        with self._lock:
            cached = self._memory.get(directory)
            if cached is not None and cached.tag == tag:
                self._memory[directory] = replace(cached, fetched_at=fetched_at)

    def forget(self, directory: str) -> None:
        """Nothing is known of this directory any more."""
        with self._changed:
            self._drop(directory)
            self._pending.put(directory, None)
            self._announce()
            self.listed(directory)

    def forget_below(self, prefix: str) -> None:
        """Nothing is known any more of directories whose key begins with `prefix`."""
        with self._changed:
            for directory in [key for key in self._memory if key.startswith(prefix)]:
                self._drop(directory)
            self._pending.forget_below(prefix)
            self._announce()

    def move_below(self, old: str, new: str, directories: Iterable[str]) -> None:
        """The listings of directories whose key begins with `old` are those of keys with `new` in
        its place: those in memory, and of those on disk `directories`; the others are forgotten."""
        known = {key: self.get(key) for key in directories}
        with self._changed:
            known.update((key, at) for key, at in self._memory.items() if key.startswith(old))
            for directory in [key for key in self._memory if key.startswith((old, new))]:
                self._drop(directory)
            self.listed(old)
            self.listed(new)
            self._pending.forget_below(old)
            self._pending.forget_below(new)
            for key, cached in known.items():
                if cached is not None:
                    self._keep(new + key[len(old) :], cached)
                    self._pending.put(new + key[len(old) :], cached)
            self._given_up += self._pending.shrink(self._backlog_bytes)
            self._announce()

    def on_disk(self) -> list[str]:
        """The directories whose listings the disk has, whatever waits for it; 2 us for each."""
        keys = list(self._listings.keys())
        return [key[1:].decode("utf-8", "surrogatepass") for key in keys if key[:1] == b"L"]

    def expire(self, prefix: str) -> None:
        """Directories whose key begins with `prefix` keep their listing, with `fetched_at` 0."""
        with self._changed:
            for directory, cached in self._memory.items():
                if directory.startswith(prefix):
                    self._memory[directory] = replace(cached, fetched_at=0.0, token="")
            self._pending.expire(prefix)
            self._announce()

    # Inode numbers.

    def reserve_inodes(self, count: int) -> int:
        """The first of `count` consecutive numbers, >= 2 and < 2^63, that were never used.

        Neither before a SIGKILL or a power cut, nor before the database was lost.
        """
        return self._inodes.reserve(count)

    # The whole.

    @property
    def memory_bytes(self) -> int:
        """Bytes of the listings in memory."""
        return self._memory_bytes

    @property
    def health(self) -> MetadataHealth:
        """Errors since the start."""
        reason = self._listings.last_error
        if self._inodes.last_error is not None:
            reason = str(self._inodes.last_error)
        return MetadataHealth(self._listings.errors, reason, self._given_up)

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Waits until all changes are on disk; False when that failed or took longer."""
        with self._changed:
            self._resting = False
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._resting or not (self._pending or self._writing), timeout_s
            )
            return not (self._pending or self._writing)

    def close(self) -> None:
        """Writes what waits (30 s at most) and ends the writer. Call it where `get` was called."""
        self.flush()
        self.abandon()

    def abandon(self) -> None:
        """Ends the writer, and writes no more than it has begun: as SIGKILL leaves it."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(30.0)
        self._listings.close()

    # Inside: memory. All with the lock held.

    def _keep(self, directory: str, cached: CachedListing) -> None:
        """The newest stays, even if it alone is over the limit: it is in use."""
        self._drop(directory)
        self._memory[directory] = cached
        self._memory_bytes += cached.listing.nbytes + _ENTRY_BYTES
        while self._memory_bytes > self._memory_limit_bytes and len(self._memory) > 1:
            self._drop(next(iter(self._memory)))

    def _drop(self, directory: str) -> None:
        old = self._memory.pop(directory, None)
        if old is not None:
            self._memory_bytes -= old.listing.nbytes + _ENTRY_BYTES

    def _waiting(self, directory: str) -> tuple[CachedListing | None, bool, bool]:
        """From what waits for the disk: (listing, whether to look on the disk, expired)."""
        expired = False
        for batch in (self._pending, self._writing):
            cached = batch.listings.get(directory)
            if cached is not None or batch.forgets(directory):
                return cached, False, expired
            expired = expired or batch.expires(directory)
        return None, True, expired

    def _announce(self) -> None:
        self._changes += 1
        self._changed.notify_all()

    def _aged(self, cached: CachedListing) -> CachedListing:
        if cached.fetched_at > self._wall_clock():
            return replace(cached, fetched_at=0.0)  # the clock was set back: no longer fresh
        return cached

    # Inside: the disk.

    def _load(self, directory: str) -> CachedListing | None:
        key = _encoded(directory)
        kept = self._listings.get(b"L" + key)
        if kept is None:
            return None
        try:
            listing = Listing.from_bytes(kept[_TAG_SIZE:])
        except ValueError:
            return None
        tag = kept[:_TAG_SIZE]
        fetched_at, token = _time(self._listings.get(b"T" + key), tag)
        return CachedListing(listing, fetched_at, tag, token)

    def _run(self) -> None:
        """The writer thread."""
        while self._next_batch():
            written = self._write(self._writing)
            with self._changed:
                if not written:
                    self._pending = self._writing.failed(self._pending)
                self._writing = Batch()
                self._resting = not written
                self._changed.notify_all()
        self._listings.close()

    def _next_batch(self) -> bool:
        with self._changed:
            if self._resting:
                self._changed.wait_for(
                    lambda: self._closing or not self._resting, timeout=_RETRY_AFTER_S
                )
            self._changed.wait_for(lambda: self._closing or self._pending)
            if self._closing:
                return False
            self._writing, self._pending = self._pending, Batch()
            return True

    def _write(self, batch: Batch) -> bool:
        done = True
        for chunk in _chunks(self._items(batch)):
            done = self._listings.write(chunk) and done
        return done

    def _items(self, batch: Batch) -> Iterator[Item]:
        forgotten = tuple(_encoded(prefix) for prefix, forget in batch.prefixes.items() if forget)
        expired = tuple(_encoded(prefix) for prefix, forget in batch.prefixes.items() if not forget)
        if batch.prefixes:
            for key in list(self._listings.keys()):
                if key[1:].startswith(forgotten) or (
                    key[:1] == b"T" and key[1:].startswith(expired)
                ):
                    yield key, None
        for directory, cached in batch.listings.items():
            key = _encoded(directory)
            if cached is None:
                yield b"L" + key, None
                yield b"T" + key, None
            else:
                yield b"L" + key, cached.tag + cached.listing.to_bytes()
                yield b"T" + key, _pack_time(cached)
        for directory, touched in batch.times.items():
            yield b"T" + _encoded(directory), _pack_time(touched)


def _encoded(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _pack_time(cached: CachedListing) -> bytes:
    token = _encoded(cached.token)
    crc = crc32c(token, crc32c(_TIME.pack(cached.tag, cached.fetched_at, 0)))
    return _TIME.pack(cached.tag, cached.fetched_at, crc) + token


def _time(kept: bytes | None, tag: bytes) -> tuple[float, str]:
    """`fetched_at` and the token; 0 (expired) unless they were kept for the listing with that
    tag."""
    if kept is None or len(kept) < _TIME.size:
        return 0.0, ""
    found, fetched_at, crc = _TIME.unpack_from(kept)
    token = kept[_TIME.size :]
    if found != tag or crc != crc32c(token, crc32c(_TIME.pack(found, fetched_at, 0))):
        return 0.0, ""
    if not math.isfinite(fetched_at) or not fetched_at:
        return 0.0, ""
    return float(fetched_at), token.decode("utf-8", "surrogatepass")


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += len(item[1] or b"")
        if size > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
