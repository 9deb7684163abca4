"""The pipe through which a daemon in the background tells its starter how the start went.

One line of JSON: `{"ready": true, "said": "what whoever mounts should know"}` or
`{"error": "one line", "exit_code": n}`.
"""

import json
import os
import select
import time
from dataclasses import dataclass

from mountd.errors import ExitCode

_MAX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a start ended. `error` is None for a usable mount; `said` is about one."""

    error: str | None
    exit_code: int = ExitCode.OK
    said: str = ""


class ReadyPipe:
    """The daemon's end. Without a fd everything is a no-op; only the first message counts."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)

    def tell(self, said: str = "") -> None:
        """The path is usable."""
        self._send({"ready": True, "said": said})

    def failed(self, error: str, exit_code: ExitCode) -> None:
        """The start ended with this line."""
        self._send({"error": error, "exit_code": int(exit_code)})

    def close(self) -> None:
        """Lets the starter see that no message comes any more."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _send(self, message: dict[str, object]) -> None:
        if self._fd is None:
            return
        try:
            os.write(self._fd, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            pass  # the starter was interrupted; the mount goes on without it
        finally:
            self.close()


def wait_for_outcome(read_fd: int, timeout_s: float) -> Outcome | None:
    """What the daemon said; None when it closed the pipe without a word.

    Raises TimeoutError.
    """
    deadline = time.monotonic() + timeout_s
    data = b""
    while not data.endswith(b"\n") and len(data) < _MAX_BYTES:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not select.select([read_fd], [], [], left_s)[0]:
            raise TimeoutError("the daemon did not say that it is ready")
        chunk = os.read(read_fd, 4096)
        if not chunk:
            break
        data += chunk
    try:
        message = json.loads(data)
        if message.get("ready"):
            return Outcome(None, said=str(message.get("said") or ""))
        return Outcome(str(message["error"]), int(message["exit_code"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
