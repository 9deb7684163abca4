"""Versions: one string per state, and no read ever mixes two."""

import pytest

from mountd.errors import VersionChanged
from mountd.types import Entry
from tests.contract.conftest import OpenStore
from tests.contract.targets import Target


def listed(store_entries: list[Entry], name: str) -> Entry:
    return next(entry for entry in store_entries if entry.name == name)


def test_a_version_is_the_same_from_the_listing_the_stat_and_another_store(
    target: Target, open_store: OpenStore
) -> None:
    target.seed({"d/data": b"some bytes", "d/empty": b""})
    store, other = open_store(), open_store()
    for name in ("data", "empty"):
        in_list = listed([entry for page in store.list("d/") for entry in page], name)
        assert in_list.version
        assert in_list == store.stat(f"d/{name}") == other.stat(f"d/{name}")
    with memoryview(other.read("d/data", 0, 4, store.stat("d/data").version)) as view:
        assert bytes(view) == b"some"


def test_a_version_changes_with_the_content(target: Target, open_store: OpenStore) -> None:
    target.seed({"data": b"first bytes"})
    store = open_store()
    before = store.stat("data").version
    target.overwrite("data", b"other bytes")
    after = store.stat("data").version
    assert after != before
    (in_list,) = (entry for page in store.list("") for entry in page)
    assert in_list.version == after


@pytest.mark.parametrize("new", [b"other bytes", b"longer than it was before", b"short"])
def test_a_read_of_an_old_version_is_refused(
    target: Target, open_store: OpenStore, new: bytes
) -> None:
    target.seed({"data": b"first bytes"})
    store = open_store()
    old = store.stat("data").version
    target.overwrite("data", new)
    with pytest.raises(VersionChanged):
        store.read("data", 2, 4, old)
    with pytest.raises(VersionChanged):
        store.read("data", 0, 11, old)
    with memoryview(store.read("data", 0, len(new), store.stat("data").version)) as view:
        assert bytes(view) == new
