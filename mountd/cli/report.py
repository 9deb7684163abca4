"""What a command tells the Python program that has started it: a line of JSON for each step."""

import json
import os
import time
from typing import Final

_EVERY_S: Final = 0.2


class Report:
    """The command's end of the pipe. Without a fd everything is a no-op.

    BrokenPipeError where the program has gone: the command ends then.
    """

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._told_s = 0.0
        if fd is not None:
            os.set_inheritable(fd, False)

    def going(self, facts: dict[str, object], *, is_last: bool = False) -> None:
        """How far it is. Call it often: five of a second are told, and the last one."""
        now_s = time.monotonic()
        if self._fd is not None and (is_last or now_s - self._told_s >= _EVERY_S):
            self._told_s = now_s
            self._tell({"going": facts})

    def ended(self, facts: dict[str, object], failures: dict[str, str] | None = None) -> None:
        """What was done."""
        if self._fd is not None:
            self._tell({"ended": facts, "failures": failures or {}})

    def _tell(self, message: dict[str, object]) -> None:
        assert self._fd is not None
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self._fd, data) :]
