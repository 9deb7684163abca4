"""Queues that no daemon serves: cache folders with unsent changes whose lock nobody holds."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mountd import config_file
from mountd.cache_folder import idle_folders
from mountd.cli.bounded import bounded
from mountd.config_load import configured_cache_dir, default_cache_dir
from mountd.errors import UsageError

_DISK_TIMEOUT_S = 2.0
NO_DAEMON = "no daemon"


@dataclass(frozen=True, slots=True)
class Peek:
    """What a journal holds that nobody has open. `quarantined`: names of what was set aside."""

    unsent: int
    failed: int
    size_bytes: int
    quarantined: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IdleQueue:
    """One folder. `unsent` counts changes, those that `failed` among them; `size_bytes` is what
    has to be sent. `error`: why the journal can't be read, "" where it can."""

    folder: Path
    source: str
    unsent: int = 0
    failed: int = 0
    size_bytes: int = 0
    quarantined: tuple[str, ...] = ()
    error: str = ""

    @property
    def is_empty(self) -> bool:
        return not (self.unsent or self.quarantined or self.error)


def known_idle_queues(*more: Path) -> list[IdleQueue]:
    """Those in the cache folders of this user's configuration and below the cache dirs `more`; a
    disk that hangs has none."""
    try:
        dirs = dict.fromkeys((*known_cache_dirs(), *more))
        return bounded(lambda: idle_queues(dirs), _DISK_TIMEOUT_S)
    except TimeoutError:
        return []


def idle_queues(
    cache_dirs: Iterable[Path], peek: Callable[[Path], Peek | None] | None = None
) -> list[IdleQueue]:
    """Those in `cache_dirs` that hold anything, by folder. `peek` reads the journal of a cache
    folder, None where it has none; it raises OSError or ValueError for one that can't be read."""
    found = []
    for cache_dir in cache_dirs:
        for folder in idle_folders(cache_dir):
            one = _look(folder.path, folder.source, peek or peek_journal)
            if not one.is_empty:
                found.append(one)
    return found


def known_cache_dirs() -> list[Path]:
    """The `cache_dir` that holds here, and those of the config file's sections."""
    try:
        config = config_file.load_config(config_file.find_config(None, os.environ))
        first = configured_cache_dir(config)
    except UsageError:
        return [default_cache_dir()]
    sections = (*config.remotes.values(), *config.mounts.values())
    others = (section.options.get("cache_dir") for section in sections)
    return list(dict.fromkeys((first, *(path for path in others if isinstance(path, Path)))))


def as_status(one: IdleQueue) -> dict[str, Any]:
    """As an object of `status --json`: null is what only a daemon could tell."""
    return {
        "mountpoint": None,
        "source": one.source,
        "pid": None,
        "state": NO_DAEMON,
        "error": one.error or None,
        "remote": None,
        "cache": None,
        "queue": queue_counts(one),
        "transfer": None,
        "folder": os.fspath(one.folder),
        "quarantined": list(one.quarantined),
    }


def queue_counts(one: IdleQueue) -> dict[str, Any]:
    """As `queue` of `status --json`."""
    return {
        "pending": one.unsent - one.failed,
        "uploading": 0,
        "failed": one.failed,
        "conflicts": 0,
        "bytes": one.size_bytes,
        "oldest_s": None,
    }


def peek_journal(folder: Path) -> Peek | None:
    """What the journal of a cache folder holds; see `idle_queues`."""
    return None


def _look(folder: Path, source: str, peek: Callable[[Path], Peek | None]) -> IdleQueue:
    try:
        seen = peek(folder)
    except (OSError, ValueError) as error:
        return IdleQueue(folder, source, error=f"its journal cannot be read: {error}")
    if seen is None:
        return IdleQueue(folder, source)
    return IdleQueue(folder, source, seen.unsent, seen.failed, seen.size_bytes, seen.quarantined)
