"""The remote's names <-> the kernel's names; pure, and the only place where names are escaped.

Nearly every name is shown as it is, in UTF-8. What the kernel can't carry, or carries only once
in a directory, is spelled with the character `␛` (U+241B, "symbol for escape"):

    ␛empty           the empty name, as in the key `a//b`
    ␛2E  ␛2E.        the names `.` and `..`
    ␛2Emountd        an entry `.mountd` at the root, which mountd keeps for itself
    ␛00  ␛2F         a NUL or a slash inside a name
    ␛uDCFF           a lone surrogate: what a remote's bytes become that are not UTF-8
    ␛␛               a `␛` in the remote's own name
    foo␛file         the file `foo`, where the directory `foo` stands beside it
    long-na␛~0f…9e.jpg   a name whose spelling takes more than 255 bytes: its beginning, 128 bits
                     of the SHA-256 of the full spelling, and the extension if it is a short one

A symbolic link `X` is a file `X.rclonelink` on the remote, as rclone writes it, with the target as
its content; it is shown as `X`. It is a plain file with its own name where that can't be: something
else is called `X` there, `X` is empty, `.`, `..` or itself ends in `.rclonelink`, or the file is
empty or longer than a target can be. So a name that ends in `.rclonelink` is never a link's, and
the name and whether it is a link tell the file (`ShownNames.links`).

Each name is spelled in one way only, and no two entries of a directory are spelled alike, so the
spelling can be read back without having seen the directory. The shortened names are the
exception: `ShownNames.shortened` tells them for each listing.

Objects named `.mountd-probe-*` are mountd's own and not shown at all.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import MappingProxyType

from mountd.errors import NameNotAllowed, NameTooLong
from mountd.types import Entry, Kind

ESCAPE = "␛"
RESERVED = ".mountd"
PROBE_PREFIX = ".mountd-probe-"
NAME_MAX_BYTES = 255

_DIGEST_DIGITS = 32
_EXTENSION_MAX_BYTES = 16
_CHUNK = 4096
_NOTHING: Mapping[bytes, str] = MappingProxyType({})
_SPECIAL = frozenset(("", ".", ".."))
_UNSHOWABLE = re.compile("[\x00/␛\ud800-\udfff]")
_SHORTENED = re.compile(rf"{ESCAPE}~[0-9a-f]{{{_DIGEST_DIGITS}}}(\.[^{ESCAPE}]*)?\Z")
_SPELLED = re.compile(f"{ESCAPE}(?:({ESCAPE})|(00|2E|2F)|u(D[89A-F][0-9A-F]{{2}}))")
_ESCAPE_BYTES = ESCAPE.encode()
_FILE_SUFFIX = ESCAPE + "file"
FILE_SUFFIX = _FILE_SUFFIX.encode()
LINK_SUFFIX = ".rclonelink"
TARGET_MAX_BYTES = 4095
_EMPTY = ESCAPE + "empty"


@dataclass(frozen=True, slots=True)
class ShownNames:
    """A directory as the kernel sees it: `names[i]` is what `entries[i]` is shown as.

    `shortened` has the remote's name of each shown name that was too long; whoever keeps a
    listing keeps that too, and gives it to `raw_name`. `links`: those of `names` that are links.
    """

    entries: Sequence[Entry]
    names: Sequence[bytes]
    shortened: Mapping[bytes, str] = field(default_factory=lambda: _NOTHING)
    links: Set[bytes] = frozenset()

    def __iter__(self) -> Iterator[tuple[Entry, bytes]]:
        return zip(self.entries, self.names, strict=True)


def shown_names(entries: Sequence[Entry], *, at_root: bool = False) -> ShownNames:
    """Names for a whole directory: whether a file needs its suffix, or is a link, depends on its
    siblings.

    The order of `entries` is kept; mountd's own probe objects are left out. Ordinary names are
    checked and encoded 4096 at a time inside C: 0.2 us each where one by one takes 1.4 us.
    """
    directories = {entry.name for entry in entries if entry.kind}
    twice: set[str] = set()
    if directories:
        twice = {e.name for e in entries if not e.kind and e.name in directories}
    shown: list[bytes] = []
    shortened: dict[bytes, str] = {}
    links: Set[str] | None = None  # by the remote's names
    shown_links: set[bytes] = set()
    hidden = False
    for start in range(0, len(entries), _CHUNK):
        chunk = entries[start : start + _CHUNK]
        ordinary = _ordinary(chunk, twice, at_root)
        if ordinary is not None:
            shown += ordinary
            continue
        if links is None:
            links = _links(entries)
        for entry in chunk:
            if entry.name in links and not entry.kind:
                name = _shown_link(entry.name, at_root, shortened)
                shown_links.add(name)
            else:
                beside_directory = not entry.kind and entry.name in twice
                name = _shown(entry.name, beside_directory, at_root, shortened)
            hidden = hidden or _is_probe(entry)
            shown.append(name)
    if hidden:
        kept = [(e, n) for e, n in zip(entries, shown, strict=True) if not _is_probe(e)]
        entries, shown = [e for e, _ in kept], [n for _, n in kept]
    return ShownNames(entries, shown, shortened or _NOTHING, shown_links)


def shown_name(raw: str, *, at_root: bool = False) -> bytes:
    """What a file is shown as where no directory has its name."""
    return shown_names([Entry(raw, Kind.FILE, 0, 0, "")], at_root=at_root).names[0]


def raw_name(
    shown: bytes, shortened: Mapping[bytes, str] = _NOTHING, *, at_root: bool = False
) -> str:
    """The remote's name for what the kernel calls `shown`; the inverse of `shown_names`.

    Raises NameNotAllowed where no remote name is shown like that, and for a shortened name that
    is not in `shortened`.
    """
    return raw_name_and_kind(shown, shortened, at_root=at_root)[0]


def raw_name_and_kind(
    shown: bytes, shortened: Mapping[bytes, str] = _NOTHING, *, at_root: bool = False
) -> tuple[str, Kind | None]:
    """As `raw_name`; Kind.FILE when the name says that it is the file beside a directory."""
    if len(shown) > NAME_MAX_BYTES:
        raise NameTooLong(repr(shown))
    if _ESCAPE_BYTES not in shown:
        if not shown or shown in (b".", b".."):
            raise NameNotAllowed(repr(shown))
        try:
            return shown.decode(), None
        except UnicodeDecodeError as error:
            raise NameNotAllowed(f"{shown!r} is not UTF-8") from error
    found = shortened.get(shown)
    if found is not None:
        return found, None
    if is_shortened(shown):
        raise NameNotAllowed(f"{shown!r} is shortened; only its directory's listing tells it")
    try:
        spelled = shown.decode()
    except UnicodeDecodeError as error:
        raise NameNotAllowed(f"{shown!r} is not UTF-8") from error
    raw, kind = _read_back(spelled)
    if _spelled(raw, kind is Kind.FILE, at_root) != spelled:
        raise NameNotAllowed(f"{shown!r} is no name that mountd shows")
    return raw, kind


def may_be_link(raw: str) -> bool:
    """Whether a file with this name on the remote is a link wherever nothing else has its name."""
    name = raw.removesuffix(LINK_SUFFIX)
    return name != raw and name not in _SPECIAL and not name.endswith(LINK_SUFFIX)


def is_link(raw: str, shown: bytes, *, at_root: bool = False) -> bool:
    """Whether the file that the remote calls `raw` and that is shown as `shown` is a link."""
    return may_be_link(raw) and _shown_link(raw, at_root, {}) == shown


def is_shortened(shown: bytes) -> bool:
    """Whether this is the form of a name that was too long."""
    # Before the mark there may be an even number of escapes, not an odd one: `␛␛~` is a name.
    if _ESCAPE_BYTES not in shown:
        return False
    found = _SHORTENED.search(shown.decode(errors="replace"))
    if found is None:
        return False
    before = found.string[: found.start()]
    return (len(before) - len(before.rstrip(ESCAPE))) % 2 == 0


def _ordinary(entries: Sequence[Entry], twice: set[str], at_root: bool) -> list[bytes] | None:
    """The shown names, if nothing in this chunk needs another spelling, else None."""
    names = [entry.name for entry in entries]
    joined = "/".join(names)
    if (
        "\0" in joined
        or ESCAPE in joined
        or PROBE_PREFIX in joined
        or LINK_SUFFIX in joined
        or (at_root and RESERVED in joined)
        or not _SPECIAL.isdisjoint(names)
        or joined.count("/") != len(names) - 1
        or (twice and not twice.isdisjoint(names))
    ):
        return None
    try:
        shown = joined.encode().split(b"/")
    except UnicodeEncodeError:
        return None
    return shown if max(map(len, shown)) <= NAME_MAX_BYTES else None


def _links(entries: Sequence[Entry]) -> Set[str]:
    """The remote's names of the links."""
    found = {
        entry.name
        for entry in entries
        if not entry.kind and 0 < entry.size <= TARGET_MAX_BYTES and may_be_link(entry.name)
    }
    if found:
        taken = {entry.name for entry in entries}
        found = {raw for raw in found if raw.removesuffix(LINK_SUFFIX) not in taken}
    return found


def _is_probe(entry: Entry) -> bool:
    return not entry.kind and entry.name.startswith(PROBE_PREFIX)


def _shown_link(raw: str, at_root: bool, shortened: dict[bytes, str]) -> bytes:
    beginning: dict[bytes, str] = {}
    shown = _shown(raw.removesuffix(LINK_SUFFIX), False, at_root, beginning)
    if beginning:
        shortened[shown] = raw
    return shown


def _shown(raw: str, beside_directory: bool, at_root: bool, shortened: dict[bytes, str]) -> bytes:
    spelled = _spelled(raw, beside_directory, at_root)
    shown = spelled.encode()
    if len(shown) > NAME_MAX_BYTES:
        shown = _shorten(spelled)
        shortened[shown] = raw
    return shown


def _spelled(raw: str, beside_directory: bool, at_root: bool) -> str:
    spelled = _UNSHOWABLE.sub(_spell_one, raw)
    if not raw:
        spelled = _EMPTY
    elif raw in _SPECIAL or (at_root and raw == RESERVED):
        spelled = f"{ESCAPE}2E{raw[1:]}"
    return spelled + _FILE_SUFFIX if beside_directory else spelled


def _spell_one(match: re.Match[str]) -> str:
    found = match[0]
    if found == ESCAPE:
        return ESCAPE + ESCAPE
    code = ord(found)
    return f"{ESCAPE}{code:02X}" if code < 0x80 else f"{ESCAPE}u{code:04X}"


def _read_back(spelled: str) -> tuple[str, Kind | None]:
    """What `spelled` stands for if it is well-formed; the caller spells it again to see."""
    kind = None
    if spelled.endswith(_FILE_SUFFIX):
        body = spelled.removesuffix(_FILE_SUFFIX)
        # `foo␛␛file` is an escaped `␛` and the letters "file".
        if (len(body) - len(body.rstrip(ESCAPE))) % 2 == 0:
            spelled, kind = body, Kind.FILE
    if spelled == _EMPTY:
        return "", kind
    return _SPELLED.sub(_read_one, spelled), kind


def _read_one(match: re.Match[str]) -> str:
    escape, byte, surrogate = match.groups()
    return ESCAPE if escape else chr(int(byte or surrogate, 16))


def _shorten(spelled: str) -> bytes:
    encoded = spelled.encode()
    digest = hashlib.sha256(encoded).hexdigest()[:_DIGEST_DIGITS]
    _, dot, extension = spelled.rpartition(".")
    tail = f"{dot}{extension}"
    if not dot or ESCAPE in tail or len(tail.encode()) > _EXTENSION_MAX_BYTES:
        tail = ""
    end = f"{ESCAPE}~{digest}{tail}".encode()
    head = encoded[: NAME_MAX_BYTES - len(end)].decode(errors="ignore")
    # A spelling that was cut in the middle goes as a whole: the head must not end in part of one.
    cut = head.rfind(ESCAPE)
    if cut >= 0 and len(head) - cut < len("␛uDCFF"):
        head = head[:cut].rstrip(ESCAPE)
    return head.encode() + end
