"""gcp-storage-emulator: GCS's JSON API. It ignores preconditions, pages and tokens."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from tests.servers.process import free_port, running_process


@dataclass(frozen=True, slots=True)
class GcsEmulator:
    """A running emulator. `bucket` exists; `client` is google-cloud-storage's."""

    endpoint: str
    client: Any
    bucket: str = "contract"


@contextmanager
def running_gcs_emulator(directory: Path) -> Iterator[GcsEmulator]:
    """Objects are in its memory; its log goes to `directory`."""
    port = free_port()
    program = str(Path(sys.executable).parent / "gcp-storage-emulator")
    command = [program, "start", "--host=127.0.0.1", f"--port={port}", "--in-memory"]
    # Its own environment could send it to another emulator.
    env = {name: text for name, text in os.environ.items() if name != "STORAGE_EMULATOR_HOST"}
    with running_process(command, port, directory / "gcs.log", env):
        endpoint = f"http://127.0.0.1:{port}"
        anonymous: Any = AnonymousCredentials
        client = storage.Client(
            project="test",
            credentials=anonymous(),
            client_options={"api_endpoint": endpoint},
        )
        emulator = GcsEmulator(endpoint, client)
        client.create_bucket(emulator.bucket)
        try:
            yield emulator
        finally:
            client.close()
