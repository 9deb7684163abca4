"""Numbers, times and pages as remotes tell them, kept to what everything behind can hold. Pure."""

from typing import Final

from mountd.errors import Corrupt

# Of one directory; a listing without end must not fill the memory.
MAX_ENTRIES: Final = 10_000_000
_MAX_EMPTY_PAGES: Final = 10_000  # in a row; a remote may look through much that it doesn't show
_MAX_TIME_NS: Final = (1 << 63) - 1  # the kernel's, and the metadata cache's
_SIZE_DIGITS: Final = 18
_MAX_TAG: Final = 1024


def size_in(text: str) -> int:
    """A number of bytes. ValueError for anything but up to 18 ASCII digits: int() also takes signs,
    spaces, underscores and the digits of other scripts."""
    if not (text.isascii() and text.isdigit() and len(text) <= _SIZE_DIGITS):
        raise ValueError(f"{text[:40]!r} is no size")
    return int(text)


def time_in(time_ns: int) -> int:
    """0, which is "unknown", for a time that 64 bits of nanoseconds can't hold (1677 to 2262)."""
    return time_ns if abs(time_ns) <= _MAX_TIME_NS else 0


def can_be_a_tag(text: str) -> bool:
    """Whether it can go back in a header: h11 refuses control characters there, httpcore what is
    not ASCII, and obstore 0.12 panics, which no `except Exception` catches."""
    is_plain = text.isascii() and text.isprintable() and text == text.strip()
    return is_plain and 0 < len(text) <= _MAX_TAG


class Advance:
    """Watches a listing that comes page by page, so that it ends. One for each listing."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._seen: set[int] = set()  # hashes: a token may be long, and there may be many
        self._empty = 0
        self._entries = 0

    def page(self, entries: int, token: str) -> None:
        """A page had so many entries and leads on by `token`. Corrupt where that was the way
        already, or where nothing comes for thousands of pages."""
        self._entries += entries
        self._empty = 0 if entries else self._empty + 1
        if not token:
            return
        number = hash(token)
        if number in self._seen or self._empty >= _MAX_EMPTY_PAGES:
            raise Corrupt(f"the listing of {self._what} does not advance")
        self._seen.add(number)

    def bound(self) -> None:
        """Corrupt where more has come than one directory can have."""
        if self._entries > MAX_ENTRIES:
            raise Corrupt(f"{self._what}: over {MAX_ENTRIES} entries in one directory")
