"""Session fixtures of the scriptable servers: `pytest_plugins = ["tests.servers.fixtures"]`.

Under pytest-xdist every worker has its own servers.
"""

from collections.abc import Iterator

import pytest

from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.raw_s3 import BUCKET, RawClient, raw_client
from tests.servers.s3.launch import S3Server


@pytest.fixture(scope="session")
def s3_server_process() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def s3_server(s3_server_process: S3Server) -> Iterator[S3Server]:
    """The worker's S3 server, empty and honest before the test."""
    s3_server_process.reset()
    yield s3_server_process
    s3_server_process.reset()


@pytest.fixture
def raw(s3_server: S3Server) -> Iterator[RawClient]:
    """Raw requests to `s3_server`, which has an empty bucket `b`."""
    s3_server.make_bucket(BUCKET)
    client = raw_client(s3_server)
    yield client
    client.close()


@pytest.fixture(scope="session")
def nextcloud_server_process() -> Iterator[NextcloudServer]:
    with NextcloudServer() as server:
        yield server


@pytest.fixture
def nextcloud_server(nextcloud_server_process: NextcloudServer) -> Iterator[NextcloudServer]:
    """The worker's Nextcloud-shaped server, empty and honest before the test."""
    nextcloud_server_process.reset()
    yield nextcloud_server_process
    nextcloud_server_process.reset()
