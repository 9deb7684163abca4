"""The journal's database gives back what it was given."""

import sqlite3
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mountd_cache.changes import Change, ChangeKind, Content
from mountd_cache.durable_io import DISK
from mountd_cache.extent_map import ExtentMap
from mountd_cache.journal_store import (
    FILE_NAME,
    JournalStore,
    JournalTooNew,
    JournalUnreadable,
    Meta,
    Update,
)
from tests.unit.test_records import CHANGES, CONTENTS, plain

_META = Meta("id", 2**62, 7, "boot")
_RANGES = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=3).map(ExtentMap)


def contents_of(store: JournalStore) -> dict[int, object]:
    bad: list[str] = []
    found = {content.id: plain(content) for content in store.contents(bad, {})}
    assert not bad
    return found


def by_key(changes: list[Change]) -> dict[str, Change]:
    return {change.key: change for change in changes}


@settings(deadline=None, max_examples=40)
@given(st.lists(CHANGES, max_size=5), st.lists(CHANGES, max_size=5), st.data())
def test_changes_come_back_whatever_is_in_them(
    first: list[Change], second: list[Change], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = JournalStore(Path(folder), disk=DISK)
        expected = by_key(first)
        store.save(Update(_META, expected.values()))
        forget = data.draw(st.lists(st.sampled_from([*expected, "other"])))
        expected = {key: expected[key] for key in expected if key not in forget} | by_key(second)
        forget = [key for key in forget if key not in by_key(second)]
        store.save(Update(_META, by_key(second).values(), forget))
        store.close()
        store = JournalStore(Path(folder), disk=DISK)
        bad: list[str] = []
        assert by_key(list(store.changes(bad))) == expected
        assert not bad
        assert store.meta() == _META
        store.close()


@settings(deadline=None, max_examples=40)
@given(st.lists(CONTENTS, max_size=3, unique_by=lambda each: each.id), CONTENTS, _RANGES)
def test_contents_come_back_with_their_layers(
    contents: list[Content], other: Content, torn: ExtentMap
) -> None:
    for content in [*contents, other]:  # as they are made: each has a number of its own
        for number, layer in enumerate(content.layers):
            layer.number = number
    with tempfile.TemporaryDirectory() as folder:
        store = JournalStore(Path(folder), disk=DISK)
        lost = {(other.id, 0): torn} if torn else {}
        store.save(Update(_META, contents=contents))
        store.save(Update(_META, contents=[other], torn=lost, unlinked=[(5, 1)]))
        expected = {each.id: plain(each) for each in [*contents, other]}
        assert contents_of(store) == expected
        found: dict[tuple[int, int], ExtentMap] = {}
        assert len(list(store.contents([], found))) == len(expected)
        assert found == lost
        assert store.unlinked([]) == [(5, 1)]
        store.save(Update(_META, drop=[other.id]))
        del expected[other.id]
        assert contents_of(store) == expected
        assert store.unlinked([]) == []
        store.close()


@pytest.mark.parametrize("value", ["NULL", "'x'", "7", "1.5", "x'00ff'", "-1"])
def test_a_row_with_anything_in_a_column_is_a_change_or_is_named(
    tmp_path: Path, value: str
) -> None:
    """Two statements read the changes: none falls between them."""
    store = JournalStore(tmp_path, disk=DISK)
    change = Change("a/x", "a/", b"x", 5, ChangeKind.FILE, content=9)
    store.save(Update(_META, [change, replace(change, key="a/y", name=b"y")]))
    store.close()
    db = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    columns = [row[1] for row in db.execute("PRAGMA table_info(changes)")]
    for column in columns:
        db.execute("CREATE TABLE kept AS SELECT * FROM changes")
        with suppress(sqlite3.IntegrityError):  # a key can't be NULL
            db.execute(f"UPDATE changes SET {column} = {value} WHERE key = 'a/x'")
        db.close()
        store = JournalStore(tmp_path, disk=DISK)
        bad: list[str] = []
        found = list(store.changes(bad))
        assert len(found) + len(bad) == 2, column
        assert any(each.key == "a/y" for each in found)
        store.close()
        db = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
        db.execute("DELETE FROM changes")
        db.execute("INSERT INTO changes SELECT * FROM kept")
        db.execute("DROP TABLE kept")
    db.close()


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    JournalStore(tmp_path, disk=DISK).close()
    db = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    db.execute("UPDATE meta SET value = 2 WHERE name = 'version'")
    db.close()
    with pytest.raises(JournalTooNew, match="format 2"):
        JournalStore(tmp_path, disk=DISK)


def test_a_file_that_is_no_database_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"no database at all" * 500)
    with pytest.raises(JournalUnreadable):
        JournalStore(tmp_path, disk=DISK)


def test_a_new_database_has_no_meta_and_one_without_all_of_it_is_unreadable(
    tmp_path: Path,
) -> None:
    store = JournalStore(tmp_path, disk=DISK)
    assert store.meta() is None
    store.save(Update(_META))
    store.close()
    db = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    db.execute("DELETE FROM meta WHERE name = 'epoch'")
    db.close()
    store = JournalStore(tmp_path, disk=DISK)
    with pytest.raises(JournalUnreadable):
        store.meta()
    store.close()


def test_a_directory_in_its_place_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(OSError, match="irectory"):
        JournalStore(tmp_path, disk=DISK)


def test_people_can_read_it(tmp_path: Path) -> None:
    """With sqlite3, when mountd does not start."""
    store = JournalStore(tmp_path, disk=DISK)
    change = Change("dir/ä", "dir/", "ä".encode(), 5, ChangeKind.FILE, content=9)
    store.save(Update(_META, [change]))
    store.close()
    db = sqlite3.connect(tmp_path / FILE_NAME)
    assert db.execute("SELECT key, content FROM changes").fetchall() == [("dir/ä", 9)]
    db.close()
