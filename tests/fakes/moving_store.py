"""A store in memory that moves files, as a Nextcloud does."""

from dataclasses import replace

from mountd.errors import NotFound
from mountd.remotes.base import ABSENT, Capabilities
from mountd.types import Entry
from tests.fakes.memory_store import MemoryStore


class MovingStore(MemoryStore):
    """What is moved keeps its version, time and attributes."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, moves_files=True)

    def move_file(self, source: str, version: str, key: str) -> Entry:
        self._begin("move_file")
        with self._lock:
            if source not in self._objects:
                raise NotFound(source)
            self._check_version(source, version)
            self._check_version(key, ABSENT)
            self._check_place(key)
            self._objects[key] = self._objects.pop(source)
            if source in self._identities:
                self._identities[key] = self._identities.pop(source)
            self._changed(source)
            self._changed(key)
            return self._told(key)
