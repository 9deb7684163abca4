"""A manifest as a store: what is listed, whose bytes are read, and what one dead location does."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from mountd.errors import NotFound, Throttled, Unreachable, Unsupported, VersionChanged
from mountd.manifest import Location, ManifestFile, make_manifest
from mountd.remotes.base import Capabilities, RemoteStore, Upload
from mountd.remotes.manifest_store import AWAY_S, LocationAway, ManifestStore
from mountd.types import Kind
from tests.fakes.body import BytesBody
from tests.fakes.fake_clock import FakeClock
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore


class Weak(MemoryStore):
    """Whose versions prove little."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, strong_version=False)


def store_of(
    *stores: RemoteStore, names: Sequence[str] = ("one", "two"), **more: Any
) -> ManifestStore:
    """A manifest of all files of the stores, below their names."""
    files, locations = [], []
    for at, (name, store) in enumerate(zip(names, stores, strict=False)):
        locations.append(Location(f"s3://{name}"))
        for page in store.list_tree(""):
            for key, entry in page:
                if entry.kind is Kind.FILE:
                    file = ManifestFile(f"{name}/{key}", entry.size, 1, entry.version, at, key)
                    files.append(file)
    return ManifestStore(make_manifest(locations, files), stores, **more)


def test_it_lists_what_the_manifest_says_and_asks_nobody() -> None:
    below = FaultStore(MemoryStore({"a": b"1", "d/b": b"22"}))
    store = store_of(below)
    below.add(error=Unreachable("gone"))
    assert [e.name for page in store.list("") for e in page] == ["one"]
    assert [(e.name, e.kind) for page in store.list("one/") for e in page] == [
        ("a", Kind.FILE),
        ("d", Kind.DIRECTORY),
    ]
    assert [key for page in store.list_tree("one/d/") for key, _ in page] == ["one/d/b"]
    assert store.stat("one/d/b").size == 2
    assert store.stat("one/d/").kind is Kind.DIRECTORY
    for missing in ("two", "two/", "one/d/b/"):
        with pytest.raises(NotFound):
            store.stat(missing)
    with pytest.raises(NotFound):
        list(store.list("one/x/"))
    with pytest.raises(Unreachable):
        store.read("one/a", 0, 1, store.stat("one/a").version)


def test_a_file_that_changed_is_never_read_and_is_said_once(
    expected_log: Any, caplog: pytest.LogCaptureFixture
) -> None:
    expected_log("one/a: s3://one/a is another version by now")
    below = MemoryStore({"a": b"old"})
    store = store_of(below)
    entry = store.stat("one/a")
    assert bytes(store.read("one/a", 0, 3, entry.version)) == b"old"
    below.put("a", BytesBody(b"new"), None, Upload())
    for _ in range(3):
        with pytest.raises(VersionChanged, match="not the manifest's version"):
            store.read("one/a", 0, 3, entry.version)
    assert len([r for r in caplog.records if "another version" in r.getMessage()]) == 1


def test_a_dead_location_says_nothing_of_the_others_and_is_not_asked_all_the_time(
    expected_log: Any,
) -> None:
    expected_log("s3://one does not answer")
    dead, clock = FaultStore(MemoryStore({"a": b"1"})), FakeClock()
    store = store_of(dead, MemoryStore({"b": b"2"}), clock=clock)
    fault = dead.add("read", Unreachable("refused"))
    for _ in range(3):
        with pytest.raises(LocationAway):
            store.read("one/a", 0, 1, "")
        assert bytes(store.read("two/b", 0, 1, "")) == b"2"
    asked = fault.hits
    clock.advance(AWAY_S + 1)
    with pytest.raises(LocationAway):
        store.read("one/a", 0, 1, "")
    assert fault.hits > asked


def test_a_single_location_that_is_dead_is_a_remote_that_is_dead() -> None:
    below = FaultStore(MemoryStore({"a": b"1"}))
    store = store_of(below)
    below.add("read", Throttled("slow down"))
    with pytest.raises(Throttled):
        store.read("one/a", 0, 1, "")


def test_a_weak_version_is_told_with_where_it_is() -> None:
    below = Weak({"a": b"1"})
    one, other = store_of(below), store_of(below, names=["other"])
    version = below.stat("a").version
    assert one.stat("one/a").version.startswith(f"{version} ")
    assert one.stat("one/a").version != other.stat("other/a").version
    assert bytes(one.read("one/a", 0, 1, one.stat("one/a").version)) == b"1"
    with pytest.raises(VersionChanged):
        one.read("one/a", 0, 1, version)
    assert store_of(MemoryStore({"a": b"1"})).stat("one/a").version


def test_nothing_is_written_through_a_manifest() -> None:
    store = store_of(MemoryStore({"a": b"1"}))
    changes: list[Callable[[], object]] = [
        lambda: store.put("one/a", BytesBody(b""), None, Upload()),
        lambda: store.delete("one/a", None),
        lambda: store.copy("one/a", "", "one/b", None, Upload()),
        lambda: store.make_dir("x/"),
        lambda: store.remove_dir("one/"),
    ]
    for change in changes:
        with pytest.raises(Unsupported):
            change()
