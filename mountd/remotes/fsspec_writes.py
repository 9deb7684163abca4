"""The write half of an fsspec store.

fsspec has no conditions but "only where nothing is" (`mode="create"`), and that not everywhere. So
everything else looks first and then acts, and a change in between is overwritten.

Small bodies go as bytes. Others are read into a file on the local disk first: file systems that
are handed an open file to write to would finish it when a body fails half-way. Where a put could
be seen unfinished (SFTP and its like), it goes to a temporary name that is then renamed.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from mountd.errors import (
    Corrupt,
    DirectoryNotEmpty,
    NameNotAllowed,
    NotFound,
    RemoteError,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.base import ABSENT, Body
from mountd.remotes.call import upload_timeout_s
from mountd.remotes.fsspec_calls import FsspecCalls
from mountd.remotes.fsspec_info import CAN_BE_NO_SEGMENT, tag_of
from mountd.remotes.temporary_names import LEFTOVER_S, is_temporary, temporary_name
from mountd.types import Entry, Kind

PIECE_BYTES = 1 << 20


class FsspecWrites:
    """`stat` is the store's. `entries` are all of a directory's, temporary files too."""

    def __init__(
        self,
        calls: FsspecCalls,
        stat: Callable[[str], Entry],
        entries: Callable[[str], Sequence[Entry]],
        spool_dir: str | None = None,
    ) -> None:
        self._calls = calls
        self._stat = stat
        self._entries = entries
        self._spool_dir = spool_dir

    def put(self, key: str, body: Body, expect: str | None) -> Entry:
        self._check_name(key)
        self._compare(key, expect)
        self._check_parent(key)
        engine = self._calls.engine
        exclusive = engine.takes_mode and expect == ABSENT
        if engine.puts_are_whole:
            tag = self._send(key, self._calls.path(key), body, exclusive)
        else:
            tag = ""
            with self._renamed(key, expect) as path:
                self._send(key, path, body, exclusive=False)
        return self._arrived(key, body.size, tag)

    def delete(self, key: str, expect: str | None) -> None:
        found = self._stat(key)
        if expect is not None and found.version != expect:
            raise VersionChanged(f"{key!r} was to be {expect!r} and is {found.version!r}")
        self._calls.call("rm_file", key, self._calls.path(key))

    def copy(self, source: str, version: str, key: str, expect: str | None) -> Entry:
        engine = self._calls.engine
        if not engine.server_copy:
            raise Unsupported("this engine can't copy on the remote's side")
        self._check_name(key)
        found = self._stat(source)
        if found.version != version:
            raise VersionChanged(f"{source!r} was {version!r} and is {found.version!r}")
        self._compare(key, expect)
        self._check_parent(key)
        if source != key:
            paths = self._calls.path(source), self._calls.path(key)
            within_s = upload_timeout_s(self._calls.timeout_s, found.size)
            self._calls.call("cp_file", key, *paths, within_s=within_s)
        return self._arrived(key, found.size, "")

    def make_dir(self, key: str) -> None:
        self._check_name(key)
        if not self._calls.engine.makes_directories:
            raise Unsupported("fsspec can't say a directory's marker")
        self._check_parent(key)
        with suppress(NotFound):
            self._stat(key)
            return
        self._compare(key.removesuffix("/"), ABSENT, NameNotAllowed)
        self._calls.call("mkdir", key, self._calls.path(key), create_parents=False)

    def remove_dir(self, key: str) -> None:
        self._stat(key)
        for entry in self._entries(key):
            if not _is_leftover(entry):
                raise DirectoryNotEmpty(f"{key!r}: {entry.name!r} is in it")
            self._calls.call("rm_file", key, self._calls.path(key + entry.name))
        if not self._calls.engine.makes_directories:
            raise Unsupported("fsspec can't say a directory's marker")
        self._calls.call("rmdir", key, self._calls.path(key))

    # What a change needs

    def _check_name(self, key: str) -> None:
        segments = key.removesuffix("/").split("/")
        if not CAN_BE_NO_SEGMENT.isdisjoint(segments) or is_temporary(segments[-1]):
            raise NameNotAllowed(f"{key!r} can't be said through fsspec")

    def _check_parent(self, key: str) -> None:
        """Many file systems make missing parents by themselves."""
        parent = key[: key.removesuffix("/").rfind("/") + 1]
        if parent and self._calls.engine.real_directories:
            self._stat(parent)

    def _compare(
        self, key: str, expect: str | None, error: type[RemoteError] = VersionChanged
    ) -> None:
        if self._calls.engine.real_directories:
            with suppress(NotFound):
                self._stat(f"{key}/")
                raise NameNotAllowed(f"{key!r} is a directory")
        if expect is None:
            return
        try:
            now = self._stat(key).version
        except NotFound:
            now = ABSENT
        if now != expect:
            raise error(f"{key!r} was to be {expect!r} and is {now!r}")

    def _arrived(self, key: str, size: int, tag: str) -> Entry:
        """What is there after a put. fsspec doesn't tell what it made, so a change right after
        ours is known by the size, or by the tag where the engine hands on the answer."""
        entry = self._stat(key)
        if entry.size != size or (tag and entry.version != tag):
            raise VersionChanged(f"{key!r} was replaced right after it was written")
        return entry

    # The bytes

    def _send(self, key: str, path: str, body: Body, exclusive: bool) -> str:
        """The new version's tag where the answer has one."""
        within_s = upload_timeout_s(self._calls.timeout_s, body.size)
        mode = {"mode": "create"} if exclusive else {}
        if body.size <= self._calls.engine.largest_pipe_bytes:
            data = b"".join(bytes(piece) for piece in _pieces(key, body))
            answer = self._calls.call("pipe_file", key, path, data, within_s=within_s, **mode)
        else:
            with self._spooled(key, body) as local:
                answer = self._calls.call("put_file", key, local, path, within_s=within_s, **mode)
        return tag_of(answer) if isinstance(answer, Mapping) else ""

    @contextmanager
    def _spooled(self, key: str, body: Body) -> Iterator[str]:
        """A file with the body's bytes, that is gone after a crash: it has no name."""
        with tempfile.TemporaryFile(dir=self._spool_dir) as file:
            for piece in _pieces(key, body):
                file.write(piece)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"

    @contextmanager
    def _renamed(self, key: str, expect: str | None) -> Iterator[str]:
        directory = key[: key.rfind("/") + 1]
        path = self._calls.path(directory + temporary_name())
        try:
            yield path
            self._compare(key, expect)
            self._calls.call("mv", key, path, self._calls.path(key))
        except BaseException:
            with suppress(RemoteError):
                self._calls.call("rm_file", key, path)
            raise


def _pieces(key: str, body: Body) -> Iterator[Any]:
    for start in range(0, body.size, PIECE_BYTES):
        end = min(start + PIECE_BYTES, body.size)
        piece = memoryview(body.read(start, end)).cast("B")
        if len(piece) != end - start:
            raise Corrupt(f"{key!r}: the body gave {len(piece)} bytes for {start}-{end}")
        yield piece


def _is_leftover(entry: Entry) -> bool:
    if entry.kind is not Kind.FILE or not is_temporary(entry.name):
        return False
    return 0 < entry.mtime_ns < (time.time() - LEFTOVER_S) * 1e9
