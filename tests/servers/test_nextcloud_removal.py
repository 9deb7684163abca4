"""A tree that goes from a Nextcloud by one DELETE, and what keeps it from going."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mountd.errors import NotFound, Unsupported, VersionChanged
from mountd.remotes.nextcloud import NextcloudStore
from mountd.types import Kind
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.nextcloud.stores import opening

pytestmark = pytest.mark.server


@pytest.fixture
def store(nextcloud_server: NextcloudServer) -> Iterator[NextcloudStore]:
    with opening(nextcloud_server) as open_store:
        yield open_store()


def seen_in(store: NextcloudStore, directory: str) -> dict[str, str]:
    """What a listing says of everything below it: see `optional_doors.RemovesTrees`."""
    found: dict[str, str] = {}
    for page in store.list(directory):
        for entry in page:
            if entry.kind is Kind.DIRECTORY:
                found[f"{directory}{entry.name}/"] = ""
                found |= seen_in(store, f"{directory}{entry.name}/")
            else:
                found[f"{directory}{entry.name}"] = entry.version
    return found


def test_a_tree_is_removed_by_one_request_after_each_of_its_directories_was_listed(
    store: NextcloudStore, nextcloud_server: NextcloudServer
) -> None:
    for name in ("d/a", "d/b", "d/s/c", "e"):
        nextcloud_server.put(name, b"data")
    inside = seen_in(store, "d/")
    assert store.capabilities.removes_trees
    nextcloud_server.clear_log()
    store.remove_tree("d/", inside)
    assert [entry.method for entry in nextcloud_server.log()] == ["PROPFIND"] * 4 + ["DELETE"]
    assert nextcloud_server.tree() == ["e"]
    assert [each["original"] for each in nextcloud_server.trash()] == ["d"]
    with pytest.raises(NotFound):
        store.remove_tree("d/", inside)


@pytest.mark.parametrize("key", ["d/a", "d/new", "d/s/new", "d/s/t/new", "d/new/"])
def test_a_tree_in_which_others_have_done_anything_stays(
    store: NextcloudStore, nextcloud_server: NextcloudServer, key: str
) -> None:
    for name in ("d/a", "d/b", "d/s/t/c"):
        nextcloud_server.put(name, b"data")
    inside = seen_in(store, "d/")
    if key.endswith("/"):
        nextcloud_server.mkdir(key)
    else:
        nextcloud_server.put(key, b"theirs")
    before = nextcloud_server.tree()
    with pytest.raises(VersionChanged):
        store.remove_tree("d/", inside)
    assert nextcloud_server.tree() == before


def test_a_tree_that_is_changed_while_it_is_listed_stays(
    store: NextcloudStore, nextcloud_server: NextcloudServer
) -> None:
    """In a part that was listed already: only the tag of the whole tells."""
    for name in ("d/a", "d/s/c"):
        nextcloud_server.put(name, b"data")
    inside = seen_in(store, "d/")
    nextcloud_server.clear_log()
    nextcloud_server.faults({"op": "Propfind", "skip": 2, "times": 1, "hold": True})
    with ThreadPoolExecutor(1) as pool:
        removing = pool.submit(store.remove_tree, "d/", inside)
        nextcloud_server.wait_for_requests(3, op="Propfind")
        nextcloud_server.put("d/theirs", b"theirs")
        nextcloud_server.release()
        with pytest.raises(VersionChanged, match="while it was looked at"):
            removing.result(30.0)
    assert sorted(nextcloud_server.tree()) == ["d/", "d/a", "d/s/", "d/s/c", "d/theirs"]


def test_a_tree_with_something_in_it_that_tells_no_changes_is_not_removed_as_a_whole(
    store: NextcloudStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("d/a", b"data")
    nextcloud_server.mount("d/disk", "external")
    inside = seen_in(store, "d/")
    with pytest.raises(Unsupported):
        store.remove_tree("d/", inside)
    assert "d/a" in nextcloud_server.tree()


def test_without_a_trash_no_tree_goes_as_a_whole(
    store: NextcloudStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(trashbin=False)
    nextcloud_server.put("d/a", b"data")
    store.stat("d/a")
    assert store.features.is_nextcloud
    assert not store.capabilities.removes_trees
