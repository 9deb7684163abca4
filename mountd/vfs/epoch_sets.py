"""Which files make a set that is read again and again: several trainings on one mount at once.

Each set has a record of its own (epochs.py), so that they do not spoil each other's. Told by the
directories: who reads can't be, as the workers of a loader are processes of their own, those of
several cards even sessions, and all of them read one set. A directory of many files is a set; one
of few belongs to a set with those beside it, as the classes of pictures do. Of many sets that are
read for the first time those beside each other are taken for one: they were classes of many files,
or the folders of names that were spread by their first letters.

Cutting a set into a few costs little: what was an order is one in each part, and each part learns
for some 24 files that it is repeated. Taking two sets for one costs both their order.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from mountd.vfs.branch_proof import parent_of
from mountd.vfs.epoch_ahead import EpochAhead
from mountd.vfs.epochs import Epochs
from mountd.vfs.fill_ahead import FillAhead
from mountd.vfs.nodes import Directory, Node
from mountd.vfs.tree import Tree
from mountd_cache.block_cache import BlockCache
from mountd_cache.opening_order import MAX_FILES, SetOrder

if TYPE_CHECKING:
    from mountd.vfs.files import OpenFiles

SETS = 8
OWN_SET = 256  # so many names in a directory are a set
JOINED = 4  # so many sets beside each other become one where there are too many
LOOK_EVERY = 64  # opens
QUIET_S = 120.0  # a set that was not read for so long is not being read
MAX_DIRECTORIES = 1 << 16  # of which it is known at once whose they are


class EpochSets:
    """The sets, by their directories. At most SETS, and of 2 x MAX_FILES files together: those
    that were not read for longest go."""

    def __init__(
        self,
        tree: Tree,
        files: "OpenFiles",
        fill: FillAhead,
        blocks: BlockCache,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tree = tree
        self._files = files
        self._fill_ahead = fill
        self._blocks = blocks
        self._clock = clock
        self._sets: dict[str, EpochAhead] = {}  # by root
        self._of: dict[str, EpochAhead] = {}  # by directory
        self._seen: dict[str, float] = {}  # when it was last seen that a set is read
        self._lately: set[EpochAhead] = set()  # read since they were looked at
        self._opens = 0

    @property
    def sets(self) -> Collection[EpochAhead]:
        """All of them."""
        return self._sets.values()

    def restore(self, orders: Iterable[SetOrder]) -> None:
        """What an earlier run recorded; before the first `opened`."""
        room = 2 * MAX_FILES
        for root, is_whole, order in orders:
            room -= len(order)
            if len(self._sets) < SETS and room >= 0:
                self._made(root, is_whole).record.restore(order)

    def opened(self, node: Node, size: int) -> None:
        """A file is opened to be read."""
        parent = node.parent
        if parent is None or not size:
            return
        key = parent.key
        ahead = self._of.get(key) or self._found(parent)
        ahead.opened(node.number, key, node.row, size)
        self._lately.add(ahead)
        self._opens += 1
        if not self._opens % LOOK_EVERY:
            self._look()

    def missed(self, node: Node) -> None:
        """Somebody waits for what is not here."""
        ahead = self._of.get(node.parent.key) if node.parent is not None else None
        if ahead is not None:
            ahead.missed()

    def _found(self, directory: Directory) -> EpochAhead:
        """Whose that directory is."""
        key = directory.key
        ahead = self._known(key)
        if ahead is None:
            root = self._root_of(key)
            if root not in self._sets and len(self._sets) >= SETS:
                self._make_room(root)
            ahead = self._within(key) or self._sets.get(root) or self._made(root, False)
        if len(self._of) >= MAX_DIRECTORIES:
            self._of.clear()
        self._of[key] = ahead
        return ahead

    def _known(self, key: str) -> EpochAhead | None:
        """The set in which it was read before, or of which all below is."""
        for ahead in self._sets.values():
            if ahead.record.has(key):
                return ahead
        return self._within(key)

    def _within(self, key: str) -> EpochAhead | None:
        above: str | None = key
        while above is not None:
            ahead = self._sets.get(above)
            if ahead is not None and ahead.is_whole:
                return ahead
            above = parent_of(above)
        return None

    def _root_of(self, key: str) -> str:
        known = self._tree.cache.get(key)
        if known is not None and len(known.listing) >= OWN_SET:
            return key
        return parent_of(key) or ""

    def _made(self, root: str, is_whole: bool, record: Epochs | None = None) -> EpochAhead:
        ahead = EpochAhead(root, is_whole, self._tree, self._files, self._fill_ahead)
        if record is not None:
            ahead.record = record
        self._sets[root] = ahead
        self._seen[root] = self._clock()
        return ahead

    def _make_room(self, root: str) -> None:
        """One less; those beside each other that nobody read twice become one, if they are many."""
        new = [each for each, ahead in self._sets.items() if ahead.record.is_first]
        above, count = Counter(parent_of(each) for each in (*new, root)).most_common(1)[0]
        if above is None or count < JOINED:
            self._drop(min(self._sets, key=self._seen.__getitem__))
            return
        joined = [each for each in new if each.startswith(above)]
        record = Epochs.joined(self._sets[each].record for each in joined)
        for each in joined:
            self._drop(each)
        if above in self._sets:  # read twice by itself already: it only gets the others
            self._sets[above].is_whole = True
        else:
            self._made(above, True, record)

    def _drop(self, root: str) -> None:
        del self._sets[root], self._seen[root]
        self._of.clear()

    def _look(self) -> None:
        """Which sets are being read, from time to time; tells the cache what comes in cycles."""
        now = self._clock()
        self._seen.update((root, now) for root, each in self._sets.items() if each in self._lately)
        self._lately.clear()
        reading = [each for root, each in self._sets.items() if now - self._seen[root] < QUIET_S]
        for ahead in reading:
            ahead.beside = len(reading)
        self._blocks.blocks.expect_cycle(sum(ahead.record.cycle_bytes for ahead in reading))
        self._bound(reading)

    def _bound(self, reading: Collection[EpochAhead]) -> None:
        """Where too many files are kept, the quiet sets go; then no more of an epoch are kept."""
        room = 2 * MAX_FILES - sum(ahead.record.files for ahead in self._sets.values())
        for root in sorted(self._sets, key=self._seen.__getitem__):
            ahead = self._sets[root]
            if room <= 0 and ahead not in reading:
                room += ahead.record.files
                self._drop(root)
        for ahead in reading:
            record = ahead.record
            record.most = min(MAX_FILES, len(record.now) + max(0, room))
