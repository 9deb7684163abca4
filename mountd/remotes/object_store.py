"""A bucket as a `RemoteStore`: the same for S3, GCS and Azure.

What differs between them stands behind `Provider` (REST requests) and `RangeReader` (the hot
path). Listings never go through obstore: its delimited listing comes only as a whole (100,000
keys: nothing for seconds), and one key such as `a//b` fails the directory or is silently
rewritten. `xml_pages` has the measurements.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from typing_extensions import Buffer

from mountd.errors import Corrupt, NotFound
from mountd.remotes.base import Capabilities
from mountd.types import Entry, Kind

CAPABILITIES = Capabilities(strong_version=True, conditional_read=True, real_directories=False)


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One object, by its full key in the bucket."""

    key: str
    size: int
    mtime_ns: int
    version: str


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page. `prefixes` are full keys with their slash; `next_token` is "" at the end."""

    objects: Sequence[ListedObject]
    prefixes: Sequence[str]
    next_token: str


class Provider(Protocol):
    """A bucket's REST interface. Full keys; every answer's errors are `RemoteError`s."""

    def head(self, key: str) -> ListedObject:
        """Raises NotFound, and ContainerMissing where it is the bucket that isn't there."""
        ...

    def list_page(self, prefix: str, delimiter: str, token: str, limit: int | None) -> ListPage:
        """One page of at most `limit` entries (None: the provider's maximum)."""
        ...

    def close(self) -> None: ...


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
        capabilities: Capabilities = CAPABILITIES,
    ) -> None:
        self._provider = provider
        self._reader = reader
        self._prefix = f"{prefix}/" if prefix else ""
        self._page_size = page_size
        self._capabilities = capabilities

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def stat(self, key: str) -> Entry:
        full = self._prefix + key
        name = key.removesuffix("/").rpartition("/")[2]
        if key and not key.endswith("/"):
            found = self._provider.head(full)
            return Entry(name, Kind.FILE, found.size, found.mtime_ns, found.version)
        page = self._provider.list_page(full, "", "", 1)
        # An empty page may have a successor (GCS and Azure say so); that is rare enough to walk.
        while not page.objects and page.next_token:
            page = self._provider.list_page(full, "", page.next_token, 1)
        if key and not page.objects:
            raise NotFound(f"{key}: there is nothing below")
        return Entry(name, Kind.DIRECTORY, 0, 0, "")

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        prefix = self._prefix + directory
        seen_directories: set[str] = set()
        token = ""
        while True:
            page = self._provider.list_page(prefix, "/", token, self._page_size)
            yield _entries(page, prefix, seen_directories)
            if not page.next_token:
                return
            if page.next_token == token:
                raise Corrupt(f"the listing of {directory or 'the root'} does not advance")
            token = page.next_token

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        return self._reader.read(self._prefix + key, start, end, version)

    def close(self) -> None:
        self._reader.close()
        self._provider.close()


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
        elif name:
            entries.append(Entry(name, Kind.FILE, found.size, found.mtime_ns, found.version))
    for full in directories:
        name = full[cut:].removesuffix("/")
        if not full.startswith(prefix) or not full.endswith("/") or "/" in name:
            raise Corrupt(f"{full!r} was listed below {prefix!r}")
        if name not in seen_directories:
            seen_directories.add(name)
            entries.append(Entry(name, Kind.DIRECTORY, 0, 0, ""))
    return entries
