"""A word to end (SIGTERM, SIGINT) for a process that goes on with a mount, and can't end it yet.

Such a process is started with these signals blocked: its first line here lets them come, and keeps
in mind that they did. Without that they would end it as they end any program, and the mount would
be dead: programs get errors, and what the kernel still has of open files is lost.
"""

import os
import signal
from collections.abc import MutableMapping
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGTERM, signal.SIGINT)
TOLD: Final = "MOUNTD_TOLD_TO_END"  # by the same process with former code

_is_told = False


def listen(environ: MutableMapping[str, str] = os.environ) -> None:
    """From now on signals to end are kept in mind. In the main thread, before there are others."""
    global _is_told
    for number in ENDING:
        signal.signal(number, _on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    _is_told |= bool(environ.pop(TOLD, ""))


def note() -> None:
    """One came."""
    global _is_told
    _is_told = True


def is_so() -> bool:
    """Whether any came since `listen`."""
    return _is_told


def listen_no_longer() -> None:
    """They end this process again, as they end any."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def hand_on() -> dict[str, str]:
    """For the environment of the code that this process runs next. Those that come after this
    wait for it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    return {TOLD: "1" if _is_told else ""}


def _on_signal(number: int, frame: FrameType | None) -> None:
    note()
