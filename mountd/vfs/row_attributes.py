"""What a file has beside its bytes, as a listing's row keeps it, as a change carries it, and as
stat(2) shows it; pure.

A row's text is "" where nothing is known, else JSON. `PARTIAL` marks what was taken from a row of
which the remote may know more than we do: whoever writes the file anew has to ask first.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

PARTIAL: Final = "partial"
MTIME: Final = "mtime"
XATTR: Final = "xattr"
DENIED: Final = "denied"
_NONE: Final[Mapping[str, str]] = MappingProxyType({})
# As the mark: whether the mtime is only the listing's, too, when the object arrived.
MTIME_TOO: Final = "mtime"
BUT_MTIME: Final = "1"
_UNKNOWN: Final[Mapping[str, str]] = MappingProxyType({PARTIAL: MTIME_TOO})
_MAX_ID: Final = (1 << 32) - 2  # (uid_t) -1 says "leave it as it is"


class Shown(NamedTuple):
    """What stat(2) needs; None where the mount's own hold. `mode`: with the type's bits, if any.
    `is_read_only`: the remote takes no change of it (rights.py)."""

    mode: int | None
    uid: int | None
    gid: int | None
    is_read_only: bool = False


UNKNOWN: Final = Shown(None, None, None)


class Told(NamedTuple):
    """What the remote told of a row that has none of it: its text, and its mtime, if any."""

    text: str
    mtime_ns: int | None


def packed(attributes: Mapping[str, str] | None) -> str:
    """A row's text."""
    if attributes is None or attributes == _UNKNOWN:
        return ""
    if not attributes:
        return "{}"
    return json.dumps(dict(sorted(attributes.items())), separators=(",", ":"))


@lru_cache(maxsize=4096)  # most files of a mount have the same few
def unpacked(text: str) -> Mapping[str, str]:
    """As a change carries it."""
    if not text:
        return _UNKNOWN
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return _UNKNOWN
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        return _UNKNOWN
    return MappingProxyType(found) if found else _NONE


@lru_cache(maxsize=4096)
def carried(text: str) -> Mapping[str, str]:
    """As `unpacked`, without what is the remote's to say and not the file's."""
    found = unpacked(text)
    if DENIED not in found:
        return found
    return MappingProxyType({name: found[name] for name in found if name != DENIED})


@lru_cache(maxsize=256)
def denied_in(text: str) -> frozenset[str]:
    """The letters of `Entry.attributes`."""
    return frozenset(unpacked(text).get(DENIED, "")) if text else frozenset()


def with_denied(text: str, other: str) -> str:
    """A row's text with what the remote denies according to another row's."""
    denied = unpacked(other).get(DENIED) if other else None
    if not denied:
        return text
    return packed({**(unpacked(text) if text else {}), DENIED: denied})


def known(attributes: Mapping[str, str]) -> dict[str, str]:
    """Without the mark."""
    return {name: value for name, value in attributes.items() if name != PARTIAL}


def known_there(attributes: Mapping[str, str]) -> dict[str, str]:
    """What a remote told, as a change carries it: an mtime has its own place, and what is empty was
    to be taken away."""
    return {name: value for name, value in attributes.items() if value and name != MTIME}


def is_partial(text: str) -> bool:
    """Whether the remote may know more than this row."""
    return not text or PARTIAL in unpacked(text)


@lru_cache(maxsize=4096)
def shown_in(text: str) -> Shown:
    """Of a row."""
    return shown(unpacked(text))


def shown(attributes: Mapping[str, str]) -> Shown:
    """What doesn't make sense is left out: a remote's metadata is anybody's."""
    if not attributes:
        return UNKNOWN
    return Shown(
        _number(attributes.get("mode"), 0o177777),
        _number(attributes.get("uid"), _MAX_ID),
        _number(attributes.get("gid"), _MAX_ID),
        _is_read_only(attributes.get(DENIED, "")),
    )


def _is_read_only(denied: str) -> bool:
    """Of a file its bytes; of a directory both kinds of names in it."""
    return "w" in denied or ("c" in denied and "k" in denied)


def mtime_ns_in(text: str) -> int | None:
    """Of seconds with a fraction of nine digits, as `Entry.attributes` has them."""
    seconds, _, fraction = text.partition(".")
    digits = seconds.removeprefix("-")
    if len(fraction) != 9 or len(digits) > 10 or not (digits + fraction).isascii():
        return None
    if not digits.isdigit() or not fraction.isdigit():
        return None
    mtime_ns = int(digits) * 1_000_000_000 + int(fraction)
    mtime_ns = min(mtime_ns, (1 << 63) - 1)
    return -mtime_ns if seconds.startswith("-") else mtime_ns


def _number(text: str | None, most: int) -> int | None:
    if not text or not text.isascii() or not text.isdigit() or len(text) > 10:
        return None
    number = int(text)
    return number if number <= most else None
