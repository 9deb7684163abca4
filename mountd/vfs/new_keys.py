"""Where something new goes on the remote: the key for a name that a user has chosen.

A name is refused where a listing would show what is made under another one.
"""

from collections.abc import Callable
from typing import Protocol

from mountd.errors import Exists, NameTooLong, NotPermitted, NotPossible
from mountd.types import Kind
from mountd.vfs.names import (
    FILE_SUFFIX,
    LINK_SUFFIX,
    NAME_MAX_BYTES,
    PROBE_PREFIX,
    RESERVED,
    may_be_link,
    raw_name_and_kind,
    shown_name,
)
from mountd.vfs.nodes import Directory


class Seen(Protocol):
    """What the user sees under a name."""

    @property
    def key(self) -> str: ...

    @property
    def is_directory(self) -> bool: ...


Find = Callable[[bytes], Seen | None]


def key_of_directory(parent: Directory, name: bytes, find: Find) -> str:
    """Raises NameNotAllowed, NotPermitted, NotPossible, and Exists where a link's file has the
    name: most remotes have one thing of a name."""
    raw, kind = _raw(parent, name)
    if kind is Kind.FILE:
        raise NotPossible(name)
    if may_be_link(raw):
        link = find(shown_name(raw.removesuffix(LINK_SUFFIX), at_root=not parent.key))
        if link is not None and link.key == parent.key + raw:
            raise Exists(name)
    return parent.key + raw + "/"


def key_of_file(parent: Directory, name: bytes, find: Find) -> str:
    """Raises as `key_of_directory`, and Exists where the file has another name now: one whose
    spelling says that there is a directory beside it, or that there is none."""
    raw, kind = _raw(parent, name)
    key = parent.key + raw
    if may_be_link(raw):
        raise NotPossible(f"{name!r}: the remote has links under such names")
    if raw.startswith(PROBE_PREFIX):
        raise NotPossible(name)  # nobody would see it again
    if kind is Kind.FILE:
        beside = find(name.removesuffix(FILE_SUFFIX))
        if beside is None or not beside.is_directory:
            raise NotPossible(name)
        return key
    other = find(name + FILE_SUFFIX)
    if other is not None and other.key == key:
        raise Exists(name)
    return key


def key_of_link(parent: Directory, name: bytes, find: Find) -> str:
    """Raises as `key_of_file`, and NameTooLong."""
    raw, kind = _raw(parent, name)
    linked = raw + LINK_SUFFIX
    key = parent.key + linked
    if kind is Kind.FILE or not may_be_link(linked) or raw.startswith(PROBE_PREFIX):
        raise NotPossible(name)
    if len(linked.encode("utf-8", "surrogatepass")) > NAME_MAX_BYTES:
        raise NameTooLong(f"{name!r}: a link's name is longer on the remote")
    # What is there as a plain file or a directory, and what would get in the link's way at the next
    # LIST.
    plain = shown_name(linked, at_root=not parent.key)
    for beside in (plain, plain + FILE_SUFFIX, name + FILE_SUFFIX):
        other = find(beside)
        if other is not None and other.key.removesuffix("/") in (key, parent.key + raw):
            raise Exists(name)
    return key


def _raw(parent: Directory, name: bytes) -> tuple[str, Kind | None]:
    """The remote's name. Raises NameNotAllowed, NotPermitted."""
    if not parent.key and name == RESERVED.encode():
        raise NotPermitted(name)
    return raw_name_and_kind(name, at_root=not parent.key)
