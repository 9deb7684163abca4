"""The service manager as the keeper of the connection and its record: its file-descriptor store
(sd_notify(3), FDSTORE=1).

It hands both to the daemon that it starts next ($LISTEN_FDS), closes them when the unit ends, and
nothing tells us what it has taken: so each descriptor has a name that no other one ever has, and
what is not gone on with is removed by its name.
"""

import logging
import os
import re
import secrets
import select
import stat
import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from mountd.kept.descriptors import KEEPER, Keeper, Left, left_behind
from mountd.kept.record import Head, Unsound, note_start
from mountd.service.sd_notify import Notifier, PassedFd, passed_fds

log = logging.getLogger(__name__)

STORED: Final = "MOUNTD_STORED_NAMES"  # "connection:record", for the same process with new code
_LISTEN: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
# One mount's connection, and the records of that mount.
_CONNECTION: Final = re.compile(r"mountd-connection-([0-9a-f]{16})")
_RECORD: Final = re.compile(r"mountd-record-([0-9a-f]{16})-[0-9a-f]{8}")
_FUSE_DEVICE: Final = os.makedev(10, 229)


class Told(Protocol):
    """A Notifier."""

    @property
    def is_listened_to(self) -> bool: ...

    def send(self, *, fds: Sequence[int] = (), **assignments: str | int) -> bool: ...


class Store:
    """As `Keeper`, with the service manager that listens at `notifier`; with none nobody keeps."""

    fd: None = None

    def __init__(self, notifier: Told, names: tuple[str, str] = ("", "")) -> None:
        self._notifier = notifier
        self._connection, self._record = names
        self._to_store: dict[str, int] = {}
        self._to_remove: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        return {STORED: f"{self._connection}:{self._record}"} if self._connection else {}

    def keep(self, connection: int, record: int) -> None:
        """Both are kept from now on, in place of what was kept before."""
        if not self._notifier.is_listened_to:
            return
        if self._record:
            self._forget(self._record)
        if not self._connection:
            self._connection = f"mountd-connection-{secrets.token_hex(8)}"
            self._to_store[self._connection] = connection
        mount = self._connection.rpartition("-")[2]
        self._record = f"mountd-record-{mount}-{secrets.token_hex(4)}"
        self._to_store[self._record] = record
        self.settle()

    def begins(self) -> None:
        """The manager sees that this is the same process."""

    def serves(self) -> None:
        """The manager hears that, too, with READY=1."""

    def let_go(self) -> None:
        """Nobody is to go on: the mount is about to be taken away. Harmless a second time."""
        for name in filter(None, (self._connection, self._record)):
            self._forget(name)
        self._connection = self._record = ""
        self.settle()

    def settle(self) -> None:
        """Tells what the manager's queue had no room for; nothing is removed before what comes in
        its place was told."""
        for name, fd in list(self._to_store.items()):
            # Not polled: the manager would be woken by each request on the mount.
            if not self._notifier.send(fds=(fd,), FDSTORE=1, FDNAME=name, FDPOLL=0):
                return
            del self._to_store[name]
        while self._to_remove and remove(self._notifier, self._to_remove[0]):
            del self._to_remove[0]

    def _forget(self, name: str) -> None:
        if self._to_store.pop(name, None) is None:
            self._to_remove.append(name)


def remove(notifier: Told, name: str) -> bool:
    """Whether the manager was told to close what it has by that name."""
    return notifier.send(FDSTOREREMOVE=1, FDNAME=name)


def kept_by(left: Left | None, environ: MutableMapping[str, str] = os.environ) -> Keeper | Store:
    """Who keeps what this process makes."""
    if KEEPER in environ:
        return Keeper(environ)
    return Store(Notifier.from_environment(environ), left.names if left is not None else ("", ""))


def left_to_us(environ: MutableMapping[str, str] = os.environ) -> Left | None:
    """What a former process has left with whoever keeps it, or to itself with new code. Taken over
    once: nothing is passed on to children."""
    names = environ.pop(STORED, "").partition(":")
    left = left_behind(environ)
    passed = [each for each in passed_fds(environ) if _is_ours(each)]
    for name in _LISTEN:
        environ.pop(name, None)
    if left is not None:
        return replace(left, names=(names[0], names[2]))
    notifier = Notifier.from_environment(environ)
    try:
        return left_in_store(passed, notifier) if passed else None
    finally:
        notifier.close()


@dataclass(slots=True)
class _Stored:
    """What stands in the store for one mount."""

    connections: list[PassedFd]
    records: list[tuple[tuple[int, int], PassedFd]]

    def latest(self) -> Left:
        [connection] = self.connections
        _, record = max(self.records, key=lambda each: each[0])
        return Left(connection.fd, record.fd, (connection.name, record.name))


def is_live_connection(fd: int) -> bool:
    """Whether it is a mount's, and that mount is still there. Which mount, whoever goes on sees by
    its number."""
    found = os.fstat(fd)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _FUSE_DEVICE:
        return False
    poll = select.poll()
    poll.register(fd, 0)
    return not poll.poll(0)  # POLLERR where it is gone


def left_in_store(
    passed: Sequence[PassedFd],
    notifier: Told,
    is_connection: Callable[[int], bool] = is_live_connection,
) -> Left | None:
    """The connection, with the latest of its records. All else of `passed` is closed and removed
    from the store; and so are these where they were gone on with too often, or in vain for too
    long: then it is None, and whoever waits on that mount gets an error."""
    mounts: dict[str, _Stored] = {}
    for each in passed:
        _sort_in(mounts, each, is_connection)
    whole = [found for found in mounts.values() if len(found.connections) == 1 and found.records]
    left = whole[0].latest() if len(whole) == 1 else None
    if left is None:
        log.warning("what the former daemon left can't be used: open files there are lost")
    elif not _may_go_on(left.record):
        log.warning(
            "daemons that went on with the mount died, one after the other: open files there are "
            "lost, and it is mounted again"
        )
        left = None
    kept = (left.connection, left.record) if left is not None else ()
    names = left.names if left is not None else ()
    for each in passed:
        if each.fd not in kept:
            os.close(each.fd)
        if each.name not in names:
            remove(notifier, each.name)
    return left


def _is_ours(passed: PassedFd) -> bool:
    if not passed.name.startswith("mountd-"):
        return False
    try:
        os.set_inheritable(passed.fd, False)
    except OSError as error:
        log.warning("%s can't be used: %s", passed.name, error)
        return False
    return True


def _sort_in(
    mounts: dict[str, _Stored], passed: PassedFd, is_connection: Callable[[int], bool]
) -> None:
    if found := _CONNECTION.fullmatch(passed.name):
        if is_connection(passed.fd):
            mounts.setdefault(found[1], _Stored([], [])).connections.append(passed)
    elif found := _RECORD.fullmatch(passed.name):
        try:
            number = Head.read(passed.fd).number
        except (Unsound, OSError) as error:
            log.debug("%s is none: %s", passed.name, error)
            return
        mounts.setdefault(found[1], _Stored([], [])).records.append((number, passed))


def _may_go_on(record: int) -> bool:
    try:
        return note_start(record, time.monotonic())
    except OSError as error:
        log.debug("a start can't be noted: %s", error)
        return False
