"""One end of a copy, and its listing."""

import os
import stat as modes
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final

from mountd.errors import NotFound, Unsupported
from mountd.remotes.base import RemoteStore
from mountd.remotes.local_tree import version_of
from mountd.remotes.object_metadata import MODE, mode_in, mtime_ns_of
from mountd.remotes.temporary_names import is_temporary
from mountd.transfer.items import Item, with_links
from mountd.types import Entry, Kind

_LISTS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Side:
    """`store` reads and writes keys below it; `root` is the directory where it is a local one.
    `held`: bytes of that version of a file that are on this machine already; None where not all
    are. `only`: the one file that SOURCE names. `make_root` makes the root and what is above it,
    where directories are real. `has_root`: whether anything says that the root exists, where its
    listing can't tell an empty one from none; raises RemoteError. None where the listing tells.
    """

    text: str
    store: RemoteStore
    root: str | None = None
    only: str = ""
    make_root: Callable[[], None] | None = None
    has_root: Callable[[], bool] | None = None
    held: Callable[[Item, int, int], bytes | None] | None = None

    @property
    def is_local(self) -> bool:
        return self.root is not None

    def held_bytes(self, item: Item, start: int, end: int) -> bytes | None:
        """As `held`."""
        return self.held(item, start, end) if self.held is not None and start < end else None


@dataclass(slots=True)
class Listing:
    """A complete one, but for `gone`: directories that were not there any more when their turn
    came. What was in them may be elsewhere by now, or there all the same. `folders`: those that
    are there by themselves, with their permissions where they are known. `specials`: pipes,
    sockets and devices, which nobody copies. `is_there`: whether the root exists, as far as that
    can be known."""

    items: dict[str, Item] = field(default_factory=dict)
    folders: dict[str, int | None] = field(default_factory=dict)
    specials: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    is_there: bool = True


def list_side(side: Side, *, links: bool) -> Listing:
    """All files of a side; where the root is missing, none. `links`: files of a remote that stand
    for symbolic links are listed as such. Raises RemoteError or OSError: no partial listing ever
    ends as if it were whole."""
    if side.root is not None:
        return list_local(side.root, side.only)
    listing = Listing()
    try:
        if side.only:
            entry = side.store.stat(side.only)
            listing.is_there = entry.kind is Kind.FILE
            if listing.is_there:
                listing.items[side.only] = _item(side.only, entry)
            return listing
        try:
            _take(listing, _tree(side.store))
        except Unsupported:
            _take(listing, _walked(side.store, listing.gone))
    except NotFound:
        if listing.items or listing.folders:
            raise
        listing.is_there = False
    if links:
        with_links(listing.items)
    return listing


def list_local(root: str, only: str = "") -> Listing:
    """Symbolic links are listed and not followed, but for the root itself."""
    listing = Listing()
    if only:
        full = os.path.join(root, only)
        try:
            _note(listing, only, os.lstat(full), full)
        except FileNotFoundError:
            listing.is_there = False
        return listing
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(os.path.join(root, below)) as names:
                found = [(n.name, n.stat(follow_symlinks=False), n.path) for n in names]
        except FileNotFoundError:
            if not below:
                listing.is_there = False
                return listing
            listing.gone.append(below)
            continue
        for name, status, full in found:
            path = f"{below}/{name}" if below else name
            if modes.S_ISDIR(status.st_mode):
                waiting.append(path)
                if not is_temporary(name):
                    listing.folders[path] = modes.S_IMODE(status.st_mode)
            elif not is_temporary(name):
                _note(listing, path, status, full)
    return listing


def _note(listing: Listing, path: str, status: os.stat_result, full: str) -> None:
    if modes.S_ISREG(status.st_mode):
        version, mtime_ns = version_of(status), max(0, status.st_mtime_ns)
        mode = modes.S_IMODE(status.st_mode)
        listing.items[path] = Item(path, status.st_size, mtime_ns, version, mode=mode)
    elif modes.S_ISLNK(status.st_mode):
        size = len(os.fsencode(os.readlink(full)))
        mtime_ns = max(0, status.st_mtime_ns)
        listing.items[path] = Item(path, size, mtime_ns, version_of(status), is_link=True)
    else:
        listing.specials.append(path)


def _take(listing: Listing, found: Iterator[tuple[str, Entry]]) -> None:
    for key, entry in found:
        if entry.kind is Kind.FILE:
            listing.items[key] = _item(key, entry)
        else:
            listing.folders[key.removesuffix("/")] = None


def _tree(store: RemoteStore) -> Iterator[tuple[str, Entry]]:
    for page in store.list_tree(""):
        yield from page


def _walked(store: RemoteStore, gone: list[str]) -> Iterator[tuple[str, Entry]]:
    """A listing per directory, some of them at once. `gone`: as in `Listing`."""

    def listed(directory: str) -> tuple[str, list[Entry]]:
        try:
            return directory, [entry for page in store.list(directory) for entry in page]
        except NotFound:
            if not directory:
                raise
            gone.append(directory.removesuffix("/"))
            return directory, []

    with ThreadPoolExecutor(_LISTS_AT_ONCE) as threads:
        running: set[Future[tuple[str, list[Entry]]]] = {threads.submit(listed, "")}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for one in done:
                directory, entries = one.result()
                for entry in entries:
                    yield directory + entry.name, entry
                    if entry.kind is Kind.DIRECTORY:
                        running.add(threads.submit(listed, f"{directory}{entry.name}/"))


def _item(key: str, entry: Entry) -> Item:
    mode = mode_of(entry.attributes or {})
    return Item(key, entry.size, time_of(entry), entry.version, mode=mode)


def mode_of(metadata: Mapping[str, str]) -> int | None:
    """The permissions that it tells; None for none."""
    mode = mode_in(metadata.get(MODE, ""))
    return None if mode is None else modes.S_IMODE(mode)


def time_of(entry: Entry) -> int:
    """That which came with the file, where the remote tells it; else that of its arrival."""
    return (mtime_ns_of(entry.attributes) if entry.attributes else None) or entry.mtime_ns


def in_thread(call: Callable[[], Listing]) -> Future[Listing]:
    """Begins `call`; its result is asked for later."""
    threads = ThreadPoolExecutor(1)
    try:
        return threads.submit(call)
    finally:
        threads.shutdown(wait=False)
