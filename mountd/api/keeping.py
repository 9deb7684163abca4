"""`mountd.warm`, `pin`, `unpin` and `flush`: what one asks of a path in a mount."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from mountd.api.command import run_command
from mountd.api.options import Path as AnyPath


@dataclass(frozen=True, slots=True)
class WarmProgress:
    """How far it is: of `total_bytes` that were missing."""

    bytes: int
    total_bytes: int
    bytes_per_s: float
    failed: int


@dataclass(frozen=True, slots=True)
class WarmSummary:
    """`files` and `bytes`: all that is there; `fetched_*`: what was not in the cache."""

    files: int
    bytes: int
    fetched_files: int
    fetched_bytes: int


def warm(
    paths: AnyPath | Iterable[AnyPath],
    *,
    progress: Callable[[WarmProgress], None] | Literal["rich"] | None = None,
) -> WarmSummary:
    """Returns when all that is at and below `paths` is in the cache of their mounts.

    `progress` is called about once a second, in the calling thread. What it raises, and Ctrl-C,
    ends the warming in the daemon, too. Raises MountPointError for what lies in no mount,
    StartError where it doesn't fit, or naming what could not be fetched. Where only the path is
    seen and not the daemon (a container), nothing is counted.
    """
    if progress == "rich":
        from mountd.api.bar import WarmBar

        with WarmBar() as bar:
            return _warm(_listed(paths), bar.show)
    return _warm(_listed(paths), progress)


def _warm(paths: list[str], progress: Callable[[WarmProgress], None] | None) -> WarmSummary:
    ended: list[dict[str, Any]] = []

    def hear(said: dict[str, Any]) -> None:
        if "going" in said and progress is not None:
            progress(WarmProgress(**said["going"]))
        elif "ended" in said:
            ended.append(said["ended"])

    if paths:
        run_command(["warm", *paths], hear=hear)
    names = ("files", "bytes", "fetched_files", "fetched_bytes")
    return WarmSummary(*(sum(one[name] for one in ended) for name in names))


def pin(paths: AnyPath | Iterable[AnyPath], *, wait: bool = True) -> None:
    """Keeps all that is at and below `paths` on the local disk, over restarts and as the remote
    changes (docs/pin.md). `wait`: until it is here; Ctrl-C ends the waiting and not the pin.
    Raises StartError where something isn't pinned, or isn't here in spite of it."""
    listed = _listed(paths)
    if listed:
        run_command(["pin", *([] if wait else ["--no-wait"]), *listed])


def unpin(paths: AnyPath | Iterable[AnyPath]) -> None:
    """Lets go of what `pin` of the same paths keeps; nothing is deleted. Raises StartError for what
    was not pinned by itself."""
    listed = _listed(paths)
    if listed:
        run_command(["unpin", *listed])


def flush(path: AnyPath, timeout_s: float | None = None) -> None:
    """Returns when everything that was written at and below `path` is on the remote: after the
    last checkpoint of a job, say. Raises NotAllSent when `timeout_s` is over (None: never), or if
    only what the remote refused is left."""
    words = ["flush", os.path.abspath(path)]
    run_command([*words, *(["--timeout", f"{timeout_s:g}"] if timeout_s is not None else [])])


def _listed(paths: AnyPath | Iterable[AnyPath]) -> list[str]:
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    return [os.path.abspath(path) for path in given]
