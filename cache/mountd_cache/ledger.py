"""All changes and contents in memory, with the indexes that look-ups need; pure.

The same `apply` runs when something happens and when the log is read after a crash.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator

from mountd_cache.changes import Change, ChangeKind, ChangeState, Content, Rows


class Ledger:
    """What log and database hold. Read it freely; only `apply` and `write` change it."""

    def __init__(self) -> None:
        self.changes: dict[str, Change] = {}
        self.contents: dict[int, Content] = {}
        self._unsent: dict[str, Change] = {}  # a queue looks at these again and again
        # What is there, by directory and shown name; and the keys that are gone, by directory.
        self.shown: dict[str, dict[bytes, Change]] = {}
        self.gone: dict[str, dict[str, Change]] = {}
        self.by_number: dict[int, Change] = {}  # what is there, by inode
        self.owner: dict[int, str] = {}  # content id -> key of the change that has it
        self.depends: dict[str, set[str]] = {}  # key of a base -> keys of changes built on it

    def load(self, rows: Rows) -> None:
        """What there was, into an empty ledger: index by index, and not by the properties, which is
        0.3 s less than `apply` with 100,000 changes."""
        self.contents.update((content.id, content) for content in rows.contents)
        self.changes.update((change.key, change) for change in rows.changes)
        changes = self.changes.values()
        self._unsent = {c.key: c for c in changes if c.state is not ChangeState.CLEAN}
        self.by_number = {c.number: c for c in changes if c.kind < ChangeKind.GONE_FILE}
        self.owner = {c.content: c.key for c in changes if c.content}
        based = {content.id for content in rows.contents if content.base is not None}
        shown: defaultdict[str, dict[bytes, Change]] = defaultdict(dict)
        for change in changes:
            if change.kind < ChangeKind.GONE_FILE:
                shown[change.directory][change.name] = change
            else:
                self.gone.setdefault(change.directory, {})[change.key] = change
            if change.base is not None or change.content in based:
                self._depend(change)
        self.shown = dict(shown)

    def apply(self, rows: Rows) -> None:
        """One atomic step."""
        if len(rows.changes) == 1 and not rows.forget and not rows.drop:
            (change,) = rows.changes
            for content in rows.contents:
                if self.owner.get(content.id, change.key) != change.key:
                    break
            else:
                self._put(change, rows.contents)
                return
        # A content's base is in an index by its change, so that one is put in again.
        touched = {content.id for content in rows.contents} | set(rows.drop)
        put = {change.key: change for change in rows.changes}
        for id_ in touched & self.owner.keys():
            put.setdefault(self.owner[id_], self.changes[self.owner[id_]])
        for key in {*put, *rows.forget}:
            self._remove(key)
        for content in rows.contents:
            self.contents[content.id] = content
        for id_ in rows.drop:
            self.contents.pop(id_, None)
        forgotten = set(rows.forget) - {change.key for change in rows.changes}
        for key, change in put.items():
            if key not in forgotten:
                self._insert(change)

    def _put(self, change: Change, contents: Collection[Content]) -> None:
        """What nearly every step is: one change, and at most the content that is its own."""
        self._remove(change.key)
        for content in contents:
            self.contents[content.id] = content
        self._insert(change)

    def write(self, content: int, start: int, end: int, mtime_ns: int) -> None:
        """[start, end) is in the top layer's data file now."""
        found = self.contents[content]
        found.layers[-1].write(start, end)
        found.mtime_ns = found.changed_ns = mtime_ns

    def content_of(self, change: Change) -> Content | None:
        return self.contents.get(change.content) if change.content else None

    def has_layer(self, key: tuple[int, int]) -> bool:
        """`key`: of a content and the number of a layer."""
        content = self.contents.get(key[0])
        return content is not None and any(layer.number == key[1] for layer in content.layers)

    def size_of(self, change: Change) -> int:
        content = self.contents.get(change.content) if change.content else None
        return content.size if content is not None else change.size

    def mtime_ns_of(self, change: Change) -> int:
        content = self.contents.get(change.content) if change.content else None
        return content.mtime_ns if content is not None else change.mtime_ns

    def below(self, directory: str) -> Iterator[Change]:
        """All changes of keys below a directory (its key with the slash), itself left out."""
        if not directory:
            yield from self.changes.values()
            return
        for key, change in self.changes.items():
            if key.startswith(directory) and key != directory:
                yield change

    def unsent(self) -> Iterator[Change]:
        return iter(self._unsent.values())

    def _insert(self, change: Change) -> None:
        self.changes[change.key] = change
        if change.state is not ChangeState.CLEAN:
            self._unsent[change.key] = change
        if change.kind >= ChangeKind.GONE_FILE:
            self.gone.setdefault(change.directory, {})[change.key] = change
        else:
            self.shown.setdefault(change.directory, {})[change.name] = change
            self.by_number[change.number] = change
        if change.content:
            self.owner[change.content] = change.key
        self._depend(change)

    def _depend(self, change: Change) -> None:
        for base in self._bases(change):
            self.depends.setdefault(base, set()).add(change.key)

    def _remove(self, key: str) -> None:
        change = self.changes.pop(key, None)
        if change is None:
            return
        self._unsent.pop(key, None)
        if change.is_gone:
            gone = self.gone[change.directory]
            del gone[key]
            if not gone:
                del self.gone[change.directory]
        else:
            shown = self.shown.get(change.directory, {})
            if shown.get(change.name) is change:
                del shown[change.name]
                if not shown:
                    del self.shown[change.directory]
            if self.by_number.get(change.number) is change:
                del self.by_number[change.number]
        if self.owner.get(change.content) == key:
            del self.owner[change.content]
        for base in self._bases(change):
            users = self.depends.get(base)
            if users is not None:
                users.discard(key)
                if not users:
                    del self.depends[base]

    def _bases(self, change: Change) -> Collection[str]:
        """Keys whose present version on the remote this change still needs, its own left out."""
        content = self.contents.get(change.content) if change.content else None
        if change.base is None and (content is None or content.base is None):
            return ()
        found = {b.key for b in (change.base, content.base if content else None) if b}
        found.discard(change.key)
        return found
