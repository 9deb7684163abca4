"""A `Body` of bytes that are there already."""

from collections.abc import Callable
from dataclasses import dataclass, field


def _nothing(start: int, end: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class BytesBody:
    """`before_read(start, end)` is called before each read and may raise or wait. Any thread."""

    data: bytes
    before_read: Callable[[int, int], object] = field(default=_nothing)

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, start: int, end: int) -> bytes:
        assert 0 <= start <= end <= len(self.data), (start, end)
        self.before_read(start, end)
        return self.data[start:end]
