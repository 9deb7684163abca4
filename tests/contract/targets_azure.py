"""Azure Blob: azurite, seeded by azure-storage-blob."""

import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from mountd.config import Settings
from mountd.config.source import Source
from mountd.remotes.azure import open_azure
from mountd.remotes.base import RemoteStore
from tests.contract.targets import Broken, Limit, MakeTarget, TargetFactory
from tests.servers.azurite import ACCOUNT, ACCOUNT_KEY, Azurite, running_azurite
from tests.servers.process import dead_port

WRONG_KEY = "bm90IHRoZSBrZXk="


def azure_settings(endpoint: str, timeout_s: float = 20.0, **credentials: str) -> Settings:
    return Settings(
        cache_dir=Path("/nonexistent"),
        endpoint=endpoint,
        request_timeout_s=timeout_s,
        credentials=MappingProxyType({"account_name": ACCOUNT, **credentials}),
    )


def azure_source(container: str, prefix: str) -> Source:
    return Source("az", container, prefix, f"az://{container}/{prefix}")


class AzureTarget:
    def __init__(self, prefix: str, azurite: Azurite) -> None:
        self._prefix = prefix
        self._azurite = azurite
        self._container = azurite.service.get_container_client(azurite.container)

    @property
    def limits(self) -> frozenset[Limit]:
        # The first two are Azure's own rules; a control character makes azurite's listing a 500.
        return frozenset(
            (
                Limit.NO_BACKSLASHES,
                Limit.NO_DOT_SEGMENTS,
                Limit.NO_CONTROL_CHARACTERS,
                Limit.SLOW,
                Limit.MTIME_SECONDS,
            )
        )

    def seed(self, objects: Mapping[str, bytes]) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self.overwrite, objects.keys(), objects.values()))

    def overwrite(self, key: str, data: bytes) -> None:
        self._container.upload_blob(f"{self._prefix}/{key}", data, overwrite=True)

    def remove(self, key: str) -> None:
        self._container.delete_blob(f"{self._prefix}/{key}")

    def store(self, page_size: int | None = None) -> RemoteStore:
        settings = azure_settings(self._azurite.endpoint, account_key=ACCOUNT_KEY)
        return open_azure(azure_source(self._azurite.container, self._prefix), settings, page_size)

    def broken_store(self, how: Broken) -> RemoteStore | None:
        endpoint, container, key = self._azurite.endpoint, self._azurite.container, ACCOUNT_KEY
        match how:
            case Broken.WRONG_KEYS:
                key = WRONG_KEY
            case Broken.MISSING_CONTAINER:
                container = "no-such-container"
            case Broken.DEAD_PORT:
                endpoint = f"http://127.0.0.1:{dead_port()}/{ACCOUNT}"
        settings = azure_settings(endpoint, timeout_s=20.0, account_key=key)
        return open_azure(azure_source(container, self._prefix), settings)


@contextmanager
def _running_azurite() -> Iterator[MakeTarget]:
    with tempfile.TemporaryDirectory() as name, running_azurite(Path(name)) as azurite:
        yield lambda prefix: AzureTarget(prefix, azurite)


TARGETS = (TargetFactory("azurite", _running_azurite),)
