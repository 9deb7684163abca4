"""The orders in which files were opened, kept in the cache folder for the next run.

It only says what may be worth fetching: where it can't be written or read, nothing else is lost.
"""

import logging
from pathlib import Path

import trio

from mountd.vfs.epoch_sets import EpochSets
from mountd_cache.opening_order import SetOrder, pack_orders, read_orders, write_orders

log = logging.getLogger(__name__)

KEEP_EVERY_S = 300.0  # a killed daemon's next run does not know the rest
FEWEST = 16  # files that are worth it


class OrderKeeping:
    """One file, and the records that it is of."""

    def __init__(self, path: Path, epochs: EpochSets) -> None:
        self._path = path
        self._epochs = epochs
        self._kept: list[tuple[str, int, int]] = []

    def restore(self) -> None:
        """Hands over what was kept; before anything is opened. Blocking, never raises."""
        try:
            orders = read_orders(self._path)
        except (OSError, ValueError) as exc:
            log.info("the order of earlier epochs is forgotten: %s", exc)
            return
        self._epochs.restore(orders)
        self._changed()

    async def run(self) -> None:
        """Keeps them from time to time, and when cancelled."""
        try:
            while True:
                await trio.sleep(KEEP_EVERY_S)
                orders = self._changed()
                if orders:
                    await trio.to_thread.run_sync(self._write, pack_orders(orders))
        finally:
            orders = self._changed()
            if orders:
                self._write(pack_orders(orders))

    def _changed(self) -> list[SetOrder]:
        """What is to be written; none where it is on the disk already, or not worth it."""
        sets = [each for each in self._epochs.sets if len(each.record.best) >= FEWEST]
        now = [(each.root, each.record.turns, len(each.record.best)) for each in sets]
        if now == self._kept:
            return []
        self._kept = now
        return [SetOrder(each.root, each.is_whole, each.record.best) for each in sets]

    def _write(self, orders: bytes) -> None:
        try:
            write_orders(self._path, orders)
        except OSError as exc:
            log.info("the order of files could not be kept: %s", exc)
