"""One pinned path: what is below it, which of that is held, and what is still to be fetched.

A look goes through its directories and takes stock of those whose listing is another than at the
last look; what is new is held before what went is released, so nothing is unprotected in between.
With `mode = "copy"` a directory whose files are all here is settled (vfs/settled.py): from then on
its listing is believed, and a new one has to be admitted, which it is when all of it is here.
"""

import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

from mountd.errors import NameNotAllowed
from mountd.transfer.fill import Missing, Progress
from mountd.transfer.means import Means
from mountd.transfer.stock import Stock
from mountd.transfer.subtree import Found, Place, Subtree, find_place
from mountd.vfs.nodes import Directory
from mountd_cache.listing import Listing

log = logging.getLogger(__name__)


class PinState(StrEnum):
    """How far it is. WAITING: something could not be listed or fetched, and is tried again."""

    LOOKING = "looking"
    FILLING = "filling"
    HERE = "here"
    WAITING = "waiting"
    NO_ROOM = "no room"
    NOT_THERE = "not there"


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was seen of one directory. `tag`: of that listing; b"" while it waits to be admitted,
    and then `before` is what is held for the listing that is still shown."""

    directory: Directory
    only: bytes | None
    tag: bytes
    stock: Stock
    before: bytes = b""


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all that is below the path. `missing_bytes`: not here, whether it has room or not."""

    files: int = 0
    size_bytes: int = 0
    missing_bytes: int = 0
    no_room_bytes: int = 0


@dataclass(eq=False)
class PinnedTree:
    """Its methods run one after the other. They raise NoEntry where the path is not there, and
    what `Tree.listing` raises where its way can't be known."""

    means: Means
    path: bytes
    is_copy: bool = False
    state: PinState = PinState.LOOKING
    reason: str = ""
    progress: Progress = field(default_factory=Progress)
    waiting: dict[str, Listing] = field(default_factory=dict)
    place: Place | None = None
    totals: Totals = Totals()
    _kept: dict[str, _Kept] = field(default_factory=dict)

    # -- looking

    async def look(self, *, asks: bool = False, believes: bool = False) -> bool:
        """Takes stock. `asks`: the remote, of everything; else what was seen before is looked at as
        it is kept and, with `believes`, also what a former process has left. False where a part
        could not be listed."""
        fs = self.means.fs
        self.place = await find_place(fs, self.path, asks=asks)
        seen: set[str] = set()
        error: Exception | None = None
        kept = () if asks else None if believes else frozenset(self._kept)
        subtree = Subtree(fs, asks=asks, kept=kept, waiting=self.waiting)
        async with aclosing(subtree.walk(self.place)) as directories:
            async for found in directories:
                error = found.error or error
                seen.add(found.directory.key)
                if found.listing is not None:
                    await self._take(found, found.listing)
        if error is None:
            for key in self._kept.keys() - seen:
                await self._leave(key)
        self.reason = str(error or "")
        self._sum()
        self.progress = Progress()
        return error is None

    async def _take(self, found: Found, listing: Listing) -> None:
        key = found.directory.key
        old = self._kept.get(key)
        is_same = old is not None and found.tag and old.tag == found.tag
        if old is not None and is_same and _is_all(old.stock) and not old.stock.staged_files:
            return
        stock = await self.means.run(self.means.stock.take, found.directory, listing, found.only)
        made = _Kept(found.directory, found.only, found.tag, stock)
        if old is not None and not found.tag:
            # Readers still see the listing before.
            shown = old.before or old.stock.held
            self._kept[key] = replace(made, before=shown)
            if old.before:
                await self.means.let_go(old.stock.held)
            return
        self._kept[key] = made
        if old is not None:
            await self.means.let_go(old.stock.held + old.before)
            if stock.no_room_files and (old.stock.held or old.before):
                # What it was had the room that there was none of.
                again = await self.means.run(
                    self.means.stock.take, found.directory, listing, found.only
                )
                self._kept[key] = replace(made, stock=again)
                await self.means.let_go(stock.held)

    async def _leave(self, key: str) -> None:
        old = self._kept.pop(key)
        self.means.fs.tree.settled.discard(key)
        await self.means.let_go(old.stock.held + old.before)

    async def release(self) -> None:
        """Nothing is held for it any more."""
        kept, self._kept = self._kept, {}
        self.totals = Totals()
        for old in kept.values():
            await self.means.let_go(old.stock.held + old.before)

    def _sum(self) -> None:
        stocks = [kept.stock for kept in self._kept.values()]
        lacking = sum(stock.missing_bytes for stock in stocks)
        no_room = sum(stock.no_room_bytes for stock in stocks)
        self.totals = Totals(
            sum(stock.files for stock in stocks),
            sum(stock.size_bytes for stock in stocks),
            lacking + no_room,
            no_room,
        )

    def held(self) -> Iterator[bytes]:
        """All that is held for it, packed."""
        for kept in self._kept.values():
            yield kept.stock.held + kept.before

    @property
    def missing_bytes(self) -> int:
        """What is not here at this moment."""
        return max(0, self.totals.missing_bytes - self.progress.bytes)

    @property
    def is_changed_here(self) -> bool:
        """Whether something in it was not sent yet when it was looked at."""
        return any(kept.stock.staged_files for kept in self._kept.values())

    @property
    def is_believed(self) -> bool:
        """Whether readers of a part of it ask the remote nothing."""
        settled = self.means.fs.tree.settled
        return settled.is_any and any(key in settled for key in self._kept)

    def watches(self, key: str) -> bool:
        """Whether a change of that directory's listing may matter here."""
        if self.place is None:
            return True
        top = self.place.directory.key
        if self.place.only is not None:
            return key == top
        return key.startswith(top) or any(key == above for above, _ in self.place.way)

    # -- filling

    async def fill(self) -> None:
        """Brings what is held and not here; what failed is in `progress`. Cancelled, what has come
        stays."""
        if self.totals.missing_bytes > self.totals.no_room_bytes:
            await self.means.filler.fill(self.missing(), self.progress)
            for directory in {key[: key.rfind("/") + 1] for key in self.progress.changed}:
                self.means.fs.tree.refreshes.start(directory, ahead=True)
            await self._take_again()

    async def missing(self) -> AsyncGenerator[Missing]:
        for kept in list(self._kept.values()):
            listing = self._listing_of(kept) if kept.stock.missing_bytes else None
            if listing is not None:
                for one in await self._missing_in(kept, listing):
                    yield one

    async def _missing_in(self, kept: _Kept, listing: Listing) -> list[Missing]:
        found = await self.means.run(
            self.means.stock.missing, kept.directory, listing, kept.only, kept.stock.held
        )
        return [Missing(file, ranges) for file, ranges in found]

    async def _take_again(self) -> None:
        """What is missing now, of directories that lacked something."""
        for key, kept in list(self._kept.items()):
            listing = self._listing_of(kept) if kept.stock.missing_bytes else None
            if listing is not None:
                lacking = await self._missing_in(kept, listing)
                lacks = sum(end - start for one in lacking for start, end in one.ranges)
                stock = replace(kept.stock, missing_files=len(lacking), missing_bytes=lacks)
                self._kept[key] = replace(kept, stock=stock)
        self._sum()
        self.progress.bytes = 0  # they are not missing any more

    def _listing_of(self, kept: _Kept) -> Listing | None:
        """None where it is another by now: the next look takes stock of it."""
        tree = self.means.fs.tree
        if not kept.tag:
            return self.waiting.get(kept.directory.key)
        cached = tree.cache.get(kept.directory.key)
        if cached is None or cached.tag != kept.tag:
            return None
        return tree.seen(kept.directory, cached).listing

    # -- mode = "copy"

    async def settle(self) -> bool:
        """Has directories believed that are here, children first, and what waits admitted. Whether
        all of them are."""
        tree = self.means.fs.tree
        is_all = True
        for key, kept in reversed(list(self._kept.items())):
            if not _is_all(kept.stock):
                is_all = False
                if kept.stock.no_room_files and key in tree.settled:
                    # It will not be here before it is shown, and must not be hidden for ever.
                    self.waiting.pop(key, None)
                    tree.expire(key)
                continue
            if kept.only is not None:
                continue  # what is beside that file is asked about like anything else
            if key in self.waiting:
                await tree.refreshes.start(key, ahead=True).ended()
                is_all = is_all and key not in self.waiting
                continue  # the look that its new listing wakes settles it
            cached = tree.cache.get(key)
            if cached is not None and cached.tag == kept.tag and cached.fetched_at > 0:
                tree.settled.add(key)
            else:
                is_all = False
        return is_all

    async def admits(self, key: str, listing: Listing) -> bool:
        """Whether all that is new in the listing is here. If not it waits, to be fetched."""
        tree = self.means.fs.tree
        directory = tree.held_directory(key) or Directory(0, None, -1, key)
        is_here = await self.means.run(self.means.stock.is_here, directory, listing)
        cached = tree.cache.get(key)
        for row in range(len(listing)):
            if listing.is_dir(row) and (
                cached is None or cached.listing.find(listing.name(row)) < 0
            ):
                with suppress(NameNotAllowed):
                    child = tree.subdirectory(directory, listing, row)
                    is_here = is_here and (child.key in tree.settled or self._lacks_room(child.key))
        if is_here:
            self.waiting.pop(key, None)
        else:
            self.waiting[key] = listing
        return is_here

    def _lacks_room(self, key: str) -> bool:
        """Whether a part of that directory will not come as long as nothing makes room."""
        kept = self._kept.get(key)
        return kept is not None and kept.stock.no_room_files > 0


def _is_all(stock: Stock) -> bool:
    return not stock.missing_bytes and not stock.no_room_files
