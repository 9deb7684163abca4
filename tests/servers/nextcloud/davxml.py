"""Multi-status documents out, PROPFIND and PROPPATCH documents in."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote
from xml.etree import ElementTree

from tests.servers.nextcloud.refusals import refused
from tests.servers.s3.message import Response

NAMESPACES = {
    "DAV:": "d",
    "http://sabredav.org/ns": "s",
    "http://owncloud.org/ns": "oc",
    "http://nextcloud.org/ns": "nc",
}
_ROOT = "".join(f' xmlns:{prefix}="{uri}"' for uri, prefix in NAMESPACES.items())
_ENCODED = re.compile("%[0-9A-F]{2}")
# What SabreDAV gives for an empty body or <d:allprop/>.
ALL_PROPERTIES = (
    *("d:getlastmodified", "d:getcontentlength", "d:resourcetype", "d:quota-used-bytes"),
    *("d:quota-available-bytes", "d:getetag", "d:getcontenttype"),
)


@lru_cache(maxsize=65536)
def encoded(path: str) -> str:
    """As SabreDAV writes hrefs: lower-case hexadecimal digits, brackets and tildes left alone."""
    return _ENCODED.sub(lambda found: found.group().lower(), quote(path, safe="/()~"))


@lru_cache(maxsize=256)
def asked_properties(body: bytes) -> tuple[str, ...]:
    """The prefixed names that a PROPFIND asks for. Raises 400."""
    if not body.strip():
        return ALL_PROPERTIES
    root = _parsed(body)
    if root.tag != "{DAV:}propfind":
        raise refused(400, "no propfind")
    wanted = root.find("{DAV:}prop")
    if wanted is None:
        return ALL_PROPERTIES
    return tuple(prefixed(each.tag) for each in wanted)


@dataclass(frozen=True, slots=True)
class Patch:
    """`set` by prefixed name, and the names to remove."""

    set: dict[str, str]
    removed: tuple[str, ...]


def asked_changes(body: bytes) -> Patch:
    root = _parsed(body)
    changes = {
        prefixed(each.tag): (each.text or "").strip()
        for prop in root.iterfind("{DAV:}set/{DAV:}prop")
        for each in prop
    }
    removed = [prefixed(each.tag) for each in root.iterfind("{DAV:}remove/{DAV:}prop/*")]
    return Patch(changes, tuple(removed))


def _parsed(body: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise refused(400, f"XML: {error}") from error


@lru_cache(maxsize=1024)
def prefixed(tag: str) -> str:
    """`{DAV:}getetag` -> `d:getetag`; a namespace that isn't known stays in braces."""
    uri, _, name = tag.removeprefix("{").rpartition("}")
    return f"{NAMESPACES[uri]}:{name}" if uri in NAMESPACES else tag


def empty_element(name: str) -> str:
    if name.startswith("{"):
        uri, _, local = name[1:].partition("}")
        return f'<x1:{local} xmlns:x1="{uri}"/>'
    return f"<{name}/>"


def entry(href: str, found: str, missing: Iterable[str]) -> str:
    """One d:response; `found` is XML, `missing` are the names for a 404."""
    text = f"<d:response><d:href>{href}</d:href>"
    if found:
        text += (
            f"<d:propstat><d:prop>{found}</d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat>"
        )
    absent = "".join(map(empty_element, missing))
    if absent:
        text += (
            f"<d:propstat><d:prop>{absent}</d:prop>"
            "<d:status>HTTP/1.1 404 Not Found</d:status></d:propstat>"
        )
    return text + "</d:response>"


def multistatus(entries: Iterable[str]) -> Response:
    text = f'<?xml version="1.0"?>\n<d:multistatus{_ROOT}>{"".join(entries)}</d:multistatus>'
    headers = {
        "Content-Type": "application/xml; charset=utf-8",
        "DAV": "1, 3, extended-mkcol",
        "Vary": "Brief,Prefer",
    }
    return Response(207, headers, text.encode("utf-8", "surrogateescape"))
