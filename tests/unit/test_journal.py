"""The journal's door: what is written is there, in this process and in the next."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from crc32c import crc32c

from mountd_cache.changes import Base, ChangeKind, ChangeState, Content, Layer, Rows
from mountd_cache.durable_io import DirectoryNotPrivate
from mountd_cache.journal import Journal, JournalTooNew
from mountd_cache.sidecar import PAGE, unpack_sidecar
from tests.fakes.faulty_disk import FaultyDisk
from tests.unit.journal_steps import checkpoint, create, file_change, read, sync

_BASE = Base("key", "v1", 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(folder: Path) -> Iterator[Journal]:
    made = Journal.open(folder)
    yield made
    made.abandon()


def again(journal: Journal, folder: Path, boot_id: str | None = None) -> Journal:
    """As after SIGKILL; with a `boot_id` as after a power cut that lost nothing."""
    journal.abandon()
    return Journal.open(folder, boot_id=boot_id)


def data_files(folder: Path) -> set[str]:
    return set(os.listdir(folder / "staging"))


def test_the_folder_is_private_and_nobody_else_may_have_it_open(
    journal: Journal, folder: Path
) -> None:
    for path in (folder, folder / "log", folder / "staging"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    with pytest.raises(BlockingIOError):
        Journal.open(folder)
    folder.chmod(0o755)
    with pytest.raises(DirectoryNotPrivate):
        Journal.open(folder)


def test_an_empty_journal_has_nothing_to_recover(journal: Journal, folder: Path) -> None:
    assert journal.ledger.changes == {}
    assert journal.begin_checkpoint() is None
    found = journal.recovery
    assert (found.torn, found.quarantined, found.replayed) == ((), (), 0)
    journal_id = journal.id
    journal = again(journal, folder)
    assert journal.id == journal_id
    journal.close()
    other = Journal.open(folder.parent / "other")
    assert other.id != journal_id
    other.abandon()


@pytest.mark.parametrize("way", ["log", "database", "both", "boot", "closed"])
def test_what_was_written_is_there_in_the_next_process(
    journal: Journal, folder: Path, way: str
) -> None:
    create(journal, "a/b", b"hello world")
    if way in ("database", "both"):
        checkpoint(journal)
    if way == "both":
        create(journal, "a/c", b"more")
        journal.write(journal.ledger.changes["a/b"].content, 3, b"XX", 7)
    if way == "closed":
        journal.close()
        journal = Journal.open(folder, boot_id="another")
    else:
        journal = again(journal, folder, "another" if way == "boot" else None)
    assert read(journal, "a/b") == (b"helXX world" if way == "both" else b"hello world")
    assert list(journal.ledger.changes) == ["a/b"] + ["a/c"] * (way == "both")
    assert journal.recovery.torn == ()
    assert journal.recovery.quarantined == ()
    assert (journal.recovery.replayed > 0) == (way in ("log", "boot", "both"))
    assert journal.staged_bytes == (15 if way == "both" else 11)
    assert journal.recovery.took_s > 0
    journal.close()


def test_a_name_and_a_key_that_are_no_unicode_survive(journal: Journal, folder: Path) -> None:
    key = "dir/\udcff\ud800"
    change = file_change(journal, "x", kind=ChangeKind.DIRECTORY)
    for made in (
        file_change(journal, "late", size=1, mtime_ns=10**24, attributes={"mode": "0644"}),
        change.__class__(key, "dir/", b"\xff\x00", 7, ChangeKind.FILE, reason="\udc80"),
    ):
        journal.commit(Rows(changes=(made,)))
    before = dict(journal.ledger.changes)
    for _ in range(2):
        checkpoint_or_log = again(journal, folder)
        assert checkpoint_or_log.ledger.changes == before
        journal = checkpoint_or_log
        if journal.begin_checkpoint() is not None:
            checkpoint(journal)
    journal.close()


def test_numbers_grow_for_ever(journal: Journal, folder: Path) -> None:
    seen = [journal.next_sequence() for _ in range(5)]
    for _ in range(3):
        journal = again(journal, folder)  # nothing was committed
        seen += [journal.next_sequence(), create(journal, "x").id]
    assert seen == sorted(set(seen))
    journal.close()


def test_a_new_content_shows_its_base_as_far_as_it_is_large(journal: Journal) -> None:
    content = journal.new_content(_BASE, 4, 5)
    assert (content.size, content.top.floor_end) == (4, 4)
    larger = journal.new_content(_BASE, 20, 5)
    assert (larger.size, larger.top.floor_end) == (20, 10)
    assert content.id not in journal.ledger.contents
    assert content.id != larger.id


def test_a_data_file_is_made_by_the_first_write_to_its_layer(
    journal: Journal, folder: Path
) -> None:
    journal.discard(journal.new_content(None, 0, 5))
    content = create(journal, "x")
    assert data_files(folder) == set()
    journal.pin(content.id)
    journal.write(content.id, 0, b"one", 5)
    assert data_files(folder) == {f"{content.id}-0.data"}
    assert (
        unpack_sidecar((folder / "staging" / f"{content.id}-0.data").read_bytes()[:PAGE])["key"]
        == "x"
    )
    depth = journal.freeze(content.id)
    assert data_files(folder) == {f"{content.id}-0.data"}
    journal.write(content.id, 1, b"wo", 5)
    assert data_files(folder) == {f"{content.id}-0.data", f"{content.id}-1.data"}
    journal = again(journal, folder)
    assert read(journal, "x") == b"owo"
    assert read(journal, "x", depth) == b"one"
    journal.close()


def test_layers_without_a_file_are_as_they_were_after_a_power_cut(
    journal: Journal, folder: Path
) -> None:
    for key in ("empty", "frozen", "cut"):
        create(journal, key)
    ids = {key: journal.ledger.changes[key].content for key in ("empty", "frozen", "cut")}
    journal.write(ids["frozen"], 0, b"frozen", 5)
    journal.freeze(ids["frozen"])
    journal.write(ids["cut"], 0, b"cut", 5)
    shorter = journal.ledger.contents[ids["cut"]].copy()
    shorter.top.truncate(0)
    journal.commit(Rows(contents=(shorter,)))
    sync(journal)
    (folder / "staging" / f"{ids['cut']}-0.data").unlink()
    journal = again(journal, folder, boot_id="another")
    assert (journal.recovery.torn, journal.recovery.quarantined) == ((), ())
    assert [read(journal, key) for key in ids] == [b"", b"frozen", b""]
    for id_ in ids.values():
        journal.write(id_, 0, b"new", 6)
    sync(journal)
    assert [read(journal, key) for key in ids] == [b"new", b"newzen", b"new"]
    journal.close()


def test_a_data_file_that_was_lost_is_not_made_again_without_its_bytes(
    journal: Journal, folder: Path
) -> None:
    content = create(journal, "x", b"some bytes")
    journal = again(journal, folder)
    (folder / "staging" / f"{content.id}-0.data").unlink()
    with pytest.raises(OSError, match="not there"):
        journal.write(content.id, 100, b"more", 5)
    assert data_files(folder) == set()
    journal.abandon()


def test_a_commit_that_names_bytes_that_are_not_there_is_refused(journal: Journal) -> None:
    foreign = Content(77, None, [Layer(0, 0, 0)])
    mine = create(journal, "x", b"x").copy()
    mine.layers.append(Layer(5, 1, 1))
    for rows in (
        Rows(contents=(foreign,)),
        Rows(contents=(mine,)),
        Rows(contents=(Content(mine.id, None, []),)),
        Rows(changes=(file_change(journal, "y", content=78),)),
        Rows(changes=(file_change(journal, "x", content=mine.id),), drop=(mine.id,)),
    ):
        with pytest.raises(ValueError, match="content"):
            journal.commit(rows)
    assert read(journal, "x") == b"x"


def test_writes_and_truncations_make_a_sparse_file(journal: Journal, folder: Path) -> None:
    content = create(journal, "x", b"0123456789", _BASE)
    journal.write(content.id, 0, b"", 3)
    cut = journal.ledger.contents[content.id].copy()
    cut.top.truncate(4)
    cut.top.truncate(8)
    journal.commit(Rows(contents=(cut,)))
    journal.write(content.id, 12, memoryview(b"end"), 9)
    assert read(journal, "x") == b"0123" + bytes(8) + b"end"
    assert journal.ledger.contents[content.id].mtime_ns == 9
    journal = again(journal, folder, "another")
    assert read(journal, "x") == b"0123" + bytes(8) + b"end"
    assert journal.recovery.torn == ()
    journal.close()


def test_what_is_frozen_stays_as_it_was_while_others_write(journal: Journal) -> None:
    content = create(journal, "x", b"first", _BASE)
    depth = journal.freeze(content.id)
    assert journal.freeze(content.id) == depth == 1
    assert journal.rest_adds_nothing(content.id, depth)
    journal.write(content.id, 3, b"SECOND", 5)
    assert not journal.rest_adds_nothing(content.id, depth)
    assert read(journal, "x", depth) == b"firstBBBBB"
    assert read(journal, "x") == b"firSECONDB"
    assert journal.freeze(content.id) == 2


def test_a_file_without_bytes_of_its_own_is_frozen_without_a_layer(journal: Journal) -> None:
    content = create(journal, "x", base=_BASE)
    assert journal.freeze(content.id) == 0
    journal.write(content.id, 0, b"late", 5)
    assert read(journal, "x", 0) == b"B" * 10
    sent = file_change(journal, "x", content=content.id, expect="v2")
    journal.release_frozen(content.id, 0, Base("x", "v2", 10), (sent,))
    assert read(journal, "x") == b"lateBBBBBB"


def test_what_was_sent_goes_in_one_step_and_the_rest_stays(journal: Journal, folder: Path) -> None:
    content = create(journal, "x", b"first")
    depth = journal.freeze(content.id)
    journal.write(content.id, 1, b"II", 5)
    sent = file_change(journal, "x", content=content.id, expect="v2")
    journal.release_frozen(content.id, depth, Base("x", "v2", 5), (sent,))
    assert read(journal, "x") == b"BIIBB"
    assert journal.ledger.changes["x"].expect == "v2"
    assert journal.staged_bytes == 7, "the file is still there"
    sync(journal)
    assert journal.staged_bytes == 2
    assert data_files(folder) == {f"{content.id}-1.data"}
    journal = again(journal, folder)
    assert read(journal, "x") == b"BIIBB"
    assert journal.staged_bytes == 2
    journal.close()


def test_a_content_goes_as_a_whole_when_nothing_was_written_since(
    journal: Journal, folder: Path
) -> None:
    content = create(journal, "x", b"first")
    depth = journal.freeze(content.id)
    base = Base("x", "v2", 5)
    kept = file_change(journal, "x", content=content.id)
    with pytest.raises(ValueError, match="a change names it"):
        journal.release_frozen(content.id, depth, base, (kept,))
    with pytest.raises(ValueError, match="frozen layers"):
        journal.release_frozen(content.id, 2, base, ())
    sent = file_change(journal, "x", size=5, state=ChangeState.CLEAN)
    journal.release_frozen(content.id, depth, base, (sent,))
    assert journal.ledger.contents == {}
    assert journal.ledger.changes == {"x": sent}
    checkpoint(journal)
    assert data_files(folder) == set()
    assert journal.staged_bytes == 0
    assert journal.begin_checkpoint() is None


def test_a_pinned_content_is_read_on_after_it_went(journal: Journal) -> None:
    content = create(journal, "x", b"first")
    journal.pin(content.id)
    journal.freeze(content.id)
    gone = file_change(journal, "x", kind=ChangeKind.GONE_FILE)
    journal.commit(Rows(changes=(gone,), drop=(content.id,)))
    checkpoint(journal)
    assert journal.read(content.id, 0, 0, 5) == b"first"
    journal.unpin(content.id)
    with pytest.raises(OSError, match="not there") as raised:
        journal.read(content.id, 0, 0, 5)
    assert raised.value.errno == errno.EIO
    with pytest.raises(KeyError):
        journal.pin(content.id)


def test_a_file_that_is_open_and_unlinked_ends_with_the_process(
    journal: Journal, folder: Path
) -> None:
    content = create(journal, "x", b"first")
    journal.commit(Rows(forget=("x",)))
    journal.write(content.id, 0, b"still", 5)
    checkpoint(journal)
    assert journal.read(content.id, 0, 0, 5) == b"still"
    journal = again(journal, folder)
    assert journal.ledger.contents == {}
    journal.close()
    assert data_files(folder) == set()
    assert not (folder / "quarantine").exists()


def test_a_sync_of_one_file_leaves_the_others_alone(folder: Path) -> None:
    disk = FaultyDisk()
    journal = Journal.open(folder, disk=disk)
    one, other = create(journal, "x", b"one"), create(journal, "y", b"other")
    disk.calls.clear()
    sync(journal, [one.id, 12345])
    assert disk.calls["fdatasync"] == 2, "the file and the log"
    sync(journal, [one.id])
    assert disk.calls["fdatasync"] == 2, "there was nothing new"
    sync(journal, None)
    assert disk.calls["fdatasync"] == 4
    journal.write(other.id, 0, b"again", 5)
    sync(journal, None)
    assert disk.calls["fdatasync"] == 6
    journal.close()


def test_a_checkpoint_that_failed_is_in_the_next(folder: Path) -> None:
    disk = FaultyDisk()
    journal = Journal.open(folder, disk=disk)
    create(journal, "x", b"one")
    failed = journal.begin_checkpoint()
    assert failed is not None
    create(journal, "y", b"two")
    second = journal.begin_checkpoint()
    assert second is not None
    with pytest.raises(ValueError, match="another checkpoint"):
        journal.write_checkpoint(failed)
    journal.write_checkpoint(second)
    journal.end_checkpoint(second)
    assert journal.begin_checkpoint() is None
    journal = again(journal, folder)
    assert journal.recovery.replayed == 0
    assert (read(journal, "x"), read(journal, "y")) == (b"one", b"two")
    journal.close()


def test_a_journal_of_a_later_version_is_left_alone(folder: Path) -> None:
    journal = Journal.open(folder)
    create(journal, "x", b"one")
    journal.close()
    (folder / "format").write_text("mountd journal, format 2\n")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(JournalTooNew, match="a later mountd"):
        Journal.open(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (folder / "format").write_text("mountd journal, format 1\n")
    Journal.open(folder).close()


def test_a_segment_of_a_later_version_is_left_alone(folder: Path) -> None:
    journal = Journal.open(folder)
    create(journal, "x", b"one")
    journal.abandon()
    (path,) = (folder / "log").glob("*.log")
    data = of_version(path, 3)
    with pytest.raises(JournalTooNew, match="format 3"):
        Journal.open(folder)
    assert path.read_bytes() == data


def test_a_segment_of_the_first_version_is_read(folder: Path) -> None:
    journal = Journal.open(folder)
    create(journal, "x", b"one")
    journal.abandon()
    (path,) = (folder / "log").glob("*.log")
    of_version(path, 1)
    journal = Journal.open(folder)
    assert read(journal, "x") == b"one"
    journal.close()


def of_version(path: Path, version: int) -> bytes:
    """Makes a segment say that it is of that version."""
    data = bytearray(path.read_bytes())
    data[8] = version
    data[76:80] = crc32c(bytes(data[:76])).to_bytes(4, "little")
    path.write_bytes(data)
    return bytes(data)


def test_a_time_of_any_year_is_kept_and_is_no_write(journal: Journal, folder: Path) -> None:
    content = create(journal, "x", b"bytes")
    for mtime_ns in (-5, 7, 2**63, -(2**70)):
        journal.set_mtime(content.id, mtime_ns)
        journal = again(journal, folder)
        found = journal.ledger.contents[content.id]
        assert (found.mtime_ns, found.changed_ns) == (mtime_ns, 2)
        checkpoint(journal)
    assert journal.begin_checkpoint() is None
    journal.set_mtime(content.id, 8)
    checkpoint(journal)
    journal = again(journal, folder)
    assert journal.ledger.contents[content.id].mtime_ns == 8
    journal.close()
