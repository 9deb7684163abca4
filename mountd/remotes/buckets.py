"""A bare `s3://`, `gs://` or `az://`: the account's buckets as directories."""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

from typing_extensions import Buffer

from mountd.errors import ContainerMissing, NotFound, Unsupported
from mountd.remotes.base import Body, Capabilities, Identity, RemoteStore, Upload
from mountd.remotes.object_store import CAPABILITIES
from mountd.remotes.optional_doors import copy_between
from mountd.types import Entry, Kind

# Here buckets are neither made nor removed nor renamed, nor is a file put beside them. Told in
# listings, it is refused at once (vfs/rights.py), and not when it would be sent.
_BUCKET_DENIES = MappingProxyType({"denied": "dnv"})
_ACCOUNT_DENIES = "ck"

# What anybody's buckets are called. It becomes a part of a path or of a host's name.
_BUCKET = re.compile(r"[A-Za-z0-9_$][A-Za-z0-9._$-]{0,221}", re.ASCII)


class Account(Protocol):
    """What lists the buckets."""

    def bucket_names(self) -> Sequence[str]: ...

    def close(self) -> None: ...


class BucketsStore:
    """A `RemoteStore` whose first key segment is a bucket. Bucket stores are made when used.

    `capabilities` are those of any bucket's store, and that nothing is made in the root. Buckets
    themselves are neither made nor removed: Unsupported, as are files beside them and deltas from
    one to another.
    """

    def __init__(
        self,
        account: Account,
        open_bucket: Callable[[str], RemoteStore],
        capabilities: Capabilities = CAPABILITIES,
    ) -> None:
        limit = capabilities.key_limit
        self._capabilities = replace(
            capabilities,
            key_limit=replace(limit, first_is_apart=True) if limit is not None else None,
            tells_rights=True,
            root_denied=_ACCOUNT_DENIES,
        )
        self._account = account
        self._open_bucket = open_bucket
        self._lock = threading.Lock()
        self._stores: dict[str, RemoteStore] = {}

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

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
            names = filter(_BUCKET.fullmatch, dict.fromkeys(self._account.bucket_names()))
            yield [Entry(name, Kind.DIRECTORY, 0, 0, "", _BUCKET_DENIES) for name in names]
            return
        with _bucket_is_a_directory(name):
            yield from self._bucket(name).list(rest)

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        name, _, rest = key.partition("/")
        with _bucket_is_a_directory(name):
            return self._bucket(name).read(rest, start, end, version)

    def identify(self, key: str) -> Identity:
        name, slash, rest = key.partition("/")
        if not slash:
            raise NotFound(f"{key}: only buckets are here")
        with _bucket_is_a_directory(name):
            return self._bucket(name).identify(rest)

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        name, rest = _inside(key)
        with _bucket_is_a_directory(name):
            return self._bucket(name).put(rest, body, expect, upload)

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
        (name, rest), (source_name, source_rest) = _inside(key), _inside(source)
        if name != source_name:
            raise Unsupported(f"{source} and {key} are in different buckets")
        with _bucket_is_a_directory(name):
            bucket = self._bucket(name)
            return bucket.put_delta(rest, body, expect, upload, source_rest, version, same)

    def abandon(self, key: str, token: str) -> None:
        name, rest = _inside(key)
        with _bucket_is_a_directory(name):
            self._bucket(name).abandon(rest, token)

    def delete(self, key: str, expect: str | None) -> None:
        name, rest = _inside(key)
        with _bucket_is_a_directory(name):
            self._bucket(name).delete(rest, expect)

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        (name, rest), (source_name, source_rest) = _inside(key), _inside(source)
        with _bucket_is_a_directory(name):
            bucket = self._bucket(name)
            if name == source_name:
                return bucket.copy(source_rest, version, rest, expect, upload)
            other = self._bucket(source_name)
            return copy_between(other, source_rest, version, bucket, rest, expect, upload)

    def make_dir(self, key: str) -> None:
        name, _, rest = key.partition("/")
        with _bucket_is_a_directory(name):
            if rest:
                self._bucket(name).make_dir(rest)
            else:  # a bucket that lost its last file is to stay, and does so by itself
                self._bucket(name).stat("")

    def remove_dir(self, key: str) -> None:
        name, rest = _inside(key)
        with _bucket_is_a_directory(name):
            self._bucket(name).remove_dir(rest)

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        name, _, rest = directory.partition("/")
        if not directory:
            raise Unsupported("it would be one listing per bucket")
        with _bucket_is_a_directory(name):
            for page in self._bucket(name).list_tree(rest):
                yield [(f"{name}/{key}", entry) for key, entry in page]

    def close(self) -> None:
        with self._lock:
            stores = list(self._stores.values())
        for store in stores:
            store.close()
        self._account.close()

    def _bucket(self, name: str) -> RemoteStore:
        if not _BUCKET.fullmatch(name):
            raise NotFound(f"{name!r} can't be a bucket")
        with self._lock:
            if name not in self._stores:
                self._stores[name] = self._open_bucket(name)
            return self._stores[name]


def _inside(key: str) -> tuple[str, str]:
    """The bucket, and the key in it, of something that is to be changed."""
    name, _, rest = key.partition("/")
    if not rest:
        raise Unsupported(f"{key}: only buckets are here, and they are made elsewhere")
    return name, rest


@contextmanager
def _bucket_is_a_directory(name: str) -> Iterator[None]:
    """A missing bucket is a missing directory here, while the remote as a whole is well."""
    try:
        yield
    except ContainerMissing as error:
        raise NotFound(f"there is no bucket {name}") from error
