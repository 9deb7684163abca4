"""Files that are made of what is on the remote and of a little that is sent."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from mountd.errors import NotFound, Unsupported, VersionChanged
from mountd.remotes.base import ABSENT, RemoteStore, Upload
from mountd.types import Entry
from tests.contract.conftest import OpenStore
from tests.contract.writing import MTIME_NS, content, names, same, write

MIB = 1 << 20
SIZE = 20 * MIB
OLD = bytes(range(256)) * (SIZE // 256)
EDIT = (9 * MIB + 5, 9 * MIB + 4101)
NEW = OLD[: EDIT[0]] + b"e" * 4096 + OLD[EDIT[1] :]
SAME = [(0, EDIT[0]), (EDIT[1], SIZE)]
UPLOAD = Upload("delta", MTIME_NS, {"mode": "33188"})


@dataclass
class WatchedBody:
    """A body that knows what was read of it."""

    data: bytes
    spans: set[tuple[int, int]] = field(default_factory=set)

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, start: int, end: int) -> bytes:
        self.spans.add((start, end))
        return self.data[start:end]

    @property
    def sent(self) -> int:
        return sum(end - start for start, end in self.spans)


@pytest.fixture
def store(open_store: OpenStore) -> RemoteStore:
    """One that knows what its remote can do, and that it can do this."""
    store = open_store()
    write(store, "first", b"1")
    if not store.capabilities.put_delta:
        pytest.skip("this remote takes whole files")
    return store


def delta(
    store: RemoteStore,
    body: WatchedBody,
    version: str,
    key: str = "file",
    expect: str | None = None,
    spans: Sequence[tuple[int, int]] = SAME,
) -> Entry:
    return store.put_delta(key, body, expect, UPLOAD, "file", version, spans)


def test_a_store_that_takes_whole_files_says_so(open_store: OpenStore) -> None:
    store = open_store()
    version = write(store, "file", b"1").version
    if store.capabilities.put_delta:
        pytest.skip("this remote can")
    with pytest.raises(Unsupported):
        delta(store, WatchedBody(NEW), version, expect=version)
    assert store.stat("file").version == version


def test_an_edit_sends_little_and_makes_all_of_it(store: RemoteStore) -> None:
    version = write(store, "file", OLD).version
    body = WatchedBody(NEW)
    made = delta(store, body, version, expect=version)
    assert (made.name, made.size) == ("file", SIZE)
    assert made.version != version
    assert same(store.stat("file"), made)
    assert content(store, "file") == NEW
    assert body.sent <= 6 * MIB
    if store.capabilities.keeps_attributes:
        assert store.identify("file").upload_id == "delta"


def test_bytes_are_appended_and_cut_off(store: RemoteStore) -> None:
    version = write(store, "file", OLD).version
    longer = WatchedBody(OLD + b"more" * MIB)
    version = delta(store, longer, version, expect=version, spans=[(0, SIZE)]).version
    assert content(store, "file") == longer.data
    assert longer.sent <= 10 * MIB
    shorter = WatchedBody(OLD[: 17 * MIB])
    delta(store, shorter, version, expect=version, spans=[(0, 17 * MIB)])
    assert content(store, "file") == shorter.data
    assert shorter.sent == 0


def test_another_file_is_made_and_the_source_stays(store: RemoteStore) -> None:
    version = write(store, "file", OLD).version
    delta(store, WatchedBody(NEW), version, key="other", expect=ABSENT)
    assert content(store, "other") == NEW
    assert store.stat("file").version == version
    with pytest.raises(VersionChanged):
        delta(store, WatchedBody(NEW), version, key="other", expect=ABSENT)


def test_a_source_of_another_version_makes_nothing(store: RemoteStore) -> None:
    old = write(store, "file", OLD).version
    now = write(store, "file", OLD[::-1], old).version
    for key, expect in (("file", now), ("file", None), ("other", ABSENT)):
        with pytest.raises(VersionChanged):
            store.put_delta(key, WatchedBody(NEW), expect, UPLOAD, "file", old, SAME)
    assert names(store) == ["file", "first"]
    assert store.stat("file").version == now


def test_a_target_of_another_version_stays(store: RemoteStore) -> None:
    version = write(store, "file", OLD).version
    other = write(store, "other", b"theirs").version
    with pytest.raises(VersionChanged):
        delta(store, WatchedBody(NEW), version, key="other", expect=version)
    assert content(store, "other") == b"theirs"
    assert store.stat("other").version == other


def test_a_source_that_is_gone_makes_nothing(store: RemoteStore) -> None:
    version = write(store, "file", OLD).version
    store.delete("file", version)
    with pytest.raises(NotFound):
        store.put_delta("other", WatchedBody(NEW), ABSENT, UPLOAD, "file", version, SAME)
    assert names(store) == ["first"]
