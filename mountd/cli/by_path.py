"""What a mount tells those who see only its path, and not its daemon's socket."""

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

from mountd.cli.draining import Ask, Left
from mountd.control.client import NotAnswering
from mountd.errors import StartError
from mountd.mount_point import read_guarded
from mountd.mount_table import Mount

STATUS_FILE = ".mountd/status.json"
_TIMEOUT_S = 3.0
_LOOK_EVERY_S = 1.0


def read_status(mountpoint: str, timeout_s: float) -> dict[str, Any] | None:
    """The status object; None for what is none. Raises OSError, TimeoutError."""
    try:
        found = json.loads(read_guarded(Path(mountpoint, STATUS_FILE), timeout_s))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def asks_path(mount: Mount) -> Ask | None:
    """Asks `mount` by its path what is left of its whole queue. None where it doesn't tell of one.

    Raises StartError, and so does what is returned, where it doesn't answer.
    """
    if _queue_of(mount) is None:
        return None

    def ask(wait_s: float, *, anew: bool) -> Left:
        left = _left_in(_queue_of(mount))
        if wait_s > 0 and not (left.is_nothing or left.is_only_failed):
            time.sleep(min(wait_s, _LOOK_EVERY_S))
            left = _left_in(_queue_of(mount))
        return left

    return ask


def _queue_of(mount: Mount) -> dict[str, Any] | None:
    try:
        queue = (read_status(mount.path, _TIMEOUT_S) or {}).get("queue")
    except TimeoutError as error:
        raise NotAnswering(f"{mount.path} does not answer") from error
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            raise StartError(
                f"no daemon serves {mount.path}, and nothing is sent; mount it again, and what "
                "waits is. mountd status tells how much that is"
            ) from error
        why = os.strerror(error.errno or 0)
        raise StartError(f"{mount.path} does not tell of its queue: {why}") from error
    return queue if isinstance(queue, dict) else None


def _left_in(queue: dict[str, Any] | None) -> Left:
    if queue is None:
        raise StartError("the mount does not tell of its queue any more")
    counts = [queue.get(name) for name in ("pending", "uploading", "failed")]
    pending, uploading, failed = (max(n, 0) if isinstance(n, int) else 0 for n in counts)
    size = queue.get("bytes")
    return Left(pending + uploading + failed, failed, size if isinstance(size, int) else None)
