"""The protocol between a service and what started it: sd_notify(3), sd_watchdog_enabled(3) and
sd_listen_fds(3), without libsystemd.

Speaks to any service manager that sets `$NOTIFY_SOCKET`. Nothing here waits: these are called from
the loop that serves the mount.
"""

import array
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

# What a service manager means for the process that it started, and for nobody whom that starts.
VARIABLES = (
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
    *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"),
)
_MOST_FDS = 4096
LISTEN_FDS_START = 3  # sd_listen_fds(3)
_LARGEST_BYTES = 4096  # what systemd reads of one message is NOTIFY_BUFFER_MAX, a page
_USEC = 1_000_000

log = logging.getLogger(__name__)


class Notifier:
    """The sending end. Without an address every `send` is a no-op that returns False."""

    def __init__(self, address: str | None) -> None:
        self._address = _socket_address(address)
        self._socket: socket.socket | None = None
        self._complained = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """The one of `$NOTIFY_SOCKET`. A path or an abstract name (`@...`); others are logged."""
        return cls(environ.get("NOTIFY_SOCKET") or None)

    @property
    def is_listened_to(self) -> bool:
        """Whether there is an address to send to."""
        return self._address is not None

    def send(self, *, fds: Sequence[int] = (), **assignments: str | int) -> bool:
        """Sends `NAME=value` lines in one message, with `fds` (kept by who receives them, for
        FDSTORE=1; ours may be closed afterwards). Whether it was taken: False too where the
        receiver's queue is full or gone; what must arrive is then sent again later.

        Line ends in a value become spaces, and a long STATUS is cut. Never raises, never waits.
        """
        if self._address is None:
            return False
        rights = array.array("i", fds).tobytes()
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if fds else []
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        try:
            if self._socket is None:
                kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
                self._socket = socket.socket(socket.AF_UNIX, kind)
            self._socket.sendmsg([message_of(assignments)], ancillary, flags, self._address)
        except OSError as error:
            if not self._complained and not isinstance(error, BlockingIOError):
                self._complained = True  # the watchdog comes by here every few seconds
                log.warning("the service manager was not told: %s", error)
            return False
        self._complained = False
        return True

    def close(self) -> None:
        """Gives the socket back; a later `send` opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@dataclass(frozen=True, slots=True)
class PassedFd:
    """A descriptor that the service manager gave to this process, and its name there."""

    fd: int
    name: str


def message_of(assignments: Mapping[str, str | int]) -> bytes:
    """The lines of one message, each value on its own, the longest cut so that all fit."""
    values = {name: " ".join(str(value).splitlines()) for name, value in assignments.items()}
    lines = [f"{name}={value}".encode(errors="replace") for name, value in values.items()]
    too_long = sum(len(line) + 1 for line in lines) - _LARGEST_BYTES
    if too_long > 0:
        longest = max(range(len(lines)), key=lambda index: len(lines[index]))
        lines[longest] = lines[longest][:-too_long].decode(errors="ignore").encode()
    return b"\n".join(lines)


def watchdog_interval_s(
    environ: Mapping[str, str] = os.environ, pid: int | None = None
) -> float | None:
    """How often WATCHDOG=1 is to be sent: half of what the manager waits for. None: not at all,
    also where the variables are meant for another process (a parent's) or are no numbers."""
    meant_for = environ.get("WATCHDOG_PID")
    if meant_for and meant_for != str(os.getpid() if pid is None else pid):
        return None
    usec = environ.get("WATCHDOG_USEC", "")
    return int(usec) / _USEC / 2 if _is_number(usec) and int(usec) > 0 else None


def passed_fds(
    environ: Mapping[str, str] = os.environ, pid: int | None = None
) -> tuple[PassedFd, ...]:
    """What stood in the file-descriptor store, or sockets: `$LISTEN_FDS` from 3 on, in order.
    Empty where they were meant for another process. Nothing is closed or made inheritable."""
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid() if pid is None else pid):
        return ()
    if not _is_number(count) or int(count) > _MOST_FDS:
        return ()
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += ["unknown"] * (int(count) - len(names))
    return tuple(PassedFd(LISTEN_FDS_START + at, names[at]) for at in range(int(count)))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _socket_address(text: str | None) -> str | bytes | None:
    """As the socket module takes it: an abstract name starts with a zero byte."""
    if text is None:
        return None
    if text.startswith("@") and len(text) > 1:
        return b"\0" + os.fsencode(text[1:])
    if text.startswith("/"):
        return text
    log.warning("NOTIFY_SOCKET=%s is neither a path nor an abstract name; it is not used", text)
    return None
