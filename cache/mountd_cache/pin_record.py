"""What is pinned, on disk: two small files in the cache's folder, each written whole.

`wanted` is what was asked for: it must not be lost, and nothing else says it. `kept` is what is
held for it, so that a start protects those blocks before any of them could be evicted; without it
they are found again from the listings. Both are checked when they are read, and what isn't as it
should be is set aside (`wanted`) or left out (`kept`): the worst that a foreign file can do is to
pin other paths of the same mount. Formats: docs/format.md.
"""

import json
import logging
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from crc32c import crc32c

from mountd_cache.durable_io import DISK, make_private_dir

logger = logging.getLogger(__name__)

MAX_PINS: Final = 10_000
MAX_PATH_BYTES: Final = 4096
_MAX_WANTED_BYTES: Final = 64 << 20
_VERSION: Final = 1
_KEPT_HEAD: Final = struct.Struct("<8sII")  # magic, format version, CRC32C of what follows
_KEPT_MAGIC: Final = b"mountdP\n"
HELD: Final = struct.Struct("<16sQ")  # a file's id and its size in bytes
_MAX_KEPT: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Wanted:
    """The paths that were pinned, as shown below the mount and without slashes at their ends.
    `complete`: those subtrees of which everything was here when this was written."""

    paths: tuple[bytes, ...] = ()
    complete: tuple[bytes, ...] = field(default=())


class PinRecord:
    """The files in `folder`. Blocks; methods that write raise OSError."""

    def __init__(self, folder: Path) -> None:
        make_private_dir(folder)
        self._wanted = folder / "wanted"
        self._kept = folder / "kept"

    def read_wanted(self) -> Wanted:
        """Nothing where there is none; one that can't be read is set aside and told of."""
        try:
            if self._wanted.stat().st_size > _MAX_WANTED_BYTES:
                raise ValueError("it is too large")
            return _wanted_in(self._wanted.read_bytes())
        except FileNotFoundError:
            return Wanted()
        except (OSError, ValueError, RecursionError) as error:
            aside = self._wanted.with_name("wanted.unreadable")
            logger.warning("what was pinned can't be read (%s), see %s: pin again", error, aside)
            try:
                os.replace(self._wanted, aside)
            except OSError as again:
                logger.debug("%s stays: %s", self._wanted, again)
            return Wanted()

    def write_wanted(self, wanted: Wanted) -> None:
        """It survives a power cut when this returns."""
        body = json.dumps(
            {
                "version": _VERSION,
                "paths": [os.fsdecode(path) for path in wanted.paths],
                "complete": [os.fsdecode(path) for path in wanted.complete],
            }
        ).encode()
        DISK.write_file(self._wanted, b"%08x\n" % crc32c(body) + body)

    def read_kept(self) -> Iterator[tuple[bytes, int]]:
        """(file id, size) of what was held; nothing where that is not as it was written."""
        try:
            if self._kept.stat().st_size > _MAX_KEPT:
                return
            data = self._kept.read_bytes()
        except OSError:
            return
        body = memoryview(data)[_KEPT_HEAD.size :]
        if len(data) < _KEPT_HEAD.size or len(body) % HELD.size:
            return
        if _KEPT_HEAD.unpack_from(data) != (_KEPT_MAGIC, _VERSION, crc32c(body)):
            return
        yield from HELD.iter_unpack(body)

    def write_kept(self, held: Iterable[bytes]) -> None:
        """`held`: packed as `HELD`, many to a piece."""
        body = b"".join(held)
        DISK.write_file(self._kept, _KEPT_HEAD.pack(_KEPT_MAGIC, _VERSION, crc32c(body)) + body)


def _wanted_in(data: bytes) -> Wanted:
    """Raises ValueError."""
    crc, _, body = data.partition(b"\n")
    if crc != b"%08x" % crc32c(body):
        raise ValueError("its checksum is wrong")
    found = json.loads(body)
    if not isinstance(found, dict) or found.get("version") != _VERSION:
        raise ValueError("it is of another version of mountd")
    return Wanted(_paths(found.get("paths")), _paths(found.get("complete")))


def _paths(found: Any) -> tuple[bytes, ...]:
    if not isinstance(found, list) or len(found) > MAX_PINS:
        raise ValueError("it is no list of paths")
    paths: dict[bytes, None] = {}
    for text in found:
        path = clean_path(os.fsencode(text)) if isinstance(text, str) else None
        if path is None:
            raise ValueError(f"{text!r} is no path")
        paths[path] = None
    return tuple(paths)


def clean_path(path: bytes) -> bytes | None:
    """A path below the mount without needless slashes; None for what can't be one."""
    parts = [part for part in path.split(b"/") if part]
    clean = b"/".join(parts)
    if len(clean) > MAX_PATH_BYTES or b"\0" in clean or not {b".", b".."}.isdisjoint(parts):
        return None
    return clean
