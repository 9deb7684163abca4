"""Files come, are replaced and go; what was written is what is listed and read."""

import hashlib
import random
import time

import crc32c
import pytest

from mountd.errors import Locked, NotFound, RemoteError, Throttled, Unreachable
from mountd.remotes.base import ABSENT, Upload
from mountd.remotes.optional_doors import checksums_in
from mountd.types import Kind
from tests.contract.conftest import OpenStore
from tests.contract.targets import Limit, Target, skip_if
from tests.contract.test_listing import entries
from tests.contract.writing import MTIME_NS, NOTHING, content, make_parents, names, same, write

MIB = 1 << 20
ATTRIBUTES = {"mode": "33188", "uid": "1000", "gid": "1000"}


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_new_file_is_listed_stated_and_read_with_the_version_that_its_put_returned(
    target: Target, open_store: OpenStore, size: int
) -> None:
    data = random.Random(size).randbytes(size)
    store = open_store()
    make_parents(store, "d/")
    made = write(store, "d/new", data)
    assert (made.name, made.kind, made.size) == ("new", Kind.FILE, size)
    assert made.version
    for reader in (store, open_store()):
        (listed,) = entries(reader, "d/")
        assert same(listed, made)
        assert same(reader.stat("d/new"), made)
        assert content(reader, "d/new") == data


def test_a_file_of_many_pieces_arrives_whole(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.SLOW)
    data = random.Random(0).randbytes(20 * MIB + 1)
    store = open_store()
    made = write(store, "large", data)
    assert same(store.stat("large"), made)
    assert made.size == len(data)
    assert content(open_store(), "large") == data
    longer = data + b"and more"
    replaced = write(store, "large", longer, made.version)
    assert replaced.version != made.version
    assert content(store, "large") == longer


def test_a_file_is_replaced_as_a_whole(target: Target, open_store: OpenStore) -> None:
    target.seed({"file": b"what was there before, and is longer"})
    store = open_store()
    old = store.stat("file").version
    new = write(store, "file", b"new", old)
    assert new.version != old
    assert (new.size, content(store, "file")) == (3, b"new")
    newer = write(store, "file", b"", new.version)
    assert (newer.size, content(open_store(), "file")) == (0, b"")


def test_every_version_of_a_file_has_a_name_of_its_own(
    target: Target, open_store: OpenStore
) -> None:
    skip_if(target, Limit.NO_VERSIONS)
    store = open_store()
    versions = [write(store, "file", b"", ABSENT).version]
    for size in range(1, 5):
        versions.append(write(store, "file", bytes(size), versions[-1]).version)
    assert len(set(versions)) == 5


def test_a_file_of_any_name_can_be_deleted_by_its_version(
    target: Target, open_store: OpenStore
) -> None:
    target.seed({"d/keep": b"1", "d/seeded": b"22"})
    store = open_store()
    made = write(store, "d/made", b"333")
    store.delete("d/made", made.version)
    store.delete("d/seeded", store.stat("d/seeded").version)
    assert names(open_store(), "d/") == ["keep"]
    with pytest.raises(NotFound):
        store.stat("d/made")
    again = write(store, "d/made", b"again")
    assert content(store, "d/made") == b"again"
    store.delete("d/made", None)
    assert again.size == 5
    assert names(store, "d/") == ["keep"]


def test_what_is_missing_can_not_be_deleted(target: Target, open_store: OpenStore) -> None:
    target.seed({"d/there": b"1"})
    store = open_store()
    version = store.stat("d/there").version
    for expect in (None, version):
        with pytest.raises(NotFound):
            store.delete("d/missing", expect)
    assert names(store, "d/") == ["there"]


def test_a_file_without_a_directory_needs_one_only_where_directories_are_real(
    target: Target, open_store: OpenStore
) -> None:
    store = open_store()
    if store.capabilities.real_directories:
        with pytest.raises(NotFound):
            write(store, "new/sub/file", b"1")
        make_parents(store, "new/sub/")
    write(store, "new/sub/file", b"1")
    assert names(store, "new/") == ["sub"]
    assert content(store, "new/sub/file") == b"1"


def test_a_name_is_a_file_or_a_directory_where_directories_are_real(
    target: Target, open_store: OpenStore
) -> None:
    target.seed({"directory/x": b"1", "file": b"2"})
    store = open_store()
    if not store.capabilities.real_directories:
        pytest.skip("directories are not real")
    for key in ("directory", "file/below"):
        for expect in (ABSENT, None):
            with pytest.raises(RemoteError) as raised:
                write(store, key, b"new", expect)
            assert not_to_be_retried(raised.value)
    assert names(store) == ["directory", "file"]
    assert names(store, "directory/") == ["x"]


def not_to_be_retried(error: RemoteError) -> bool:
    return not isinstance(error, (Unreachable, Throttled, Locked))


def test_who_wrote_a_file_can_be_told(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_ATTRIBUTES)
    target.seed({"theirs": b"theirs"})
    store = open_store()
    made = write(store, "ours", b"first", ABSENT, Upload("upload-1", MTIME_NS, ATTRIBUTES))
    for reader in (store, open_store()):
        found = reader.identify("ours")
        assert found.upload_id == "upload-1"
        assert same(found.entry, made)
    write(store, "ours", b"second, by others", made.version, Upload("upload-2"))
    assert store.identify("ours").upload_id == "upload-2"
    assert store.identify("theirs").upload_id == ""
    write(store, "theirs", b"ours by now", store.stat("theirs").version, Upload("upload-3"))
    assert store.identify("theirs").upload_id == "upload-3"
    target.overwrite("ours", b"theirs again")
    assert store.identify("ours").upload_id == ""


def test_what_is_there_can_be_identified(target: Target, open_store: OpenStore) -> None:
    target.seed({"d/seeded": b"some bytes"})
    store = open_store()
    found = store.identify("d/seeded")
    assert same(found.entry, store.stat("d/seeded"))
    made = write(store, "d/made", b"ours", ABSENT, Upload("id"))
    assert same(store.identify("d/made").entry, made)
    for key, data in {"d/seeded": b"some bytes", "d/made": b"ours"}.items():
        expected = hashlib.md5(data, usedforsecurity=False).hexdigest()
        assert store.identify(key).md5 in ("", expected)
        told = checksums_in(store, key)
        assert told.entry.version == store.identify(key).entry.version
        right = {"md5": expected, "crc32c": f"{crc32c.crc32c(data):08x}"}
        assert all(told.sums.get(name, value) == value for name, value in right.items())
    for key in ("d/missing", "missing/missing"):
        with pytest.raises(NotFound):
            store.identify(key)


def test_an_mtime_comes_back(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_MTIME)
    store = open_store()
    write(store, "file", b"1", ABSENT, Upload("id", MTIME_NS))
    assert near(store.identify("file").entry.mtime_ns, target)
    if store.capabilities.keeps_mtime:
        (listed,) = entries(open_store())
        assert near(listed.mtime_ns, target)
        assert listed == store.stat("file")


def near(mtime_ns: int, target: Target) -> bool:
    exact_to_ns = 1_000_000_000 if Limit.MTIME_SECONDS in target.limits else 1_000
    return abs(mtime_ns - MTIME_NS) < exact_to_ns


def test_a_file_without_an_mtime_of_its_own_is_of_now(
    target: Target, open_store: OpenStore
) -> None:
    before_ns = time.time_ns()
    store = open_store()
    write(store, "file", b"1", ABSENT, NOTHING)
    after_ns = time.time_ns()
    mtime_ns = store.stat("file").mtime_ns
    assert before_ns - 1_000_000_000 <= mtime_ns <= after_ns + 1_000_000_000
