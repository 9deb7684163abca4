"""A journal whose files were damaged: nothing is deleted, the rest goes on, and it is said."""

import errno
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mountd_cache.changes import ChangeKind, ChangeState, Rows
from mountd_cache.journal import Journal
from mountd_cache.log_format import HEADER_SIZE, frame, frames
from tests.conftest import ExpectedLog
from tests.unit.journal_steps import create, file_change, read, sync

_NOW_NS = 1_760_000_000_000_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def opened(folder: Path, boot_id: str = "one") -> Journal:
    return Journal.open(folder, boot_id=boot_id, wall_clock=lambda: _NOW_NS)


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "log").glob("*.log"))


def frame_ends(path: Path) -> list[int]:
    return [end for _, _, end in frames(path.read_bytes(), int(path.stem))]


def set_aside(folder: Path) -> dict[str, str]:
    """What the quarantine says of each file that is in it."""
    found = {}
    for readme in (folder / "quarantine").glob("*/README.txt"):
        for line in readme.read_text().splitlines()[3:]:
            name, _, why = line.partition(": ")
            assert (readme.parent / name).exists() or name.startswith("a row"), line
            found[name] = why
    return found


def failed(journal: Journal) -> dict[str, str]:
    changes = journal.ledger.changes.values()
    return {each.key: each.reason for each in changes if each.state is ChangeState.FAILED}


def test_a_torn_end_of_the_log_is_normal(folder: Path) -> None:
    journal = opened(folder)
    create(journal, "x", b"one")
    create(journal, "y", b"two")
    journal.abandon()
    (path,) = segments(folder)
    size = path.stat().st_size
    os.truncate(path, size - 5)  # in the record of the write to y
    journal = opened(folder)
    assert (read(journal, "x"), read(journal, "y")) == (b"one", b"")
    assert failed(journal) == {}
    assert journal.recovery.quarantined == ()
    journal_id = journal.id
    create(journal, "z", b"three")
    journal.abandon()
    journal = opened(folder)
    assert journal.id == journal_id
    assert [read(journal, key) for key in ("x", "y", "z")] == [b"one", b"", b"three"]
    journal.close()


@pytest.mark.parametrize("boot_id", ["one", "two"])
def test_a_log_damaged_in_the_middle_is_set_aside_and_what_it_was_about_is_not_sent(
    folder: Path, expected_log: ExpectedLog, boot_id: str
) -> None:
    expected_log("the log is damaged after record 2")
    expected_log("files were set aside")
    expected_log("is not sent: the journal was damaged")
    journal = opened(folder)
    create(journal, "x", b"one")
    create(journal, "y", b"two")
    journal.write(journal.ledger.changes["x"].content, 0, b"ONE", 9)
    sync(journal)
    create(journal, "z", b"three")
    sync(journal)
    old_id, number = journal.id, journal.next_sequence()
    journal.abandon()
    (path,) = segments(folder)
    damage(path, frame_ends(path)[1] + 20)  # the record that y is there
    journal = opened(folder, boot_id)
    assert "the journal was damaged" in failed(journal)["x"]
    if boot_id == "one":
        assert read(journal, "x") == b"ONE", "its bytes are what they are"
    else:  # nothing proves them: the record was not read
        with pytest.raises(OSError, match="torn"):
            read(journal, "x")
    assert set(journal.ledger.changes) == {"x"}
    found = set_aside(folder)
    assert "damaged at" in found.pop(path.name)
    assert len(found) == 2
    assert all("no change in the journal has it" in why for why in found.values())
    assert all(each.exists() for each in journal.recovery.quarantined)
    assert journal.id != old_id, "numbers of lost records may have been used as upload ids"
    assert journal.next_sequence() > number
    journal.abandon()
    journal = opened(folder, boot_id)
    assert journal.recovery.quarantined == ()
    assert "the journal was damaged" in failed(journal)["x"]
    journal.close()


def test_pages_that_a_power_cut_took_from_the_end_of_the_log_are_no_damage(
    folder: Path, expected_log: ExpectedLog
) -> None:
    expected_log("2 files were set aside")
    journal = opened(folder)
    create(journal, "x", b"one")
    sync(journal)
    create(journal, "y", b"two")
    create(journal, "z", b"three")
    journal.abandon()
    (path,) = segments(folder)
    damage(path, frame_ends(path)[2] + 20)  # the first after the sync; later ones are whole
    journal = opened(folder, "two")
    assert set(journal.ledger.changes) == {"x"}
    assert failed(journal) == {}
    assert all("-0.data" in path.name for path in journal.recovery.quarantined)
    journal.close()


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(20_000))


def holes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    path.write_bytes(data)


@pytest.mark.parametrize("how", [garbage, holes, Path.unlink])
def test_a_database_that_can_not_be_read_is_set_aside_with_all_that_hangs_on_it(
    folder: Path, expected_log: ExpectedLog, how: Callable[[Path], object]
) -> None:
    expected_log("can't be read and is set aside")
    expected_log("files were set aside")
    journal = opened(folder)
    content = create(journal, "dir/x", b"one")
    old_id = journal.id
    journal.close()
    journal = opened(folder)
    create(journal, "dir/y", b"two")
    sync(journal)
    journal.abandon()
    how(folder / "journal.db")
    (log_path,) = segments(folder)
    journal = opened(folder)
    assert journal.ledger.changes == {}
    assert journal.id != old_id
    found = set_aside(folder)
    assert "'key': 'dir/x'" in found[f"{content.id}-0.data"]
    assert "'extents': [0, 3]" in found[f"{content.id}-0.data"]
    assert sum("'key': 'dir/y'" in why for why in found.values()) == 1
    assert "database is lost" in found[log_path.name]
    assert ("journal.db" in found) == (how is not Path.unlink)
    (moved,) = (folder / "quarantine").glob(f"*/{content.id}-0.data")
    assert moved.read_bytes()[4096:] == b"one"
    create(journal, "z", b"three")
    journal.close()
    journal = opened(folder)
    assert list(journal.ledger.changes) == ["z"]
    assert journal.recovery.quarantined == ()
    journal.close()


def test_rows_that_make_no_sense_do_not_take_the_others_along(
    folder: Path, expected_log: ExpectedLog
) -> None:
    expected_log("2 rows of the journal's database make no sense")
    expected_log("files were set aside")
    expected_log("is not sent: its staged bytes are missing")
    journal = opened(folder)
    for key in ("kind", "layer", "good"):
        create(journal, key, key.encode())
    ids = {key: change.content for key, change in journal.ledger.changes.items()}
    journal.close()
    db = sqlite3.connect(folder / "journal.db", isolation_level=None)
    db.execute("UPDATE changes SET kind = 99 WHERE key = 'kind'")
    db.execute("UPDATE layers SET extents = x'0102' WHERE content = ?", (ids["layer"],))
    db.close()
    journal = opened(folder)
    assert set(journal.ledger.changes) == {"layer", "good"}
    assert read(journal, "good") == b"good"
    assert "staged bytes are missing" in failed(journal)["layer"]
    text = (next((folder / "quarantine").glob("*/README.txt"))).read_text()
    assert f"{ids['kind']}-0.data" in text
    assert f"{ids['layer']}-0.data" in text
    assert "a row of the table changes" in text
    assert ids["good"] in journal.ledger.contents
    journal.close()


@pytest.mark.parametrize(
    ("update", "hit"),
    [
        ("UPDATE changes SET directory = CAST(x'80' AS TEXT) WHERE key = 'b'", "b"),
        ("UPDATE changes SET key = CAST(x'E2' AS TEXT) WHERE key = 'a'", "a"),
        ("UPDATE changes SET attributes = CAST(x'7BFF' AS TEXT) WHERE key = 'b'", "b"),
    ],
)
def test_a_text_that_is_no_utf_8_makes_no_sense_in_its_row_alone(
    folder: Path, expected_log: ExpectedLog, update: str, hit: str
) -> None:
    expected_log("1 rows of the journal's database make no sense")
    expected_log("files were set aside")
    journal = opened(folder)
    for key in ("a", "b", "c"):
        create(journal, key, key.encode())
    hidden = journal.ledger.changes[hit].content
    journal.close()
    db = sqlite3.connect(folder / "journal.db", isolation_level=None)
    db.execute(update)
    db.close()
    journal = opened(folder)
    rest = {"a", "b", "c"} - {hit}
    assert set(journal.ledger.changes) == rest
    assert {read(journal, key) for key in rest} == {key.encode() for key in rest}
    text = (next((folder / "quarantine").glob("*/README.txt"))).read_text()
    assert f"{hidden}-0.data" in text
    assert "a row of the table changes" in text
    journal.close()


def test_the_base_of_a_content_that_is_no_utf_8_makes_no_sense_for_it_alone(
    folder: Path, expected_log: ExpectedLog
) -> None:
    expected_log("1 rows of the journal's database make no sense")
    expected_log("files were set aside")
    expected_log("is not sent: its staged bytes are missing")
    journal = opened(folder)
    for key in ("a", "b"):
        create(journal, key, key.encode())
    hit = journal.ledger.changes["a"].content
    journal.close()
    db = sqlite3.connect(folder / "journal.db", isolation_level=None)
    db.execute(
        "UPDATE contents SET base_key = 'a', base_size = 1, base_version = CAST(x'FF' AS TEXT)"
        " WHERE id = ?",
        (hit,),
    )
    db.close()
    journal = opened(folder)
    assert set(failed(journal)) == {"a"}
    assert read(journal, "b") == b"b"
    journal.close()


@pytest.mark.parametrize("value", ["CAST(x'FF' AS TEXT)", "'two'", "x'02'", "NULL", "1.5"])
def test_a_data_file_to_be_removed_that_makes_no_sense_removes_nothing(
    folder: Path, expected_log: ExpectedLog, value: str
) -> None:
    expected_log("1 rows of the journal's database make no sense")
    expected_log("files were set aside")
    journal = opened(folder)
    create(journal, "a", b"one")
    journal.close()
    db = sqlite3.connect(folder / "journal.db", isolation_level=None)
    db.execute(f"INSERT INTO unlinked VALUES ({value}, 0)")
    db.close()
    journal = opened(folder)
    assert read(journal, "a") == b"one"
    text = (next((folder / "quarantine").glob("*/README.txt"))).read_text()
    assert "a row of the table unlinked" in text
    journal.close()
    journal = opened(folder)
    assert journal.recovery.quarantined == ()
    journal.close()


def test_a_data_file_that_somebody_needs_is_not_removed_whatever_the_database_says(
    folder: Path, expected_log: ExpectedLog
) -> None:
    expected_log("1 rows of the journal's database make no sense")
    expected_log("files were set aside")
    journal = opened(folder)
    create(journal, "a", b"one")
    content = journal.ledger.changes["a"].content
    journal.close()
    db = sqlite3.connect(folder / "journal.db", isolation_level=None)
    db.execute("INSERT INTO unlinked VALUES (?, 0)", (content,))
    db.close()
    for _ in range(2):
        journal = opened(folder)
        create(journal, "b", b"two")
        assert read(journal, "a") == b"one"
        assert failed(journal) == {}
        journal.close()


@pytest.mark.parametrize("value", ["CAST(x'FF' AS TEXT)", "'one'", "NULL"])
def test_a_format_that_nobody_understands_is_a_damaged_database(
    folder: Path, expected_log: ExpectedLog, value: str
) -> None:
    expected_log("journal.db can't be read and is set aside")
    expected_log("files were set aside")
    journal = opened(folder)
    create(journal, "a", b"one")
    journal.close()
    db = sqlite3.connect(folder / "journal.db", isolation_level=None)
    db.execute(f"UPDATE meta SET value = {value} WHERE name = 'version'")
    db.close()
    journal = opened(folder)
    assert journal.recovery.quarantined
    journal.close()


def test_a_torn_file_whose_row_makes_no_sense_does_not_keep_the_journal_shut(
    folder: Path, expected_log: ExpectedLog
) -> None:
    expected_log("is not sent: torn by a power loss")
    expected_log("1 rows of the journal's database make no sense")
    expected_log("files were set aside")
    expected_log("is not sent: its staged bytes are missing")
    journal = opened(folder)
    content = create(journal, "x", b"one" * 3000)
    create(journal, "y", b"two")
    journal.abandon()
    damage(folder / "staging" / f"{content.id}-0.data", 4096 + 7)
    journal = opened(folder, "two")
    assert failed(journal)["x"] == "torn by a power loss"
    journal.close()
    db = sqlite3.connect(folder / "journal.db", isolation_level=None)
    [(torn,)] = db.execute("SELECT count(*) FROM layers WHERE torn IS NOT NULL")
    assert torn == 1
    db.execute("UPDATE contents SET mtime_ns = 'never' WHERE id = ?", (content.id,))
    db.execute("UPDATE changes SET state = 0, reason = NULL")
    db.close()
    journal = opened(folder, "two")
    assert "staged bytes are missing" in failed(journal)["x"]
    assert f"{content.id}-0.data" in set_aside(folder)
    assert read(journal, "y") == b"two"
    journal.close()


def test_a_log_that_is_missing_is_noticed(folder: Path, expected_log: ExpectedLog) -> None:
    expected_log("the journal's log is missing")
    journal = opened(folder)
    create(journal, "x", b"one")
    old_id = journal.id
    journal.close()
    for path in segments(folder):
        path.unlink()
    journal = opened(folder)
    assert read(journal, "x") == b"one"
    assert journal.id != old_id
    journal.close()


@pytest.mark.parametrize("how", ["missing", "short", "one of two"])
def test_a_content_that_has_lost_synced_bytes_is_set_aside(
    folder: Path, expected_log: ExpectedLog, how: str
) -> None:
    expected_log("is not sent: its staged bytes are missing")
    expected_log("files were set aside")
    journal = opened(folder)
    content = create(journal, "x", b"one" * 1000)
    create(journal, "y", b"two")
    journal.freeze(content.id)
    journal.write(content.id, 0, b"more", 9)
    sync(journal)
    journal.abandon()
    path = folder / "staging" / f"{content.id}-0.data"
    if how == "short":
        os.truncate(path, 5000)
    else:
        path.unlink()
    if how == "missing":
        (folder / "staging" / f"{content.id}-1.data").unlink()
        expected_log("is not sent")
    journal = opened(folder, "two" if how == "short" else "one")
    assert "staged bytes are missing" in failed(journal)["x"]
    change = journal.ledger.changes["x"]
    assert change.content == content.id
    assert journal.ledger.content_of(change) is None
    with pytest.raises(OSError, match="not there") as raised:
        journal.read(content.id, 0, 0, 1)
    assert raised.value.errno == errno.EIO
    assert read(journal, "y") == b"two"
    found = set_aside(folder) if how != "missing" else {}
    expected = {"short": 2, "one of two": 1, "missing": 0}[how]
    assert len(found) == expected
    assert all("'key': 'x'" in why for why in found.values())
    moved = replace(change, key="renamed", name=b"renamed")
    journal.commit(Rows(changes=(moved,), forget=("x",)))  # it can still be renamed
    journal.close()
    journal = opened(folder)
    assert "staged bytes are missing" in failed(journal)["renamed"]
    journal.close()


def test_a_change_whose_content_is_nowhere_is_not_silently_clean(
    folder: Path, expected_log: ExpectedLog
) -> None:
    expected_log("is not sent: its staged bytes are missing")
    journal = opened(folder)
    create(journal, "x", b"one")
    journal.close()
    db = sqlite3.connect(folder / "journal.db", isolation_level=None)
    db.execute("UPDATE changes SET content = 5, state = 2")
    db.execute("DELETE FROM contents")
    db.execute("DELETE FROM layers")
    db.close()
    for path in (folder / "staging").iterdir():
        path.unlink()
    journal = opened(folder)
    assert "staged bytes are missing" in failed(journal)["x"]
    journal.close()


def test_files_that_are_not_ours_leave_the_staging_folder_too(
    folder: Path, expected_log: ExpectedLog
) -> None:
    expected_log("2 files were set aside")
    opened(folder).close()
    (folder / "staging" / "notes.txt").write_text("mine")
    (folder / "staging" / "7-0.data").write_bytes(bytes(5000))
    (folder / "staging" / "8-0.data").write_bytes(bytes(4096))
    journal = opened(folder)
    assert os.listdir(folder / "staging") == []
    assert set(set_aside(folder)) == {"notes.txt", "7-0.data"}
    journal.close()


def test_two_quarantines_of_the_same_second_have_folders_of_their_own(
    folder: Path, expected_log: ExpectedLog
) -> None:
    expected_log("1 files were set aside")
    for name in ("one", "two"):
        opened(folder).close()
        (folder / "staging" / name).write_text(name)
        opened(folder).close()
    names = sorted(path.name for path in (folder / "quarantine").iterdir())
    assert names == ["20251009T085320Z", "20251009T085320Z-1"]
    assert set(set_aside(folder)) == {"one", "two"}


def test_a_record_that_makes_no_sense_counts_as_damage(
    folder: Path, expected_log: ExpectedLog
) -> None:
    """A bug wrote it: its CRC is right."""
    expected_log("makes no sense")
    expected_log("the log is damaged")
    expected_log("files were set aside")
    expected_log("is not sent: the journal was damaged")
    journal = opened(folder)
    content = create(journal, "x", b"one")
    journal.commit(Rows(changes=(file_change(journal, "y", kind=ChangeKind.DIRECTORY),)))
    journal.write(content.id, 0, b"ONE", 5)
    journal.abandon()
    (path,) = segments(folder)
    data = path.read_bytes()
    third = list(frames(data, 1))[2]
    bad = frame(3, b"\x63" + third[1][1:])
    start = list(frames(data, 1))[1][2]
    path.write_bytes(data[:start] + bad + data[start + len(bad) :])
    assert start + len(bad) > HEADER_SIZE
    journal = opened(folder)
    assert set(failed(journal)) == {"x"}
    assert set(journal.ledger.changes) == {"x"}
    journal.close()
