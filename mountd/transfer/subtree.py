"""Paths below the mount, and the directories below them, found without the kernel."""

from collections import deque
from collections.abc import AsyncGenerator, Container, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Final

import trio

from mountd.errors import NameNotAllowed, NoEntry, NotADirectory, NotFound, RemoteError
from mountd.vfs.filesystem import FileSystem
from mountd.vfs.nodes import Directory
from mountd.vfs.refreshing import Refresh
from mountd_cache.listing import Listing
from mountd_cache.metadata_cache import CachedListing

LISTS_AHEAD: Final = 16
_NOTHING: Final[Mapping[str, Listing]] = MappingProxyType({})

Way = tuple[tuple[str, bytes], ...]
"""(key of a directory, name in it) from the root down."""


@dataclass(frozen=True, slots=True)
class Place:
    """A directory with all below it or, with `only`, one file in it. `way` leads there."""

    directory: Directory
    only: bytes | None
    way: Way


@dataclass(frozen=True, slots=True)
class Found:
    """A directory of a subtree, and its rows as they are seen. `tag` is that of the kept listing;
    b"" for one that waits to be admitted. `error`: it could not be listed, and `listing` is None
    or old."""

    directory: Directory
    only: bytes | None
    listing: Listing | None
    tag: bytes
    error: Exception | None = None


async def find_place(fs: FileSystem, path: bytes, *, asks: bool = False) -> Place:
    """Where `path` is. `asks`: by listings that are no older than the TTL, also where others are
    believed. Raises NoEntry, NotADirectory, and what `Tree.listing` raises."""
    directory = fs.tree.root
    way: list[tuple[str, bytes]] = []
    parts = [part for part in path.split(b"/") if part]
    for i, name in enumerate(parts):
        known = None if asks else fs.tree.believed(directory, name)
        cached = known or await fs.tree.listing(directory)
        found = fs.names.find(directory, cached, name)
        if found is None:
            raise NoEntry(path)
        way.append((directory.key, name))
        if not found.is_directory:
            if i + 1 < len(parts):
                raise NotADirectory(path)
            return Place(directory, name, tuple(way))
        # A file's key is told as it is, a directory's with or without its slash.
        key = found.key.removesuffix("/") + "/"
        held = fs.tree.held_directory(key)
        directory = held or Directory(found.number, directory, -1, key)
    return Place(directory, None, tuple(way))


class Subtree:
    """Goes through all directories at and below a place, level by level, by listings as a reader
    gets them. (Not branch by branch: what is below 16 siblings is listed side by side, too. A Zarr
    array of 800 chunks in nested directories was a chain of 1,600 round trips.)

    `asks`: each is asked for, whatever its age; 16 at a time, and no reader waits. `kept`: of these
    keys those that are here do, whatever their age, unless they were expired; None: of all.
    `waiting`: listings that are to be admitted, which go before those that are kept."""

    def __init__(
        self,
        fs: FileSystem,
        *,
        asks: bool = False,
        kept: Container[str] | None = (),
        waiting: Mapping[str, Listing] = _NOTHING,
    ) -> None:
        self._fs = fs
        self._asks = asks
        self._kept = kept
        self._waiting = waiting
        self._begun: dict[str, Refresh] = {}

    async def walk(self, place: Place) -> AsyncGenerator[Found]:
        """What can't be listed comes with its error."""
        to_do: deque[Directory] = deque([place.directory])
        while to_do:
            for directory in islice(to_do, LISTS_AHEAD):
                self._begin(directory)
            directory = to_do.popleft()
            cached, error = await self._listing(directory)
            waiting = self._waiting.get(directory.key)
            if waiting is not None:
                cached = CachedListing(waiting, 0.0)
            if cached is None:
                yield Found(directory, place.only, None, b"", error)
                continue
            tag = cached.tag
            listing = self._fs.tree.seen(directory, cached).listing
            yield Found(directory, place.only, listing, tag, error)
            if place.only is None:
                to_do.extend(self.below(directory, listing))
            await trio.lowlevel.checkpoint()

    def below(self, directory: Directory, listing: Listing) -> list[Directory]:
        """The directories in one, in order."""
        found = []
        for row in range(len(listing)):
            if listing.is_dir(row):
                with suppress(NameNotAllowed):
                    found.append(self._fs.tree.subdirectory(directory, listing, row))
        return found

    def _begin(self, directory: Directory) -> None:
        key, tree = directory.key, self._fs.tree
        if key in self._begun or self._kept_listing(key) is not None:
            return
        if self._asks or tree.fresh(directory) is None:
            self._begun[key] = tree.refreshes.start(key, ahead=True)

    def _kept_listing(self, key: str) -> CachedListing | None:
        if self._kept is not None and key not in self._kept:
            return None
        cached = self._fs.tree.cache.get(key)
        return cached if cached is not None and cached.fetched_at > 0 else None

    async def _listing(self, directory: Directory) -> tuple[CachedListing | None, Exception | None]:
        tree, key = self._fs.tree, directory.key
        refresh = self._begun.pop(key, None)
        if refresh is None:
            known = self._kept_listing(key) or tree.fresh(directory)
            if known is not None:
                return known, None
        try:
            if refresh is None:
                return await tree.listing(directory), None
            with trio.move_on_after(tree.wait_s) as scope:
                refresh = await refresh.ended()
            error = TimeoutError("no answer") if scope.cancelled_caught else refresh.error
            if error is None or isinstance(error, NotFound):
                # What was only made here is not on the remote, and known all the same.
                return tree.fresh(directory) or await tree.listing(directory), None
            return tree.cache.get(key), error
        except (RemoteError, TimeoutError, OSError) as error:
            return tree.cache.get(key), error
