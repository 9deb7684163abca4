"""Directories, inode numbers and freshness: what is known about the remote's names.

The metadata cache holds every listing, packed and with its inode numbers, in memory and on disk;
this room holds only the inodes that the kernel knows. A node points at a row of its parent's
listing and looks the row up again when the listing was replaced. An unchanged row keeps its number;
a foreign change gives the path a new one, so that the kernel never mixes two versions.

What was changed here and is not in the listings yet is in the ledger and is looked at first
(overlay.py). Our own uploads and renames never change a number.

Freshness: inside a directory's TTL no request; after it the first access waits for one
single-flight LIST (refreshing.py) while the remote is well, and gets the old answer at once while
it is not. Where the remote's directories tell of what is below them, one request may do for all
(branch_proof.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import trio

from mountd.errors import (
    IsADirectory,
    NoEntry,
    NotADirectory,
    NotFound,
    RemoteError,
    Stale,
)
from mountd.remotes.base import RemoteStore
from mountd.vfs.branch_proof import BranchProof
from mountd.vfs.following import mark_of
from mountd.vfs.known_attributes import KnownAttributes
from mountd.vfs.listing_rows import FIRST_DERIVED, raw_segment, row_of, version_in
from mountd.vfs.moving import Moving
from mountd.vfs.nodes import ROOT, Attributes, Directory, Node
from mountd.vfs.notes import NoNotes, NotedDirectory, Notes
from mountd.vfs.overlay import (
    is_change_of_link,
    is_changed,
    is_hidden,
    seen,
)
from mountd.vfs.refreshing import Refresh, Refreshes
from mountd.vfs.row_attributes import UNKNOWN, shown, shown_in
from mountd.vfs.settled import SETTLED_TIMEOUT_S
from mountd_cache.changes import ABSENT, Change
from mountd_cache.ledger import Ledger
from mountd_cache.listing import EMPTY, Listing
from mountd_cache.metadata_cache import CachedListing, MetadataCache

LOOK_S = 0.25  # how often who waits for a LIST looks whether the remote is well
_NOTHING = CachedListing(EMPTY, 0.0, b"")
STALE_TIMEOUT_S = 1.0  # how long the kernel may keep an answer that we could not check


class Tree:
    """The names under the mount. Public coroutines may raise RemoteError, FileSystemError and
    TimeoutError; cancelling one leaves the LIST running for whoever waits with it."""

    def __init__(
        self,
        store: RemoteStore,
        cache: MetadataCache,
        *,
        ttl_s: float,
        wait_s: float,
        remote_is_well: Callable[[], bool],
        wall_clock: Callable[[], float] = time.time,
        ledger: Ledger | None = None,
    ) -> None:
        self.store = store
        self.cache = cache
        self.known = KnownAttributes(store)
        self.ledger = ledger or Ledger()
        self.ttl_s = ttl_s
        self.wait_s = wait_s
        self.remote_is_well = remote_is_well
        self.moving = Moving()
        self._wall_clock = wall_clock
        self._proof = BranchProof(store, cache, ttl_s=ttl_s, wall_clock=wall_clock)
        self.root = Directory(ROOT, None, -1, "")
        self.root.lookups = 1
        self._nodes: dict[int, Node] = {ROOT: self.root}
        self._by_key: dict[str, Directory] = {"": self.root}
        self.new_numbers: Callable[[int], int] = cache.reserve_inodes
        self.notes: Notes = NoNotes()
        # Finds a node that a former process gave out; None: there was none (restoring.py).
        self.former: Callable[[int], Node] | None = None
        # Called with a directory's new parent, and with its keys before and now.
        self.former_moved: Callable[[Directory, str, str], None] = lambda parent, old, new: None
        self.refreshes = Refreshes(
            *(store, cache, self.known, self.ledger, self.moving, self._proof),
            wait_s=wait_s,
            remote_is_well=remote_is_well,
            wall_clock=wall_clock,
        )
        self.settled = self.refreshes.settled
        self.following = self.refreshes.following

    # -- inodes

    def node(self, number: int) -> Node:
        try:
            return self._nodes[number]
        except KeyError:
            if self.former is not None:
                return self.former(number)
            raise Stale(f"inode {number} was forgotten") from None

    def holds(self, number: int) -> bool:
        """Whether the kernel knows this inode."""
        return number in self._nodes or self.former is not None

    def has_node(self, number: int) -> bool:
        """Whether this process has given it out, or found it."""
        return number in self._nodes

    def directory(self, number: int) -> Directory:
        node = self.node(number)
        if not isinstance(node, Directory):
            raise NotADirectory(f"inode {number} is a file")
        return node

    def file(self, number: int) -> Node:
        node = self.node(number)
        if isinstance(node, Directory):
            raise IsADirectory(f"inode {number} is a directory")
        return node

    def remember(self, parent: Directory, listing: Listing, row: int) -> None:
        """Counts one look-up of a row, as LOOKUP and READDIRPLUS do."""
        number = listing.ino(row)
        node = self._nodes.get(number)
        if node is None:
            if listing.is_dir(row):
                self.adopt(node := self.subdirectory(parent, listing, row))
            else:
                node = self._nodes[number] = Node(number, parent, row)
                if number >= FIRST_DERIVED:
                    node.mark = mark_of(listing, row)
        elif number < FIRST_DERIVED or node.is_in(parent):
            node.row = row
            if node.is_nameless and isinstance(node, Directory):
                node.parent = parent
                self._named_again(node, key_of(parent, listing, row) + "/")
        node.lookups += 1

    def checked(self, parent: Directory, listing: Listing, row: int) -> Listing:
        """For a number from FIRST_DERIVED on, before `remember`: the listing to be remembered,
        which may have another number there."""
        node = self._nodes.get(listing.ino(row))
        if node is None and self.former is not None and listing.ino(row) in self.following.former:
            try:
                node = self.former(listing.ino(row))
            except Stale:  # in several listings: the kernel may hold another one
                return self.following.renumbered(parent, listing, row)
        listing, is_elsewhere = self.following.checked(parent, listing, row, node)
        if node is not None and is_elsewhere:
            node.parent, node.row = parent, row
            self.following.relocated(node)
        return listing

    def subdirectory(self, parent: Directory, listing: Listing, row: int) -> Directory:
        """The object that stands for a directory while the kernel holds it, else a new one."""
        key = key_of(parent, listing, row) + "/"
        found = self._by_key.get(key)
        if found is None or found.number != listing.ino(row):
            found = Directory(listing.ino(row), parent, row, key)
        return found

    def remember_change(self, parent: Directory, change: Change) -> Node:
        """As `remember`, of a name that was changed here."""
        node = self._nodes.get(change.number)
        if node is None:
            if change.is_directory:
                node = Directory(change.number, parent, -1, change.key)
            else:
                node = Node(change.number, parent, -1)
                if change.content:
                    self.following.edited(change.number)
            self.adopt(node)
        node.lookups += 1
        return node

    def adopt(self, node: Node) -> None:
        """The kernel holds it, as often as it says itself."""
        self._nodes[node.number] = node
        if isinstance(node, Directory):
            self._by_key[node.key] = node
            self._note(node)

    def adopt_nameless(self, directory: Directory) -> None:
        """As `adopt`, of one whose key is another's by now."""
        directory.is_nameless = True
        self._nodes[directory.number] = directory

    def _named_again(self, directory: Directory, key: str) -> None:
        """It has that name, although another was noted there last."""
        directory.key, directory.is_nameless = key, False
        self.adopt(directory)

    def _note(self, directory: Directory) -> None:
        if directory.parent is not None:
            noted = NotedDirectory(directory.parent.number, directory.key)
            self.notes.holds(directory.number, noted)

    def moved(self, number: int, parent: Directory, old_key: str, new_key: str) -> None:
        """A node is somewhere else from now on; for a directory, with all that is below it."""
        node = self._nodes.get(number)
        if node is not None:
            node.parent, node.row = parent, -1
        if not old_key.endswith("/"):
            return
        self.former_moved(parent, old_key, new_key)
        self.refreshes.void_below(old_key, new_key)
        for key in [key for key in self._by_key if key.startswith(old_key)]:
            directory = self._by_key.pop(key)
            directory.key = new_key + key[len(old_key) :]
            self._by_key[directory.key] = directory
            self._note(directory)
        if isinstance(node, Directory) and node.is_nameless:
            self._named_again(node, new_key)

    def moved_whole(self, number: int, parent: Directory, old_key: str, new_key: str) -> None:
        """As `moved`, of a directory with all that is known of what is below it."""
        self.former_moved(parent, old_key, new_key)
        # A successor may have found some at their new place already: what has a change in the
        # journal, as the directory itself.
        below = {key for key in self._by_key if key.startswith(old_key)} | {
            old_key + key[len(new_key) :] for key in self._by_key if key.startswith(new_key)
        }
        self.cache.move_below(old_key, new_key, below | {old_key})
        self.moved(number, parent, old_key, new_key)

    def unnamed(self, number: int) -> None:
        """The last name of a file was taken away here."""
        node = self._nodes.get(number)
        if node is not None and not (number >= FIRST_DERIVED and self.is_named(node)):
            node.is_nameless = True

    def is_named(self, node: Node) -> bool:
        """Whether a file that others moved has its name where it is now: what was taken away is
        what an older listing still has of it."""
        try:
            cached, row = self.locate(node)
        except Stale:
            return False
        return node.parent is not None and not self._is_hidden(node.parent.key, cached.listing, row)

    def held_directory(self, key: str) -> Directory | None:
        """The directory with this key, if the kernel holds it."""
        return self._by_key.get(key)

    def forget(self, number: int, lookups: int) -> None:
        node = self._nodes.get(number)
        if node is None or number == ROOT:
            self.notes.forgot(number)  # a former process may have noted it
            return
        node.lookups -= lookups
        if node.lookups <= 0:
            del self._nodes[number]
            self.notes.forgot(number)
            if number >= FIRST_DERIVED:
                self.following.forgot(number)
            if isinstance(node, Directory) and self._by_key.get(node.key) is node:
                del self._by_key[node.key]

    # -- listings and their age

    def fresh(self, directory: Directory) -> CachedListing | None:
        """The listing if it may be used without asking anybody, else None. Never waits."""
        cached = self.cache.get(directory.key)
        if cached is not None and self.settled.is_any and directory.key in self.settled:
            return cached
        own = self.ledger.changes.get(directory.key)
        is_ours = own is not None and own.is_directory and not own.is_clean
        if is_ours and own is not None and (cached is not None or own.expect == ABSENT):
            # Made here and not on the remote yet: nobody else can know what is in it.
            return cached or CachedListing(EMPTY, self._wall_clock(), b"")
        if cached is None:
            return None
        if self._proof.age_s(cached.fetched_at) < self.ttl_s:
            return cached
        if not self.remote_is_well():
            self.refreshes.start(directory.key)
            return cached
        return self._proof.proved(directory.key) if cached.token else None

    async def listing(self, directory: Directory) -> CachedListing:
        """The listing, after one LIST where freshness asks for it."""
        cached = self.fresh(directory)
        if cached is not None:
            return cached
        refresh = self.refreshes.start(asked := directory.key)
        with trio.move_on_after(self.wait_s) as scope:
            refresh = await self._ended(refresh, asked)
        known = self.cache.get(directory.key)
        error: Exception | None = refresh.error
        if scope.cancelled_caught:
            error = TimeoutError(f"listing {directory.key!r}: no answer in {self.wait_s:g} s")
        if known is not None and not isinstance(error, NotFound):
            return known  # where it failed, too: unreachable is not deleted
        if directory.key != asked or await self.moving.over(asked):
            return await self.listing(directory)
        raise error or Stale(f"the listing of {directory.key!r} did not stay in the cache")

    async def _ended(self, refresh: Refresh, key: str) -> Refresh:
        """The LIST when it is done; while the remote is not well, where an older one is known, as
        it is: it goes on behind, as if it had begun by now."""
        while True:
            with trio.move_on_after(LOOK_S):
                return await refresh.ended()
            if not self.remote_is_well() and self.cache.get(key) is not None:
                return refresh

    def believed(self, parent: Directory, name: bytes) -> CachedListing | None:
        """The listing in which `name` is to be found without asking anybody, else None."""
        if self.settled.is_any and self.settled.leads(parent.key, name):
            return self.cache.get(parent.key) or self.fresh(parent)
        return self.fresh(parent)

    def timeout_s(self, cached: CachedListing, key: str | None = None) -> float:
        """How long the kernel may keep what this listing says; `key` is its directory's."""
        if self.settled.is_any and key is not None and self.settled.is_for_long(key):
            return SETTLED_TIMEOUT_S
        left = self.ttl_s - self._proof.age_s(cached.fetched_at)
        return left if left > 0 else min(STALE_TIMEOUT_S, self.ttl_s)

    def made(self, key: str) -> None:
        """The directory `key` was just made here, so it is known to be empty."""
        self.cache.put(key, EMPTY, self._wall_clock())

    def removed(self, key: str) -> None:
        """The directory `key` was removed here."""
        self.cache.forget(key)

    def expire(self, key: str) -> None:
        """The next access to the directory `key` lists it."""
        self.refreshes.expire(key)

    def disown(self, directory: str, key: str, number: int) -> None:
        """What the remote has at `key` is not the file that was here: it gets `number`, also
        where nobody else has changed it. The next access to the directory asks the remote."""
        self.expire(directory)
        cached = self.cache.get(directory)
        row = row_of(cached.listing, directory, key) if cached is not None else -1
        if cached is not None and row >= 0:
            listing = cached.listing.renumbered(row, number)
            self.cache.put(directory, listing, 0.0)

    def expire_below(self, key: str) -> None:
        """The same for the directory `key` and all directories below it."""
        self.cache.expire(key)
        self.settled.discard_below(key)
        self.refreshes.outdate_below(key)

    def changed_elsewhere(self) -> None:
        """The remote says that something was changed: the next access to any directory asks the
        remote, which costs one small request where only other branches were changed."""
        self._proof.void()

    # -- names and attributes

    async def lookup(
        self, parent: Directory, name: bytes, known: CachedListing | None = None
    ) -> Attributes:
        """One name, counted as one look-up. NoEntry only from a complete listing, or `known`."""
        change = self.ledger.shown.get(parent.key, {}).get(name)
        if change is None or change.is_clean:  # others may have replaced what the remote has
            cached = known or self.believed(parent, name) or await self._asked(parent, name)
            change = self.ledger.shown.get(parent.key, {}).get(name)  # it may have come meanwhile
        if change is not None:
            self.remember_change(parent, change)
            return self.change_attributes(change)
        row = cached.listing.find(name)
        if row < 0 or (
            parent.key in self.ledger.gone
            and is_hidden(self.ledger, parent.key, cached.listing, row)
        ):
            raise NoEntry(name)
        if cached.listing.ino(row) >= FIRST_DERIVED:
            listing = self.checked(parent, cached.listing, row)
            if listing is not cached.listing:
                cached = replace(cached, listing=listing)
        self.remember(parent, cached.listing, row)
        return self.row_attributes(cached, row, parent.key)

    async def _asked(self, parent: Directory, name: bytes) -> CachedListing:
        """As `listing`. What we have sent ourselves is known while the remote says nothing."""
        if name in self.ledger.shown.get(parent.key, ()) and not self.remote_is_well():
            return _NOTHING
        try:
            return await self.listing(parent)
        except (RemoteError, TimeoutError):
            if name not in self.ledger.shown.get(parent.key, ()):
                raise
            return _NOTHING

    def seen(self, directory: Directory, cached: CachedListing) -> CachedListing:
        """A directory's listing with the local changes in it."""
        if not is_changed(self.ledger, directory.key):
            return cached
        return replace(cached, listing=seen(self.ledger, directory.key, cached.listing))

    def negative_timeout_s(self, parent: Directory) -> float:
        cached = self.cache.get(parent.key)
        return self.timeout_s(cached, parent.key) if cached else 0.0

    def attributes(self, node: Node) -> Attributes:
        """Of a node that the kernel holds; never waits. Raises Stale where the row is gone."""
        if node.parent is None:
            return Attributes(ROOT, True, 0, 0, "", self.ttl_s)
        change = self.ledger.by_number.get(node.number)
        if change is not None:
            return self.change_attributes(change)
        cached, row = self.locate(node)
        return self.row_attributes(cached, row, node.parent.key)

    def change_attributes(self, change: Change) -> Attributes:
        """Of a name that was changed here."""
        return Attributes(
            change.number,
            change.is_directory,
            self.ledger.size_of(change),
            self.ledger.mtime_ns_of(change),
            change.expect,
            self.ttl_s,
            *shown(change.attributes),
            is_link=is_change_of_link(change),
        )

    def locate(self, node: Node) -> tuple[CachedListing, int]:
        """The listing that has this node, and its row there."""
        assert node.parent is not None
        cached = self.cache.get(node.parent.key)
        if cached is None:
            raise Stale(f"inode {node.number}: its directory is no longer known")
        listing, key = cached.listing, node.parent.key
        if (
            node.row >= len(listing)
            or listing.ino(node.row) != node.number
            or self._is_hidden(key, listing, node.row)
        ):
            node.row = self.row_of(key, listing, node.number)
            if node.row < 0:
                node.row = len(listing)
                raise Stale(f"inode {node.number} is no longer listed")
        return cached, node.row

    def row_of(self, key: str, listing: Listing, number: int) -> int:
        """The row of an inode, or -1. Of two the one that is seen: until its removal was sent, what
        was renamed here has a hidden row with its old name, too."""
        first = row = listing.find_ino(number)
        while row >= 0 and self._is_hidden(key, listing, row):
            row = listing.find_ino(number, row + 1)
        return row if row >= 0 else first

    def _is_hidden(self, key: str, listing: Listing, row: int) -> bool:
        return key in self.ledger.gone and is_hidden(self.ledger, key, listing, row)

    def row_attributes(self, cached: CachedListing, row: int, key: str | None = None) -> Attributes:
        """Of a name that is as the listing of the directory `key` says."""
        found = cached.listing.row(row)
        if self.known.told:
            found = self.known.of(found)
        at = shown_in(found.attributes) if found.attributes else UNKNOWN
        return Attributes(
            found.ino,
            found.is_dir,
            found.size,
            found.mtime_ns,
            version_in(found.version),
            self.timeout_s(cached, key),
            *at,
            is_link=found.is_link,
        )


def key_of(parent: Directory, listing: Listing, row: int) -> str:
    """The remote's key of a row of `parent`'s listing; a directory's without its slash."""
    return parent.key + raw_segment(listing, row, not parent.key)
