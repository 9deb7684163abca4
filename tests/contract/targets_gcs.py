"""GCS: gcp-storage-emulator, seeded by google-cloud-storage."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from mountd.config import Settings
from mountd.config.source import Source
from mountd.remotes.base import RemoteStore
from mountd.remotes.gcs import open_gcs, store_of
from mountd.remotes.gcs_credentials import BearerToken, GcsAccess
from tests.contract.targets import Broken, Limit, MakeTarget, TargetFactory
from tests.servers.gcs_emulator import GcsEmulator, running_gcs_emulator
from tests.servers.gcs_fake import TOKEN, running_gcs_fake
from tests.servers.gcs_fake_state import GcsFake
from tests.servers.process import dead_port


def gcs_settings(endpoint: str, timeout_s: float = 20.0, **credentials: str) -> Settings:
    return Settings(
        cache_dir=Path("/nonexistent"),
        endpoint=endpoint,
        request_timeout_s=timeout_s,
        credentials=MappingProxyType(credentials),
    )


def gcs_source(bucket: str, prefix: str) -> Source:
    return Source("gs", bucket, prefix, f"gs://{bucket}/{prefix}")


class GcsTarget:
    def __init__(self, prefix: str, emulator: GcsEmulator) -> None:
        self._prefix = prefix
        self._emulator = emulator
        self._bucket = emulator.client.bucket(emulator.bucket)

    @property
    def limits(self) -> frozenset[Limit]:
        # Its file system in memory reads names as paths. It takes conditions and ignores them.
        return frozenset(
            (
                Limit.SLOW,
                Limit.NO_CONDITIONAL_READ,
                Limit.NO_CONDITIONAL_PUT,
                Limit.NO_CONDITIONAL_DELETE,
                Limit.NO_DOT_SEGMENTS,
                Limit.NO_BACKSLASHES,
            )
        )

    def seed(self, objects: Mapping[str, bytes]) -> None:
        for key, data in objects.items():
            self.overwrite(key, data)

    def overwrite(self, key: str, data: bytes) -> None:
        self._bucket.blob(f"{self._prefix}/{key}").upload_from_string(data, retry=None)

    def remove(self, key: str) -> None:
        self._bucket.blob(f"{self._prefix}/{key}").delete(retry=None)

    def store(self, page_size: int | None = None) -> RemoteStore:
        settings = gcs_settings(self._emulator.endpoint)
        return open_gcs(gcs_source(self._emulator.bucket, self._prefix), settings, page_size)

    def broken_store(self, how: Broken) -> RemoteStore | None:
        endpoint, bucket = self._emulator.endpoint, self._emulator.bucket
        match how:
            case Broken.WRONG_KEYS:
                return None  # It takes any token.
            case Broken.MISSING_CONTAINER:
                bucket = "no-such-bucket"
            case Broken.DEAD_PORT:
                endpoint = f"http://127.0.0.1:{dead_port()}"
        return open_gcs(gcs_source(bucket, self._prefix), gcs_settings(endpoint, timeout_s=20.0))


@contextmanager
def _running_emulator() -> Iterator[MakeTarget]:
    with tempfile.TemporaryDirectory() as name, running_gcs_emulator(Path(name)) as emulator:
        yield lambda prefix: GcsTarget(prefix, emulator)


class GcsFakeTarget:
    """Our own GCS, where reads go through obstore as they do at Google."""

    def __init__(self, prefix: str, fake: GcsFake) -> None:
        self._prefix = prefix
        self._fake = fake

    @property
    def limits(self) -> frozenset[Limit]:
        # Google's own rule: no carriage return, no line feed.
        return frozenset((Limit.NO_CONTROL_CHARACTERS, Limit.NO_NEWLINES))

    def seed(self, objects: Mapping[str, bytes]) -> None:
        for key, data in objects.items():
            self.overwrite(key, data)

    def overwrite(self, key: str, data: bytes) -> None:
        self._fake.put(f"{self._prefix}/{key}", data)

    def remove(self, key: str) -> None:
        self._fake.remove(f"{self._prefix}/{key}")

    def store(self, page_size: int | None = None) -> RemoteStore:
        return self._store(self._fake.endpoint, self._fake.bucket, TOKEN, page_size)

    def broken_store(self, how: Broken) -> RemoteStore | None:
        match how:
            case Broken.WRONG_KEYS:
                return self._store(self._fake.endpoint, self._fake.bucket, "another token")
            case Broken.MISSING_CONTAINER:
                return self._store(self._fake.endpoint, "no-such-bucket", TOKEN)
            case Broken.DEAD_PORT:
                return self._store(f"http://127.0.0.1:{dead_port()}", self._fake.bucket, TOKEN)

    def _store(
        self, endpoint: str, bucket: str, token: str, page_size: int | None = None
    ) -> RemoteStore:
        access = GcsAccess(endpoint, BearerToken(token), "", has_xml_api=True)
        return store_of(access, gcs_source(bucket, self._prefix), 5.0, page_size)


@contextmanager
def _running_fake() -> Iterator[MakeTarget]:
    with running_gcs_fake() as fake:
        yield lambda prefix: GcsFakeTarget(prefix, fake)


TARGETS = (
    TargetFactory("gcs-emulator", _running_emulator),
    TargetFactory("gcs-fake", _running_fake),
)
