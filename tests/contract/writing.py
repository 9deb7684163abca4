"""What the write tests of the suite share."""

from mountd.remotes.base import ABSENT, RemoteStore, Upload
from mountd.types import Entry
from tests.contract.test_listing import entries
from tests.contract.test_reading import read
from tests.fakes.body import BytesBody

NOTHING = Upload()
MTIME_NS = 1_600_000_000_123_456_000


def write(
    store: RemoteStore,
    key: str,
    data: bytes,
    expect: str | None = ABSENT,
    upload: Upload = NOTHING,
) -> Entry:
    return store.put(key, BytesBody(data), expect, upload)


def make_parents(store: RemoteStore, directory: str) -> None:
    """Where directories are real, `put` makes none."""
    if store.capabilities.real_directories:
        for end in range(1, len(directory) + 1):
            if directory[end - 1] == "/":
                store.make_dir(directory[:end])


def content(store: RemoteStore, key: str) -> bytes:
    """The whole of a file as it is now."""
    entry = store.stat(key)
    return read(store, key, 0, entry.size, entry.version) if entry.size else b""


def names(store: RemoteStore, directory: str = "") -> list[str]:
    return sorted(entry.name for entry in entries(store, directory))


def same(entry: Entry, other: Entry) -> bool:
    """Whether they are one state. Not every put is told the mtime."""
    return (entry.name, entry.kind, entry.size, entry.version) == (
        *(other.name, other.kind, other.size),
        other.version,
    )
