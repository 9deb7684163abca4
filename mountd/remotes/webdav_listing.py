"""One PROPFIND of Depth 1, item by item, as the entries of a directory. No I/O."""

import logging
from collections.abc import Callable, Sequence

from mountd.errors import Corrupt, NotFound
from mountd.remotes.http_range import opaque_tag
from mountd.remotes.http_status import error_of_status
from mountd.remotes.untrusted import MAX_ENTRIES
from mountd.remotes.webdav_leftovers import is_own
from mountd.remotes.webdav_path import Collection
from mountd.remotes.webdav_xml import DavItem
from mountd.types import Entry, Kind

logger = logging.getLogger(__name__)

MakeEntry = Callable[[str, DavItem], Entry]


class Listing:
    """Turns items into entries: the collection itself, duplicates and mountd's own temporary files
    go, strangers are counted."""

    def __init__(self, target: str, entry: MakeEntry) -> None:
        self.page: list[Entry] = []
        self._target = target
        self._collection = Collection(target)
        self._entry = entry
        self.own_files: list[tuple[str, int]] = []  # mountd's: (name, mtime_ns)
        self.tag = ""  # the collection's own
        self._seen: set[tuple[str, Kind]] = set()
        self._has_itself = False
        self._strangers = 0

    def add(self, items: Sequence[DavItem]) -> None:
        for item in items:
            name = self._collection.name_of(item.href)
            if name is None:
                self._strangers += 1
            elif name == "":
                check_item(item)
                if not item.is_collection:
                    raise NotFound(f"{self._target} is a file")
                self._has_itself = True
                self.tag = opaque_tag(item.etag)
            elif item.status != 404:  # 404: it was deleted while the server was listing
                check_item(item)
                if is_own(name) and not item.is_collection:
                    self.own_files.append((name, item.mtime_ns))
                else:
                    self._add(self._entry(name, item))
        if len(self._seen) > MAX_ENTRIES:
            raise Corrupt(f"{self._target}: over {MAX_ENTRIES} entries in one directory")

    def _add(self, entry: Entry) -> None:
        if (entry.name, entry.kind) not in self._seen:
            self._seen.add((entry.name, entry.kind))
            self.page.append(entry)

    def take(self) -> Sequence[Entry]:
        page, self.page = self.page, []
        return page

    def check_end(self) -> None:
        """RFC 4918 (9.1) has the collection itself in each answer. Where it is missing, nothing
        says that the entries are this directory's, or that an empty answer means empty."""
        if not self._has_itself:
            raise Corrupt(
                f"{self._target}: the listing is of another place ({self._strangers} hrefs "
                f"elsewhere); does a proxy rewrite paths?"
            )
        if self._strangers:
            logger.warning("%s: left out %d hrefs elsewhere", self._target, self._strangers)


def check_item(item: DavItem) -> None:
    if not 200 <= item.status < 300:
        raise error_of_status(item.status, f"{item.href} in a listing")
