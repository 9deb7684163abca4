"""A bucket as a `RemoteStore`: the same for S3, GCS and Azure.

What differs between them stands behind `Provider` (REST requests) and `RangeReader` (the hot
path). Listings never go through obstore: its delimited listing comes only as a whole (100,000
keys: nothing for seconds), and one key such as `a//b` fails the directory or is silently
rewritten. `xml_pages` has the measurements.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from typing_extensions import Buffer

from mountd.errors import Corrupt, DirectoryNotEmpty, NotFound, Unsupported, VersionChanged
from mountd.remotes.base import ABSENT, Body, Capabilities, Identity, RemoteStore, Upload
from mountd.remotes.optional_doors import KnowsVersionIds, PreparesChanges
from mountd.remotes.untrusted import Advance
from mountd.types import Entry, Kind

CAPABILITIES = Capabilities(strong_version=True, conditional_read=True, real_directories=False)

# What a store puts below its prefix to see whether a server enforces conditions. Never listed.
PROBE_NAME = ".mountd-probe-"
_PROBE = re.compile(r"(?:.*/)?\.mountd-probe-[0-9a-f]{32}/?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One object, by its full key in the bucket. `attributes` as in `Entry`."""

    key: str
    size: int
    mtime_ns: int
    version: str
    attributes: Mapping[str, str] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page. `prefixes` are full keys with their slash; `next_token` is "" at the end."""

    objects: Sequence[ListedObject]
    prefixes: Sequence[str]
    next_token: str


@runtime_checkable
class KeepsById(Protocol):
    def keeps(self, key: str, version: str, find_id: Callable[[], str]) -> bool:
        """As `KeepsVersions.keeps_version`; `find_id` asks for the id, "" where it has none."""
        ...


@dataclass(frozen=True, slots=True)
class FoundObject:
    """One object and what tells who wrote it; "" where it isn't known. As `Identity` else."""

    object: ListedObject
    upload_id: str = ""
    md5: str = ""
    version_id: str = ""
    sums: Mapping[str, str] = field(default_factory=dict)


class Provider(Protocol):
    """A bucket's REST interface. Full keys; every answer's errors are `RemoteError`s.

    What `RemoteStore` promises of `put`, `delete`, `copy` and `identify` holds here, too: also
    stat-then-act where the remote doesn't enforce `expect`. A key that ends with a slash is a
    marker of a directory. A write returns the object as a listing will show it; where that would
    cost a request more, only `size` and `version` need to be right, and `mtime_ns` is our clock's.
    """

    @property
    def capabilities(self) -> Capabilities:
        """May change with the first write, which may find out what the remote enforces."""
        ...

    def head(self, key: str) -> ListedObject:
        """Raises NotFound, and ContainerMissing where it is the bucket that isn't there."""
        ...

    def list_page(self, prefix: str, delimiter: str, token: str, limit: int | None) -> ListPage:
        """One page of at most `limit` entries (None: the provider's maximum)."""
        ...

    def identify(self, key: str) -> FoundObject: ...

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> ListedObject: ...

    def put_delta(
        self,
        key: str,
        body: Body,
        expect: str | None,
        upload: Upload,
        source: str,
        version: str,
        same: Sequence[tuple[int, int]],
    ) -> ListedObject: ...

    def abandon(self, key: str, token: str) -> None: ...

    def delete(self, key: str, expect: str | None) -> None: ...

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> ListedObject: ...

    def close(self) -> None: ...


@runtime_checkable
class CopiesBetweenBuckets(Protocol):
    def copy_from(
        self,
        other: Any,
        source: str,
        version: str,
        key: str,
        expect: str | None,
        upload: Upload,
    ) -> ListedObject:
        """As `copy`, from another bucket of the same account: a provider of the same class."""
        ...


@runtime_checkable
class ChecksumsOnDemand(Protocol):
    def checksums(self, key: str) -> FoundObject:
        """As `identify`, with what that doesn't ask for."""
        ...


class RangeReader(Protocol):
    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        """`RemoteStore.read` by full key."""
        ...

    def close(self) -> None: ...


class PlainReads(Protocol):
    """The provider's own ranged GET: exact, any key, true errors, slower.

    `ranges_come_as_200`: it has seen an answer that obstore refuses (`rclone serve s3`).
    """

    @property
    def ranges_come_as_200(self) -> bool: ...

    def read_range(
        self, key: str, start: int, end: int, version: str, timeout_s: float | None = None
    ) -> bytes: ...


@dataclass(frozen=True, slots=True)
class PlainReader:
    """A `RangeReader` without obstore, for a server that obstore can't speak to."""

    plain: PlainReads

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        return self.plain.read_range(key, start, end, version)

    def close(self) -> None:
        """The provider's connections are the store's to close."""


class ObjectStore:
    """A `RemoteStore` below `prefix` (no slash at its ends, "" is the whole bucket).

    `page_size` bounds the entries of a listing's page; None takes the provider's maximum (1,000
    on S3 and GCS, 5,000 on Azure).
    """

    def __init__(
        self,
        provider: Provider,
        reader: RangeReader,
        prefix: str,
        page_size: int | None = None,
    ) -> None:
        self._provider = provider
        self._reader = reader
        self._prefix = f"{prefix}/" if prefix else ""
        self._page_size = page_size
        self._told: tuple[Capabilities, Capabilities] | None = None  # the provider's, and ours

    @property
    def capabilities(self) -> Capabilities:
        theirs, told = self._provider.capabilities, self._told
        if told is None or told[0] is not theirs:  # asked several times per upload
            limit = theirs.key_limit
            limit = replace(limit, above=self._prefix) if limit is not None else None
            told = self._told = theirs, replace(theirs, key_limit=limit)
        return told[1]

    def stat(self, key: str) -> Entry:
        full = self._prefix + key
        name = key.removesuffix("/").rpartition("/")[2]
        if key and not key.endswith("/"):
            found = self._provider.head(full)
            return _file_entry(key, found)
        # An empty page may have a successor (GCS and Azure say so); that is rare enough to walk.
        is_there = any(page.objects for page in self._pages(full, "", 1))
        if key and not is_there:
            raise NotFound(f"{key}: there is nothing below")
        return Entry(name, Kind.DIRECTORY, 0, 0, "")

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        prefix = self._prefix + directory
        seen_directories: set[str] = set()
        advance = Advance(prefix or "the root")
        for page in self._pages(prefix, "/", advance=advance):
            advance.bound()
            yield _entries(page, prefix, seen_directories)

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        prefix = self._prefix + directory
        for page in self._pages(prefix, ""):
            yield _tree_entries(page, prefix, len(self._prefix))

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        return self._reader.read(self._prefix + key, start, end, version)

    def identify(self, key: str) -> Identity:
        _check_file(key)
        return _identity(key, self._provider.identify(self._prefix + key))

    def checksums(self, key: str) -> Identity:
        _check_file(key)
        if not isinstance(self._provider, ChecksumsOnDemand):
            return self.identify(key)
        return _identity(key, self._provider.checksums(self._prefix + key))

    def note_version_id(self, key: str, version: str, version_id: str) -> bool:
        if not isinstance(self._reader, KnowsVersionIds):
            return False
        return self._reader.note_version_id(self._prefix + key, version, version_id)

    def keeps_version(self, key: str, version: str) -> bool:
        _check_file(key)
        full = self._prefix + key

        def find_id() -> str:
            found = self._provider.identify(full)
            return found.version_id if found.object.version == version else ""

        return isinstance(self._reader, KeepsById) and self._reader.keeps(full, version, find_id)

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        _check_file(key)
        return _file_entry(key, self._provider.put(self._prefix + key, body, expect, upload))

    def put_delta(
        self,
        key: str,
        body: Body,
        expect: str | None,
        upload: Upload,
        source: str,
        version: str,
        same: Sequence[tuple[int, int]],
    ) -> Entry:
        _check_file(source)
        _check_file(key)
        full, full_source = self._prefix + key, self._prefix + source
        made = self._provider.put_delta(full, body, expect, upload, full_source, version, same)
        return _file_entry(key, made)

    def abandon(self, key: str, token: str) -> None:
        _check_file(key)
        self._provider.abandon(self._prefix + key, token)

    def delete(self, key: str, expect: str | None) -> None:
        _check_file(key)
        self._provider.delete(self._prefix + key, expect)

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        _check_file(source)
        _check_file(key)
        full = self._prefix + key
        made = self._provider.copy(self._prefix + source, version, full, expect, upload)
        return _file_entry(key, made)

    def copy_from(
        self,
        other: RemoteStore,
        source: str,
        version: str,
        key: str,
        expect: str | None,
        upload: Upload,
    ) -> Entry:
        _check_file(source)
        _check_file(key)
        ours, theirs = self._provider, getattr(other, "_provider", None)
        if type(ours) is not type(theirs) or not isinstance(ours, CopiesBetweenBuckets):
            raise Unsupported("that lies elsewhere")
        assert isinstance(other, ObjectStore)
        full, there = self._prefix + key, other._prefix + source
        return _file_entry(key, ours.copy_from(theirs, there, version, full, expect, upload))

    def make_dir(self, key: str) -> None:
        """One request: the marker, unless there is one."""
        with contextlib.suppress(VersionChanged):
            self._provider.put(self._prefix + key, _NoBytes(), ABSENT, Upload())

    def remove_dir(self, key: str) -> None:
        """Two requests. A file that comes into being between them stays, without the marker.

        NotFound where there is neither a marker nor anything below.
        """
        full = self._prefix + key
        marker: ListedObject | None = None
        for page in self._pages(full, "", 2):
            for found in page.objects:
                if found.key != full:
                    raise DirectoryNotEmpty(key)
                marker = found
        if marker is None:
            raise NotFound(f"{key}: there is no such directory")
        self._provider.delete(full, marker.version)

    def prepare_changes(self) -> None:
        if isinstance(self._provider, PreparesChanges):
            self._provider.prepare_changes()

    def close(self) -> None:
        self._reader.close()
        self._provider.close()

    def _pages(
        self,
        prefix: str,
        delimiter: str,
        page_size: int | None = None,
        advance: Advance | None = None,
    ) -> Iterator[ListPage]:
        """Raises Corrupt for a listing that goes round in a circle."""
        token = ""
        advance = advance or Advance(prefix or "the root")
        page_size = page_size or self._page_size
        while True:
            page = self._provider.list_page(prefix, delimiter, token, page_size)
            advance.page(len(page.objects) + len(page.prefixes), page.next_token)
            yield page
            if not page.next_token:
                return
            token = page.next_token


@dataclass(frozen=True, slots=True)
class _NoBytes:
    size: int = 0

    def read(self, start: int, end: int) -> Buffer:
        return b""


def _identity(key: str, found: FoundObject) -> Identity:
    entry = _file_entry(key, found.object)
    sums = {**found.sums, "md5": found.md5} if found.md5 else found.sums
    return Identity(entry, found.upload_id, found.md5, sums, found.version_id)


def _check_file(key: str) -> None:
    if not key or key.endswith("/"):
        raise NotFound(f"{key!r} is no file")


def _file_entry(key: str, found: ListedObject) -> Entry:
    name = key.rpartition("/")[2]
    return Entry(name, Kind.FILE, found.size, found.mtime_ns, found.version, found.attributes)


def _tree_entries(page: ListPage, prefix: str, cut: int) -> list[tuple[str, Entry]]:
    """The page's objects below `prefix`, with keys cut to the mounted prefix."""
    entries: list[tuple[str, Entry]] = []
    for found in page.objects:
        if not found.key.startswith(prefix):
            raise Corrupt(f"{found.key!r} was listed below {prefix!r}")
        key = found.key[cut:]
        if found.key == prefix or _PROBE.fullmatch(key):
            continue
        if key.endswith("/"):
            name = key[:-1].rpartition("/")[2]
            entries.append((key, Entry(name, Kind.DIRECTORY, 0, 0, "")))
        else:
            entries.append((key, _file_entry(key, found)))
    return entries


def _entries(page: ListPage, prefix: str, seen_directories: set[str]) -> list[Entry]:
    """The page's entries below `prefix`, without its marker and what was listed before."""
    entries: list[Entry] = []
    cut = len(prefix)
    directories = list(page.prefixes)
    for found in page.objects:
        if not found.key.startswith(prefix):
            raise Corrupt(f"{found.key!r} was listed below {prefix!r}")
        name = found.key[cut:]
        if "/" in name:
            # A marker, or a server that doesn't group: a directory is what it shows.
            directories.append(prefix + name.partition("/")[0] + "/")
        elif name and not _PROBE.fullmatch(name):
            entries.append(_file_entry(name, found))
    for full in directories:
        name = full[cut:].removesuffix("/")
        if not full.startswith(prefix) or not full.endswith("/") or "/" in name:
            raise Corrupt(f"{full!r} was listed below {prefix!r}")
        if name not in seen_directories and not _PROBE.fullmatch(name):
            seen_directories.add(name)
            entries.append(Entry(name, Kind.DIRECTORY, 0, 0, ""))
    return entries
