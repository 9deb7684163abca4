"""Which version a file is about to have, and by which upload: on remotes that keep no upload ids.

A copy is made under a temporary name and has its version there already; one MOVE puts it in place.
Who is killed in between finds by this what became of it, also where nobody wants it any more. A
line for each in one file (`note_lines`): what is read there is a version that only that copy had.
"""

import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from mountd.sync.note_lines import NoteLines, read_notes
from mountd.sync.upload_id import UploadId

_MOST_PER_KEY: Final = 8


class Arrivals:
    """Thread-safe; nothing waits for the disk. In memory alone where `path` is None."""

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._lines = NoteLines(path)
        self._numbers = itertools.count(1)
        self._at: dict[str, dict[str, tuple[int, str]]] = {}  # by key and version

    @classmethod
    def load(cls, path: Path) -> Self:
        """What former processes have left. Blocks."""
        made = cls(path)
        found = {}
        with suppress(OSError):
            found = read_notes(path)
        held = {}
        for number, value in found.items():
            key, version, id_ = (value.get(name) for name in ("key", "version", "id"))
            if not (isinstance(key, str) and isinstance(version, str) and isinstance(id_, str)):
                continue
            if number > 0 and version and UploadId.parse(id_) is not None:
                made._at.setdefault(key, {})[version] = number, id_
                held[number] = value
        made._numbers = itertools.count(max(held, default=0) + 1)
        made._lines.hold(held)
        return made

    def note(self, key: str, id_: str, version: str) -> None:
        """What `id_` says is about to be at `key`, as `version`."""
        with self._lock:
            known = self._at.setdefault(key, {})
            over = [known.pop(next(iter(known)))[0]] if len(known) >= _MOST_PER_KEY else []
            number = next(self._numbers)
            known[version] = number, id_
        self._lines.put(number, {"key": key, "version": version, "id": id_})
        self._drop(over)

    def id_of(self, key: str, version: str) -> str:
        """By which upload that version came to `key`; "" where it was none that is noted."""
        with self._lock:
            return self._at.get(key, {}).get(version, (0, ""))[1]

    def forget(self, key: str) -> None:
        """What is at `key` is in the journal."""
        if key not in self._at:  # nearly always, and no lock
            return
        with self._lock:
            known = self._at.pop(key, {})
        self._drop([number for number, _ in known.values()])

    def retain(self, is_wanted: Callable[[str], bool]) -> None:
        """Forgets all other keys."""
        with self._lock:
            keys = list(self._at)
        for key in keys:
            if not is_wanted(key):
                self.forget(key)

    def _drop(self, numbers: list[int]) -> None:
        for number in numbers:
            self._lines.drop(number)
