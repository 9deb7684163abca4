"""Stores on the Nextcloud-shaped server, as tests of single requests open them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from mountd.config import Settings
from mountd.config.source import Source
from mountd.remotes.nextcloud import NextcloudStore, Uploading, open_nextcloud
from tests.servers.nextcloud.launch import NextcloudServer

SOURCE = Source("nextcloud", "cloud", "", "nextcloud://cloud")


class OpenStore(Protocol):
    """Each call opens another one."""

    def __call__(
        self, uploading: Uploading | None = None, *, timeout_s: float = 20.0
    ) -> NextcloudStore: ...


@contextmanager
def opening(server: NextcloudServer) -> Iterator[OpenStore]:
    """Closes at the end what was opened."""
    opened: list[NextcloudStore] = []

    def open_store(
        uploading: Uploading | None = None, *, timeout_s: float = 20.0
    ) -> NextcloudStore:
        settings = Settings(
            cache_dir=Path("/nonexistent"),
            request_timeout_s=timeout_s,
            endpoint=server.url,
            max_transfers=4,
            credentials={"user": server.user, "password": server.password},
        )
        opened.append(open_nextcloud(SOURCE, settings, uploading))
        return opened[-1]

    try:
        yield open_store
    finally:
        for store in opened:
            store.close()
