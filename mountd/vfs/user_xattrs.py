"""The xattrs that users give their files: `user.*`, but for our own `user.mountd.*`.

They travel as one entry of the object's metadata, `xattr`, in the form of s3fs: JSON of names and
base64 values, percent-encoded, so any byte survives. A file of which nothing is known is asked
about where somebody wants one of its xattrs by name, once for each version; to be listed they have
to be known already, because `ls` asks for the list of each file.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

import trio

from mountd.errors import (
    NoAttribute,
    NoSpace,
    NotPermitted,
    NotPossible,
    Stale,
    TooLarge,
    Unsupported,
)
from mountd.vfs.asking import Asking
from mountd.vfs.attributes import SetAttributes
from mountd.vfs.nodes import Directory, Node
from mountd.vfs.row_attributes import PARTIAL, XATTR, known, known_there
from mountd.vfs.tree import Tree
from mountd_cache.changes import Base, Change, Rows
from mountd_cache.journal import Journal

OURS: Final = b"user.mountd."
_PREFIX: Final = b"user."
# S3 takes 2 KiB of metadata in all; half a KiB is for names, mode, owner, time and upload id.
MAX_ENCODED: Final = 1536
_NAME_MAX_BYTES: Final = 255
_TRIES: Final = 3  # our own upload may land while the version before it is asked about


def is_users(name: bytes) -> bool:
    return name.startswith(_PREFIX) and not name.startswith(OURS)


def encoded(xattrs: Mapping[bytes, bytes]) -> str:
    """ "" for none."""
    return _joined({_text(name): _value(value) for name, value in xattrs.items()})


def decoded(text: str) -> dict[bytes, bytes]:
    """Those that can be told. Untrusted: what can't be read is left out."""
    xattrs: dict[bytes, bytes] = {}
    for name, value in (_entries(text) or {}).items():
        try:
            raw = name.encode("utf-8", "surrogateescape")
            data = base64.b64decode(value, validate=True)
        except (ValueError, TypeError, binascii.Error):
            continue
        if is_users(raw) and b"\0" not in raw and len(raw) <= _NAME_MAX_BYTES:
            xattrs[raw] = data
    return xattrs


def edited(text: str, name: bytes, value: bytes | None) -> str:
    """With another value of that one, None for without it. What else is there stays as it is: s3fs
    keeps other namespaces in the same entry. Unsupported where it is something else altogether."""
    entries = _entries(text)
    if entries is None:
        raise Unsupported(f"{name!r}: the object's metadata have something else there")
    others = {other: theirs for other, theirs in entries.items() if other != _text(name)}
    return _joined(others if value is None else {**others, _text(name): _value(value)})


def _entries(text: str) -> dict[str, Any] | None:
    """Anybody's, as they are written; None where that can't be read."""
    if not text:
        return {}
    try:
        found = json.loads(unquote_to_bytes(text).decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _joined(entries: Mapping[str, Any]) -> str:
    if not entries:
        return ""
    texts = dict(sorted(entries.items()))
    whole = json.dumps(texts, ensure_ascii=False, separators=(",", ":"))
    try:
        raw = whole.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise Unsupported("the object's metadata have names that are no text") from error
    return quote(raw, safe="-_.~")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _value(value: bytes) -> str:
    return base64.b64encode(value).decode()


class UserXattrs:
    """Of inodes that the kernel holds. Raises Stale where a file has no name any more, Unsupported
    where the remote has no place for them, and what the remote raises where it has to be asked;
    cancelled, nothing is changed."""

    def __init__(
        self, tree: Tree, journal: Journal, asking: Asking, attributes: SetAttributes
    ) -> None:
        self._tree = tree
        self._ledger = tree.ledger
        self._journal = journal
        self._asking = asking
        self._attributes = attributes

    def names(self, number: int) -> list[bytes]:
        """Those that are known without asking."""
        node = self._tree.node(number)
        if isinstance(node, Directory):
            return []
        return list(decoded(self._now(node).get(XATTR, "")))

    async def get(self, number: int, name: bytes) -> bytes:
        """NoAttribute where there is none."""
        node = self._tree.node(number)
        if isinstance(node, Directory) or not self._tree.known.keeps_xattrs:
            raise NoAttribute(name)
        found = decoded(await self._known(node)).get(name)
        if found is None:
            raise NoAttribute(name)
        return found

    async def set(self, number: int, name: bytes, value: bytes) -> None:
        """TooLarge where it could never fit, NoSpace where it doesn't beside the others."""
        node = self._checked(number)
        if len(encoded({name: value})) > MAX_ENCODED:
            raise TooLarge(f"{name!r}: an object's metadata have no room for {len(value)} bytes")
        self._attributes.is_shown(node)
        text = edited(await self._known(node), name, value)
        if len(text) > MAX_ENCODED:
            raise NoSpace(f"{name!r}: the object's metadata are full")
        self._attributes.set_xattrs(node, text)

    async def remove(self, number: int, name: bytes) -> None:
        """NoAttribute where there is none."""
        node = self._checked(number)
        self._attributes.is_shown(node)
        text = await self._known(node)
        if name not in decoded(text):
            raise NoAttribute(name)
        self._attributes.set_xattrs(node, edited(text, name, None))

    def _checked(self, number: int) -> Node:
        node = self._tree.node(number)
        if isinstance(node, Directory):
            raise Unsupported("a directory's xattrs have no place on the remote")
        if not self._tree.known.keeps_xattrs:
            raise Unsupported("this remote has no place for xattrs")
        return node

    def _now(self, node: Node) -> Mapping[str, str]:
        """As a change carries them. Raises Stale."""
        change = self._ledger.by_number.get(node.number)
        if change is not None:
            return change.attributes
        if node.is_nameless:
            raise Stale(f"inode {node.number} has no name any more")
        cached, row = self._tree.locate(node)
        return self._tree.known.carried(cached.listing.row(row))

    async def _known(self, node: Node) -> str:
        """As the metadata has them. What holds when this returns: whoever goes on without an await
        changes exactly that."""
        for _ in range(_TRIES):
            attributes = self._now(node)
            if XATTR in attributes or PARTIAL not in attributes:
                return attributes.get(XATTR, "")
            change = self._ledger.by_number.get(node.number)
            if change is None:
                await self._asking.inode(node)
            else:
                await self._ask_for(change)
        raise Stale(f"inode {node.number} becomes another version all the time")

    async def _ask_for(self, change: Change) -> None:
        """What the version that a change is made from has, into the change."""
        content = self._ledger.content_of(change)
        base = (content.base if content is not None else None) or change.base
        base = base or Base(change.key, change.expect, change.size)
        with trio.move_on_after(self._tree.wait_s) as scope:
            entry = await self._asking.stat(base.key)
        if scope.cancelled_caught:
            raise TimeoutError(f"asking about {base.key!r}: no answer in {self._tree.wait_s:g} s")
        if entry.version != base.version or self._ledger.changes.get(change.key) is not change:
            return
        attributes = {**known_there(entry.attributes or {}), **known(change.attributes)}
        self._journal.commit(Rows(changes=(replace(change, attributes=attributes),)))


def check_name(name: bytes) -> None:
    """Raises NotPermitted for what is the mount's own, Unsupported for other namespaces,
    NotPossible for no name."""
    if name.startswith(OURS):
        raise NotPermitted(f"{name!r} says what the mount does")
    if not name.startswith(_PREFIX):
        raise Unsupported(f"{name!r}: only user.* is kept")
    if name == _PREFIX:
        raise NotPossible("an attribute without a name")
