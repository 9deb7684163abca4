"""gcsfs and adlfs (engine = "fsspec"), seeded like the native stores of the same servers."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mountd.remotes.base import RemoteStore
from mountd.remotes.fsspec_store import open_fsspec
from tests.contract.targets import Broken, Limit, MakeTarget, Target, TargetFactory
from tests.contract.targets_azure import WRONG_KEY, AzureTarget, azure_settings, azure_source
from tests.contract.targets_fsspec import NO_CONDITIONS
from tests.contract.targets_gcs import GcsTarget, gcs_settings, gcs_source
from tests.servers.azurite import ACCOUNT, ACCOUNT_KEY, running_azurite
from tests.servers.gcs_emulator import running_gcs_emulator
from tests.servers.process import dead_port

_FSSPEC = NO_CONDITIONS | {
    *(Limit.NO_CONDITIONAL_READ, Limit.NO_DOUBLE_SLASH, Limit.NO_DOT_SEGMENTS),
    *(Limit.SLOW, Limit.MTIME_SECONDS, Limit.NO_MAKE_DIR),
}
# The emulator cuts names at a semicolon that isn't encoded, and aiohttp decodes `%3B`.
_GCSFS = _FSSPEC | {Limit.NO_ODD_CHARACTERS, Limit.NO_BACKSLASHES}
_ADLFS = _FSSPEC | {
    Limit.NO_SERVER_COPY,
    Limit.NO_BACKSLASHES,
    Limit.NO_CONTROL_CHARACTERS,
    Limit.NO_NEWLINES,
}

# Opens the store at the target's place, whole (None) or broken in some way.
OpenEngine = Callable[[Broken | None], RemoteStore | None]


@dataclass(frozen=True, slots=True)
class EngineTarget:
    """Seeds through the native store's target and reads through fsspec."""

    seeder: Target
    limits: frozenset[Limit]
    open_engine: OpenEngine

    def seed(self, objects: Mapping[str, bytes]) -> None:
        self.seeder.seed(objects)

    def overwrite(self, key: str, data: bytes) -> None:
        self.seeder.overwrite(key, data)

    def remove(self, key: str) -> None:
        self.seeder.remove(key)

    def store(self, page_size: int | None = None) -> RemoteStore:
        store = self.open_engine(None)
        assert store is not None
        return store

    def broken_store(self, how: Broken) -> RemoteStore | None:
        return self.open_engine(how)


def _timeout_s(how: Broken | None) -> float:
    # Both packages try again by themselves, and only our time limit ends that.
    return 2.0 if how is Broken.DEAD_PORT else 20.0


@contextmanager
def _running_gcsfs() -> Iterator[MakeTarget]:
    with tempfile.TemporaryDirectory() as name, running_gcs_emulator(Path(name)) as emulator:

        def make(prefix: str) -> EngineTarget:
            def open_engine(how: Broken | None) -> RemoteStore | None:
                endpoint, bucket = emulator.endpoint, emulator.bucket
                if how is Broken.WRONG_KEYS:
                    return None  # it takes any token
                if how is Broken.MISSING_CONTAINER:
                    bucket = "no-such-bucket"
                if how is Broken.DEAD_PORT:
                    endpoint = f"http://127.0.0.1:{dead_port()}"
                settings = gcs_settings(endpoint, _timeout_s(how), anonymous="true", project="test")
                return open_fsspec(gcs_source(bucket, prefix), replace(settings, engine="fsspec"))

            return EngineTarget(GcsTarget(prefix, emulator), _GCSFS, open_engine)

        yield make


@contextmanager
def _running_adlfs() -> Iterator[MakeTarget]:
    with tempfile.TemporaryDirectory() as name, running_azurite(Path(name)) as azurite:

        def make(prefix: str) -> EngineTarget:
            def open_engine(how: Broken | None) -> RemoteStore:
                endpoint, container, key = azurite.endpoint, azurite.container, ACCOUNT_KEY
                if how is Broken.WRONG_KEYS:
                    key = WRONG_KEY
                if how is Broken.MISSING_CONTAINER:
                    container = "no-such-container"
                if how is Broken.DEAD_PORT:
                    endpoint = f"http://127.0.0.1:{dead_port()}/{ACCOUNT}"
                settings = azure_settings(endpoint, _timeout_s(how), account_key=key)
                source = azure_source(container, prefix)
                return open_fsspec(source, replace(settings, engine="fsspec"))

            return EngineTarget(AzureTarget(prefix, azurite), _ADLFS, open_engine)

        yield make


TARGETS = (
    TargetFactory("fsspec-gcsfs-emulator", _running_gcsfs),
    TargetFactory("fsspec-adlfs-azurite", _running_adlfs),
)
