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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mountd.config import Settings
from mountd.config.source import Source
from mountd.errors import (
    NotFound,
    RemoteError,
    StartError,
    Unreachable,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.base import Body, Capabilities, Identity, Upload
from mountd.remotes.bounded_call import call_bounded
from mountd.remotes.fsspec_calls import FsspecCalls
from mountd.remotes.fsspec_engines import TAKES_TLS, Engine, load_package, open_engine
from mountd.remotes.fsspec_errors import remote_error
from mountd.remotes.fsspec_info import entry_of, md5_of, name_below
from mountd.remotes.fsspec_writes import FsspecWrites
from mountd.remotes.temporary_names import is_temporary
from mountd.remotes.tls import refuse_tls
from mountd.types import Entry, Kind

logger = logging.getLogger(__name__)

_PAGE_ENTRIES = 1000


def open_fsspec(source: Source, settings: Settings) -> "FsspecStore":
    """The store for `source`, whatever fsspec calls it; no request is made by us yet (SFTP and
    its like connect at once). Raises UsageError and CredentialsError."""
    if source.scheme not in TAKES_TLS:
        refuse_tls(settings, f"{source.text} through fsspec")
    try:
        load_package(source)
        engine = call_bounded(
            lambda: open_engine(source, settings), settings.request_timeout_s, source.text
        )
    except (StartError, RemoteError):
        raise
    except Exception as error:  # each package has its own; paramiko's are not even OSErrors
        raise remote_error(source.text, error) from error
    spool_dir = str(settings.cache_dir) if settings.cache_dir.is_dir() else None
    return FsspecStore(engine, settings.request_timeout_s, settings.max_transfers, spool_dir)


class FsspecStore:
    """A RemoteStore over one `Engine`. `spool_dir`: where large uploads are kept meanwhile."""

    def __init__(
        self,
        engine: Engine,
        timeout_s: float,
        max_parallel: int = 16,
        spool_dir: str | None = None,
    ) -> None:
        self._calls = FsspecCalls(engine, timeout_s)
        self._writes = FsspecWrites(self._calls, self.stat, self._entries, spool_dir)
        self._capabilities = Capabilities(
            strong_version=engine.strong_version,
            conditional_read=False,
            real_directories=engine.real_directories,
            max_parallel=max_parallel if engine.is_parallel else 1,
            server_copy=engine.server_copy,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def stat(self, key: str) -> Entry:
        if not key and not self._calls.engine.real_directories:
            self._calls.check_container()
            return Entry("", Kind.DIRECTORY, 0, 0, "")
        name = key.removesuffix("/").rpartition("/")[2]
        wants_directory = not key or key.endswith("/")
        entry = entry_of(name, self._info(key))
        if (
            wants_directory
            and entry.kind is Kind.FILE
            and not self._calls.engine.real_directories
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
            entries = [row for row in self._entries(directory) if not is_temporary(row.name)]
        except NotFound:
            if self._calls.engine.real_directories:
                raise
            entries = []
        for start in range(0, max(1, len(entries)), _PAGE_ENTRIES):
            yield entries[start : start + _PAGE_ENTRIES]

    def read(self, key: str, start: int, end: int, version: str) -> bytes:
        """A ranged read and, where `version` is given, a look at the version after it."""
        path = self._calls.path(key)
        data = self._calls.call("cat_file", key, path, start=start, end=end)
        if version:
            now = self.stat(key).version
            if now != version:
                raise VersionChanged(f"{key!r} was {version} and is {now}")
        if len(data) != end - start:
            text = f"{key!r}: {len(data)} bytes came instead of {end - start}"
            raise Unreachable(text, answered=True)
        return bytes(data)

    def identify(self, key: str) -> Identity:
        info = self._info(key)
        entry = entry_of(key.rpartition("/")[2], info)
        if entry.kind is not Kind.FILE:
            raise NotFound(f"{key!r} is a directory")
        md5 = md5_of(info)
        return Identity(entry, "", md5, {"md5": md5} if md5 else {})

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        """Of `upload` nothing is kept."""
        return self._writes.put(key, body, expect)

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
        raise Unsupported("here every file is sent whole")

    def abandon(self, key: str, token: str) -> None:
        """Nothing: no upload outlives its call here."""

    def delete(self, key: str, expect: str | None) -> None:
        self._writes.delete(key, expect)

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        return self._writes.copy(source, version, key, expect)

    def make_dir(self, key: str) -> None:
        self._writes.make_dir(key)

    def remove_dir(self, key: str) -> None:
        self._writes.remove_dir(key)

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        raise Unsupported("fsspec's find() isn't one request")

    def close(self) -> None:
        self._calls.engine.close()

    def _info(self, key: str) -> Mapping[str, Any]:
        info: Mapping[str, Any] = self._calls.call("info", key, self._calls.path(key))
        return info

    def _entries(self, directory: str) -> Sequence[Entry]:
        path = self._calls.path(directory)
        infos: Sequence[Mapping[str, Any]]
        if self._calls.engine.ls is not None:
            infos = self._calls.call("ls", directory, path, own=self._calls.engine.ls)
        else:
            infos = self._calls.call("ls", directory, path, detail=True)
        found: dict[tuple[str, Kind], Entry] = {}
        left_out = 0
        for info in infos:
            name = name_below(path, str(info["name"]))
            if name is None:
                left_out += 1
            elif name == "" and self._is_a_file(info):
                raise NotFound(f"{directory!r} is a file")
            elif name == "" and info["type"] == "directory" and str(info["name"]).endswith("/"):
                left_out += 1  # `a//`: a directory with an empty name
            elif name:
                entry = entry_of(name, self._with_size(directory + name, info))
                found.setdefault((entry.name, entry.kind), entry)
        if left_out:
            logger.warning("%r: fsspec can't say %d of its names", directory, left_out)
        return list(found.values())

    def _is_a_file(self, info: Mapping[str, Any]) -> bool:
        """ls() of a file is that file; on an object store that says nothing about `name/`."""
        return self._calls.engine.real_directories and info["type"] == "file"

    def _with_size(self, key: str, info: Mapping[str, Any]) -> Mapping[str, Any]:
        """Listings of some protocols (HTTP) have no sizes: one more call each."""
        if info.get("size") is None and info["type"] == "file":
            return self._info(key)
        return info
