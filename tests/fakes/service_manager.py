"""A service manager with a file-descriptor store, as systemd has it: sd_notify(3)."""

import os
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from mountd.service.sd_notify import Notifier, PassedFd

# What systemd does between fork and exec. Arguments: the numbers, the names, the command.
_LAUNCH = """
import os, sys
numbers, names, command = sys.argv[1].split(","), sys.argv[2], sys.argv[3:]
os.environ |= {"LISTEN_FDS": str(len(numbers)), "LISTEN_FDNAMES": names}
os.environ["LISTEN_PID"] = str(os.getpid())
moved = [os.dup2(int(number), 100 + at) for at, number in enumerate(numbers)]
for at, fd in enumerate(moved):
    os.dup2(fd, 3 + at)
os.execvp(command[0], command)
"""


@dataclass
class ServiceManager:
    """Listens at `path`. What it hears it acts on when somebody asks for what is `kept`."""

    path: Path
    removes: bool = True  # whether FDSTOREREMOVE arrives
    _kept: list[tuple[str, int]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)
        self.notifier = Notifier(str(self.path))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for _, fd in self.kept:
            os.close(fd)
        self.notifier.close()
        self._socket.close()

    @property
    def kept(self) -> list[tuple[str, int]]:
        """Names, each with its descriptor."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, 4096, 4)
            except BlockingIOError:
                return self._kept
            said = dict(line.split("=", 1) for line in data.decode().splitlines())
            if said.get("FDSTORE") == "1":
                assert said["FDPOLL"] == "0"
                self._kept += [(said["FDNAME"], fd) for fd in fds]
            elif said.get("FDSTOREREMOVE") == "1" and self.removes:
                self.drop(said["FDNAME"])

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.kept]

    def drop(self, name: str) -> None:
        """Closes what it has by that name."""
        for each, fd in self._kept:
            if each == name:
                os.close(fd)
        self._kept = [each for each in self._kept if each[0] != name]

    def passed(self) -> list[PassedFd]:
        """As the next process gets them, with numbers of its own."""
        return [PassedFd(os.dup(fd), name) for name, fd in self.kept]

    def launcher(self) -> tuple[list[str], tuple[int, ...]]:
        """What is to stand before the command of the next process, and what that is to inherit."""
        numbers = ",".join(str(fd) for _, fd in self.kept)
        fds = tuple(fd for _, fd in self.kept)
        return [sys.executable, "-c", _LAUNCH, numbers, ":".join(self.names)], fds
