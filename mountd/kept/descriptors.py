"""Who keeps the connection's descriptor and the record while this process may die, and what a
former process has left there.

Either the parent that put mountd in the background (mountd/kept/keeper.py), or the service manager
(mountd/kept/store.py), or nobody: then only `mountd upgrade` has a successor, which is this same
process with new code.
"""

import array
import errno
import logging
import os
import re
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

KEEPER: Final = "MOUNTD_KEEPER_FD"  # the socket to the keeper
KEPT: Final = "MOUNTD_KEPT_FDS"  # "connection,record"
ONLY_LOOK: Final = "MOUNTD_ONLY_LOOK"  # for new code: say whether it would start, and end
REPLACES: Final = "MOUNTD_REPLACES"  # for the same process, which has just let them go
_NO_ROOM: Final = (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS)


@dataclass(frozen=True, slots=True)
class Left:
    """What a former process has left: the connection and its record, ours to close."""

    connection: int
    record: int
    names: tuple[str, str] = ("", "")  # of both, where a service manager keeps them

    def close(self) -> None:
        os.close(self.connection)
        os.close(self.record)


def left_behind(environ: MutableMapping[str, str] = os.environ) -> Left | None:
    """Takes it over, once; None where there is nothing. Nothing is passed on to children."""
    text = environ.pop(KEPT, "")
    if not re.fullmatch(r"\d+,\d+", text):
        return None
    connection, record = map(int, text.split(","))
    try:
        os.set_inheritable(connection, False)
        os.set_inheritable(record, False)
    except OSError as error:
        log.warning("what a former process left can't be used: %s", error)
        return None
    return Left(connection, record)


def connection_number(connection: int) -> str:
    """The kernel's number of the connection, "" where it doesn't say (before Linux 6.17)."""
    try:
        with open(f"/proc/self/fdinfo/{connection}", encoding="ascii") as file:
            found = re.search(r"^fuse_connection:\s*(\d+)$", file.read(), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


class Keeper:
    """Who keeps a copy of both descriptors, if anybody does."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._socket: socket.socket | None = None
        self._waiting: list[tuple[bytes, tuple[int, ...]]] = []  # words, with descriptors of ours
        text = environ.pop(KEEPER, "")
        if text.isdecimal():
            try:
                self._socket = socket.socket(fileno=int(text))
                self._socket.set_inheritable(False)
                self._socket.setblocking(False)
            except OSError as error:
                log.warning("the keeper can't be reached: %s", error)

    @property
    def fd(self) -> int | None:
        """The socket to the parent, for the same process with new code."""
        return self._socket.fileno() if self._socket is not None else None

    @property
    def environment(self) -> dict[str, str]:
        """What the same process with new code is to be given."""
        return {KEEPER: str(self.fd)} if self.fd is not None else {}

    def keep(self, connection: int, record: int) -> None:
        """Both are kept from now on, in place of what was kept before."""
        # Of several that wait only the last has what is true.
        self._waiting = [(word, fds) for word, fds in self._waiting if not fds]
        self._send(b"keep", connection, record)

    def begins(self) -> None:
        """The path doesn't answer until this process, with new code, says that it serves."""
        self._send(b"begins")

    def serves(self) -> None:
        """The path answers."""
        self._send(b"serves")

    def settle(self) -> None:
        """What could not be told before is told now: a keeper that is stopped hears nothing, and
        at some time no more finds room."""
        while self._waiting and self._is_sent(*self._waiting[0]):
            self._waiting.pop(0)

    def let_go(self) -> None:
        """Nobody is to go on: the mount is about to be taken away. Harmless a second time."""
        self._send(b"end")

    def _send(self, word: bytes, *fds: int) -> None:
        if self._socket is not None:
            self._waiting.append((word, fds))
            self.settle()

    def _is_sent(self, word: bytes, fds: tuple[int, ...]) -> bool:
        if self._socket is None:
            return True  # to nobody
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]
        try:
            self._socket.sendmsg([word], rights if fds else [])
        except OSError as error:
            if error.errno in _NO_ROOM:
                return False
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                log.warning("the keeper was not told: %s", error)
            self._socket.close()
            self._socket = None  # it is gone; this process goes on without it
        return True
