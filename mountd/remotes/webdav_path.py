"""Keys as percent-encoded request targets, and hrefs as names. Pure.

Bytes that are no UTF-8 travel as surrogates, as everywhere in Python's file system functions, so
that a Latin-1 name on a server is still readable under the name that was listed.
"""

import unicodedata
from urllib.parse import quote, unquote_to_bytes

from mountd.errors import NotFound

_CAN_BE_NO_SEGMENT = frozenset(("", ".", ".."))


def target_of(base: str, key: str) -> str:
    """The path to ask for: `base` (encoded, no slash at its end) and the encoded key.

    A key with an empty or dot segment can't exist on WebDAV: servers resolve those, so that the
    request would reach another file. It is NotFound, as is one with a NUL.
    """
    segments = key.removesuffix("/").split("/") if key else []
    if not _CAN_BE_NO_SEGMENT.isdisjoint(segments) or "\0" in key:
        raise NotFound(f"{key!r} can't be a name on WebDAV")
    return f"{base}/{encode_path(key)}"


def encode_path(path: str) -> str:
    """Percent-encodes all but letters, digits, `-._~` and slashes."""
    return quote(path.encode("utf-8", "surrogateescape"), safe="/")


def decode(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")


class Collection:
    """Tells what the hrefs in an answer about `target` stand for.

    The host of an absolute href is not looked at: reverse proxies get it wrong, and no href is
    ever requested; only its last segment is used.
    """

    def __init__(self, target: str) -> None:
        self._prefix = target if target.endswith("/") else target + "/"
        self._segments = _comparable(self._prefix)

    def name_of(self, href: str) -> str | None:
        """The child's name, "" for the collection itself, None for what lies elsewhere."""
        path = _path_of(href)
        rest: str | None
        if path.startswith(self._prefix):
            rest = path[len(self._prefix) :].removesuffix("/")
        else:
            rest = self._rest_after_decoding(path)
        if rest is None or "/" in rest:
            return None
        name = decode(rest)
        if "/" in name or "\0" in name or name in (".", ".."):
            return None
        return name

    def _rest_after_decoding(self, path: str) -> str | None:
        """For servers that encode other characters than we do, or normalise the name to NFC."""
        raw = path.removesuffix("/").split("/")
        depth = len(self._segments)
        if _comparable("/".join(raw[:depth]) + "/") != self._segments:
            return None
        return "/".join(raw[depth:])


def _path_of(href: str) -> str:
    if href.startswith("/"):
        return href
    _, found, rest = href.partition("://")
    return rest[rest.find("/") :] if found and "/" in rest else ""


def _comparable(path: str) -> list[str]:
    return [unicodedata.normalize("NFC", decode(part)) for part in path.split("/")[:-1]]
