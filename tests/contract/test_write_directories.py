"""Directories are made, listed as a tree, and removed only when nothing is in them."""

from collections.abc import Sequence

import pytest

from mountd.errors import DirectoryNotEmpty, NotFound, RemoteError, Unsupported
from mountd.remotes.base import RemoteStore
from mountd.types import Entry, Kind
from tests.contract.conftest import OpenStore
from tests.contract.targets import Limit, Target, skip_if
from tests.contract.test_listing import entries, shown
from tests.contract.test_writing import not_to_be_retried
from tests.contract.writing import content, write


def test_a_directory_that_was_made_is_listed_and_empty(
    target: Target, open_store: OpenStore
) -> None:
    skip_if(target, Limit.NO_MAKE_DIR)
    store = open_store()
    store.make_dir("new/")
    store.make_dir("new/sub/")
    store.make_dir("new/")
    for reader in (store, open_store()):
        assert shown(entries(reader)) == [("new", Kind.DIRECTORY, 0)]
        assert shown(entries(reader, "new/")) == [("sub", Kind.DIRECTORY, 0)]
        assert entries(reader, "new/sub/") == []
        assert reader.stat("new/sub/").kind is Kind.DIRECTORY
    write(store, "new/sub/file", b"1")
    store.make_dir("new/sub/")
    assert shown(entries(store, "new/sub/")) == [("file", Kind.FILE, 1)]


def test_a_directory_needs_its_parent_only_where_directories_are_real(
    target: Target, open_store: OpenStore
) -> None:
    skip_if(target, Limit.NO_MAKE_DIR)
    store = open_store()
    if store.capabilities.real_directories:
        with pytest.raises(NotFound):
            store.make_dir("missing/new/")
        assert entries(store) == []
    else:
        store.make_dir("missing/new/")
        assert shown(entries(store, "missing/")) == [("new", Kind.DIRECTORY, 0)]


def test_no_directory_is_made_where_a_file_is(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_MAKE_DIR)
    target.seed({"file": b"1"})
    store = open_store()
    if not store.capabilities.real_directories:
        pytest.skip("a file and a directory may have one name")
    with pytest.raises(RemoteError) as raised:
        store.make_dir("file/")
    assert not_to_be_retried(raised.value)
    assert content(store, "file") == b"1"


def test_an_empty_directory_is_removed(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_MAKE_DIR)
    target.seed({"keep": b"1"})
    store = open_store()
    store.make_dir("d/")
    store.make_dir("d/sub/")
    store.remove_dir("d/sub/")
    store.remove_dir("d/")
    assert shown(entries(open_store())) == [("keep", Kind.FILE, 1)]
    with pytest.raises(NotFound):
        store.stat("d/")


@pytest.mark.parametrize("inside", ["file", ".hidden", "sub/"])
def test_a_directory_with_something_in_it_stays(
    target: Target, open_store: OpenStore, inside: str
) -> None:
    skip_if(target, Limit.NO_MAKE_DIR)
    store = open_store()
    store.make_dir("d/")
    if inside.endswith("/"):
        store.make_dir(f"d/{inside}")
    else:
        target.seed({f"d/{inside}": b"theirs"})
    before = shown(entries(store, "d/"))
    with pytest.raises(DirectoryNotEmpty):
        store.remove_dir("d/")
    assert len(before) == 1
    assert shown(entries(open_store(), "d/")) == before


def test_a_directory_whose_files_are_deeper_stays(target: Target, open_store: OpenStore) -> None:
    target.seed({"d/sub/file": b"1", "d-side": b"2"})
    store = open_store()
    for directory in ("d/", "d/sub/"):
        with pytest.raises(DirectoryNotEmpty):
            store.remove_dir(directory)
    assert content(store, "d/sub/file") == b"1"


def test_a_missing_directory_can_not_be_removed(target: Target, open_store: OpenStore) -> None:
    target.seed({"d/file": b"1"})
    store = open_store()
    for directory in ("missing/", "d/missing/", "missing/missing/"):
        with pytest.raises(NotFound):
            store.remove_dir(directory)


def test_a_file_is_not_removed_as_a_directory(target: Target, open_store: OpenStore) -> None:
    target.seed({"d/file": b"1"})
    store = open_store()
    with pytest.raises(RemoteError) as raised:
        store.remove_dir("d/file/")
    assert not_to_be_retried(raised.value)
    assert content(store, "d/file") == b"1"


def test_a_directory_is_not_deleted_as_a_file(target: Target, open_store: OpenStore) -> None:
    target.seed({"d/e/file": b"1"})
    store = open_store()
    with pytest.raises(RemoteError) as raised:
        store.delete("d/e", None)
    assert not_to_be_retried(raised.value)
    assert content(store, "d/e/file") == b"1"


def tree(store: RemoteStore, directory: str = "") -> dict[str, Entry]:
    rows: Sequence[tuple[str, Entry]] = [row for page in store.list_tree(directory) for row in page]
    assert len(dict(rows)) == len(rows), "something is listed twice"
    return dict(rows)


def test_a_tree_is_listed_with_whole_keys_and_markers(
    target: Target, open_store: OpenStore
) -> None:
    if Limit.NO_TREE in target.limits:
        with pytest.raises(Unsupported):
            tree(open_store())
        return
    target.seed({"d/a": b"1", "d/s/b": b"22", "d/s/t/c": b"", "d-side": b"4", "e": b"5"})
    store = open_store(page_size=2)
    files = {"d/a", "d/s/b", "d/s/t/c"}
    directories: set[str] = set()
    if Limit.NO_MARKERS not in target.limits:
        directories = {"d/empty/", "d/s/"}
        target.seed(dict.fromkeys(directories, b""))
    if store.capabilities.real_directories:
        directories.add("d/s/t/")
    found = tree(store, "d/")
    assert set(found) == files | directories
    for key, entry in found.items():
        assert entry.kind is (Kind.DIRECTORY if key in directories else Kind.FILE)
        assert entry.name == key.removesuffix("/").rpartition("/")[2]
        if entry.kind is Kind.FILE:
            assert entry == store.stat(key)
    top = {"d-side", "e"} | ({"d/"} if store.capabilities.real_directories else set())
    assert set(tree(store)) == files | directories | top
    assert set(tree(store, "d/s/t/")) == {"d/s/t/c"}


def test_a_tree_that_is_missing_is_as_the_capabilities_say(
    target: Target, open_store: OpenStore
) -> None:
    skip_if(target, Limit.NO_TREE)
    target.seed({"d/x": b"1"})
    store = open_store()
    if store.capabilities.real_directories:
        with pytest.raises(NotFound):
            tree(store, "missing/")
    else:
        assert tree(store, "missing/") == {}


def test_odd_names_are_in_the_tree(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_TREE, Limit.NO_ODD_CHARACTERS)
    keys = {"d/a b/100%", "d/%41#?/x+y", "d/\u00fcber/\u6f22\u5b57"}
    if Limit.NO_DOUBLE_SLASH not in target.limits:
        keys |= {"d/a//b", "d//c"}
    if Limit.NO_DOT_SEGMENTS not in target.limits:
        keys |= {"d/x/../y", "d/./z"}
    target.seed({key: b"1" for key in keys})
    found = tree(open_store(), "d/")
    assert {key for key, entry in found.items() if entry.kind is Kind.FILE} == keys
