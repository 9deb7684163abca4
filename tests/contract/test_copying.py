"""Copies on the remote's side: of exactly that version, and over nothing but what was expected."""

import pytest

from mountd.errors import NotFound, Unsupported, VersionChanged
from mountd.remotes.base import ABSENT, Upload
from tests.contract.conftest import OpenStore
from tests.contract.targets import Limit, Target, skip_if
from tests.contract.writing import MTIME_NS, NOTHING, content, names, same, write

UPLOAD = Upload("copied", MTIME_NS, {"mode": "33188"})


def test_a_store_that_can_not_copy_says_so(target: Target, open_store: OpenStore) -> None:
    if Limit.NO_SERVER_COPY not in target.limits:
        pytest.skip("this remote can")
    target.seed({"source": b"1"})
    store = open_store()
    with pytest.raises(Unsupported):
        store.copy("source", store.stat("source").version, "copied", ABSENT, NOTHING)
    assert names(store) == ["source"]


def test_a_copy_is_a_file_of_its_own(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_SERVER_COPY)
    target.seed({"d/source": b"some bytes", "e/other": b"x", "empty": b""})
    store = open_store()
    version = store.stat("d/source").version
    made = store.copy("d/source", version, "e/copied", ABSENT, UPLOAD)
    assert (made.name, made.size) == ("copied", 10)
    assert same(store.stat("e/copied"), made)
    assert content(open_store(), "e/copied") == b"some bytes"
    assert store.stat("d/source").version == version
    store.delete("d/source", version)
    assert content(store, "e/copied") == b"some bytes"
    store.copy("empty", store.stat("empty").version, "e/empty", ABSENT, NOTHING)
    assert content(store, "e/empty") == b""


def test_a_copy_has_what_came_with_it(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_SERVER_COPY, Limit.NO_ATTRIBUTES)
    store = open_store()
    version = write(store, "source", b"1", ABSENT, Upload("original")).version
    store.copy("source", version, "copied", ABSENT, UPLOAD)
    assert store.identify("copied").upload_id == "copied"
    assert store.identify("source").upload_id == "original"


def test_a_file_copied_onto_itself_changes_what_goes_with_it(
    target: Target, open_store: OpenStore
) -> None:
    skip_if(target, Limit.NO_SERVER_COPY, Limit.NO_ATTRIBUTES)
    store = open_store()
    version = write(store, "file", b"bytes", ABSENT, Upload("original")).version
    made = store.copy("file", version, "file", version, UPLOAD)
    assert same(store.stat("file"), made)
    assert store.identify("file").upload_id == "copied"
    assert content(store, "file") == b"bytes"


def test_a_source_that_changed_is_not_copied(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_SERVER_COPY, Limit.IGNORES_CONDITIONS)
    target.seed({"source": b"first"})
    store = open_store()
    version = store.stat("source").version
    target.overwrite("source", b"theirs, meanwhile")
    with pytest.raises(VersionChanged):
        store.copy("source", version, "copied", ABSENT, NOTHING)
    target.remove("source")
    with pytest.raises(NotFound):
        store.copy("source", version, "copied", ABSENT, NOTHING)
    assert "copied" not in names(store)


def test_a_copy_replaces_only_what_it_expects(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_SERVER_COPY, Limit.IGNORES_CONDITIONS)
    target.seed({"source": b"source", "there": b"theirs!", "changed": b"before"})
    store = open_store()
    version = store.stat("source").version
    old = store.stat("changed").version
    target.overwrite("changed", b"theirs, meanwhile")
    for key, expect in (("there", ABSENT), ("changed", old), ("missing", old)):
        with pytest.raises(VersionChanged):
            store.copy("source", version, key, expect, NOTHING)
    assert content(store, "there") == b"theirs!"
    assert content(store, "changed") == b"theirs, meanwhile"
    assert names(store) == ["changed", "source", "there"]
    store.copy("source", version, "there", store.stat("there").version, NOTHING)
    assert content(open_store(), "there") == b"source"
