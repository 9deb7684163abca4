"""Whether two files have the same bytes, by whatever checksums their remotes tell."""

import hashlib
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Final, Protocol

import crc32c

from mountd.errors import RemoteError
from mountd.remotes.local_tree import version_of
from mountd.remotes.optional_doors import checksums_in
from mountd.remotes.part_digests import in_words, is_of_parts, made_by
from mountd.transfer.items import Item
from mountd.transfer.links import read_target
from mountd.transfer.plan import Copy, has_same_time
from mountd.transfer.side import Side, time_of

Sums = Mapping[str, str]  # in hex, by the names of SUMS, or of part_digests.py

_PIECE_BYTES: Final = 8 << 20
_MD5: Final = re.compile(r'"?([0-9a-f]{32})"?', re.ASCII)
# They tell what is broken, but of two versions of a file one in four billion has the same.
_WEAK: Final = frozenset(("crc32", "crc32c"))


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Crc:
    def __init__(self, add: Callable[[bytes, int], int], digits: int = 8) -> None:
        self._add = add
        self._digits = digits
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = self._add(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:0{self._digits}x}"


def _crc64nvme() -> _Digest:
    import anycrc

    return _Crc(anycrc.Model("CRC64-NVME").calc, 16)


# The quickest first.
_MAKERS: Final[Mapping[str, Callable[[], _Digest]]] = {
    **({"crc64nvme": _crc64nvme} if find_spec("anycrc") else {}),  # with the extra s3
    "crc32c": lambda: _Crc(crc32c.crc32c),
    "crc32": lambda: _Crc(zlib.crc32),
    "sha256": hashlib.sha256,  # half the time of an MD5 where the processor helps
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "md5": lambda: hashlib.md5(usedforsecurity=False),
}
SUMS: Final = tuple(_MAKERS)


def added_up(fd: int, size: int, names: Iterable[str]) -> dict[str, str]:
    """Of the first `size` bytes; of fewer where there are no more."""
    digests = {name: _made(name, size) for name in names}
    for piece in _pieces(fd, size):
        for digest in digests.values():
            digest.update(piece)
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _made(name: str, size: int) -> _Digest:
    return made_by(name, size) if is_of_parts(name) else _MAKERS[name]()


def sums_of(side: Side, item: Item) -> dict[str, str]:
    """CRC32C and MD5 of a local file that is still the version that was listed. Raises OSError."""
    with _opened(side, item) as fd:
        found = added_up(fd, item.size, ("crc32c", "md5"))
        if version_of(os.fstat(fd)) != item.version:
            raise OSError(f"{item.path} changed while it was read")
    return found


def told_sums(side: Side, item: Item) -> Sums:
    """What the remote tells of this version; nothing where it tells none, or has another."""
    found = checksums_in(side.store, item.key)
    if found.entry.version != item.version:
        return {}
    return _known(found.sums, found.md5)


def one_of(told: Sums, *, is_strong: bool = False) -> str:
    """The name of the quickest that is told; "" for none. `is_strong`: no CRC of 32 bits."""
    names = (*SUMS, *filter(is_of_parts, told))
    return next((n for n in names if n in told and not (is_strong and n in _WEAK)), "")


def sum_here(side: Side, item: Item, name: str) -> str:
    """That of a local file. Raises OSError."""
    with _opened(side, item) as fd:
        return added_up(fd, item.size, [name])[name]


def difference(one: Sums, other: Sums) -> str | None:
    """In words, how they differ; "" where what both tell agrees; None where they tell nothing
    that can be compared."""
    names = [name for name in (*SUMS, *filter(is_of_parts, one)) if name in one and name in other]
    for name in names:
        if one[name] != other[name]:
            return f"its {in_words(name)} is {one[name]}, and {other[name]}"
    return "" if names else None


def is_same(copy: Copy, source: Side, target: Side, *, verify: bool) -> bool | None:
    """Whether the target has the bytes already; sizes are equal. None where `verify` wants a
    checksum and a side tells none, though all else agrees. Raises RemoteError, OSError."""
    there = copy.there
    assert there is not None
    item = copy.item
    if item.is_link:
        return read_target(source, item) == read_target(target, there)
    if _tag_proves(source, item, target, there):
        return True
    (one, one_ns), (other, other_ns) = _told_both(source, item, target, there)
    differs = difference(one, other)
    if differs:
        return False
    if any(name not in _WEAK and name in other for name in one):
        return True
    timed = Copy(replace(item, mtime_ns=one_ns), replace(there, mtime_ns=other_ns), copy.is_edited)
    agree = has_same_time(timed, coarse=False)
    return agree if differs is not None or not verify or not agree else None


def _tag_proves(source: Side, item: Item, target: Side, there: Item) -> bool:
    """An ETag that equals the MD5 of the local file proves it without a request."""
    if source.is_local == target.is_local:
        return False
    local, remote = ((source, item), there) if source.is_local else ((target, there), item)
    tag = md5_in(remote.version)
    return bool(tag) and sum_here(*local, "md5") == tag


def _told_both(
    source: Side, item: Item, target: Side, there: Item
) -> tuple[tuple[Sums, int], tuple[Sums, int]]:
    """What is told of each, with its time. A local file is read for what the other side tells."""
    one = ({}, item.mtime_ns) if source.is_local else _told(source, item)
    other = ({}, there.mtime_ns) if target.is_local else _told(target, there)
    if source.is_local and target.is_local:
        names = ["md5"]
    else:
        names = _wanted(other[0] if source.is_local else one[0])
    if source.is_local and names:
        one = _sums_here(source, item, names), item.mtime_ns
    if target.is_local and names:
        other = _sums_here(target, there, names), there.mtime_ns
    return one, other


def _wanted(told: Sums) -> list[str]:
    """One that proves it, else one that may disprove it."""
    return [one_of(told, is_strong=True) or one_of(told)] if told else []


def _sums_here(side: Side, item: Item, names: Iterable[str]) -> Sums:
    with _opened(side, item) as fd:
        return added_up(fd, item.size, names)


def _told(side: Side, item: Item) -> tuple[Sums, int]:
    try:
        found = checksums_in(side.store, item.key)
    except RemoteError:
        return {}, 0
    return _known(found.sums, found.md5), time_of(found.entry)


def _known(sums: Sums, md5: str) -> Sums:
    found = {n: value for n, value in sums.items() if value and (n in _MAKERS or is_of_parts(n))}
    return found | ({"md5": md5} if md5 else {})


def md5_in(version: str) -> str:
    """The MD5 that a version may be; "" where it has another form."""
    found = _MD5.fullmatch(version)
    return found[1] if found else ""


def _pieces(fd: int, size: int) -> Iterator[bytes]:
    start = 0
    while start < size:
        piece = os.pread(fd, min(_PIECE_BYTES, size - start), start)
        if not piece:
            break
        yield piece
        start += len(piece)


@contextmanager
def _opened(side: Side, item: Item) -> Iterator[int]:
    assert side.root is not None
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(os.path.join(side.root, item.path), flags)
    try:
        yield fd
    finally:
        os.close(fd)
