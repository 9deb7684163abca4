"""The read half of WebDAV (RFC 4918): PROPFIND and ranged GET.

What is promised about versions. A read is one GET with If-Match, and the tag (or size and
Last-Modified) of its answer is compared as well, so a server that ignores If-Match is caught.
Where the answer proves nothing, the file is asked for once more: bytes between two equal versions
are of that version. What a version is worth is up to the server: Apache's and WsgiDAV's tags are
made of size and mtime, and so are Nextcloud's on a local disk (`nextcloud_version` adds to them).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from typing_extensions import Buffer

from mountd.errors import Corrupt, NotFound, Unreachable, Unsupported, VersionChanged
from mountd.remotes import call, direct_get
from mountd.remotes.http_pool import Answer, HttpPool
from mountd.remotes.http_range import (
    answers_for,
    is_tag,
    is_weak,
    parse_content_range,
    tag_of,
    version_of,
)
from mountd.remotes.http_status import error_of_status, mtime_ns_of_http_date
from mountd.remotes.shared_looks import SharedLooks
from mountd.remotes.webdav_leftovers import Leftovers
from mountd.remotes.webdav_listing import Listing, check_item
from mountd.remotes.webdav_path import Collection, target_of
from mountd.remotes.webdav_xml import PROPFIND_BODY, DavItem, MultistatusReader
from mountd.types import Entry, Kind

_PAGE_ENTRIES = 1000
# From a server that ignores Range, this much is thrown away to reach a range's start; beyond it,
# each block of a file would cost more than half a gigabyte of traffic on average.
_MAX_SKIPPED_BYTES = 256 << 20
_MAX_WEAK_TAGS = 4096


def _is_never(item: DavItem) -> bool:
    return False


def _not_told(item: DavItem) -> None:
    return None


def _unchecked(what: str, headers: Mapping[str, str], data: Buffer) -> None:
    """A plain server says nothing about a file's sum."""


def _version(item: DavItem) -> str:
    return version_of(item.etag, item.size or 0, item.mtime_ns)


class Proves(Protocol):
    def __call__(
        self, version: str, headers: Mapping[str, str], total: int | None, *, is_whole: bool
    ) -> bool: ...


def _proves(version: str, headers: Mapping[str, str], total: int | None, *, is_whole: bool) -> bool:
    return answers_for(version, headers, total)


def _no_identity(item: DavItem) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a server answers beyond the RFC.

    `has_tree_tags`: a collection's ETag changes with anything below it (Nextcloud). Only then is
    it given as the version of a directory; elsewhere it proves nothing about deeper levels.
    `is_apart`: not so in this collection. `attributes`: an entry's, where the server tells some.
    `propfind` asks for what the entries need, and for the texts of `extra` (`DavItem.more`).
    `check_whole(what, headers, data)` is called where one answer had a file's every byte; it
    raises Corrupt.
    `version` makes a file's version of its item. `proves`: whether a GET's answer with these
    headers, about a file of `total` bytes, is certainly of a version; `is_whole`: it has them all.
    `identity`: `Entry.identity` of a file.
    """

    has_tree_tags: bool = False
    is_apart: Callable[[DavItem], bool] = _is_never
    attributes: Callable[[DavItem], Mapping[str, str] | None] = _not_told
    propfind: bytes = PROPFIND_BODY
    extra: frozenset[str] = frozenset()
    check_whole: Callable[[str, Mapping[str, str], Buffer], None] = _unchecked
    version: Callable[[DavItem], str] = _version
    proves: Proves = _proves
    identity: Callable[[DavItem], str] = _no_identity


PLAIN = Dialect()


class DavReader:
    """The reading half of a `RemoteStore` below `base`, an encoded path without a slash at its
    end; its methods promise what that does. Thread-safe."""

    def __init__(
        self, pool: HttpPool, base: str, leftovers: Leftovers, dialect: Dialect = PLAIN
    ) -> None:
        self._pool = pool
        self._base = base
        self._leftovers = leftovers
        self._dialect = dialect
        # Tags last seen as weak: If-Match compares strongly, so it would fail on them (Apache,
        # for the first second of a file). Only saves a request; losing one costs nothing else.
        self._weak_tags: set[str] = set()
        self._looks = SharedLooks(lambda key, until_s: self._stat(key, until_s).version)

    def stat(self, key: str) -> Entry:
        """One PROPFIND with Depth 0."""
        return self._stat(key, self._pool.deadline_s())

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        """One PROPFIND with Depth 1, parsed as it arrives. The time limit holds per page.

        The whole answer is taken before a page is given: whoever waits for a slot of the limiter
        to go on must not hold a connection that those with the slots wait for.
        """
        until_s = self._pool.deadline_s()
        yield from [listing.take() for listing in self._listing(directory, until_s)]

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        """One GET. A second request follows only where the first proved nothing: a 412 or 416
        that may be a false alarm, or an answer that doesn't tell its version; it serves all reads
        of that file that came so far before it."""
        until_s = self._pool.deadline_s()
        target = self._file_target(key)
        is_sure = is_tag(version) and version not in self._weak_tags
        if_match = tag_of(version) if is_sure else ""
        with self._get(target, start, end, if_match, until_s) as answer:
            is_refused = answer.status in (412, 416)
            if not is_refused:
                data, is_proved = self._checked_body(answer, key, start, end, version, until_s)
        if not is_refused:
            # Its connection is free by now.
            if not is_proved:
                call.body_is_here.get()()
                self._check_version(key, version, until_s)
            return data
        self._check_version(key, version, until_s)
        if answer.status == 416 or not if_match:
            raise Corrupt(f"{answer.what}: HTTP {answer.status}, but the version is the same")
        self._remember_weak(version)
        with self._get(target, start, end, "", until_s) as answer:
            data, is_proved = self._checked_body(answer, key, start, end, version, until_s)
        if not is_proved:
            self._check_version(key, version, until_s)
        return data

    # PROPFIND

    def _propfind(self, key: str, depth: str, until_s: float) -> Answer:
        target = target_of(self._base, key)
        headers = {"Depth": depth, "Content-Type": "application/xml; charset=utf-8"}
        body = self._dialect.propfind
        headers["Content-Length"] = str(len(body))
        answer = self._pool.ask("PROPFIND", target, headers, body, until_s)
        if answer.status == 207:
            return answer
        with answer:
            if answer.status == 400 and key.endswith("/") and self._is_file(key[:-1], until_s):
                # Apache takes the slash behind a file's name for a bad request.
                raise NotFound(f"{answer.what}: it is a file")
            if answer.status == 200:
                raise Corrupt(f"{answer.what}: HTTP 200 instead of 207; no WebDAV server?")
            raise error_of_status(answer.status, answer.what, answer.headers.get("retry-after"))

    def _listing(self, directory: str, until_s: float) -> Iterator[Listing]:
        """The growing listing, whenever a page is full, and at its end. More time per page."""
        with self._propfind(directory, "1", until_s) as answer:
            reader = MultistatusReader(self._dialect.extra)
            listing = Listing(answer.target, self._entry)
            while chunk := answer.chunk():
                listing.add(reader.feed(chunk))
                if len(listing.page) >= _PAGE_ENTRIES:
                    yield listing
                    answer.renew(self._pool.deadline_s())
            listing.add(reader.end())
            listing.check_end()
            now_ns = mtime_ns_of_http_date(answer.headers.get("date"))
            for name, mtime_ns in listing.own_files:
                self._leftovers.seen(directory + name, mtime_ns, now_ns)
            yield listing

    def _stat(self, key: str, until_s: float) -> Entry:
        entry = self.find(key, until_s)
        wanted = Kind.DIRECTORY if not key or key.endswith("/") else Kind.FILE
        if entry.kind is not wanted:
            raise NotFound(f"{key!r} is a {entry.kind.name.lower()}")
        return entry

    def find(self, key: str, until_s: float) -> Entry:
        """What is at a key, with or without its slash: see `webdav_write.DavFiles`."""
        return self.look(key, until_s)[0]

    def look(self, key: str, until_s: float) -> tuple[Entry, DavItem]:
        """As `find`, with all that the server told."""
        items: list[DavItem] = []
        reader = MultistatusReader(self._dialect.extra)
        with self._propfind(key, "0", until_s) as answer:
            while chunk := answer.chunk():
                items += reader.feed(chunk)
            items += reader.end()
        itself = Collection(answer.target)
        for item in items:
            if itself.name_of(item.href) == "" or len(items) == 1:
                check_item(item)
                return self._entry(key.removesuffix("/").rpartition("/")[2], item), item
        raise Corrupt(f"{answer.what}: {len(items)} responses, none of them for what was asked")

    def own_tag_if_empty(self, directory: str, until_s: float) -> str | None:
        """See `webdav_write.DavFiles`. A long listing is given up at its first page."""
        tag = ""
        for listing in self._listing(directory, until_s):
            if listing.page:
                return None
            tag = listing.tag
        return tag

    def _is_file(self, key: str, until_s: float) -> bool:
        try:
            return self.find(key, until_s).kind is Kind.FILE
        except NotFound:
            return False

    def _entry(self, name: str, item: DavItem) -> Entry:
        dialect = self._dialect
        attributes = dialect.attributes(item)
        if item.is_collection:
            tells = dialect.has_tree_tags and item.etag and not dialect.is_apart(item)
            version = version_of(item.etag, 0, 0) if tells else ""
            return Entry(name, Kind.DIRECTORY, 0, item.mtime_ns, version, attributes)
        if item.size is None:
            raise Corrupt(f"{item.href}: the server doesn't tell its size")
        version = dialect.version(item)
        if is_weak(item.etag):
            self._remember_weak(version)
        file_id = dialect.identity(item)
        return Entry(name, Kind.FILE, item.size, item.mtime_ns, version, attributes, file_id)

    # GET

    def _file_target(self, key: str) -> str:
        if not key or key.endswith("/"):
            raise NotFound(f"{key!r} is no file")
        return target_of(self._base, key)

    def _get(self, target: str, start: int, end: int, if_match: str, until_s: float) -> Answer:
        # SabreDAV (Nextcloud) takes an end of 0 for none: all the file would come.
        headers = {"Range": f"bytes={start}-{max(end - 1, 1)}"}
        if if_match:
            headers["If-Match"] = if_match
        is_large = end - start >= direct_get.FROM_BYTES
        return self._pool.ask("GET", target, headers, until_s=until_s, is_large=is_large)

    def _checked_body(
        self, answer: Answer, key: str, start: int, end: int, version: str, until_s: float
    ) -> tuple[Buffer, bool]:
        """The bytes and whether they are proved to be of that version, or the error that this
        answer stands for."""
        if answer.status not in (200, 206):
            raise error_of_status(answer.status, answer.what, answer.headers.get("retry-after"))
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise Corrupt(f"{answer.what}: encoded, although asked for as it is")
        skip, total = _position(answer, start, end)
        is_whole = start == 0 and end == total
        is_proved = self._dialect.proves(version, answer.headers, total, is_whole=is_whole)
        if skip is None:
            if not is_proved:
                self._check_version(key, version, until_s)
            answered = answer.headers.get("content-range", "the whole file")
            raise Corrupt(f"{answer.what}: asked for bytes {start}-{end - 1}, got {answered}")
        data = _body(answer, skip, end - start)
        if is_whole:
            self._dialect.check_whole(answer.what, answer.headers, data)
        return data, is_proved

    def _check_version(self, key: str, version: str, until_s: float) -> None:
        """Raises VersionChanged or NotFound where the file is no longer `version`."""
        if not version:
            return
        now = self._looks.version(key, until_s)
        if now != version:
            raise VersionChanged(f"{key!r} was {version} and is {now}")

    def _remember_weak(self, version: str) -> None:
        if len(self._weak_tags) >= _MAX_WEAK_TAGS:
            self._weak_tags.clear()
        self._weak_tags.add(version)


def _position(answer: Answer, start: int, end: int) -> tuple[int | None, int | None]:
    """(bytes to skip before the wanted range, or None where it is not in there; total size)."""
    if answer.status == 206:
        content_range = parse_content_range(answer.headers.get("content-range"))
        if content_range is None:
            return None, None
        is_first_byte = content_range.start == start == 0 and end == 1
        is_it = is_first_byte or (content_range.start, content_range.end) == (start, end)
        return (0 if is_it else None), content_range.total
    length = answer.headers.get("content-length", "")
    total = int(length) if length.isascii() and length.isdigit() else None
    return (None if total is not None and total < end else start), total


def _body(answer: Answer, skip: int, size: int) -> Buffer:
    """`size` bytes after the first `skip`; what follows is not read."""
    if skip > _MAX_SKIPPED_BYTES:
        raise Unsupported(f"{answer.what}: the server ignores Range, and {skip} bytes come first")
    # Filled piece by piece: joined at the end, a range would be in memory twice.
    data = bytearray(size)
    done = 0
    if answer.reads_into and not skip:
        view = memoryview(data)
        while done < size:
            count = answer.read_into(view[done:])
            if not count:
                raise _ends_early(answer, size - done)
            done += count
        return view.toreadonly()
    while done < size:
        chunk = answer.chunk()
        if not chunk:
            raise _ends_early(answer, size - done)
        if skip >= len(chunk):
            skip -= len(chunk)
            continue
        end = min(size, done + len(chunk) - skip)
        data[done:end] = memoryview(chunk)[skip : skip + end - done]
        skip, done = 0, end
    return memoryview(data).toreadonly()


def _ends_early(answer: Answer, left: int) -> Unreachable:
    return Unreachable(f"{answer.what}: the body ends {left} bytes early", answered=True)
