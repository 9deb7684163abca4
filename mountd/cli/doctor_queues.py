"""doctor's checks of queues: what failed, what waits without a daemon, what was set aside."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mountd.cache_folder import JOURNAL, QUARANTINE
from mountd.cli.findings import Finding, ok, problem, warning
from mountd.cli.idle_queues import IdleQueue
from mountd.cli.queue_words import describe_queue, waiting_in
from mountd.in_words import counted, human_bytes

_MOST_NAMES = 3


def check_queue(status: dict[str, Any]) -> Iterator[Finding]:
    """How the queue of a mount that answers is; nothing for a daemon that tells of none."""
    queue = status.get("queue")
    if not isinstance(queue, dict):
        return
    mountpoint = str(status.get("mountpoint") or "MOUNTPOINT")
    check = f"mount {mountpoint}, queue"
    words = ", ".join(line.partition(":")[0] for line, _ in describe_queue(queue, mountpoint))
    if queue.get("failed"):
        fix = f"mountd queue {mountpoint} tells why; mend that, then add --retry"
        yield warning(check, words, fix)
    elif queue.get("conflicts"):
        fix = f"mountd queue {mountpoint} names them; keep the version you want, remove the other"
        yield warning(check, words, fix)
    elif waiting_in(queue) and (status.get("cache") or {}).get("volatile"):
        fix = f"mountd flush {mountpoint}, before the machine or container stops"
        yield warning(check, f"{words}; its cache does not survive a restart", fix)
    else:
        yield ok(check, words)


def check_idle(idle: Sequence[IdleQueue]) -> Iterator[Finding]:
    """What waits in folders that no daemon serves, and what was set aside in them."""
    for one in idle:
        if one.is_slow:
            fix = (
                "nothing is wrong with it for all that is known; ask again, or mount it to send it"
            )
            yield warning(f"queue of {one.source}", f"{one.folder}: {one.error}", fix)
        elif one.error:
            fix = (
                f"mountd mount {one.source} MOUNTPOINT sets aside what it cannot read, deletes "
                "nothing, and goes on; doctor then says how to get it back"
            )
            yield problem(f"queue of {one.source}", f"{one.folder}: {one.error}", fix)
        elif one.unsent:
            files = counted(one.unsent, "file")
            wait = "waits" if one.unsent == 1 else "wait"
            failed = f", {one.failed} of them failed" if one.failed else ""
            found = f"{files} ({human_bytes(one.size_bytes)}) {wait} in {one.folder}{failed}"
            fix = (
                f"no daemon serves it; to send it: mountd mount {one.source} MOUNTPOINT -o "
                f"cache_dir={one.folder.parent}"
            )
            yield warning(f"queue of {one.source}", found, fix)


def check_quarantine(folder: Path, source: str, names: Sequence[str]) -> Finding:
    """What was set aside because it could not be read or matched, and how to get at it. `names`
    are paths below the quarantine of the cache folder `folder`."""
    shown = ", ".join(names[:_MOST_NAMES])
    if len(names) > _MOST_NAMES:
        shown += f" and {len(names) - _MOST_NAMES} more"
    return warning(
        f"quarantine of {source}",
        f"{len(names)} set aside in {folder / JOURNAL / QUARANTINE}: {shown}",
        "it may be the only copy of what was written here. README.txt beside each file says what "
        "it is; the bytes of a .data file: tail -c +4097 FILE > COPY (zeros where nothing was "
        "written). Remove the folder when you have what you need",
    )
