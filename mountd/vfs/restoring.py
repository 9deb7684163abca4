"""A successor's view of what the kernel holds: nodes and handles that a dead daemon gave out.

Open files are there again before anything is sent: the sync queue must know who still reads what
it is about to replace. Nodes are found when they are asked for: in the ledger, among the noted
directories, or in one of these directories' listings. A number stands for one version of one file
for ever, so what has the number is the file; what is found nowhere is Stale, to which the kernel
answers with a new look-up of the name.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from mountd.errors import FileSystemError, Stale
from mountd.vfs.files import Handle, RemoteFile
from mountd.vfs.filesystem import FileSystem
from mountd.vfs.following import mark_of
from mountd.vfs.listing_rows import FIRST_DERIVED
from mountd.vfs.nodes import ROOT, Directory, Node
from mountd.vfs.notes import NotedDirectory, NotedFile
from mountd.vfs.overlay import is_hidden
from mountd.vfs.tree import Tree
from mountd_cache.changes import Rows
from mountd_cache.listing import Listing

log = logging.getLogger(__name__)

# The kernel forgets what is open only after its last release, but it doesn't always forget at once.
HELD = 1 << 62
# Directories, each some 2 us, on the loop, for one number.
MOST_SEARCHED = 1000


@dataclass(frozen=True, slots=True)
class Noted:
    """What the former process has noted: directories and contents by inode, files by handle. Of
    directories with one key the last has it: the kernel still holds those that had it before."""

    directories: Mapping[int, NotedDirectory]
    files: Mapping[int, NotedFile]
    contents: Mapping[int, int]
    edited: frozenset[int] = frozenset()  # see Following
    gone: frozenset[int] = frozenset()  # files whose last name went, or was about to


def restore(fs: FileSystem, noted: Noted) -> None:
    """Once, before the mount is served and before anything is sent."""
    former = Former(fs.tree, noted.directories)
    fs.tree.former, fs.tree.former_moved = former.find, former.moved
    fs.tree.following.were_edited(noted.edited)
    ledger = fs.tree.ledger
    for handle, file in noted.files.items():
        lost = file.number in noted.gone and _lost_its_name(fs.tree, file)
        is_nameless = file.is_nameless or lost
        try:
            node = _node_of(fs.tree, file, is_nameless)
        except FileSystemError as error:
            log.warning("a handle of %r is lost: %s", file.key, error)
            continue
        node.is_nameless = is_nameless
        node.lookups = HELD
        fs.files.put(handle, Handle(node, _remote_file(fs, node, file), file.writes))
        if file.writes:
            fs.writes.reopened(file.number)
    closed: list[int] = []
    for number, content in noted.contents.items():
        # Where it crashed before the name went, the content is still the file's own.
        if content not in ledger.contents or content in ledger.owner:
            continue
        if fs.files.is_open(number):
            fs.writes.keep_unlinked(number, content)
        else:  # it crashed at the last release
            closed.append(content)
    if closed:
        with suppress(OSError):  # then the next start drops them
            fs.writes.journal.commit(Rows(drop=tuple(closed)), reserve=True)


def _remote_file(fs: FileSystem, node: Node, file: NotedFile) -> RemoteFile:
    """What its handle read; at another key where the journal knew that before it was noted."""
    noted = fs.files.file_at(file.key, file.version, file.size, file.mtime_ns)
    if file.version and not node.is_nameless:
        with suppress(FileSystemError):
            now = fs.files.remote_file_of(node)
            if (now.version, now.size) == (file.version, file.size):
                return now
    return noted


def _node_of(tree: Tree, file: NotedFile, is_nameless: bool) -> Node:
    """The node of an open file, as its handle had it."""
    if tree.has_node(file.number):
        return tree.node(file.number)
    change = tree.ledger.by_number.get(file.number)
    if change is not None and not file.is_nameless:
        return tree.node(file.number)
    try:
        parent = tree.directory(file.parent)
    except Stale:
        if not is_nameless:
            return tree.node(file.number)
        parent = tree.root  # what has no name is in no directory: its own may be gone, too
    node = Node(file.number, parent, -1)
    if not file.is_nameless and not tree.is_named(node):
        # Killed before it was noted again where it is now.
        with suppress(FileSystemError):
            return tree.node(file.number)
    tree.adopt(node)
    return node


def _lost_its_name(tree: Tree, file: NotedFile) -> bool:
    """Whether that was the last that the former process did."""
    change = tree.ledger.changes.get(file.key)
    is_gone = change is not None and change.is_gone
    return is_gone and file.number not in tree.ledger.by_number


class Former:
    """Finds nodes of a former process."""

    def __init__(self, tree: Tree, directories: Mapping[int, NotedDirectory]) -> None:
        self._tree = tree
        self._last = ""  # the directory of what was found last
        self._directories = dict(directories)
        self._numbers = {noted.key: number for number, noted in directories.items()}
        # Of each listing that was searched: its tag, and the numbers in it.
        self._ranges: dict[str, tuple[bytes, int, int]] = {}

    def find(self, number: int) -> Node:
        """The node, known to the tree from now on. Never waits. Raises Stale."""
        node = self._changed(number) or self._noted(number) or self._listed(number)
        if node is None:
            raise Stale(f"inode {number} is not known")
        if isinstance(node, Directory) and not self._has_its_key(node):
            self._tree.adopt_nameless(node)
        else:
            self._tree.adopt(node)
        return node

    def _has_its_key(self, directory: Directory) -> bool:
        """Whether it is the directory that is there now, and not one that was removed or replaced
        while the kernel held it."""
        change = self._tree.ledger.changes.get(directory.key)
        if change is not None and change.is_directory:
            return change.number == directory.number
        held = self._tree.held_directory(directory.key) or directory
        return directory.number == held.number == self._numbers.get(directory.key, held.number)

    def moved(self, parent: Directory, old: str, new: str) -> None:
        """A directory is about to be elsewhere, with all that is below it: also what nobody has
        asked for yet, which is found now, so that the tree moves it along."""
        below = [
            (number, self._directories[number])
            for key, number in self._numbers.items()
            if key.startswith(old)
        ]
        for number, noted in below:
            if self._tree.held_directory(noted.key) is None:
                with suppress(Stale):
                    self.find(number)
        # Not before all are found: whose the old keys are tells those that had them earlier apart.
        moved: dict[int, NotedDirectory] = {}
        for number, noted in below:
            above = parent.number if noted.key == old else noted.parent
            now = NotedDirectory(above, new + noted.key[len(old) :])
            moved[number] = now
            self._numbers.pop(noted.key, None)
            self._numbers[now.key] = number
            self._ranges.pop(noted.key, None)
        self._directories |= moved

    def _changed(self, number: int) -> Node | None:
        change = self._tree.ledger.by_number.get(number)
        if change is None:
            return None
        parent = self._at(change.directory)
        if change.is_directory:
            return Directory(number, parent, -1, change.key)
        return Node(number, parent, -1)

    def _noted(self, number: int) -> Node | None:
        noted = self._directories.get(number)
        if noted is None:
            return None
        return Directory(number, self._tree.directory(noted.parent), -1, noted.key)

    def _listed(self, number: int) -> Node | None:
        """A derived number that is in several listings could be either file: neither is taken. What
        was renamed here is in two, too, until the removal of its old name was sent: the one where
        it is hidden counts only where there is no other."""
        if number >= FIRST_DERIVED and len(self._numbers) > MOST_SEARCHED:
            return None  # its path is looked up again
        found = hidden = None
        for key in (self._last, "", *self._numbers):
            cached = self._tree.cache.get(key)
            if cached is None:
                continue
            listing = cached.listing
            known = self._ranges.get(key)
            if known is None or known[0] != cached.tag:
                known = self._ranges[key] = (cached.tag, *listing.ino_range())
            row = listing.find_ino(number) if known[1] <= number <= known[2] else -1
            if row < 0:
                continue
            row = self._tree.row_of(key, listing, number)
            if is_hidden(self._tree.ledger, key, listing, row):
                hidden = hidden or (key, listing, row)
                continue
            if found is not None and found.parent is not self._at(key):
                return None
            found = self._node_of_row(self._at(key), listing, row)
            self._last = key
            if number < FIRST_DERIVED:
                break
        if found is None and hidden is not None:
            key, listing, row = hidden
            found = self._node_of_row(self._at(key), listing, row)
        return found

    def _node_of_row(self, parent: Directory, listing: Listing, row: int) -> Node:
        if listing.is_dir(row):
            return self._tree.subdirectory(parent, listing, row)
        node = Node(listing.ino(row), parent, row)
        if node.number >= FIRST_DERIVED:
            node.mark = mark_of(listing, row)
        return node

    def _at(self, key: str) -> Directory:
        """The directory with that key."""
        held = self._tree.held_directory(key)
        if held is not None:
            return held
        number = self._numbers.get(key)
        change = self._tree.ledger.changes.get(key)
        if change is not None and change.is_directory:
            number = change.number
        if number is None or number == ROOT:
            raise Stale(f"the directory {key!r} is not known")
        return self._tree.directory(number)
