"""Symbolic links on their way: a link here is a small file with the target in it on a remote."""

import os

from mountd.errors import Corrupt
from mountd.transfer.items import Item
from mountd.transfer.side import Side


def read_target(side: Side, item: Item) -> bytes:
    """Where the link `item` leads. It is never followed. Raises RemoteError, OSError."""
    if side.root is not None:
        return os.fsencode(os.readlink(os.path.join(side.root, item.path)))
    target = bytes(side.store.read(item.key, 0, item.size, item.version))
    if not target or b"\0" in target:
        raise Corrupt(f"{item.key} does not hold the target of a link")
    return target
