"""file://, memory://, and engine = "fsspec" over the same servers as the native stores."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fsspec

from mountd.config import Settings
from mountd.config.source import Source
from mountd.remotes.base import RemoteStore
from mountd.remotes.registry import open_store
from tests.contract.targets import Broken, Limit, MakeTarget, TargetFactory
from tests.contract.targets_webdav import (
    overwrite_in,
    put_into,
    remove_in,
    running_webdav_target,
)
from tests.servers.moto import REGION, Moto, running_moto
from tests.servers.process import dead_port
from tests.servers.wsgidav import running_wsgidav

NO_CONDITIONS = frozenset(
    (
        *(Limit.NO_CONDITIONAL_PUT, Limit.NO_CONDITIONAL_DELETE, Limit.NO_ATTRIBUTES),
        *(Limit.NO_MTIME, Limit.NO_TREE),
    )
)
_FSSPEC = NO_CONDITIONS | {
    *(Limit.NO_CONDITIONAL_READ, Limit.NO_DOUBLE_SLASH, Limit.NO_DOT_SEGMENTS)
}
_LOCAL = frozenset(
    (
        *(Limit.NO_DOUBLE_SLASH, Limit.NO_DOT_SEGMENTS, Limit.NO_BOTH_FILE_AND_PREFIX),
        *(Limit.EMPTY_DIRECTORIES_STAY, Limit.NO_CONDITIONAL_READ),
        *(Limit.NO_CONDITIONAL_PUT, Limit.NO_CONDITIONAL_DELETE, Limit.ONLY_UPLOAD_ID),
    )
)
_S3FS = _FSSPEC | {Limit.SLOW, Limit.MTIME_SECONDS, Limit.NO_NEWLINES, Limit.NO_MAKE_DIR}
_MEMORY = _FSSPEC | {
    Limit.NO_VERSIONS,
    Limit.EMPTY_DIRECTORIES_STAY,
    Limit.NO_BOTH_FILE_AND_PREFIX,
}
_WEBDAV4 = _FSSPEC | {
    Limit.NO_SERVER_COPY,
    Limit.SLOW,
    Limit.NO_ODD_CHARACTERS,
    Limit.NO_CONTROL_CHARACTERS,
    Limit.NO_NEWLINES,
}


def settings_of(credentials: Mapping[str, str], endpoint: str | None = None) -> Settings:
    return Settings(
        cache_dir=Path("/nonexistent"),
        request_timeout_s=20.0,
        engine="fsspec",
        endpoint=endpoint,
        region=REGION,
        credentials=credentials,
    )


@dataclass(frozen=True, slots=True)
class LocalTarget:
    directory: Path
    limits: frozenset[Limit] = _LOCAL

    def seed(self, objects: Mapping[str, bytes]) -> None:
        put_into(self.directory, objects)

    def overwrite(self, key: str, data: bytes) -> None:
        overwrite_in(self.directory, key, data)

    def remove(self, key: str) -> None:
        remove_in(self.directory, key)

    def store(self, page_size: int | None = None) -> RemoteStore:
        return self._open(str(self.directory))

    def broken_store(self, how: Broken) -> RemoteStore | None:
        if how is Broken.MISSING_CONTAINER:
            return self._open(f"{self.directory}-that-is-not-there")
        return None

    def _open(self, directory: str) -> RemoteStore:
        source = Source("file", "", directory.strip("/"), f"file://{directory}")
        return open_store(source, settings_of({}))


@contextmanager
def _running_local() -> Iterator[MakeTarget]:
    with tempfile.TemporaryDirectory(prefix="mountd-local-") as directory:

        def make(name: str) -> LocalTarget:
            (Path(directory) / name).mkdir()
            return LocalTarget(Path(directory) / name)

        yield make


@dataclass(frozen=True, slots=True)
class MemoryFsTarget:
    """fsspec's own memory:// of this process; not the fake store."""

    name: str
    limits: frozenset[Limit] = _MEMORY

    def seed(self, objects: Mapping[str, bytes]) -> None:
        fs = fsspec.filesystem("memory")
        for key, data in objects.items():
            if key.endswith("/"):
                fs.makedirs(f"/{self.name}/{key}", exist_ok=True)
            else:
                fs.pipe_file(f"/{self.name}/{key}", data)

    def overwrite(self, key: str, data: bytes) -> None:
        self.seed({key: data})

    def remove(self, key: str) -> None:
        fsspec.filesystem("memory").rm(f"/{self.name}/{key}")

    def store(self, page_size: int | None = None) -> RemoteStore:
        return open_store(Source("memory", "", self.name, "memory://"), settings_of({}))

    def broken_store(self, how: Broken) -> RemoteStore | None:
        return None


@contextmanager
def _running_memory() -> Iterator[MakeTarget]:
    yield MemoryFsTarget


@dataclass(frozen=True, slots=True)
class S3fsTarget:
    """s3fs on moto, seeded by boto3."""

    moto: Moto
    name: str
    limits: frozenset[Limit] = _S3FS

    def seed(self, objects: Mapping[str, bytes]) -> None:
        for key, data in objects.items():
            self.moto.client.put_object(
                Bucket=self.moto.bucket, Key=f"{self.name}/{key}", Body=data
            )

    def overwrite(self, key: str, data: bytes) -> None:
        self.seed({key: data})

    def remove(self, key: str) -> None:
        self.moto.client.delete_object(Bucket=self.moto.bucket, Key=f"{self.name}/{key}")

    def store(self, page_size: int | None = None) -> RemoteStore:
        return self._open(self.moto.bucket, self.moto.endpoint, self.moto.secret_access_key)

    def broken_store(self, how: Broken) -> RemoteStore | None:
        moto = self.moto
        match how:
            case Broken.WRONG_KEYS:
                return self._open(moto.bucket, moto.endpoint, "wrong")
            case Broken.MISSING_CONTAINER:
                return self._open("no-such-bucket", moto.endpoint, moto.secret_access_key)
            case Broken.DEAD_PORT:
                dead = f"http://127.0.0.1:{dead_port()}"
                return self._open(moto.bucket, dead, moto.secret_access_key)

    def _open(self, bucket: str, endpoint: str, secret: str) -> RemoteStore:
        keys = {"access_key_id": self.moto.access_key_id, "secret_access_key": secret}
        source = Source("s3", bucket, self.name, f"s3://{bucket}/{self.name}")
        return open_store(source, settings_of(keys, endpoint))


@contextmanager
def _running_s3fs() -> Iterator[MakeTarget]:
    with (
        tempfile.TemporaryDirectory(prefix="mountd-moto-") as directory,
        running_moto(Path(directory)) as moto,
    ):
        yield partial(S3fsTarget, moto)


TARGETS = (
    TargetFactory("file", _running_local, is_server=False),
    TargetFactory("fsspec-memory", _running_memory, is_server=False),
    TargetFactory("fsspec-s3fs-moto", _running_s3fs),
    TargetFactory(
        "fsspec-webdav4-wsgidav",
        partial(running_webdav_target, running_wsgidav, _WEBDAV4, "fsspec"),
    ),
)
