"""What the sync queue may know of the file system, and what it tells it."""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Protocol

from typing_extensions import Buffer

from mountd.remotes.base import Body
from mountd.vfs.files import OpenFiles
from mountd.vfs.folding import Folding
from mountd.vfs.listing_rows import row_of, version_in
from mountd.vfs.names import LINK_SUFFIX, shown_name
from mountd.vfs.namespace import Namespace
from mountd.vfs.row_attributes import carried, is_partial, known
from mountd.vfs.tree import Tree
from mountd.vfs.writes import Writes
from mountd_cache.changes import BASE, Base, Change, Content

# Larger files (checkpoints, archives) are rarely read again soon, and would push out what is.
MAX_KEPT_BYTES = 64 << 20


class SentBody(Body, Protocol):
    """`held`: all of its bytes, where they are at hand."""

    @property
    def held(self) -> bytes | None: ...


class QueueView:
    """Never waits. `invalidate` is told (directory inode, name) pairs that the kernel must forget,
    `found_foreign` keys at which somebody else's was found; they must not wait either."""

    def __init__(
        self, tree: Tree, files: OpenFiles, writes: Writes, names: Namespace, folding: Folding
    ) -> None:
        self._tree = tree
        self._files = files
        self._writes = writes
        self._names = names
        self._folding = folding
        self.invalidate: Callable[[list[tuple[int, bytes]]], None] = lambda entries: None
        self.found_foreign: Callable[[str], None] = lambda key: None
        tree.refreshes.on_replaced = self._replaced

    def is_open_for_writing(self, number: int) -> bool:
        return self._writes.is_open_for_writing(number)

    def landing(self, change: Change, body: SentBody, depth: int, version: str) -> None:
        """The remote has that frozen state, as `version`, and its staged bytes are about to go: a
        file that was written whole here goes on being read without the remote."""
        content = self._tree.ledger.content_of(change)
        if content is None or not 0 < body.size <= MAX_KEPT_BYTES:
            return
        if all(piece.layer != BASE for piece in content.pieces(0, body.size, depth)):
            file = self._files.file_at(change.key, version, body.size, content.mtime_ns)
            self._files.keep_sent(file, body, body.held)

    def sent(self, change: Change) -> None:
        """The remote has taken it."""
        self._folding.sent(change.directory)
        if not change.is_gone and not change.is_directory and not change.content:
            file = self._files.file_at(change.key, change.expect, change.size, change.mtime_ns)
            self._files.rebind(change.number, file)

    def moved(self, old: Base, new: Base) -> None:
        """As `QueueView.moved`."""
        self._files.followed(old, new)

    def nameless_over(self, base: Base) -> Sequence[Content]:
        """As `QueueView.nameless_over`."""
        nameless = (content for _, content in self._writes.unlinked_contents())
        at = base.key, base.version
        return [c for c in nameless if c.base and (c.base.key, c.base.version) == at]

    def foreign(self, key: str) -> None:
        """What the remote has at `key` is not ours (any more): its directory is looked at again.

        What the kernel has of the inode that was there, pages and size, is not what the remote has,
        and the inode may live on under another name: what is at `key` gets a new one.
        """
        self.found_foreign(key)
        name = key.removesuffix("/")
        directory = name[: name.rfind("/") + 1]
        self._tree.disown(directory, key, self._names.new_number())
        held = self._tree.held_directory(directory)
        if held is not None:
            raw = name[len(directory) :]
            # A link's file may be shown under the link's name or under its own.
            names = {raw, raw.removesuffix(LINK_SUFFIX)}
            at_root = not directory
            self.invalidate([(held.number, shown_name(n, at_root=at_root)) for n in sorted(names)])

    def _replaced(self, directory: str, files: Sequence[tuple[bytes, int]]) -> None:
        """The remote has other files under these names than those that had these numbers. What was
        written here the kernel believes for a whole TTL, also where a listing is asked for before:
        it would take theirs away by a name for which it was told of ours."""
        held = self._tree.held_directory(directory)
        if held is None or not files:
            return
        ledger = self._tree.ledger
        shown = ledger.shown.get(directory, {})
        names = [
            name
            for name, number in files
            if self._tree.holds(number) and number not in ledger.by_number and name not in shown
        ]
        if names:
            self.invalidate([(held.number, name) for name in names])

    def new_number(self) -> int:
        return self._names.new_number()

    def kept(self, base: Base, start: int, end: int) -> Buffer | None:
        """These bytes of a version, if the block cache has them all: each block is proved to be
        of that version when it is read. 0.5 ms for 1 MiB."""
        cached = self._files.cached(self._files.file_at(base.key, base.version, base.size, 0))
        try:
            return cached.read_now(start, end)
        finally:
            cached.close()

    def believed(self, key: str, version: str) -> tuple[Mapping[str, str], int] | None:
        """As `QueueView.believed`."""
        directory = key[: key.rfind("/") + 1]
        cached = self._tree.cache.get(directory)
        at = row_of(cached.listing, directory, key) if cached is not None else -1
        if cached is None or at < 0:
            return None
        row = self._tree.known.of(cached.listing.row(at))
        if version_in(row.version) != version or is_partial(row.attributes):
            return None
        return known(carried(row.attributes)), row.mtime_ns

    def shown_names(self, directory: str) -> Container[bytes]:
        """The names that are taken in a directory, as far as they are known."""
        taken = set(self._tree.ledger.shown.get(directory, ()))
        cached = self._tree.cache.get(directory)
        if cached is not None:
            taken.update(cached.listing.name(row) for row in range(len(cached.listing)))
        return taken
