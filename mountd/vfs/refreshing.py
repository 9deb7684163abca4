"""The LISTs under way: one for a directory at a time, and everybody who wants it waits for that.

tree.py says when one is needed. Before it the level above is asked where that may prove that none
is (branch_proof.py); what it brings goes into the metadata cache, unless something newer has come
meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from mountd.errors import NotFound, RemoteError, Throttled, Unreachable
from mountd.remotes.base import RemoteStore
from mountd.vfs.branch_proof import BranchProof, parent_of
from mountd.vfs.following import Following
from mountd.vfs.known_attributes import KnownAttributes
from mountd.vfs.moving import Moving
from mountd.vfs.overlay import still_going, waiting_below
from mountd.vfs.remote_listing import Listed, Wanted, list_now
from mountd.vfs.row_attributes import packed
from mountd.vfs.settled import Settled
from mountd_cache.changes import Change, ChangeKind
from mountd_cache.ledger import Ledger
from mountd_cache.listing import Listing
from mountd_cache.metadata_cache import CachedListing, MetadataCache

log = logging.getLogger(__name__)

LISTINGS_AT_ONCE = 32


@dataclass(eq=False, slots=True)
class Refresh:
    """A LIST under way, or what proves that none is needed; everybody who wants the directory
    waits for the same one.

    `outdated`: somebody asked for freshness after it began, or it takes too long: whoever comes
    now begins `successor`, and what this one brings is not put over it. `is_void`: the directory
    has another name by now.
    """

    began_s: float
    done: trio.Event
    outdated: bool = False
    is_void: bool = False
    successor: Refresh | None = None
    error: Exception | None = None

    @property
    def may_be_joined(self) -> bool:
        return not self.outdated and not self.is_void

    async def ended(self) -> Refresh:
        """The last one, when it is done."""
        refresh = self
        await refresh.done.wait()
        while refresh.successor is not None:
            refresh = refresh.successor
            await refresh.done.wait()
        return refresh


class Refreshes:
    """Owned by the tree; of the loop's thread but for the LISTs themselves."""

    def __init__(
        self,
        store: RemoteStore,
        cache: MetadataCache,
        known: KnownAttributes,
        ledger: Ledger,
        moving: Moving,
        proof: BranchProof,
        *,
        wait_s: float,
        remote_is_well: Callable[[], bool],
        wall_clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._cache = cache
        self._known = known
        self._ledger = ledger
        self._moving = moving
        self._proof = proof
        self._wait_s = wait_s
        self._remote_is_well = remote_is_well
        self._wall_clock = wall_clock
        self.settled = Settled()
        self.following = Following(cache, ledger, cache.reserve_inodes)
        self._running: dict[str, Refresh] = {}
        self._limiter = trio.CapacityLimiter(LISTINGS_AT_ONCE)
        self._nursery: trio.Nursery | None = None
        # Called on the loop around a LIST of a directory: before it with the key, and after it
        # with what the first call answered and the new listing. folding.py fills them in.
        self.before_list: Callable[[str], list[Change]] = lambda key: []
        self.after_list: Callable[[str, list[Change], Listing], None] = lambda k, c, listing: None
        # Behind those, with names of files in the directory, and the numbers that they had until
        # now: the kernel may still believe them. queue_view.py fills it in.
        self.on_replaced: Callable[[str, Sequence[tuple[bytes, int]]], None] = lambda k, files: None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Owns the LISTs under way, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def is_listing(self, key: str) -> bool:
        """Whether a LIST of the directory `key` is under way."""
        return key in self._running

    def expire(self, key: str) -> None:
        """The next access to the directory `key` lists it."""
        self._cache.touch(key, 0.0, "")
        self.settled.discard(key)
        if key in self._running:
            self._running[key].outdated = True

    def outdate_below(self, key: str) -> None:
        """Nobody joins any more what is under way of the directory `key` or below it."""
        for refreshing, refresh in self._running.items():
            if refreshing.startswith(key):
                refresh.outdated = True

    def void_below(self, *moved: str) -> None:
        """What is under way at or below these keys is of names that mean something else now."""
        for key, refresh in self._running.items():
            refresh.is_void |= key.startswith(moved)

    def start(self, key: str, *, ahead: bool = False) -> Refresh:
        """One LIST of the directory `key` for everybody; joins the one under way. `ahead`:
        nobody waits for it yet."""
        running = self._running.get(key)
        now_s = trio.current_time()
        if running is not None and running.may_be_joined and now_s - running.began_s < self._wait_s:
            return running
        assert self._nursery is not None
        refresh = self._running[key] = Refresh(now_s, trio.Event())
        if running is not None:
            running.successor = refresh
        self._nursery.start_soon(self._refresh, key, refresh, ahead)
        return refresh

    async def _refresh(self, key: str, refresh: Refresh, ahead: bool) -> None:
        try:
            refresh.error = await self._ask_above(key)
            is_needed = refresh.error is None and self._proof.proved(key) is None
            if is_needed and refresh.successor is None:
                await self._list(key, refresh, ahead)
        except Exception as exc:  # whatever it is, it must not end the mount
            refresh.error = exc
            if not refresh.is_void:
                self._failed(key, exc)
        finally:
            if self._running.get(key) is refresh:
                del self._running[key]
            refresh.done.set()

    async def _ask_above(self, key: str) -> Exception | None:
        """Asks for what may prove that the listing is fresh, or for the token that the next one
        gets. Returns an error (told to the log already) after which a LIST is of no use."""
        cached = self._cache.get(key)
        if not self._proof.is_possible or self._proof.proved(key) is not None:
            return None
        above = parent_of(key)
        if above is None:
            await self._ask_root()
        elif cached is not None and cached.token and self._proof.token(key):
            error = (await self.start(above).ended()).error
            return error if isinstance(error, (Unreachable, Throttled)) else None
        return None

    async def _ask_root(self) -> None:
        began = self._wall_clock()
        try:
            root = await trio.to_thread.run_sync(
                self._store.stat, "", limiter=self._limiter, abandon_on_cancel=True
            )
        except (Unreachable, Throttled):
            raise
        except RemoteError as error:
            log.debug("the root doesn't tell: %s", error)  # a LIST says what is the matter
        else:
            self._proof.root_said(root, began)
            self._known.root_text = packed(root.attributes)

    async def _list(self, key: str, refresh: Refresh, ahead: bool) -> None:
        # Only the newest refresh of a key changes its entry in the cache, and folding waits while
        # there is one, so the old listing read here is still the old one when the new one is put.
        taken = self.before_list(key)
        old = self._cache.get(key)
        listing = old.listing if old else None
        gone = still_going(self._ledger, key)
        wanted = Wanted(key, listing, waiting_below(self._ledger, key), gone, ahead)
        token = self._proof.token(key)  # said before it is asked for: it is at least as new
        began, was_unsent = self._wall_clock(), self._is_unsent(key)
        try:
            new = await trio.to_thread.run_sync(
                list_now,
                self._store,
                wanted,
                self._cache.reserve_inodes,
                self.following.is_taken,
                limiter=self._limiter,
                abandon_on_cancel=True,
            )
        except NotFound:
            if was_unsent and not self._is_unsent(key) and not refresh.is_void:
                return await self._list(key, refresh, ahead)  # asked before it arrived there
            raise
        if key in self.settled:
            if old is None:  # what was believed fell out of the cache
                self.settled.discard(key)
            elif not await self.settled.admits(key, new.listing):
                return
        # What was disowned meanwhile keeps its new number: whoever looks next asks again.
        now = self._cache.get(key)
        is_other = refresh.outdated and (now and now.tag) != (old and old.tag)
        if refresh.successor is None and not is_other and not refresh.is_void:
            fetched_at = 0.0 if refresh.outdated else self._proof.asked_at(began)
            self._put(key, old, new, fetched_at, token)
            self.after_list(key, taken, new.listing)
            made = () if old is not None else [c for c in taken if c.kind is ChangeKind.FILE]
            self.on_replaced(key, [*new.replaced, *((c.name, c.number) for c in made)])

    def _is_unsent(self, key: str) -> bool:
        """Whether the directory was made here, or moved to there, and the remote may lack it."""
        own = self._ledger.changes.get(key)
        return own is not None and not own.is_gone and not own.is_clean

    def _put(
        self, key: str, old: CachedListing | None, new: Listed, fetched_at: float, token: str
    ) -> None:
        if not fetched_at or not new.is_theirs:
            token = ""
        if old is not None and new.listing is old.listing:
            self._cache.touch(key, fetched_at, token)
        else:
            self._cache.put(key, new.listing, fetched_at, token)

    def _failed(self, key: str, error: Exception) -> None:
        if isinstance(error, NotFound):
            if self._moving.is_at(key):
                return  # what is known goes along; who waits asks again
            self._cache.forget(key)
            self.settled.discard(key)
            if key:
                self.expire(key[: key.rfind("/", 0, -1) + 1])
        if not isinstance(error, (RemoteError, OSError)):
            log.error("listing %r failed in an unforeseen way", key, exc_info=error)
        else:
            # That a directory is gone is an answer: removed here a moment ago, or by others.
            is_gone = isinstance(error, NotFound) and key != ""
            is_told = self._remote_is_well() and not is_gone
            level = logging.WARNING if is_told else logging.DEBUG
            log.log(level, "listing %r failed: %s", key, error)
