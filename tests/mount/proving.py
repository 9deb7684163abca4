"""What a mount makes on a bucket to prove what that enforces: where tests look at keys or requests.

It is proved when the first change waits, and what was made for that goes a moment later: the first
uploads, and a flush that waits for them, may be quicker.
"""

import time

from mountd.remotes.object_store import PROBE_NAME
from tests.servers.s3.launch import S3Server

WITHIN_S = 60


def file_keys(server: S3Server, bucket: str = "b") -> list[str]:
    """Those of files: not of directories, and not what was made to prove something."""
    keys = server.keys(bucket)
    return [key for key in keys if not key.endswith("/") and PROBE_NAME not in key]


def wait_until_proved(server: S3Server) -> None:
    """To be called after the first change of a new cache: until all requests of the proof are
    answered. The last is a look for what killed daemons have left of theirs."""
    until_s = time.monotonic() + WITHIN_S
    while not any(
        PROBE_NAME in entry.query and entry.status for entry in server.log(op="ListObjectsV2")
    ):
        assert time.monotonic() < until_s
        time.sleep(0.01)
