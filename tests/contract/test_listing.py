"""What `list` and `stat` say about directories."""

from collections.abc import Iterable

import pytest

from mountd.errors import NotFound
from mountd.remotes.base import RemoteStore
from mountd.types import Entry, Kind
from tests.contract.conftest import OpenStore
from tests.contract.targets import Limit, Target, skip_if


def entries(store: RemoteStore, directory: str = "") -> list[Entry]:
    return [entry for page in store.list(directory) for entry in page]


def shown(entries: Iterable[Entry]) -> list[tuple[str, Kind, int]]:
    return sorted((entry.name, entry.kind, entry.size) for entry in entries)


def test_a_directory_lists_its_files_and_directories_and_nothing_deeper(
    target: Target, open_store: OpenStore
) -> None:
    target.seed({"d/a": b"1", "d/b.txt": b"22", "d/sub/x": b"3", "d/sub/y/z": b"4", "dd": b"5"})
    store = open_store()
    assert shown(entries(store, "d/")) == [
        ("a", Kind.FILE, 1),
        ("b.txt", Kind.FILE, 2),
        ("sub", Kind.DIRECTORY, 0),
    ]
    assert shown(entries(store, "d/sub/")) == [("x", Kind.FILE, 1), ("y", Kind.DIRECTORY, 0)]


def test_the_root_lists_what_is_below_the_mounted_prefix(
    target: Target, open_store: OpenStore
) -> None:
    target.seed({"a": b"1", "d/x": b"22"})
    assert shown(entries(open_store())) == [("a", Kind.FILE, 1), ("d", Kind.DIRECTORY, 0)]


def test_a_missing_directory_is_empty_or_not_found_as_the_capabilities_say(
    target: Target, open_store: OpenStore
) -> None:
    target.seed({"d/x": b"1"})
    store = open_store()
    if store.capabilities.real_directories:
        with pytest.raises(NotFound):
            entries(store, "nothing/")
    else:
        assert entries(store, "nothing/") == []
    with pytest.raises(NotFound):
        store.stat("nothing/")


def test_an_empty_or_missing_root_is_a_directory(target: Target, open_store: OpenStore) -> None:
    store = open_store()
    assert store.stat("").kind is Kind.DIRECTORY
    if not store.capabilities.real_directories:
        assert entries(store) == []


def test_an_empty_directory_is_listed_and_has_no_entry_for_itself(
    target: Target, open_store: OpenStore
) -> None:
    skip_if(target, Limit.NO_MARKERS)
    target.seed({"top/empty/": b"", "top/file": b"1"})
    store = open_store()
    assert shown(entries(store, "top/")) == [("empty", Kind.DIRECTORY, 0), ("file", Kind.FILE, 1)]
    assert entries(store, "top/empty/") == []
    assert store.stat("top/empty/").kind is Kind.DIRECTORY


def test_a_directory_with_a_marker_and_files_is_listed_once(
    target: Target, open_store: OpenStore
) -> None:
    skip_if(target, Limit.NO_MARKERS)
    target.seed({"d/": b"", "d/x": b"1", "d/s/": b"", "d/s/y": b"2"})
    store = open_store(page_size=1)
    assert shown(entries(store)) == [("d", Kind.DIRECTORY, 0)]
    assert shown(entries(store, "d/")) == [("s", Kind.DIRECTORY, 0), ("x", Kind.FILE, 1)]


def test_stat_says_the_same_as_the_listing(target: Target, open_store: OpenStore) -> None:
    target.seed({"d/a": b"12345", "d/b": b"", "d/s/x": b"1"})
    store = open_store()
    for entry in entries(store, "d/"):
        if entry.kind is Kind.FILE:
            assert store.stat(f"d/{entry.name}") == entry
        else:
            assert store.stat(f"d/{entry.name}/").kind is Kind.DIRECTORY


def test_an_mtime_is_the_time_of_the_write(target: Target, open_store: OpenStore) -> None:
    import time

    before_ns = time.time_ns()
    target.seed({"a": b"1"})
    after_ns = time.time_ns()
    mtime_ns = open_store().stat("a").mtime_ns
    # Most remotes cut to whole seconds.
    assert before_ns - 1_000_000_000 <= mtime_ns <= after_ns + 1_000_000_000


def test_a_file_and_a_directory_are_not_mistaken_for_each_other(
    target: Target, open_store: OpenStore
) -> None:
    target.seed({"file": b"1", "directory/x": b"1", "file2/x": b"1"})
    store = open_store()
    with pytest.raises(NotFound):
        store.stat("file/")
    with pytest.raises(NotFound):
        store.stat("directory")
    with pytest.raises(NotFound):
        store.stat("fil/")


def test_small_pages_together_are_the_whole_directory(
    target: Target, open_store: OpenStore
) -> None:
    objects = {f"p/f{n:03}": b"x" for n in range(20)} | {f"p/d{n:03}/x": b"" for n in range(17)}
    target.seed(objects)
    found = entries(open_store(page_size=7), "p/")
    assert len(found) == 37
    assert {entry.name for entry in found} == {key.split("/")[1] for key in objects}


def test_more_entries_than_two_of_its_pages_come_whole_and_once(
    target: Target, open_store: OpenStore
) -> None:
    """Each remote here that isn't slow and has pages has them of 1,000."""
    skip_if(target, Limit.SLOW)
    target.seed({f"many/file-{n:05}": b"x" for n in range(2500)})
    found = entries(open_store(), "many/")
    assert len(found) == 2500
    assert {entry.name for entry in found} == {f"file-{n:05}" for n in range(2500)}
