"""What is kept beside the bytes: read back, and kept where only something else changes."""

import pytest

from mountd.errors import VersionChanged
from mountd.remotes.base import ABSENT, Upload
from tests.contract.conftest import OpenStore
from tests.contract.targets import Limit, Target, skip_if
from tests.contract.test_listing import entries
from tests.contract.test_reading import read
from tests.contract.writing import MTIME_NS, write

MODES = {"mode": "33261", "uid": "1000", "gid": "7"}
ALL = {**MODES, "xattr": "%7B%22user.a%22:%22eA==%22%7D"}


def test_attributes_are_read_back(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_ATTRIBUTES, Limit.ONLY_UPLOAD_ID)
    store = open_store()
    made = write(store, "file", b"1", ABSENT, Upload("id", MTIME_NS, ALL))
    write(store, "none", b"1", ABSENT, Upload("id"))
    again = open_store()
    mtime = {} if store.capabilities.keeps_mtime else {"mtime": "1600000000.123456000"}
    assert again.stat("file").attributes == {**ALL, **mtime}
    assert again.identify("file").entry.attributes == {**ALL, **mtime}
    assert again.stat("none").attributes == {}
    assert made.attributes in (None, {**ALL, **mtime})
    listed = {entry.name: entry.attributes for entry in entries(again, "")}
    if store.capabilities.lists_attributes:
        assert listed == {"file": ALL, "none": {}}
    else:
        assert listed == {"file": None, "none": None}


@pytest.mark.parametrize("key", ["file", "copied"])
def test_a_copy_keeps_the_attributes_that_are_not_said_anew(
    target: Target, open_store: OpenStore, key: str
) -> None:
    skip_if(target, Limit.NO_SERVER_COPY, Limit.NO_ATTRIBUTES, Limit.ONLY_UPLOAD_ID)
    store = open_store()
    version = write(store, "file", b"1", ABSENT, Upload("id", MTIME_NS, ALL)).version
    upload = Upload("copied", 0, {"mode": "33188", "gid": ""})
    made = store.copy("file", version, key, version if key == "file" else ABSENT, upload)
    found = open_store().stat(key)
    mtime = {} if store.capabilities.keeps_mtime else {"mtime": "1600000000.123456000"}
    left = dict(found.attributes or {})
    if key != "file":
        left.pop("gid", None)  # `rclone serve s3` adds to the metadata where it is to replace them
    assert left == {"mode": "33188", "uid": "1000", "xattr": ALL["xattr"], **mtime}
    assert found.mtime_ns == MTIME_NS or not store.capabilities.keeps_mtime
    assert key != "file" or made.attributes in (None, found.attributes)
    assert store.identify(key).upload_id == "copied"


def test_modes_are_kept_where_files_have_their_own(target: Target, open_store: OpenStore) -> None:
    store = open_store()
    if not store.capabilities.keeps_modes:
        pytest.skip("no modes")
    made = write(store, "file", b"1", ABSENT, Upload("id", MTIME_NS, {"mode": str(0o100600)}))
    usual = write(store, "usual", b"1", ABSENT, Upload("id", 0, {"mode": str(0o100644)}))
    assert (made.attributes, usual.attributes) == ({"mode": str(0o100600)}, {})
    replaced = write(store, "file", b"2", made.version, Upload("id"))
    assert replaced.attributes == {"mode": str(0o100600)}
    copied = store.copy("file", replaced.version, "copied", ABSENT, Upload("copied", MTIME_NS))
    assert copied.attributes == {"mode": str(0o100600)}
    changed = store.copy("copied", copied.version, "copied", copied.version, Upload("c", 0, MODES))
    assert changed.version == copied.version
    assert (changed.attributes or {})["mode"] == MODES["mode"]
    assert store.identify("copied").upload_id == "c"
    listed = {entry.name: entry.attributes for entry in entries(open_store(), "")}
    assert listed == {"file": {"mode": str(0o100600)}, "usual": {}, "copied": changed.attributes}
    with pytest.raises(VersionChanged):
        store.copy("copied", replaced.version, "copied", replaced.version, Upload("d"))
    with pytest.raises(VersionChanged):
        store.copy("copied", copied.version, "copied", ABSENT, Upload("d"))


def test_a_copy_onto_itself_sets_a_time_where_it_can_be_set(
    target: Target, open_store: OpenStore
) -> None:
    store = open_store()
    made = write(store, "file", b"bytes", ABSENT, Upload("id", MTIME_NS))
    if not store.capabilities.sets_mtime:
        pytest.skip("no times of what is there already")
    new_ns = (MTIME_NS // 10**9 + 1000) * 10**9
    dated = store.copy("file", made.version, "file", made.version, Upload("dated", new_ns))
    assert (dated.mtime_ns, dated.size) == (new_ns, 5)
    assert dated.version != made.version
    assert open_store().stat("file") == dated
    assert [(e.name, e.mtime_ns, e.version) for e in entries(open_store(), "")] == [
        ("file", new_ns, dated.version)
    ]
    assert read(store, "file", 1, 4, dated.version) == b"yte"
    assert store.identify("file").upload_id == "dated"
    told = store.capabilities.bytes_in
    assert told is not None
    assert told(made.version).startswith("5;MD5:")
    assert told(dated.version) != told(made.version)
    with pytest.raises(VersionChanged):
        store.copy("file", made.version, "file", made.version, Upload("late", new_ns + 10**9))
    target.overwrite("file", b"theirs")
    with pytest.raises(VersionChanged):
        store.copy("file", dated.version, "file", dated.version, Upload("lost", new_ns + 10**9))
    assert store.stat("file").mtime_ns not in (new_ns, new_ns + 10**9)
