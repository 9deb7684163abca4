"""The order in which files were opened, kept in the cache folder for the next run.

It only says what may be worth fetching: where it can't be written or read, nothing else is lost.
"""

import logging
from pathlib import Path

import trio

from mountd.vfs.epoch_ahead import EpochAhead
from mountd_cache.opening_order import read_order, write_order

log = logging.getLogger(__name__)

KEEP_EVERY_S = 300.0  # a killed daemon's next run does not know the rest
FEWEST = 16  # files that are worth it


class OrderKeeping:
    """One file, and the record that it is of."""

    def __init__(self, path: Path, epochs: EpochAhead) -> None:
        self._path = path
        self._epochs = epochs
        self._kept = (0, 0)

    def restore(self) -> None:
        """Hands over what was kept; before anything is opened. Blocking, never raises."""
        try:
            order = read_order(self._path)
        except (OSError, ValueError) as exc:
            log.info("the order of earlier epochs is forgotten: %s", exc)
            return
        if order is not None:
            self._epochs.restore(order)
            self._kept = (0, len(order))

    async def run(self) -> None:
        """Keeps it from time to time, and when cancelled."""
        try:
            while True:
                await trio.sleep(KEEP_EVERY_S)
                order = self._changed()
                if order:
                    await trio.to_thread.run_sync(self._write, order)
        finally:
            order = self._changed()
            if order:
                self._write(order)

    def _changed(self) -> bytes:
        """What is to be written; b"" where it is on the disk already, or not worth it."""
        record = self._epochs.record
        now = (record.turns, len(record.best))
        if now == self._kept or len(record.best) < FEWEST:
            return b""
        self._kept = now
        return record.best.to_bytes()

    def _write(self, order: bytes) -> None:
        try:
            write_order(self._path, order)
        except OSError as exc:
            log.info("the order of files could not be kept: %s", exc)
