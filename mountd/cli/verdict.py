"""The answer to "is my data safe?", in one line, from what a status says and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from mountd.cli.idle_queues import NO_DAEMON
from mountd.cli.queue_words import waiting_in
from mountd.in_words import counted, human_bytes, human_seconds

NOT_ANSWERING, DEAD, OUT_OF_SIGHT = "not answering", "dead", "out of sight"

_REMOTE_IS = {
    "unreachable": "does not answer",
    "denied": "refuses our credentials or rights",
}


_NOT_TAKEN = {
    "refused": "writes are refused by the remote",
    "full": "the remote has no room for what is written",
}


class Rank(IntEnum):
    """The worse the greater."""

    SAFE = 0
    UNKNOWN = 1
    WAITS = 2  # and is being sent
    STUCK = 3  # and nobody sends it at the moment
    FAILED = 4  # until somebody does something


_STYLES = {
    Rank.SAFE: "bold green",
    Rank.UNKNOWN: "bold yellow",
    Rank.WAITS: "bold yellow",
    Rank.STUCK: "bold red",
    Rank.FAILED: "bold red",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`line` names the remote, and the mount point only where a command needs it."""

    rank: Rank
    line: str

    @property
    def style(self) -> str:
        """rich's."""
        return _STYLES[self.rank]


def verdict(status: Mapping[str, Any]) -> Verdict:
    """Of one object of `status --json`."""
    state, source = status.get("state"), str(status.get("source") or "the remote")
    queue = status.get("queue")
    if state == NO_DAEMON:
        return _of_idle(status, queue, source)
    if state == DEAD:
        return _of_dead(status, queue, source)
    if not isinstance(queue, Mapping):
        why = f"{status.get('mountpoint') or 'its daemon'} is {state or 'unknown'}"
        return Verdict(Rank.UNKNOWN, f"{why}: whether everything is on {source} is not known")
    return _of_live(status, queue, source)


def _of_live(status: Mapping[str, Any], queue: Mapping[str, Any], source: str) -> Verdict:
    failed, waiting = _number(queue, "failed"), waiting_in(dict(queue))
    mountpoint = status.get("mountpoint")
    if failed:
        why = f", {taken}" if (taken := why_not_taken(status)) else ""
        line = f"{counted(failed, 'change')} failed{why}: see mountd queue {mountpoint}"
        if waiting:
            be = "waits" if waiting == 1 else "wait"
            line += f"; {waiting} more {be} ({human_bytes(_number(queue, 'bytes'))} in all)"
            if not taken and (away := _why_not_sent(status, source)):
                line += f"; {away}"
        return Verdict(Rank.FAILED, line)
    line = _unsent(queue, waiting, source) if waiting else _all_sent(status, queue, source)
    if status.get("quarantined"):
        folder = (status.get("cache") or {}).get("folder")
        what = f"something of {source} was set aside in {folder}: mountd doctor says more"
        return Verdict(Rank.FAILED, f"{what}; else {line}")
    if not waiting:
        return Verdict(Rank.SAFE, line)
    if why := _why_not_sent(status, source):
        return Verdict(Rank.STUCK, f"{line}; {why}")
    if (status.get("remote") or {}).get("state") == "degraded":
        line += f"; {source} answers with errors, or slowly, and is tried again"
    return Verdict(Rank.WAITS, line)


def _all_sent(status: Mapping[str, Any], queue: Mapping[str, Any], source: str) -> str:
    remote = status.get("remote") or {}
    line = f"everything is on {source}"
    if is_open := _number(queue, "open_for_writing"):
        # What is in an open file may still be with the program, or in the kernel.
        be = "is" if is_open == 1 else "are"
        line = f"everything that was closed is on {source}; {counted(is_open, 'file')} {be} open "
        line += "for writing"
    if (what := _REMOTE_IS.get(str(remote.get("state")))) is not None:
        line += f"; {'it' if not is_open else source} {what} now, what is written next waits here"
    return line


def _unsent(queue: Mapping[str, Any], waiting: int, source: str) -> str:
    removals = min(_number(queue, "removals"), waiting)
    files = waiting - removals
    parts = []
    if files:
        be = "is" if files == 1 else "are"
        size = human_bytes(_number(queue, "bytes"))
        parts.append(f"{counted(files, 'file')} ({size}) {be} only on this machine")
    if removals:
        be = "is" if removals == 1 else "are"
        parts.append(f"{counted(removals, 'removal')} {be} not done on {source} yet")
    line = " and ".join(parts)
    oldest_s = queue.get("oldest_s")
    if isinstance(oldest_s, int | float):
        line += f", {'the oldest ' if waiting > 1 else ''}for {human_seconds(oldest_s)}"
    return line


def _why_not_sent(status: Mapping[str, Any], source: str) -> str:
    if status.get("read_only"):
        return "this mount is read_only, and sends nothing"
    remote = status.get("remote") or {}
    what = _REMOTE_IS.get(str(remote.get("state")))
    if what:
        return f"{source} {what}, and gets it when that is over"
    return why_not_taken(status)


def why_not_taken(status: Mapping[str, Any]) -> str:
    """Where the remote answers, and yet refuses what is written; else ""."""
    writes = (status.get("remote") or {}).get("writes") or {}
    return _NOT_TAKEN.get(str(writes.get("state")), "")


def _of_idle(status: Mapping[str, Any], queue: Any, source: str) -> Verdict:
    folder = status.get("folder")
    if status.get("error"):
        line = f"what waits for {source} in {folder} is not known: {status['error']}"
        return Verdict(Rank.FAILED, line)
    unsent = _unsent_in(queue)
    if not unsent:
        line = f"something of {source} was set aside in {folder}: mountd doctor says more"
        return Verdict(Rank.FAILED, line)
    size, be = human_bytes(_number(queue, "bytes")), "is" if unsent == 1 else "are"
    line = f"{counted(unsent, 'change')} ({size}) for {source} {be} only in {folder}, and no daemon"
    return Verdict(Rank.STUCK, f"{line} sends {'it' if unsent == 1 else 'them'}: mount it again")


def _of_dead(status: Mapping[str, Any], queue: Any, source: str) -> Verdict:
    dead = f"no daemon serves {status.get('mountpoint')}"
    unsent = _unsent_in(queue)
    if not unsent:
        line = f"{dead}: whether everything is on {source} is not known; mount it again"
        return Verdict(Rank.STUCK, line)
    size, be = human_bytes(_number(queue, "bytes")), "is" if unsent == 1 else "are"
    line = f"{dead}: {counted(unsent, 'change')} ({size}) {be} only on this machine; mount it again"
    return Verdict(Rank.STUCK, f"{line} to send {'it' if unsent == 1 else 'them'}")


def _unsent_in(queue: Any) -> int:
    if not isinstance(queue, Mapping):
        return 0
    return waiting_in(dict(queue)) + _number(queue, "failed")


def _number(queue: Mapping[str, Any], name: str) -> int:
    found = queue.get(name)
    return max(int(found), 0) if isinstance(found, int | float) else 0
