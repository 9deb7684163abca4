"""A queue's counts (of `status --json`) in words; `status`, `doctor` and `queue` say the same."""

from collections.abc import Iterator
from typing import Any

from mountd.in_words import counted, human_bytes, human_seconds


def waiting_in(queue: dict[str, Any]) -> int:
    """How many changes are not on the remote and are being tried."""
    return _number(queue.get("pending")) + _number(queue.get("uploading"))


def describe_queue(queue: dict[str, Any], mountpoint: str) -> Iterator[tuple[str, str]]:
    """Lines with their style (rich's, "" for none), the worst first; at least one."""
    failed, conflicts = _number(queue.get("failed")), _number(queue.get("conflicts"))
    waiting = waiting_in(queue)
    if failed:
        say = "tells why, with --retry they are tried again"
        yield f"{counted(failed, 'file')} failed: mountd queue {mountpoint} {say}", "bold red"
    if waiting:
        size = _number(queue.get("bytes"))
        words = f"{counted(waiting, 'file')} ({human_bytes(size)}) "
        words += "waits for the remote" if waiting == 1 else "wait for the remote"
        if sending := _number(queue.get("uploading")):
            words += f", {sending} of them on the way" if sending < waiting else ", on the way"
        oldest_s = queue.get("oldest_s")
        if isinstance(oldest_s, int | float):
            words += f", the oldest for {human_seconds(oldest_s)}"
        yield words, ""
    if conflicts:
        say = f"both versions are kept, mountd queue {mountpoint} names them"
        yield f"{counted(conflicts, 'conflict')}: {say}", "yellow"
    if not failed and not waiting:
        yield "everything is on the remote", ""


def _number(found: object) -> int:
    return max(int(found), 0) if isinstance(found, int | float) else 0
