"""azurite: Azure Blob with the well-known account. Slow, so never a benchmark."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from azure.storage.blob import BlobServiceClient

from tests.servers.process import free_port, running_process

ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_PLACES = (
    _CACHE / "mountd-test/azurite/node_modules/.bin/azurite-blob",  # where scripts/test puts it
    Path("/opt/azurite/node_modules/.bin/azurite-blob"),
    Path(__file__).parents[2] / "node_modules/.bin/azurite-blob",
)


@dataclass(frozen=True, slots=True)
class Azurite:
    """A running azurite. `container` exists; `service` is azure-storage-blob's client."""

    endpoint: str
    service: BlobServiceClient
    container: str = "contract"


def azurite_command() -> str | None:
    """The program, or None where azurite is not installed. scripts/test names its own."""
    if named := os.environ.get("AZURITE_BLOB"):
        return named
    return next((str(place) for place in _PLACES if place.exists()), None)


@contextmanager
def running_azurite(directory: Path) -> Iterator[Azurite]:
    """Data and log are below `directory`."""
    program = azurite_command()
    if program is None:
        raise RuntimeError("azurite is not installed: scripts/test does that")
    port = free_port()
    command = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    command += ["-l", str(directory / "azurite"), "--silent", "--skipApiVersionCheck"]
    command += ["--disableTelemetry"]  # else it calls home at its start
    with running_process(command, port, directory / "azurite.log"):
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        with BlobServiceClient(endpoint, credential=ACCOUNT_KEY) as service:
            azurite = Azurite(endpoint, service)
            service.create_container(azurite.container)
            yield azurite
