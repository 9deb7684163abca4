"""Reads a PROPFIND answer (RFC 4918, 14.16) piece by piece. The answer is not trusted.

No DTD, no entities, bounded text and nesting; whatever breaks these rules is `Corrupt`. Nothing is
built in memory but the response element that is being read: a directory of 10,000 entries is 5 MB
of XML.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from mountd.errors import Corrupt, Unreachable
from mountd.remotes.http_status import mtime_ns_of_http_date

PROPFIND_BODY = (
    b'<?xml version="1.0" encoding="utf-8"?>'
    b'<D:propfind xmlns:D="DAV:"><D:prop><D:resourcetype/><D:getcontentlength/>'
    b"<D:getlastmodified/><D:getetag/></D:prop></D:propfind>"
)
NOTHING_MORE: Final[Mapping[str, str]] = MappingProxyType({})
_MAX_TEXT_CHARS = 64 << 10
_MAX_DEPTH = 64
_WANTED = frozenset(
    f"{{DAV:}}{name}"
    for name in ("href", "status", "getcontentlength", "getlastmodified", "getetag")
)


@dataclass(frozen=True, slots=True)
class DavItem:
    """One `response` element. `size` is None where the server gave none, `etag` is as written,
    `status` is what the response or the wanted properties failed with (200: they did not). `more`:
    the texts of other properties that were asked for, by `{namespace}name`."""

    href: str
    status: int
    is_collection: bool
    size: int | None
    mtime_ns: int
    etag: str
    more: Mapping[str, str] = field(default_factory=lambda: NOTHING_MORE)


class MultistatusReader:
    """Bytes in, items out. Any method may raise Corrupt; after that the reader is of no use.

    `extra`: further elements, `{namespace}name`, whose text is wanted: a property's own, or that of
    the elements in it, with a space between.
    """

    def __init__(self, extra: frozenset[str] = frozenset()) -> None:
        self._target = _Multistatus(extra)
        self._parser = DefusedXMLParser(target=self._target, forbid_dtd=True)

    def feed(self, data: bytes) -> list[DavItem]:
        """The items that `data` completed."""
        try:
            self._parser.feed(data)
        except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
            raise Corrupt(f"unreadable PROPFIND answer: {error or type(error).__name__}") from error
        return self._target.take()

    def end(self) -> list[DavItem]:
        """The rest. Raises Unreachable where the document is not complete: a server that dies in
        the middle of a listing often still ends its chunked body properly."""
        try:
            self._parser.close()
        except ParseError as error:
            raise Unreachable(f"the PROPFIND answer is cut: {error}", answered=True) from error
        return self._target.take()


class _Multistatus:
    """The parser's target. Where an element stands is told by its depth: 1 multistatus,
    2 response, 3 href, status and propstat, 4 status and prop, 5 a property, 6 its contents.
    So an href inside lockdiscovery is not taken for the response's own."""

    def __init__(self, extra: frozenset[str]) -> None:
        self._extra = extra
        self._wanted = _WANTED | extra
        self._items: list[DavItem] = []
        self._depth = 0
        self._text: list[str] | None = None
        self._text_chars = 0
        self._property = ""
        self._start_response()
        self._start_propstat()

    def take(self) -> list[DavItem]:
        items, self._items = self._items, []
        return items

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        depth = self._depth
        if depth > _MAX_DEPTH:
            raise Corrupt("a PROPFIND answer nested too deeply")
        if tag in self._wanted:
            self._text, self._text_chars = [], 0
        if depth == 1 and tag != "{DAV:}multistatus":
            raise Corrupt(f"a PROPFIND answer that starts with {tag[:80]!r}; no WebDAV server?")
        if depth == 2:
            self._start_response()
        elif depth == 3:
            self._start_propstat()
        elif depth == 5:
            self._property = tag
        elif depth == 6 and tag == "{DAV:}collection":
            self._found[self._property] = "collection"

    def data(self, text: str) -> None:
        if self._text is not None:
            self._text_chars += len(text)
            if self._text_chars > _MAX_TEXT_CHARS:
                raise Corrupt("a PROPFIND answer with a property too long to be true")
            self._text.append(text)

    def end(self, tag: str) -> None:
        depth, self._depth = self._depth, self._depth - 1
        text = ""
        if self._text is not None:
            text, self._text = "".join(self._text).strip(), None
        if depth == 5:
            if text:
                self._found[tag] = text
            else:
                self._found.setdefault(tag, "")
        elif depth == 6 and text and tag in self._extra:
            before = self._found.get(self._property, "")
            if len(before) < _MAX_TEXT_CHARS:
                self._found[self._property] = f"{before} {text}" if before else text
        elif depth == 4 and tag == "{DAV:}status":
            self._propstat_status = _status_of(text)
        elif depth == 3:
            self._end_part(tag, text)
        elif depth == 2 and tag == "{DAV:}response":
            self._end_response()

    def close(self) -> None:
        """Called by the parser; an incomplete document was a ParseError before."""

    def _more(self) -> Mapping[str, str]:
        if not self._extra:
            return NOTHING_MORE
        return {tag: text for tag, text in self._properties.items() if tag in self._extra and text}

    def _start_response(self) -> None:
        self._href = ""
        self._status = 200
        self._properties: dict[str, str] = {}

    def _start_propstat(self) -> None:
        self._found: dict[str, str] = {}
        self._propstat_status = 200

    def _end_part(self, tag: str, text: str) -> None:
        if tag == "{DAV:}href":
            self._href = self._href or text
        elif tag == "{DAV:}status":
            self._status = _status_of(text)
        elif tag == "{DAV:}propstat":
            if 200 <= self._propstat_status < 300:
                self._properties |= self._found
            elif self._propstat_status != 404:
                # 404 says that the resource has no such property; any other failure says that
                # the server could not tell.
                self._status = self._propstat_status

    def _end_response(self) -> None:
        found = self._properties
        size = found.get("{DAV:}getcontentlength", "")
        is_size = size.isascii() and size.isdigit() and len(size) < 19
        self._items.append(
            DavItem(
                href=self._href,
                status=self._status,
                is_collection=found.get("{DAV:}resourcetype") == "collection",
                size=int(size) if is_size else None,
                mtime_ns=mtime_ns_of_http_date(found.get("{DAV:}getlastmodified")),
                etag=found.get("{DAV:}getetag", ""),
                more=self._more(),
            )
        )


def _status_of(line: str) -> int:
    """The code of `HTTP/1.1 404 Not Found`; 500 where it can't be read."""
    words = line.split(None, 2)
    if len(words) > 1 and words[1].isascii() and words[1].isdigit():
        return int(words[1])
    return 500
