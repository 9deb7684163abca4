"""The outermost wrapper: calls fail at once while the remote is down, and their ends are told."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

from typing_extensions import Buffer

from mountd.errors import (
    ContainerMissing,
    Corrupt,
    NotFound,
    RemoteError,
    Unreachable,
    Unsupported,
)
from mountd.remotes.base import Body, Capabilities, Identity, Quota, RemoteStore, Upload
from mountd.remotes.health import RemoteHealth
from mountd.remotes.optional_doors import (
    keeps_version_in,
    move_dir_in,
    move_file_in,
    prepare_changes_in,
    quota_of,
    remove_tree_in,
)
from mountd.types import Entry

_Answer = TypeVar("_Answer")
# After the mounted directory was missing: for so long no other 404 is believed.
_DOUBTED_S: Final = 10.0


class HealthStore:
    """The outermost `RemoteStore`: fails at once while the remote is down, and reports answers."""

    def __init__(self, store: RemoteStore, health: RemoteHealth) -> None:
        self._store = store
        self._health = health
        self._doubted_until_s = float("-inf")

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    def stat(self, key: str) -> Entry:
        return self._read(lambda: self._store.stat(key))

    def identify(self, key: str) -> Identity:
        return self._read(lambda: self._store.identify(key))

    def keeps_version(self, key: str, version: str) -> bool:
        return self._read(lambda: keeps_version_in(self._store, key, version))

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        return self._pages(lambda: self._store.list(directory))

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        return self._pages(lambda: self._store.list_tree(directory))

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        return self._read(lambda: self._store.read(key, start, end, version))

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        return self._write(lambda: self._store.put(key, body, expect, upload))

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
        return self._write(
            lambda: self._store.put_delta(key, body, expect, upload, source, version, same)
        )

    def quota(self) -> Quota:
        return self._read(lambda: quota_of(self._store))

    def move_dir(self, source: str, key: str) -> None:
        self._write(lambda: move_dir_in(self._store, source, key))

    def move_file(self, source: str, version: str, key: str) -> Entry:
        return self._write(lambda: move_file_in(self._store, source, version, key))

    def remove_tree(self, key: str, inside: Mapping[str, str]) -> None:
        self._write(lambda: remove_tree_in(self._store, key, inside))

    def prepare_changes(self) -> None:
        self._write(lambda: prepare_changes_in(self._store))

    def abandon(self, key: str, token: str) -> None:
        self._write(lambda: self._store.abandon(key, token))

    def delete(self, key: str, expect: str | None) -> None:
        self._write(lambda: self._store.delete(key, expect))

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        return self._write(lambda: self._store.copy(source, version, key, expect, upload))

    def make_dir(self, key: str) -> None:
        self._write(lambda: self._store.make_dir(key))

    def remove_dir(self, key: str) -> None:
        self._write(lambda: self._store.remove_dir(key))

    def close(self) -> None:
        self._health.close()
        self._store.close()

    def _read(self, request: Callable[[], _Answer]) -> _Answer:
        self._health.check()
        try:
            answer = request()
        except RemoteError as found:
            error = self._believed(found)
            self._health.call_failed(error)
            raise error from found.__cause__
        self._health.answered()
        return answer

    def _write(self, request: Callable[[], _Answer]) -> _Answer:
        self._health.check()
        began_s = self._health.now_s()
        try:
            answer = request()
        except RemoteError as found:
            error = self._believed(found)
            self._health.write_failed(error, began_s)
            raise error from found.__cause__
        self._health.answered()
        return answer

    def _pages(self, listing: Callable[[], Iterator[_Answer]]) -> Iterator[_Answer]:
        self._health.check()
        pages = iter(listing())
        while True:
            try:
                page = next(pages, None)
            except RemoteError as found:
                error = self._believed(found)
                self._health.call_failed(error)
                raise error from found.__cause__
            self._health.answered()
            if page is None:
                return
            yield page
            self._health.check()

    def _believed(self, error: RemoteError) -> RemoteError:
        """A 404 of a file server may be a proxy's, while the server itself is started again, and
        looks like any other. So the mounted directory is asked for: without it nothing is known to
        be missing. The server may come back between the two, so for a while the next ones are
        to be asked for again. (Object stores say what it is that is missing.)"""
        if not isinstance(error, NotFound) or not self._store.capabilities.real_directories:
            return error
        try:
            self._ask_for_root()
        except NotFound:
            self._doubted_until_s = self._health.now_s() + _DOUBTED_S
            return ContainerMissing(f"not even the mounted directory is found: {error}")
        except RemoteError as other:
            return other
        if self._health.now_s() < self._doubted_until_s:
            text = f"a moment ago not even the mounted directory was found, and now {error}"
            return Unreachable(text, answered=True)
        return error

    def _ask_for_root(self) -> None:
        try:
            self._store.stat("")
        except (NotFound, Corrupt, Unsupported):  # fsspec's http has no directories but in listings
            next(iter(self._store.list("")), None)
