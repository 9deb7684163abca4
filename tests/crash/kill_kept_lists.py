"""Listings that are read half, while one daemon after the other dies, and then to their end."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from tests.crash.kill_loop_calls import Calls, DaemonGone, Failed
from tests.crash.kill_loop_check import Report

MOST_OPEN = 5
# So many and so long that no program gets them with one call, nor the kernel with one request.
COUNT = 700
PADDING = "n" * 110
AT_ONCE = 150


def names() -> set[str]:
    return {f"{number:04}-{PADDING}" for number in range(COUNT)}


class Listing:
    """One that is open."""

    def __init__(self, entries: "os._ScandirIterator[str]") -> None:
        self._entries = entries
        self.seen: list[str] = []

    def read(self, count: int) -> bool:
        """Whether it has ended."""
        for _ in range(count):
            entry = next(self._entries, None)
            if entry is None:
                return True
            self.seen.append(entry.name)
        return False

    def close(self) -> None:
        self._entries.close()


class ListWork:
    """What a worker does whose directory nobody changes: each listing has each name once."""

    def __init__(self, calls: Calls, top: Path) -> None:
        self._calls = calls
        self._top = top

    def look(self) -> Report:
        report = Report()
        seen = os.listdir(self._top)
        report.files = len(seen)
        report.problems += _wrong(seen)
        return report

    def run(self, seconds: float, rng: random.Random) -> bool:
        """Until then, or until the daemon is gone: True."""
        until_s = time.monotonic() + seconds
        held: list[Listing] = []
        try:
            while time.monotonic() < until_s:
                for listing in self._one(held, rng):
                    try:
                        count = rng.randrange(1, AT_ONCE)
                        if not self._calls.call("readdir", listing.read, count):
                            continue
                        self._calls.problems += _wrong(listing.seen)
                    except Failed:
                        pass
                    held.remove(listing)
                    listing.close()
                time.sleep(rng.uniform(0, 0.2))
        except DaemonGone:
            return True
        finally:
            for listing in held:
                listing.close()
        return False

    def _one(self, held: list[Listing], rng: random.Random) -> Iterator[Listing]:
        if len(held) < MOST_OPEN:
            try:
                held.append(Listing(self._calls.call("opendir", os.scandir, str(self._top))))
            except Failed:
                return
        yield rng.choice(held)


def _wrong(seen: list[str]) -> list[str]:
    missing, more = sorted(names() - set(seen)), sorted(set(seen) - names())
    twice = len(seen) - len(set(seen))
    if not (missing or more or twice):
        return []
    return [f"a listing: {len(missing)} names are missing, {len(more)} more, {twice} twice"]
