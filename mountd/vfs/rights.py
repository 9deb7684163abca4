"""What the remote lets us do with a file or directory, where its listings say so.

It is the remote that decides; this only says no at once where it would refuse what we would send
later. So what nobody has told (a name that was made here, a directory that was not listed) is
allowed, and root is refused as everybody is, which mode bits alone don't do.
"""

from mountd.errors import NoRight, Stale
from mountd.vfs.nodes import Directory, Node
from mountd.vfs.row_attributes import denied_in
from mountd.vfs.tree import Tree
from mountd_cache.changes import ABSENT


class Rights:
    """Each method raises NoRight, and never waits."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._are_told = tree.store.capabilities.tells_rights
        self._root_denied = tree.store.capabilities.root_denied

    def check_write(self, node: Node) -> None:
        """To change a file's bytes or time."""
        self._check(node, "w")

    def check_make(self, parent: Directory, *, is_directory: bool) -> None:
        """To put a new name in there."""
        self._check(parent, "k" if is_directory else "c")

    def check_remove(self, parent: Directory, name: bytes, number: int) -> None:
        self._check_row(parent, name, number, "d")

    def check_rename(
        self, from_parent: Directory, name: bytes, number: int, to_parent: Directory
    ) -> None:
        """A file is sent as a copy and a removal, which take more rights than a move in place."""
        letters = "nd" if from_parent is to_parent else "vd"
        self._check_row(from_parent, name, number, letters)
        self.check_make(to_parent, is_directory=False)

    def check_rename_directory(
        self, from_parent: Directory, name: bytes, number: int, to_parent: Directory
    ) -> None:
        if from_parent is to_parent:
            self._check_row(from_parent, name, number, "n")
        else:
            self._check_row(from_parent, name, number, "vd")
            self.check_make(to_parent, is_directory=True)

    def check_replace(self, parent: Directory, name: bytes, number: int) -> None:
        """To put another file in the place of one."""
        self._check_row(parent, name, number, "w")

    def _check(self, node: Node, letter: str) -> None:
        if not self._are_told:
            return
        change = self._tree.ledger.by_number.get(node.number)
        if change is not None and change.expect == ABSENT:
            return  # made here, and in no listing
        if node.parent is None:
            text = self._tree.known.root_text
            if letter in self._root_denied:
                raise NoRight(f"the root: the remote denies {letter!r}")
        else:
            try:
                cached, row = self._tree.locate(node)
            except Stale:
                return
            text = cached.listing.attributes(row)
        if text and letter in denied_in(text):
            raise NoRight(f"inode {node.number}: the remote denies {letter!r}")

    def _check_row(self, parent: Directory, name: bytes, number: int, letters: str) -> None:
        cached = self._tree.cache.get(parent.key) if self._are_told else None
        row = cached.listing.find(name) if cached is not None else -1
        if cached is None or row < 0 or cached.listing.ino(row) != number:
            return
        text = cached.listing.attributes(row)
        if text and not denied_in(text).isdisjoint(letters):
            raise NoRight(f"{name!r}: the remote denies one of {letters!r}")
