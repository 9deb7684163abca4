"""Directories whose listings are believed until somebody says otherwise, however old they are.

Those of a subtree with `mode = "copy"` whose files are all on the local disk (transfer/pins.py):
whoever reads there never waits for the remote. A LIST of one of them brings a new listing only
when `admits` says so, which is when all that is new in it is here, too: a foreign change appears
whole.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from mountd_cache.listing import Listing

# How long the kernel may keep what such a listing says; it is told when that changes.
SETTLED_TIMEOUT_S: Final = 86400.0


async def _admits_all(key: str, listing: Listing) -> bool:
    return True


class Settled:
    """Of the loop's thread. `is_any`: there are some, or ways to them. `unsettled` is called with
    the key of each directory that is believed no more."""

    def __init__(self) -> None:
        self.is_any = False
        self.admits: Callable[[str, Listing], Awaitable[bool]] = _admits_all
        self.unsettled: Callable[[str], None] = lambda key: None
        self._keys: set[str] = set()
        # Whole subtrees, until the first look at them after a start has settled each directory; and
        # what the kernel was told of meanwhile to keep for long.
        self._subtrees: tuple[str, ...] = ()
        self._told: set[str] = set()
        self._ways: dict[str, set[bytes]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._keys or (bool(self._subtrees) and key.startswith(self._subtrees))

    def is_for_long(self, key: str) -> bool:
        """Whether the kernel may keep for long what it is told of the directory `key` now."""
        if key in self._keys:
            return True
        if key not in self:
            return False
        self._told.add(key)
        return True

    def add(self, key: str) -> None:
        self._keys.add(key)
        self._told.discard(key)
        self._count()

    def add_subtree(self, key: str) -> None:
        """All that is known at and below that directory."""
        self._subtrees += (key,)
        self._count()

    def end_subtree(self, key: str) -> None:
        """From now on only those directories of it that were added one by one."""
        self._subtrees = tuple(top for top in self._subtrees if top != key)
        self._count()
        self._tell()

    def discard(self, key: str) -> None:
        """The next look at the directory asks the remote, if it is old."""
        if self.is_any and key in self:
            self._subtrees = tuple(top for top in self._subtrees if not key.startswith(top))
            self._keys.discard(key)
            self._told.discard(key)
            self._count()
            self.unsettled(key)
            self._tell()

    def discard_below(self, prefix: str) -> None:
        """The same for the directory `prefix` and all below it."""
        if not self.is_any:
            return
        self._subtrees = tuple(
            top
            for top in self._subtrees
            if not top.startswith(prefix) and not prefix.startswith(top)
        )
        gone = [key for key in self._keys if key.startswith(prefix)]
        self._keys.difference_update(gone)
        self._count()
        for key in gone:
            self.unsettled(key)
        self._tell()

    # -- the ways to them

    def add_way(self, key: str, name: bytes) -> None:
        """Through the directory `key`, by `name`, one comes to a settled subtree: this name in it
        is believed, the others are not."""
        self._ways.setdefault(key, set()).add(name)
        self._count()

    def drop_way(self, key: str, name: bytes) -> None:
        self._ways.get(key, set()).discard(name)
        self._count()

    def leads(self, key: str, name: bytes) -> bool:
        """Whether `name` in the directory `key` is on the way to one."""
        return name in self._ways.get(key, ())

    def _tell(self) -> None:
        """Of what was believed with a subtree, and is no more."""
        gone = [key for key in self._told if key not in self]
        self._told.difference_update(gone)
        for key in gone:
            self.unsettled(key)

    def _count(self) -> None:
        self.is_any = bool(self._keys or self._subtrees or any(self._ways.values()))
