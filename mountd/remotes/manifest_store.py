"""`manifest:FILE`: a set of files as a manifest lists them, read from where it says that they live.

Nothing is listed anywhere: names, sizes and versions are the manifest's. Each read is one of the
version that the manifest has; a file that is another one by now is VersionChanged, with a line in
the log, and never other bytes.

Where there are several locations one that is out of reach says nothing of the others: what is asked
of it fails with `LocationAway` after its own retries, and at once for AWAY_S from then on.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from typing_extensions import Buffer

from mountd.config import Reach, Settings
from mountd.config.source import Source
from mountd.errors import ContainerMissing, NotFound, Unreachable, Unsupported, VersionChanged
from mountd.manifest import Manifest, ManifestFile, read_manifest
from mountd.remotes.base import Body, Capabilities, Identity, RemoteStore, Upload
from mountd.remotes.optional_doors import checksums_in, note_version_id
from mountd.remotes.retry import RetryingStore
from mountd.types import Entry, Kind

log = logging.getLogger(__name__)

AWAY_S = 10.0
_PAGE_ENTRIES = 1000
_MAX_TOLD = 10_000


class LocationAway(ContainerMissing):
    """One of several locations of a manifest does not answer; the others may."""


def open_manifest(
    source: Source,
    settings: Settings,
    reach: Reach,
    open_store: Callable[[Source, Settings], RemoteStore],
) -> "ManifestStore":
    """Reads the manifest and makes no request. Raises UsageError, as `open_store` does."""
    manifest = read_manifest(Path("/" + source.prefix))
    return open_locations(manifest, settings, reach, open_store)


def open_locations(
    manifest: Manifest,
    settings: Settings,
    reach: Reach,
    open_store: Callable[[Source, Settings], RemoteStore],
) -> "ManifestStore":
    """The stores of all locations. Raises as `open_manifest`."""
    natives = [open_store(*reach(location)) for location in manifest.locations]
    return ManifestStore(manifest, natives, settings.request_timeout_s)


class ManifestStore:
    """A read-only `RemoteStore`. Keys are the manifest's paths. `natives`: of its locations.

    Where a location's versions prove little (size and time), they are told together with where
    the file lives: two manifests of one name must not take one file for the other.
    """

    def __init__(
        self,
        manifest: Manifest,
        natives: Sequence[RemoteStore],
        timeout_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.locations = manifest.locations
        self._natives = natives
        self._stores = natives
        if len(natives) > 1:
            self._stores = [RetryingStore(store, timeout_s) for store in natives]
        self._clock = clock
        self._is_strong = [store.capabilities.strong_version for store in natives]
        self._files = {file.path: file for file in manifest.files}
        self._children = _children(manifest.files, self._version)
        self._lock = threading.Lock()
        self._away_until_s = [0.0] * len(natives)
        self._told: set[str] = set()
        of_all = [store.capabilities for store in natives]
        self._capabilities = Capabilities(
            strong_version=all(self._is_strong),
            conditional_read=all(one.conditional_read for one in of_all),
            real_directories=True,
            max_parallel=min((one.max_parallel for one in of_all), default=1),
            keeps_mtime=all(one.keeps_mtime for one in of_all),
            lists_for_nothing=True,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def stat(self, key: str) -> Entry:
        if not key or key.endswith("/"):
            if key not in self._children:
                raise NotFound(f"{key!r} is not in the manifest")
            return _directory(key)
        return _entry(self._file(key), self._version)

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        found = self._children.get(directory)
        if found is None:
            raise NotFound(f"{directory!r} is not in the manifest")
        for start in range(0, max(1, len(found)), _PAGE_ENTRIES):
            yield found[start : start + _PAGE_ENTRIES]

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        page: list[tuple[str, Entry]] = []
        for path, file in self._files.items():
            if path.startswith(directory):
                page.append((path, _entry(file, self._version)))
            if len(page) >= _PAGE_ENTRIES:
                yield page
                page = []
        yield page

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        file = self._file(key)
        if version and version != self._version(file):
            raise VersionChanged(f"{key}: the manifest has another version")
        self._check_near(file)
        try:
            return self._read(file, start, end)
        except Unreachable as error:
            raise self._away(file, error) from error
        except (VersionChanged, NotFound) as error:
            self._tell_changed(file, error)
            raise VersionChanged(f"{key} is not the manifest's version any more") from error

    def _read(self, file: ManifestFile, start: int, end: int) -> Buffer:
        store, native = self._stores[file.at], self._natives[file.at]
        try:
            return store.read(file.key, start, end, file.version)
        except (VersionChanged, NotFound):
            id_ = file.version_id
            if not id_ or not note_version_id(native, file.key, file.version, id_):
                raise
        return store.read(file.key, start, end, file.version)

    def checksums(self, key: str) -> Identity:
        """The manifest's sums, if it has any; else what the remote says of this version."""
        file = self._file(key)
        entry = _entry(file, self._version)
        if file.sums:
            return Identity(entry, "", file.sums.get("md5", ""), file.sums)
        self._check_near(file)
        try:
            found = checksums_in(self._stores[file.at], file.key)
        except Unreachable as error:
            raise self._away(file, error) from error
        except NotFound as error:
            self._tell_changed(file, error)
            raise VersionChanged(f"{key} is not the manifest's version any more") from error
        if found.entry.version != file.version:
            return replace(found, upload_id="")  # the caller compares versions
        return replace(found, entry=entry, upload_id="")

    def identify(self, key: str) -> Identity:
        return self.checksums(key)

    def close(self) -> None:
        for store in self._stores:
            store.close()

    def _file(self, key: str) -> ManifestFile:
        file = self._files.get(key)
        if file is None:
            raise NotFound(f"{key!r} is not in the manifest")
        return file

    def _version(self, file: ManifestFile) -> str:
        if self._is_strong[file.at]:
            return file.version
        location = self.locations[file.at]
        where = f"{location.source}\0{location.endpoint}\0{file.key}"
        digest = hashlib.blake2b(where.encode(errors="surrogatepass"), digest_size=4)
        return f"{file.version} {digest.hexdigest()}"

    def _check_near(self, file: ManifestFile) -> None:
        if self._clock() < self._away_until_s[file.at]:
            raise LocationAway(f"{self.locations[file.at].source} does not answer")

    def _away(self, file: ManifestFile, error: Unreachable) -> Exception:
        if len(self._stores) == 1:
            return error
        text = self.locations[file.at].source
        with self._lock:
            now_s = self._clock()
            is_news = now_s >= self._away_until_s[file.at]
            self._away_until_s[file.at] = now_s + AWAY_S
        if is_news:
            log.warning("%s does not answer, reads of its files fail: %s", text, error)
        return LocationAway(f"{text} does not answer: {error}")

    def _tell_changed(self, file: ManifestFile, error: Exception) -> None:
        """Once for each file: a training loop asks in every epoch."""
        with self._lock:
            if file.path in self._told or len(self._told) >= _MAX_TOLD:
                return
            self._told.add(file.path)
        where = f"{self.locations[file.at].source.rstrip('/')}/{file.key}"
        what = "is gone" if isinstance(error, NotFound) else "is another version by now"
        log.warning("%s: %s %s; the manifest has version %s", file.path, where, what, file.version)

    # -- nothing is changed here

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        raise Unsupported("a manifest's files are only read")

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
        raise Unsupported("a manifest's files are only read")

    def abandon(self, key: str, token: str) -> None:
        """Nothing: no upload ever began here."""

    def delete(self, key: str, expect: str | None) -> None:
        raise Unsupported("a manifest's files are only read")

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        raise Unsupported("a manifest's files are only read")

    def make_dir(self, key: str) -> None:
        raise Unsupported("a manifest's files are only read")

    def remove_dir(self, key: str) -> None:
        raise Unsupported("a manifest's files are only read")


def _children(
    files: Sequence[ManifestFile], version_of: Callable[[ManifestFile], str]
) -> dict[str, list[Entry]]:
    """What is in each directory, by its key."""
    found: dict[str, list[Entry]] = {"": []}

    def inside(directory: str) -> list[Entry]:
        entries = found.get(directory)
        if entries is None:
            entries = found[directory] = []
            parent = directory[: directory.rfind("/", 0, -1) + 1]
            inside(parent).append(_directory(directory))
        return entries

    for file in files:
        directory = file.path[: file.path.rfind("/") + 1]
        inside(directory).append(_entry(file, version_of))
    return found


def _directory(key: str) -> Entry:
    return Entry(key.removesuffix("/").rpartition("/")[2], Kind.DIRECTORY, 0, 0, "")


def _entry(file: ManifestFile, version_of: Callable[[ManifestFile], str]) -> Entry:
    name = file.path.rpartition("/")[2]
    return Entry(name, Kind.FILE, file.size, file.mtime_ns, version_of(file))
