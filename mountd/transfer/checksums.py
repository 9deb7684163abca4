"""Whether two files have the same bytes, by MD5: the only sum that most remotes tell."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import crc32c

from mountd.errors import RemoteError
from mountd.remotes.local_tree import version_of
from mountd.transfer.items import Item
from mountd.transfer.links import read_target
from mountd.transfer.plan import Copy, has_same_time
from mountd.transfer.side import Side, time_of

_PIECE_BYTES: Final = 8 << 20
_MD5: Final = re.compile(r'"?([0-9a-f]{32})"?', re.ASCII)


def md5_of_file(fd: int, size: int) -> str:
    """Of the first `size` bytes, in hex; of fewer where there are no more."""
    found = hashlib.md5(usedforsecurity=False)
    for piece in _pieces(fd, size):
        found.update(piece)
    return found.hexdigest()


def _pieces(fd: int, size: int) -> Iterator[bytes]:
    start = 0
    while start < size:
        piece = os.pread(fd, min(_PIECE_BYTES, size - start), start)
        if not piece:
            break
        yield piece
        start += len(piece)


def sums_of(side: Side, item: Item) -> dict[str, str]:
    """CRC32C and MD5 of a local file that is still the version that was listed. Raises OSError."""
    with _opened(side, item) as fd:
        md5 = hashlib.md5(usedforsecurity=False)
        crc = 0
        for piece in _pieces(fd, item.size):
            md5.update(piece)
            crc = crc32c.crc32c(piece, crc)
        if version_of(os.fstat(fd)) != item.version:
            raise OSError(f"{item.path} changed while it was read")
    return {"crc32c": f"{crc:08x}", "md5": md5.hexdigest()}


def remote_md5(side: Side, item: Item) -> str:
    """Of what the side has; "" where it doesn't tell. A local file is read."""
    if side.root is not None:
        return _local_md5(side, item)
    found = side.store.identify(item.key)
    return found.md5 if found.entry.version == item.version else ""


def is_same(copy: Copy, source: Side, target: Side, *, verify: bool) -> bool | None:
    """Whether the target has the bytes already; sizes are equal. None where `verify` wants a
    checksum and a side tells none, though all else agrees. Raises RemoteError, OSError."""
    there = copy.there
    assert there is not None
    item = copy.item
    if item.is_link:
        return read_target(source, item) == read_target(target, there)
    sides = ((source, item), (target, there))
    # An ETag that equals the MD5 of the local file proves it without a request.
    tags = [md5_in(one.version) for side, one in sides if not side.is_local]
    sums = [_local_md5(side, one) for side, one in sides if side.is_local]
    if len(sums) == 1 and sums == tags:
        return True
    one, other = (_told(side, one) for side, one in sides)
    if one[0] and other[0]:
        return one[0] == other[0]
    timed = Copy(replace(item, mtime_ns=one[1]), replace(there, mtime_ns=other[1]), copy.is_edited)
    agree = has_same_time(timed, coarse=False)
    return agree if not verify or not agree else None


def _told(side: Side, item: Item) -> tuple[str, int]:
    if side.root is not None:
        return _local_md5(side, item), item.mtime_ns
    try:
        found = side.store.identify(item.key)
    except RemoteError:
        return "", 0
    return found.md5, time_of(found.entry)


def _local_md5(side: Side, item: Item) -> str:
    with _opened(side, item) as fd:
        return md5_of_file(fd, item.size)


@contextmanager
def _opened(side: Side, item: Item) -> Iterator[int]:
    assert side.root is not None
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(os.path.join(side.root, item.path), flags)
    try:
        yield fd
    finally:
        os.close(fd)


def md5_in(version: str) -> str:
    """The MD5 that a version may be; "" where it has another form."""
    found = _MD5.fullmatch(version)
    return found[1] if found else ""
