"""Metadata whose disk is so slow that a crash finds there what the last flush left."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from mountd_cache.metadata_cache import MetadataCache

_INODES = "inodes"  # is written through


class SlowMetadata(MetadataCache):
    """As `MetadataCache`; `abandon` takes back what was written after the last `flush`."""

    def __init__(self, folder: Path, *, wall_clock: Callable[[], float] = time.time) -> None:
        super().__init__(folder, wall_clock=wall_clock)
        self._place = folder
        self._flushed = folder.with_name(folder.name + "-flushed")
        self._closes = False
        self._snapshot()

    def flush(self, timeout_s: float = 30.0) -> bool:
        done = super().flush(timeout_s)
        if done:
            self._snapshot()
        return done

    def close(self) -> None:
        self._closes = True
        super().close()

    def abandon(self) -> None:
        super().abandon()
        if not self._closes:
            for path in self._place.iterdir():
                if path.name != _INODES:
                    _remove(path)
            self._copy_all(self._flushed, self._place)

    def _snapshot(self) -> None:
        shutil.rmtree(self._flushed, ignore_errors=True)
        self._flushed.mkdir()
        self._copy_all(self._place, self._flushed)

    def _copy_all(self, source: Path, target: Path) -> None:
        for path in source.iterdir():
            if path.name == _INODES:
                continue
            if path.is_dir():
                shutil.copytree(path, target / path.name)
            else:
                shutil.copy2(path, target / path.name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
