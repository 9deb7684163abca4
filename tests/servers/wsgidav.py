"""WsgiDAV on cheroot: If-Match, ranges, locks; the strictest of the three DAV servers."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.dav import PASSWORD, USER, DavServer
from tests.servers.process import free_port, running_process


@contextmanager
def running_wsgidav(directory: Path) -> Iterator[DavServer]:
    """Serves `directory/files`; configuration and log beside it."""
    port = free_port()
    files = directory / "files"
    files.mkdir()
    config = directory / "wsgidav.json"
    config.write_text(
        json.dumps(
            {
                "host": "127.0.0.1",
                "port": port,
                "server": "cheroot",
                "server_args": {"numthreads": 8},
                "provider_mapping": {"/": str(files)},
                "simple_dc": {"user_mapping": {"*": {USER: {"password": PASSWORD}}}},
                "http_authenticator": {"accept_basic": True, "accept_digest": False},
                "dir_browser": {"enable": False},
                "property_manager": True,
                "lock_storage": True,
                "verbose": 1,
            }
        )
    )
    command = [str(Path(sys.executable).parent / "wsgidav"), "--config", str(config)]
    with running_process(command, port, directory / "wsgidav.log"):
        yield DavServer(f"http://127.0.0.1:{port}", files)
