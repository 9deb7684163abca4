"""A journal in memory: the ledger with the bytes in bytearrays, for tests of the sync queue."""

import errno
import threading
from dataclasses import replace

from typing_extensions import Buffer

from mountd_cache.changes import Base, Change, Content, Layer, Rows
from mountd_cache.ledger import Ledger


class MemoryJournal:
    """Stands where `mountd_cache.journal.Journal` does. `fail`: while set, commits raise it.

    `commits` has every step, for tests that look at what was one step.
    """

    def __init__(self, id: str = "j") -> None:
        self.id = id
        self.ledger = Ledger()
        self.fail: OSError | None = None
        self.commits: list[Rows] = []
        self._sequence = 0
        self._data: dict[tuple[int, int], bytearray] = {}
        self._pins: dict[int, int] = {}
        self._gone: set[int] = set()
        self._fresh: dict[int, Content] = {}
        self._lock = threading.Lock()

    def commit(self, rows: Rows, *, reserve: bool = False) -> None:
        self._raise_if_failing()
        for change in rows.changes:
            put = {content.id for content in rows.contents}
            is_there = change.content in put or change.content in self.ledger.contents
            assert not change.content or (is_there and change.content not in rows.drop), change
        for content in rows.contents:
            self._fresh.pop(content.id, None)
        self.ledger.apply(rows)
        self.commits.append(rows)
        for id_ in rows.drop:
            self._drop(id_)

    def next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def new_content(self, base: Base | None, size: int, mtime_ns: int) -> Content:
        self._raise_if_failing()
        floor_end = min(base.size, size) if base is not None else 0
        content = Content(self.next_sequence(), base, [Layer(0, size, floor_end)], mtime_ns)
        content.changed_ns = mtime_ns
        self._data[content.id, 0] = bytearray()
        self._fresh[content.id] = content
        return content

    def discard(self, content: Content) -> None:
        self._fresh.pop(content.id, None)

    def write(self, content: int, offset: int, data: Buffer, mtime_ns: int) -> None:
        self._raise_if_failing()
        view = bytes(data)
        file = self._data[content, self.ledger.contents[content].top.number]
        with self._lock:
            file.extend(bytes(max(0, offset + len(view) - len(file))))
            file[offset : offset + len(view)] = view
        self.ledger.write(content, offset, offset + len(view), mtime_ns)

    def freeze(self, content: int) -> int:
        self._raise_if_failing()
        found = self.ledger.contents[content]
        depth = len(found.layers)
        if found.rest_adds_nothing(depth - 1):
            return depth - 1
        layer = Layer(found.top.number + 1, found.size, found.size)
        self._data[content, layer.number] = bytearray()
        found.layers.append(layer)
        return depth

    def rest_adds_nothing(self, content: int, depth: int) -> bool:
        return self.ledger.contents[content].rest_adds_nothing(depth)

    def release_frozen(
        self, content: int, depth: int, base: Base, changes: tuple[Change, ...]
    ) -> None:
        found = self.ledger.contents[content].copy()
        assert depth < len(found.layers)
        assert not found.rest_adds_nothing(depth), "the content would go as a whole"
        self.commit(Rows(changes=changes, contents=(_released(found, depth, base),)))

    def is_torn(self, content: int, depth: int | None = None) -> bool:
        return False

    def read(self, content: int, layer: int, start: int, end: int) -> bytes:
        with self._lock:
            if content in self._gone and not self._pins.get(content):
                raise OSError(errno.EIO, "the content was dropped")
            found = bytes(self._data[content, layer][start:end])
        if len(found) != end - start:
            raise OSError(errno.EIO, "a staged file is shorter than it was")
        return found

    read_once = read

    def pin(self, content: int) -> None:
        self.ledger.contents[content]  # KeyError, as the real one
        with self._lock:
            self._pins[content] = self._pins.get(content, 0) + 1

    def unpin(self, content: int) -> None:
        with self._lock:
            self._pins[content] -= 1
            assert self._pins[content] >= 0

    @property
    def pinned(self) -> set[int]:
        """Contents that somebody has pinned."""
        with self._lock:
            return {content for content, count in self._pins.items() if count}

    def _drop(self, content: int) -> None:
        with self._lock:
            self._gone.add(content)

    def _raise_if_failing(self) -> None:
        if self.fail is not None:
            raise self.fail


def _released(content: Content, depth: int, base: Base) -> Content:
    content.layers = content.layers[depth:]
    content.base = base
    return content


def reopened(journal: MemoryJournal) -> MemoryJournal:
    """What a new process finds after SIGKILL."""
    made = MemoryJournal(journal.id)
    made._sequence = journal._sequence + 1000
    made._data = journal._data
    changes = tuple(replace(change) for change in journal.ledger.changes.values())
    contents = tuple(content.copy() for content in journal.ledger.contents.values())
    made.ledger.apply(Rows(changes=changes, contents=contents))
    return made
