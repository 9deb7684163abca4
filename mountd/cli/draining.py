"""Waits until a daemon's queue, or the part of it at one path, is on the remote.

The waiting is the client's: it asks again and again, two seconds at a time, so that Ctrl-C and a
timeout end the wait and nothing else.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from mountd.cli.hand_over import HandOver
from mountd.control.client import request
from mountd.in_words import counted, human_bytes
from mountd.mount_table import Mount

_ASK_S = 2.0
_ANSWER_GRACE_S = 15.0
_LAST_GRACE_S = 2.0  # behind the deadline of who waits
_SHORTEST_ROUND_S = 0.2  # where a daemon answers sooner than it was asked to


@dataclass(frozen=True, slots=True)
class Left:
    """What is not on the remote. `files` counts all changes, those that `failed` among them.

    `size_bytes` is None where the daemon doesn't say; `reasons` are the first few, in its words.
    `in_kernel`: the kernel was still handing over when the time was up, so there may be more.
    """

    files: int = 0
    failed: int = 0
    size_bytes: int | None = None
    reasons: tuple[str, ...] = ()
    in_kernel: bool = False

    @property
    def is_nothing(self) -> bool:
        return self.files == 0 and not self.in_kernel

    @property
    def is_only_failed(self) -> bool:
        """Whether waiting longer changes nothing."""
        return 0 < self.files <= self.failed and not self.in_kernel

    def __str__(self) -> str:
        if not self.files:
            return "data that the kernel has not handed over" if self.in_kernel else "nothing"
        size = "" if self.size_bytes is None else f" ({human_bytes(self.size_bytes)})"
        return f"{counted(self.files, 'file')}{size}"


class Ask(Protocol):
    """Whoever knows what is left."""

    def __call__(self, wait_s: float, *, anew: bool) -> Left:
        """What is left, after `wait_s` at most. `anew`: of what is there now; else of what was
        there when it was asked anew the last time, where that can be told: a file that is written
        all the time keeps nobody waiting. Raises StartError."""
        ...


def read_left(answer: dict[str, Any]) -> Left:
    """The `Left` in an answer to "flush" or "umount"; what makes no sense counts as zero."""
    failed = _count(answer.get("failed"))
    reasons = answer.get("reasons")
    size = answer.get("bytes")
    return Left(
        files=max(_count(answer.get("left")), failed),
        failed=failed,
        size_bytes=size if isinstance(size, int) else None,
        reasons=tuple(map(str, reasons)) if isinstance(reasons, list) else (),
    )


def drain(
    ask: Ask,
    mount: Mount | None,
    deadline: float | None,
    show: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Left:
    """What is left when all is sent, only failed ones are left, or `deadline` (of `clock`; None:
    never) has passed; asked at least once even then.

    First the kernel hands over the dirty pages of `mount`, where there is one. Raises
    HandOverFailed, and what `ask` raises. An interrupt leaves everything as it is.
    """
    with HandOver(mount) if mount is not None else nullcontext() as hand_over:
        anew = True
        while True:
            began = clock()
            wait_s = _ASK_S if deadline is None else max(min(_ASK_S, deadline - began), 0.0)
            has_all = hand_over is None or hand_over.wait(wait_s)
            left = ask(wait_s if has_all else 0.0, anew=anew)
            anew = not has_all
            if has_all and (left.is_nothing or left.is_only_failed):
                return left
            if deadline is not None and clock() >= deadline:
                return replace(left, in_kernel=not has_all)
            failed = f", {left.failed} failed" if left.failed else ""
            show(f"{replace(left, in_kernel=not has_all)} left{failed}")
            pause(max(_SHORTEST_ROUND_S - (clock() - began), 0.0))


def asks_daemon(socket_path: Path, path: str | None, deadline: float | None = None) -> Ask:
    """Asks a daemon what is left at `path` below its mount; None: of all. One that hangs is waited
    for until `deadline` (of time.monotonic), and a moment more.

    `since` in its answer is what it knows the moment by; it goes back with the next question.
    """
    since: object = None

    def ask(wait_s: float, *, anew: bool) -> Left:
        nonlocal since
        message: dict[str, object] = {"op": "flush", "path": path, "timeout_s": wait_s}
        if since is not None and not anew:
            message["since"] = since
        within_s = wait_s + _ANSWER_GRACE_S
        if deadline is not None:
            left_s = max(deadline - time.monotonic(), wait_s)
            within_s = min(within_s, left_s + _LAST_GRACE_S)
        answer = request(socket_path, message, within_s)
        since = answer.get("since", since)
        return read_left(answer)

    return ask


def _count(found: object) -> int:
    return max(found, 0) if isinstance(found, int) else 0
