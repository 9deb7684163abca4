"""Any fsspec file system as a RemoteStore, and s3fs, gcsfs, adlfs, webdav4 with engine = "fsspec".

What is promised about versions. fsspec has no conditional read, so a read is followed by a look at
the object: bytes that came between two equal versions are of that version, as long as an old
version string never comes back. Where the remote tells no tag or generation, the version is size
and mtime, and a change that keeps both goes unnoticed.

What fsspec can't say. It puts paths together and takes them apart again, so keys with empty
segments (`a//b`) are lost, and some engines read a `?versionId=` or `#generation` out of names.
What is left out of a listing is logged.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fsspec import asyn

from mountd.config import Settings
from mountd.errors import (
    ContainerMissing,
    NotFound,
    RemoteError,
    StartError,
    Unreachable,
    VersionChanged,
)
from mountd.remotes.base import Capabilities
from mountd.remotes.bounded_call import call_bounded
from mountd.remotes.fsspec_engines import Engine, open_engine
from mountd.remotes.fsspec_errors import remote_error
from mountd.remotes.http_status import mtime_ns_of_http_date
from mountd.source import Source
from mountd.types import Entry, Kind

logger = logging.getLogger(__name__)

_PAGE_ENTRIES = 1000
_CAN_BE_NO_SEGMENT = frozenset(("", ".", ".."))
_TAGS = ("generation", "ETag", "etag", "sha", "hash", "checksum")
_TIMES = (
    "LastModified",
    "last_modified",
    "mtime",
    "updated",
    "timeModified",
    "modified",
    "created",
)


def open_fsspec(source: Source, settings: Settings) -> "FsspecStore":
    """The store for `source`, whatever fsspec calls it; no request is made by us yet (SFTP and
    its like connect at once). Raises UsageError and CredentialsError."""
    try:
        engine = call_bounded(
            lambda: open_engine(source, settings), settings.request_timeout_s, source.text
        )
    except (StartError, RemoteError):
        raise
    except Exception as error:  # each package has its own; paramiko's are not even OSErrors
        raise remote_error(source.text, error) from error
    return FsspecStore(engine, settings.request_timeout_s, settings.max_transfers)


class FsspecStore:
    """A RemoteStore over one `Engine`.

    Engines that are no coroutines run one call at a time, unless they are known to bear threads.
    """

    def __init__(self, engine: Engine, timeout_s: float, max_parallel: int = 16) -> None:
        self._engine = engine
        self._timeout_s = timeout_s
        self._capabilities = Capabilities(
            strong_version=engine.strong_version,
            conditional_read=False,
            real_directories=engine.real_directories,
            max_parallel=max_parallel if engine.is_parallel else 1,
        )
        self._one_at_a_time = threading.Semaphore(1)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def stat(self, key: str) -> Entry:
        if not key and not self._engine.real_directories:
            self._check_container()
            return Entry("", Kind.DIRECTORY, 0, 0, "")
        name = key.removesuffix("/").rpartition("/")[2]
        wants_directory = not key or key.endswith("/")
        entry = self._entry(name, self._info(key))
        if (
            wants_directory
            and entry.kind is Kind.FILE
            and not self._engine.real_directories
            and self._entries(key)
        ):
            # `k` and `k/x` side by side: info() told of the object.
            return Entry(name, Kind.DIRECTORY, 0, 0, "")
        if wants_directory is not (entry.kind is Kind.DIRECTORY):
            raise NotFound(f"{key!r} is a {entry.kind.name.lower()}")
        return entry

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        """fsspec has no pages: the whole directory is read at once and then handed out."""
        try:
            entries = self._entries(directory)
        except NotFound:
            if self._engine.real_directories:
                raise
            entries = []
        for start in range(0, max(1, len(entries)), _PAGE_ENTRIES):
            yield entries[start : start + _PAGE_ENTRIES]

    def read(self, key: str, start: int, end: int, version: str) -> bytes:
        """A ranged read and, where `version` is given, a look at the version after it."""
        path = self._path(key)
        data = self._call("cat_file", key, path, start=start, end=end)
        if version:
            now = self.stat(key).version
            if now != version:
                raise VersionChanged(f"{key!r} was {version} and is {now}")
        if len(data) != end - start:
            text = f"{key!r}: {len(data)} bytes came instead of {end - start}"
            raise Unreachable(text, answered=True)
        return bytes(data)

    def close(self) -> None:
        self._engine.close()

    # Calls

    def _call(self, name: str, key: str, *args: Any, own: Any = None, **kwargs: Any) -> Any:
        """Calls the engine (or `own`, a coroutine function in place of its method) and waits
        `timeout_s` at most. Raises RemoteErrors only."""
        what = f"{name} {key!r}"
        fs = self._engine.fs
        try:
            if getattr(fs, "async_impl", False):
                method = own or getattr(fs, f"_{name}")
                return asyn.sync(fs.loop, method, *args, timeout=self._timeout_s, **kwargs)
            method = getattr(fs, name)
            if self._engine.is_parallel:
                return call_bounded(lambda: method(*args, **kwargs), self._timeout_s, what)
            return self._call_alone(what, lambda: method(*args, **kwargs))
        except RemoteError:
            raise
        except FileNotFoundError as error:
            found = remote_error(what, error)
            if isinstance(found, NotFound):
                self._check_container()
            raise found from error
        # A file system of any package may raise anything; none of it may end the daemon.
        except Exception as error:
            raise remote_error(what, error) from error

    def _call_alone(self, what: str, call: Any) -> Any:
        if not self._one_at_a_time.acquire(timeout=self._timeout_s):
            raise Unreachable(f"{what}: an earlier call doesn't end")

        def call_and_release() -> Any:
            # Released by the call itself: one that hangs still uses the connection.
            try:
                return call()
            finally:
                self._one_at_a_time.release()

        return call_bounded(call_and_release, self._timeout_s, what)

    def _check_container(self) -> None:
        """Raises ContainerMissing where the bucket is what is missing."""
        container = self._engine.container
        if not container:
            return
        fs = self._engine.fs
        try:
            asyn.sync(fs.loop, fs._info, container, timeout=self._timeout_s)
        except FileNotFoundError as error:
            found = remote_error(container, error)
            if isinstance(found, NotFound):
                found = ContainerMissing(f"there is no {container}")
            raise found from error
        except Exception as error:  # as in _call
            raise remote_error(container, error) from error

    # Entries

    def _path(self, key: str) -> str:
        segments = key.removesuffix("/").split("/") if key else []
        if not _CAN_BE_NO_SEGMENT.isdisjoint(segments):
            raise NotFound(f"{key!r} can't be said through fsspec")
        return "/".join([self._engine.root, *segments]) if segments else self._engine.root

    def _info(self, key: str) -> Mapping[str, Any]:
        info: Mapping[str, Any] = self._call("info", key, self._path(key))
        return info

    def _entries(self, directory: str) -> Sequence[Entry]:
        path = self._path(directory)
        infos: Sequence[Mapping[str, Any]]
        if self._engine.ls is not None:
            infos = self._call("ls", directory, path, own=self._engine.ls)
        else:
            infos = self._call("ls", directory, path, detail=True)
        found: dict[tuple[str, Kind], Entry] = {}
        left_out = 0
        for info in infos:
            name = _name_below(path, str(info["name"]))
            if name is None:
                left_out += 1
            elif name == "" and self._is_a_file(info):
                raise NotFound(f"{directory!r} is a file")
            elif name == "" and info["type"] == "directory" and str(info["name"]).endswith("/"):
                left_out += 1  # `a//`: a directory with an empty name
            elif name:
                entry = self._entry(name, self._with_size(directory + name, info))
                found.setdefault((entry.name, entry.kind), entry)
        if left_out:
            logger.warning("%r: fsspec can't say %d of its names", directory, left_out)
        return list(found.values())

    def _is_a_file(self, info: Mapping[str, Any]) -> bool:
        """ls() of a file is that file; on an object store that says nothing about `name/`."""
        return self._engine.real_directories and info["type"] == "file"

    def _with_size(self, key: str, info: Mapping[str, Any]) -> Mapping[str, Any]:
        """Listings of some protocols (HTTP) have no sizes: one more call each."""
        if info.get("size") is None and info["type"] == "file":
            return self._info(key)
        return info

    def _entry(self, name: str, info: Mapping[str, Any]) -> Entry:
        mtime_ns = _mtime_ns(info)
        if info["type"] == "directory":
            return Entry(name, Kind.DIRECTORY, 0, mtime_ns, "")
        size = info.get("size")
        if size is None:
            raise Unreachable(f"{name!r}: the remote doesn't tell its size")
        return Entry(name, Kind.FILE, int(size), mtime_ns, _version(info, int(size), mtime_ns))


def _name_below(directory: str, path: str) -> str | None:
    """The last segment of an entry's `path`; "" for the directory itself, None for elsewhere."""
    path = path.rstrip("/")
    if path.strip("/") == directory.strip("/"):
        return ""
    # Engines disagree about a slash at the front.
    prefix = directory.strip("/") + "/" if directory.strip("/") else ""
    rest = path.lstrip("/")
    if not rest.startswith(prefix):
        return None
    name = rest[len(prefix) :]
    return None if "/" in name or name in _CAN_BE_NO_SEGMENT else name


def _version(info: Mapping[str, Any], size: int, mtime_ns: int) -> str:
    for tag in _TAGS:
        value = info.get(tag)
        if value:
            return str(value)
    return f"{size}-{mtime_ns}"


def _mtime_ns(info: Mapping[str, Any]) -> int:
    for name in _TIMES:
        value = info.get(name)
        if value:
            return max(0, _as_ns(value))
    return 0


def _as_ns(value: object) -> int:
    """Datetimes (naive ones are UTC), seconds, ISO and HTTP dates; 0 for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return mtime_ns_of_http_date(str(value))
    if isinstance(value, datetime):
        if value.tzinfo is None:
            value = value.replace(tzinfo=UTC)
        # Not by float: 2**53 ns is only 104 days.
        since = value - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000
    if isinstance(value, int | float):
        # A float of today holds about a quarter of a microsecond; memory:// tells one time as a
        # datetime in info() and as a float in ls(), and the version must be the same.
        return round(value * 1_000_000) * 1000
    return 0
