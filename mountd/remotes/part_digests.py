"""A checksum of an object's parts' checksums, as of a file that lies here (S3's "composite").

Its name among the sums says how the parts were cut: `sha256-parts-8388608`, or one size for each.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

_MAKERS: Final[dict[str, Callable[[], Any]]] = {
    "sha256": hashlib.sha256,
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
}
_NAME: Final = re.compile(r"(sha256|sha1)-parts-([0-9]+(?:,[0-9]+)*)", re.ASCII)


class PartDigest:
    """As a hashlib object, over what has these sizes one after the other."""

    def __init__(self, make: Callable[[], Any], sizes: Sequence[int]) -> None:
        self._make = make
        self._of_all = make()
        self._sizes = iter(sizes)
        self._left = next(self._sizes, 0)
        self._of_part = make()

    def update(self, data: bytes, /) -> None:
        view = memoryview(data)
        while view:
            while not self._left:
                self._end_part()
                self._left = next(self._sizes, len(view))
            piece = view[: self._left]
            self._of_part.update(piece)
            self._left -= len(piece)
            view = view[len(piece) :]

    def hexdigest(self) -> str:
        """Once, at the end."""
        self._end_part()
        for _ in self._sizes:
            self._end_part()
        return str(self._of_all.hexdigest())

    def _end_part(self) -> None:
        self._of_all.update(self._of_part.digest())
        self._of_part = self._make()


def named(kind: str, sizes: Sequence[int]) -> str:
    """The name of a sum of parts of these sizes; `kind`: sha256 or sha1."""
    first = sizes[0]
    is_even = all(size == first for size in sizes[:-1]) and 0 < sizes[-1] <= first
    return f"{kind}-parts-{first if is_even else ','.join(map(str, sizes))}"


def is_of_parts(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def in_words(name: str) -> str:
    """A name of any sum, for people."""
    found = _NAME.fullmatch(name)
    return f"{found[1].upper()} of parts" if found else name.upper()


def made_by(name: str, size: int) -> PartDigest:
    """For a file of `size` bytes."""
    found = _NAME.fullmatch(name)
    assert found is not None
    sizes = [int(each) for each in found[2].split(",")]
    if len(sizes) == 1 and 0 < sizes[0] < size:
        rest = size % sizes[0]
        sizes = list(chain(sizes * (size // sizes[0]), [rest] if rest else []))
    return PartDigest(_MAKERS[found[1]], sizes)
