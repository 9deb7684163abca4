"""The command line's end of the control socket. Blocking; every call has a deadline."""

import json
import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mountd.control.runtime_dir import (
    SUFFIX,
    is_dir_of,
    is_trusted,
    searched_dirs,
    short_address,
    socket_name,
)
from mountd.errors import ExitCode, StartError
from mountd.mount_table import read_mounts

_MAX_ANSWER_BYTES = 64 << 20
_CONNECT_TIMEOUT_S = 2.0


class DaemonGone(StartError):
    """Nobody listens on this socket (any more)."""


class NotAnswering(StartError):
    """A process holds the socket and gave no whole answer in time. `pid` is its, if known."""

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class Ended(NotAnswering):
    """The connection was closed before the answer: that process has ended, or is about to."""


class Refused(StartError):
    """The daemon answered with an error of its own."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon that accepts connections, of the user who owns the socket's directory. `pid` is None
    where it lives outside our pid namespace."""

    socket_path: Path
    pid: int | None

    @property
    def is_trusted(self) -> bool:
        """See `runtime_dir.is_trusted`."""
        return is_trusted(self.socket_path.parent)


def request(socket_path: Path, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """The daemon's answer to `message`, within `timeout_s`.

    Raises DaemonGone, NotAnswering, or Refused with the daemon's words and exit code.
    """
    deadline = time.monotonic() + timeout_s
    with _connect(socket_path, min(timeout_s, _CONNECT_TIMEOUT_S)) as sock:
        pid, _ = _peer(sock)
        try:
            _set_deadline(sock, deadline)
            sock.sendall(json.dumps(message).encode() + b"\n")
            line = _read_line(sock, deadline)
            answer = json.loads(line)
        except (OSError, EOFError, ValueError, RecursionError) as error:
            who = f"the daemon (pid {pid})" if pid else "the daemon"
            kind = Ended if isinstance(error, EOFError | ConnectionError) else NotAnswering
            raise kind(f"{who} does not answer", pid) from error
    if not isinstance(answer, dict) or not isinstance(answer.get("answer", {}), dict):
        raise NotAnswering("the daemon's answer makes no sense; is it another version?", pid)
    if answer.get("ok") is not True:
        raise _refused(answer)
    result: dict[str, Any] = answer.get("answer", {})
    return result


def find_daemon(mountpoint: str, uid: int | None = None) -> Daemon | None:
    """The live daemon of this absolute mount point. `uid` is the mount's owner as the kernel tells
    him; None: ours, or systemd's unit."""
    for directory in searched_dirs(uid):
        found = _probe(directory / socket_name(mountpoint))
        if found is not None:
            return found
    return None


def find_daemons() -> list[Daemon]:
    """Every live daemon of ours; for root also those of others, each only for a mount that the
    kernel says is that user's. Our dead daemons' sockets are removed."""
    paths = [path for directory in searched_dirs() for path in sorted(directory.glob("*" + SUFFIX))]
    found = [daemon for path in paths if (daemon := _probe(path)) is not None]
    if os.geteuid() != 0:
        return found
    others = {
        (mount.path, mount.owner_uid)
        for mount in read_mounts()
        if mount.is_ours and mount.owner_uid
    }
    theirs = (find_daemon(path, uid) for path, uid in sorted(others))
    return list(dict.fromkeys([*found, *(one for one in theirs if one is not None)]))


def is_alive(socket_path: Path) -> bool:
    """Whether a process listens there, answering or not. Removes the socket of a dead one."""
    return _probe(socket_path) is not None


def _probe(path: Path) -> Daemon | None:
    try:
        inode = os.stat(path).st_ino
    except OSError:
        return None
    try:
        with _connect(path, _CONNECT_TIMEOUT_S) as sock:
            return Daemon(path, _peer(sock)[0])
    except NotAnswering:
        return Daemon(path, None)  # its backlog is full: alive, and stuck
    except DaemonGone as error:
        if isinstance(error.__cause__, ConnectionRefusedError):
            _remove_dead(path, inode)
        return None


def _remove_dead(path: Path, inode: int) -> None:
    if not is_dir_of(path.parent, os.geteuid()):
        return  # whose it is may put a link in its place just now, and have root remove anything
    try:
        if os.stat(path).st_ino == inode:  # not one that a new daemon has just put there
            os.unlink(path)
    except OSError:
        return  # another process was quicker, or it is another user's: nothing is lost


def _connect(path: Path, timeout_s: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.settimeout(max(timeout_s, 0.01))
    try:
        with short_address(path) as address:
            owner = os.stat(os.path.dirname(address)).st_uid
            sock.connect(address)
    except (TimeoutError, BlockingIOError) as error:
        sock.close()
        raise NotAnswering(f"the daemon at {path} does not accept connections") from error
    except OSError as error:
        sock.close()
        raise DaemonGone(f"no daemon at {path}: {error.strerror}") from error
    _, uid = _peer(sock)
    if uid != owner:  # a link to another daemon's socket, or a directory that was open to others
        sock.close()
        raise DaemonGone(f"who listens at {path} is user {uid}, and not user {owner}, whose it is")
    return sock


def _peer(sock: socket.socket) -> tuple[int | None, int]:
    """Process, where it is in our namespace, and user of who listens there (SO_PEERCRED)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    return pid or None, uid


def _set_deadline(sock: socket.socket, deadline: float) -> None:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the daemon took too long")
    sock.settimeout(left_s)


def _read_line(sock: socket.socket, deadline: float) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n"):
        _set_deadline(sock, deadline)
        chunk = sock.recv(1 << 20)
        if not chunk:
            raise EOFError("the answer is cut")
        if len(data) > _MAX_ANSWER_BYTES:
            raise ValueError("the answer is too long")
        data += chunk
    return bytes(data)


def _refused(answer: dict[str, Any]) -> Refused:
    try:
        code = ExitCode(answer.get("exit_code", ExitCode.RUNTIME))
    except ValueError:
        code = ExitCode.RUNTIME
    return Refused(str(answer.get("error", "the daemon refused")), code)
