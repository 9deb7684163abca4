"""The object of `status --json`, read from the rooms; never waits for the network or the disk."""

import os
from collections.abc import Callable
from typing import Any

from mountd.cache_folder import CacheFolder
from mountd.config import MountPlan
from mountd.config.credentials import CREDENTIALS
from mountd.logs import Blotter, secrets_of
from mountd.remotes.stack import RemoteStack
from mountd.running.rates import Rates
from mountd_cache.block_cache import BlockCache
from mountd_cache.block_files import BlockFiles


class StatusReport:
    """Reads the numbers when asked. `state` is set by the daemon: starting, ready, stopping."""

    def __init__(
        self,
        plan: MountPlan,
        folder: CacheFolder,
        remote: RemoteStack,
        blocks: BlockCache,
        files: BlockFiles,
        queue: Callable[[], dict[str, Any]],
        taking: Callable[[], dict[str, Any]],
        open_for_writing: Callable[[], int],
    ) -> None:
        self.state = "starting"
        self.pins: Callable[[], list[dict[str, Any]]] = list
        self.set_aside: Callable[[], list[str]] = list  # below the quarantine of the cache folder
        self._plan = plan
        self._folder = folder
        self._remote = remote
        self._blocks = blocks
        self._files = files
        self._queue = queue
        self._taking = taking
        self._open_for_writing = open_for_writing
        self.rates = Rates(lambda: remote.counting.counts)
        self._blot = Blotter(secrets_of(plan.settings))
        self.disk_error: Callable[[], str | None] = lambda: None  # what a program was told
        self.metrics: str | None = None  # where they are served, `host:port`

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        health = self._remote.health.snapshot()
        counts = self._remote.counting.counts
        return {
            "mountpoint": os.fspath(self._plan.mountpoint),
            "source": self._plan.source.text,
            "reach": self._reach(),
            "pid": os.getpid(),
            "state": self.state,
            "remote": {
                "state": health.state.value,
                "since": health.since,
                "last_error": self._blot(health.last_error) if health.last_error else None,
                "writes": self._taking(),
            },
            "read_only": self._plan.settings.read_only,
            "metrics": self.metrics,
            "cache": self._cache(),
            "queue": {**self._queue(), "open_for_writing": self._open_for_writing()},
            "quarantined": self.set_aside(),
            "transfer": {
                "down_bytes": counts.down_bytes,
                "up_bytes": counts.up_bytes,
                "sending_bytes": counts.moved_up_bytes,
                "down_bytes_per_s": round(self.rates.down_bytes_per_s),
                "up_bytes_per_s": round(self.rates.up_bytes_per_s),
                "requests": {
                    "get": counts.get,
                    "put": counts.put,
                    "list": counts.list,
                    "stat": counts.stat,
                },
            },
        }

    def _reach(self) -> dict[str, Any]:
        """What `mountd copy` needs to go to the remote by itself; no secrets."""
        settings = self._plan.settings
        names = (name for name, is_secret in CREDENTIALS.items() if not is_secret)
        given = settings.credentials
        return {name: given[name] for name in names if name in given} | {
            name: value
            for name in ("endpoint", "region", "engine")
            if (value := getattr(settings, name)) is not None
        }

    def _cache(self) -> dict[str, Any]:
        counters, disk = self._blocks.counters, self._files.health
        return {
            "bytes": self._files.bytes_used,
            "limit_bytes": self._folder.limit_bytes,
            "volatile": self._folder.volatile,
            "folder": os.fspath(self._folder.path),
            "block_size": self._blocks.block_size,
            "hits": counters.hits,
            "misses": counters.misses,
            "pinned_bytes": self._files.pinned_bytes,
            "pins": self.pins(),
            "memory_bytes": self._blocks.used_bytes,
            "not_kept_bytes": counters.dropped_bytes,
            "disk_error": self.disk_error() or (disk.last_reason if disk.resting else None),
        }
