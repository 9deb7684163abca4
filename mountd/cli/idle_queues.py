"""Queues that no daemon serves: cache folders with unsent changes whose lock nobody holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mountd.cache_folder import (
    JOURNAL,
    QUARANTINE,
    holder_pid,
    idle_folders,
    quarantined_in,
    source_of,
)
from mountd.cli.bounded import bounded
from mountd.cli.output import warn
from mountd.config.file import find_config, load_config
from mountd.config.load import configured_cache_dir, default_cache_dir
from mountd.control.folder_note import noted_cache_dirs
from mountd.errors import UsageError
from mountd.service.places import CACHE_DIR

if TYPE_CHECKING:  # else only in `peek_journal`: it brings what reads a journal
    from mountd_cache.journal_peek import Peek

# A journal of 100,000 changes is read in a second or two.
_DISK_TIMEOUT_S = 10.0
NO_DAEMON = "no daemon"


@dataclass(frozen=True, slots=True)
class IdleQueue:
    """One folder. `unsent` counts changes, those that `failed` among them; `size_bytes` is what
    has to be sent. `quarantined`: paths of what was set aside, below the quarantine. `error`: why
    the journal can't be read, "" where it can. `is_slow`: because it takes too long, no more."""

    folder: Path
    source: str
    unsent: int = 0
    failed: int = 0
    size_bytes: int = 0
    quarantined: tuple[str, ...] = ()
    error: str = ""
    is_slow: bool = False

    @property
    def is_empty(self) -> bool:
        return not (self.unsent or self.quarantined or self.error)


def known_idle_queues(*more: Path) -> list[IdleQueue]:
    """Those in the cache folders of this user's configuration and below the cache dirs `more`.
    Where their disk is too slow, those that were read in time, and a warning on stderr."""
    dirs = list(dict.fromkeys((*known_cache_dirs(), *more)))
    return idle_queues_within(_DISK_TIMEOUT_S, dirs, peek_journal)


def idle_queues_within(
    timeout_s: float, cache_dirs: Sequence[Path], peek: Callable[[Path], Peek | None]
) -> list[IdleQueue]:
    """Those in `cache_dirs` that hold anything, the smallest first. After `timeout_s` what was
    found until then, and the one that was being read with an `error`: one queue of 100,000 changes
    hides no other. `peek` reads the journal of a cache folder, None where it has none; it raises
    OSError or ValueError where that can't be read."""
    found: list[IdleQueue] = []
    reading: list[Path] = []

    def noting(folder: Path) -> Peek | None:
        reading[:] = [folder]
        return peek(folder)

    def look() -> None:
        for one in _each(cache_dirs, noting):
            found.append(one)

    try:
        bounded(look, timeout_s)
    except TimeoutError:
        warn("queues without a daemon are not all listed: the cache's disk is too slow")
        seen = {one.folder for one in found}
        slow = [folder for folder in reading if folder not in seen]
        error = f"its journal could not be read within {timeout_s:g} s"
        return [
            *found,
            *(IdleQueue(folder, source_of(folder), error=error, is_slow=True) for folder in slow),
        ]
    return found


def _each(cache_dirs: Iterable[Path], peek: Callable[[Path], Peek | None]) -> Iterator[IdleQueue]:
    folders = [folder for cache_dir in cache_dirs for folder in idle_folders(cache_dir)]
    # One of 100,000 changes takes all the time there is, and must not hide what a dead mount left.
    for folder in sorted(folders, key=lambda folder: _journal_bytes(folder.path)):
        one = _look(folder.path, folder.source, peek)
        if not one.is_empty:
            yield one


def _journal_bytes(folder: Path) -> int:
    try:
        return sum(found.stat().st_size for found in os.scandir(folder / JOURNAL))
    except OSError:  # it is looked at all the same, and says why it can't be read
        return 0


def known_quarantines(*more: Path) -> list[tuple[Path, str, tuple[str, ...]]]:
    """`quarantines` where `known_idle_queues` looks; what can't be looked at has none."""
    dirs = dict.fromkeys((*known_cache_dirs(), *more))
    with suppress(TimeoutError, OSError):
        return bounded(lambda: quarantines(dirs), _DISK_TIMEOUT_S)
    return []


def known_cache_dirs() -> list[Path]:
    """The `cache_dir` that holds here, those of the config file's sections, for root that of
    systemd's units, and those that this user's daemons were given and left something in."""
    try:
        config = load_config(find_config(None, os.environ))
        first = configured_cache_dir(config)
    except UsageError:
        return list(dict.fromkeys((default_cache_dir(), *noted_cache_dirs())))
    sections = (*config.remotes.values(), *config.mounts.values())
    others = (section.options.get("cache_dir") for section in sections)
    of_units = (CACHE_DIR,) if os.geteuid() == 0 else ()
    paths = (path for path in others if isinstance(path, Path))
    return list(dict.fromkeys((first, *paths, *of_units, *noted_cache_dirs())))


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
    """What the journal of a cache folder holds; see `idle_queues_within`. Changes nothing there."""
    journal = folder / JOURNAL
    if not (journal / "journal.db").exists():
        return None
    from mountd_cache.journal_peek import peek

    return peek(journal)


def quarantines(cache_dirs: Iterable[Path]) -> list[tuple[Path, str, tuple[str, ...]]]:
    """Folder, source and files of every cache folder in which something was set aside, whether a
    daemon serves it or not."""
    found = []
    for cache_dir in cache_dirs:
        for place in sorted(cache_dir.glob(f"*/{JOURNAL}/{QUARANTINE}")):
            folder = place.parent.parent
            if names := quarantined_in(folder):
                found.append((folder, source_of(folder), names))
    return found


def _look(folder: Path, source: str, peek: Callable[[Path], Peek | None]) -> IdleQueue:
    try:
        aside = quarantined_in(folder)
        seen = peek(folder)
        if holder_pid(folder) is not None:  # somebody mounts it just now, and changes it
            return IdleQueue(folder, source)
    except (OSError, ValueError) as error:
        return IdleQueue(folder, source, error=f"its journal cannot be read: {error}")
    if seen is None:
        return IdleQueue(folder, source, quarantined=aside)
    return IdleQueue(folder, source, seen.unsent, seen.failed, seen.size_bytes, aside)
