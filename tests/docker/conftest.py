"""A host for containers, and the variables of a deployment around `rclone mount`."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.containers import Host, NoContainers, running_host
from tests.servers.nextcloud.launch import NextcloudServer

RCLONE = str(Path(sys.executable).parent / "rclone")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    try:
        with running_host(tmp_path) as found:
            yield found
    except NoContainers as error:
        pytest.skip(f"no containers can be made of namespaces here: {error}")


@pytest.fixture(scope="session")
def obscured(nextcloud_server_process: NextcloudServer) -> str:
    command = [RCLONE, "--config", "/dev/null", "obscure", nextcloud_server_process.password]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def rshare(nextcloud_server: NextcloudServer, obscured: str) -> dict[str, str]:
    """Issue 6's: what a deployment around `rclone mount` sets."""
    user = nextcloud_server.user
    return {
        "RCLONE_CONFIG_RSHARE_TYPE": "webdav",
        "RCLONE_CONFIG_RSHARE_URL": f"{nextcloud_server.url}/remote.php/dav/files/{user}",
        "RCLONE_CONFIG_RSHARE_VENDOR": "nextcloud",
        "RCLONE_CONFIG_RSHARE_USER": user,
        "RCLONE_CONFIG_RSHARE_PASS": obscured,
    }
