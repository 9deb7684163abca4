"""What `mountd warm`, `pin` and `unpin` have in common: whom they ask, and their words."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mountd.cli.refresh import locate
from mountd.control.client import Daemon, find_daemon, request
from mountd.errors import StartError
from mountd.in_words import counted, human_bytes, human_seconds
from mountd.mount_table import Mount
from mountd.transfer.crew import Rate

ANSWER_GRACE_S = 15.0
ASK_S = 1.0
PIN, WARM = "user.mountd.pin", "user.mountd.warm"


@dataclass(frozen=True, slots=True)
class Target:
    """A path in a mount. `daemon` is None where only the path is seen, as in a container."""

    mount: Mount
    below: str
    daemon: Daemon | None

    @property
    def path(self) -> str:
        """As one would type it."""
        return os.path.join(self.mount.path, self.below) if self.below else self.mount.path

    def ask(self, op: str, wait_s: float = 0.0, **more: object) -> dict[str, Any]:
        """The daemon's answer. Raises StartError."""
        assert self.daemon is not None
        message = {"op": op, "timeout_s": wait_s, **more}
        return request(self.daemon.socket_path, message, wait_s + ANSWER_GRACE_S)


def find_target(path: Path) -> Target:
    """Raises MountPointError for what is in no mount of ours."""
    mount, below = locate(path)
    return Target(mount, below, find_daemon(mount.path, mount.owner_uid))


def set_by_path(target: Target, name: str, value: bytes) -> None:
    """Where there is no daemon to be asked, the path itself takes it. Raises StartError."""
    try:
        os.setxattr(target.path, name, value)
    except OSError as error:
        raise StartError(
            f"{target.path}: no daemon of this user is seen from here, and the path does not "
            f"take it: {error.strerror}"
        ) from error


def get_by_path(target: Target, name: str) -> str:
    """What the path says: `1`, `43%`, or why not. Raises StartError."""
    try:
        return os.getxattr(target.path, name).decode(errors="replace")
    except OSError as error:
        raise StartError(
            f"{target.path}: it can't be asked how far it is: {error.strerror}"
        ) from error


def how_far(have: int, whole: int, rate: Rate) -> str:
    """Bytes, rate, and when it will be done."""
    per_s = rate.now(have)
    words = f"{human_bytes(have)} of {human_bytes(whole)}"
    if per_s > 0:
        words += f", {human_bytes(per_s)}/s, {human_seconds((whole - have) / per_s)} left"
    return words


def files_and_bytes(files: int, size: int) -> str:
    return f"{counted(files, 'file')}, {human_bytes(size)}"


def number(answer: dict[str, Any], name: str) -> int:
    """A count in an answer; 0 where it makes no sense."""
    found = answer.get(name)
    return found if isinstance(found, int) else 0
