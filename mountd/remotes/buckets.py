"""A bare `s3://`, `gs://` or `az://`: the account's buckets as directories."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from typing_extensions import Buffer

from mountd.errors import ContainerMissing, NotFound
from mountd.remotes.base import Capabilities, RemoteStore
from mountd.remotes.object_store import CAPABILITIES
from mountd.types import Entry, Kind


class Account(Protocol):
    """What lists the buckets."""

    def bucket_names(self) -> Sequence[str]: ...

    def close(self) -> None: ...


class BucketsStore:
    """A `RemoteStore` whose first key segment is a bucket. Bucket stores are made when used."""

    def __init__(self, account: Account, open_bucket: Callable[[str], RemoteStore]) -> None:
        self._account = account
        self._open_bucket = open_bucket
        self._lock = threading.Lock()
        self._stores: dict[str, RemoteStore] = {}

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def stat(self, key: str) -> Entry:
        name, slash, rest = key.partition("/")
        if not key:
            self._account.bucket_names()
            return Entry("", Kind.DIRECTORY, 0, 0, "")
        if not slash:
            raise NotFound(f"{key}: only buckets are here")
        with _bucket_is_a_directory(name):
            found = self._bucket(name).stat(rest)
        return found if rest else Entry(name, Kind.DIRECTORY, 0, 0, "")

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        name, _, rest = directory.partition("/")
        if not directory:
            yield [Entry(name, Kind.DIRECTORY, 0, 0, "") for name in self._account.bucket_names()]
            return
        with _bucket_is_a_directory(name):
            yield from self._bucket(name).list(rest)

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        name, _, rest = key.partition("/")
        with _bucket_is_a_directory(name):
            return self._bucket(name).read(rest, start, end, version)

    def close(self) -> None:
        with self._lock:
            stores = list(self._stores.values())
        for store in stores:
            store.close()
        self._account.close()

    def _bucket(self, name: str) -> RemoteStore:
        if not name:
            raise NotFound("a bucket without a name")
        with self._lock:
            if name not in self._stores:
                self._stores[name] = self._open_bucket(name)
            return self._stores[name]


@contextmanager
def _bucket_is_a_directory(name: str) -> Iterator[None]:
    """A missing bucket is a missing directory here, while the remote as a whole is well."""
    try:
        yield
    except ContainerMissing as error:
        raise NotFound(f"there is no bucket {name}") from error
