"""S3: moto, the scriptable server and `rclone serve s3`, seeded by boto3 or behind the server."""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from mountd.config import Settings
from mountd.config.source import Source
from mountd.errors import Unreachable
from mountd.remotes.base import RemoteStore
from mountd.remotes.optional_doors import prepare_changes_in
from mountd.remotes.s3 import open_s3
from tests.contract.targets import Broken, Limit, MakeTarget, TargetFactory
from tests.servers.moto import Moto, running_moto
from tests.servers.process import dead_port, free_port, running_process
from tests.servers.rclone import DIR_CACHE_TIME
from tests.servers.s3.launch import S3Server

BUCKET = "contract"
_S3 = frozenset((Limit.MTIME_SECONDS, Limit.NO_MTIME))


@dataclass(frozen=True, slots=True)
class S3Login:
    endpoint: str
    access_key_id: str
    secret_access_key: str


class Objects(Protocol):
    """Writes objects by full key, not through the store."""

    def put(self, key: str, data: bytes) -> None: ...

    def remove(self, key: str) -> None: ...


def s3_settings(login: S3Login, timeout_s: float = 20.0) -> Settings:
    keys = {
        "access_key_id": login.access_key_id,
        "secret_access_key": login.secret_access_key,
    }
    return Settings(
        cache_dir=Path("/nonexistent"),
        endpoint=login.endpoint,
        region="us-east-1",
        request_timeout_s=timeout_s,
        credentials=MappingProxyType(keys),
    )


def s3_source(bucket: str, prefix: str) -> Source:
    return Source("s3", bucket, prefix, f"s3://{bucket}/{prefix}")


class S3Target:
    def __init__(
        self,
        prefix: str,
        login: S3Login,
        objects: Objects,
        limits: frozenset[Limit] = frozenset(),
        parallel: int = 1,
        stumbles: bool = False,
    ) -> None:
        """`stumbles`: now and then the server answers 500 to one of several requests that are
        sent side by side. In a mount the queue tries again; here nobody would."""
        self._prefix = prefix
        self._login = login
        self._objects = objects
        self._limits = limits
        self._parallel = parallel
        self._stumbles = stumbles

    @property
    def limits(self) -> frozenset[Limit]:
        return self._limits

    def seed(self, objects: Mapping[str, bytes]) -> None:
        with ThreadPoolExecutor(self._parallel) as pool:
            list(pool.map(self.overwrite, objects.keys(), objects.values()))

    def overwrite(self, key: str, data: bytes) -> None:
        self._objects.put(f"{self._prefix}/{key}", data)

    def remove(self, key: str) -> None:
        self._objects.remove(f"{self._prefix}/{key}")

    def store(self, page_size: int | None = None) -> RemoteStore:
        store = open_s3(s3_source(BUCKET, self._prefix), s3_settings(self._login), page_size)
        if self._stumbles:
            _prepare_patiently(store)
        return store

    def broken_store(self, how: Broken) -> RemoteStore | None:
        login, bucket = self._login, BUCKET
        match how:
            case Broken.WRONG_KEYS:
                login = replace(login, secret_access_key="not the secret")
            case Broken.MISSING_CONTAINER:
                bucket = "no-such-bucket"
            case Broken.DEAD_PORT:
                login = replace(login, endpoint=f"http://127.0.0.1:{dead_port()}")
        return open_s3(s3_source(bucket, self._prefix), s3_settings(login, timeout_s=20.0))


def _prepare_patiently(store: RemoteStore) -> None:
    """The proofs are what a store sends side by side."""
    for _ in range(3):
        try:
            return prepare_changes_in(store)
        except Unreachable:
            continue


@dataclass(frozen=True, slots=True)
class _MotoObjects:
    moto: Moto

    def put(self, key: str, data: bytes) -> None:
        self.moto.client.put_object(Bucket=self.moto.bucket, Key=key, Body=data)

    def remove(self, key: str) -> None:
        self.moto.client.delete_object(Bucket=self.moto.bucket, Key=key)


@dataclass(frozen=True, slots=True)
class _ServerObjects:
    server: S3Server

    def put(self, key: str, data: bytes) -> None:
        self.server.put(BUCKET, key, data)

    def remove(self, key: str) -> None:
        self.server.delete(BUCKET, key)


@contextmanager
def _running_moto() -> Iterator[MakeTarget]:
    with tempfile.TemporaryDirectory() as directory, running_moto(Path(directory)) as moto:
        login = S3Login(moto.endpoint, moto.access_key_id, moto.secret_access_key)
        # moto's routes don't match a line feed, and If-Match on Complete does nothing.
        limits = _S3 | {Limit.SLOW, Limit.NO_NEWLINES, Limit.NO_CONDITIONAL_PUT}
        yield lambda name: S3Target(name, login, _MotoObjects(moto), limits, parallel=4)


@contextmanager
def _running_server() -> Iterator[MakeTarget]:
    with S3Server() as server:
        server.make_bucket(BUCKET)
        login = S3Login(server.endpoint, server.access_key, server.secret_key)
        yield lambda name: S3Target(name, login, _ServerObjects(server), _S3)


@dataclass(frozen=True, slots=True)
class _Files:
    """The directory that `rclone serve s3` serves; a bucket is a directory in it."""

    root: Path

    def put(self, key: str, data: bytes) -> None:
        path = self.root / BUCKET / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def remove(self, key: str) -> None:
        (self.root / BUCKET / key).unlink()


@contextmanager
def _running_rclone() -> Iterator[MakeTarget]:
    port = free_port()
    login = S3Login(f"http://127.0.0.1:{port}", "AKIDEXAMPLE", "SECRETEXAMPLE")
    limits = _S3 | {
        *(Limit.NO_DOUBLE_SLASH, Limit.NO_DOT_SEGMENTS, Limit.NO_BOTH_FILE_AND_PREFIX),
        *(Limit.NO_MARKERS, Limit.NO_CONTROL_CHARACTERS, Limit.NO_MAKE_DIR),
        *(Limit.NO_CONDITIONAL_PUT, Limit.NO_CONDITIONAL_DELETE, Limit.NAMES_NORMALISED),
    }
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        (root / BUCKET).mkdir(parents=True)
        command = [str(Path(sys.executable).parent / "rclone"), "serve", "s3"]
        command += ["--addr", f"127.0.0.1:{port}", "--config", "/dev/null"]
        command += ["--dir-cache-time", DIR_CACHE_TIME, "--auth-key"]
        command += [f"{login.access_key_id},{login.secret_access_key}", str(root)]
        with running_process(command, port, Path(name) / "rclone.log"):
            yield lambda prefix: S3Target(prefix, login, _Files(root), limits, stumbles=True)


TARGETS: Sequence[TargetFactory] = (
    TargetFactory("moto", _running_moto),
    TargetFactory("s3server", _running_server),
    TargetFactory("rclone-s3", _running_rclone),
)
