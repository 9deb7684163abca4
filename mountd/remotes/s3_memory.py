"""What was proved of S3 servers, in a file of the cache folder; not trusted when it is read."""

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mountd.remotes.s3_probe import Proven
from mountd_cache.durable_io import DISK

log = logging.getLogger(__name__)

# A server may be replaced by another kind, or another release, behind the same name.
LASTS_S: Final = 7 * 24 * 3600
_CLOCKS_DIFFER_S: Final = 300
_MOST_BYTES: Final = 1 << 20
_MOST_PLACES: Final = 1000


class ProvenFile:
    """A `ProvenMemory`. Where the file can't be read or written it is proved again."""

    def __init__(self, path: Path, wall_clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._wall_clock = wall_clock
        self._lock = threading.Lock()

    def recall(self, place: str) -> Proven | None:
        with self._lock:
            found = self._load().get(place)
        return found if found is not None and self._is_fresh(found) else None

    def keep(self, place: str, proven: Proven) -> None:
        with self._lock:
            known = {each: found for each, found in self._load().items() if self._is_fresh(found)}
            known.pop(place, None)
            known = dict(list(known.items())[1 - _MOST_PLACES :]) | {place: proven}
            text = json.dumps({each: found.to_dict() for each, found in known.items()}, indent=1)
            try:
                DISK.write_file(self._path, text.encode())
            except OSError as error:
                log.info("what %s enforces is not remembered: %s", place, error)

    def _is_fresh(self, proven: Proven) -> bool:
        age_s = self._wall_clock() - proven.proven_s
        return -_CLOCKS_DIFFER_S <= age_s <= LASTS_S

    def _load(self) -> dict[str, Proven]:
        try:
            with self._path.open("rb") as file:
                data = json.loads(file.read(_MOST_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        rows = data.items() if isinstance(data, dict) else ()
        read = {place: Proven.from_dict(row) for place, row in rows if isinstance(row, dict)}
        return {place: proven for place, proven in read.items() if proven is not None}
