"""The journal on disks that are full or failing, and what is torn after a power cut."""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from mountd_cache.changes import Base, Change, ChangeState, Rows
from mountd_cache.journal import Journal
from mountd_cache.oplog import RESERVE, SEGMENT_SIZE
from mountd_cache.records import pack
from mountd_cache.sidecar import PAGE
from tests.conftest import ExpectedLog
from tests.fakes.faulty_disk import FaultyDisk, io_error, no_room
from tests.unit.journal_steps import checkpoint, create, file_change, read, sync


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


@pytest.fixture
def journal(folder: Path, disk: FaultyDisk) -> Iterator[Journal]:
    made = Journal.open(folder, disk=disk, boot_id="one")
    yield made
    disk.heal()
    made.abandon()


def fill_the_log(journal: Journal, disk: FaultyDisk) -> None:
    """No record fits any more, and there is no room for another segment."""
    disk.fail("create", ".log", no_room)
    big = file_change(journal, "big", attributes={"x": "y" * 100_000})
    size = len(pack(Rows(changes=(big,)))) + 16
    for _ in range((SEGMENT_SIZE - RESERVE - 5000) // size):
        journal.commit(Rows(changes=(big,)))
    small = Rows(drop=(1,))  # as small as a record gets
    with suppress(OSError):
        while True:
            journal.commit(small)


def test_a_step_that_finds_no_room_changes_nothing(
    journal: Journal, disk: FaultyDisk, folder: Path
) -> None:
    content = create(journal, "x", b"0123456789")
    fill_the_log(journal, disk)
    before = dict(journal.ledger.changes)
    other = journal.new_content(None, 0, 5)
    change = file_change(journal, "y", content=other.id)
    for step in (
        lambda: journal.commit(Rows(changes=(change,), contents=(other,))),
        lambda: journal.write(content.id, 0, b"NO", 5),
        lambda: journal.freeze(content.id),
    ):
        with pytest.raises(OSError, match="No space") as raised:
            step()
        assert raised.value.errno == errno.ENOSPC
    assert journal.ledger.changes == before
    assert read(journal, "x") == b"0123456789"
    assert len(journal.ledger.contents[content.id].layers) == 1
    journal.discard(other)
    assert os.listdir(folder / "staging") == [f"{content.id}-0.data"]


def test_an_upload_that_is_done_makes_room_on_a_full_disk(
    journal: Journal, disk: FaultyDisk, folder: Path
) -> None:
    content = create(journal, "x", b"0123456789")
    depth = journal.freeze(content.id)
    fill_the_log(journal, disk)
    sent = file_change(journal, "x", expect="v1", state=ChangeState.CLEAN)
    journal.release_frozen(content.id, depth, Base("x", "v1", 10), (sent,))
    journal.commit(Rows(forget=("big",)), reserve=True)
    sync(journal)
    assert os.listdir(folder / "staging") == []
    checkpoint(journal)
    assert journal.staged_bytes == 0
    with pytest.raises(OSError, match="No space"):
        create(journal, "y", b"")
    disk.heal()
    create(journal, "z", b"again")
    journal.abandon()
    journal = Journal.open(folder, boot_id="one")
    assert read(journal, "z") == b"again"
    assert journal.ledger.changes["x"] == sent
    journal.close()


def test_a_write_that_was_done_in_part_leaves_a_file_that_can_be_proved(
    journal: Journal, disk: FaultyDisk, folder: Path
) -> None:
    content = create(journal, "x", b"0123456789" * 100)
    calls = 0

    def full_later(call: str, path: str) -> None:
        nonlocal calls
        if call == "pwrite" and path.endswith(".data"):
            calls += 1
            if calls > 1:
                raise no_room()

    disk.before = full_later
    disk.most_written = 100  # the records are shorter
    with pytest.raises(OSError, match="No space"):
        journal.write(content.id, 500, b"N" * 400, 5)
    calls = 0
    with pytest.raises(OSError, match="No space"):
        journal.write(content.id, 1000, b"N" * 400, 5)
    expected = b"0123456789" * 50 + b"N" * 100 + b"0123456789" * 40
    assert read(journal, "x") == expected
    disk.heal()
    journal.abandon()
    journal = Journal.open(folder, boot_id="one")
    assert read(journal, "x") == expected
    journal.close()


def test_a_short_write_goes_on_where_there_is_room(journal: Journal, disk: FaultyDisk) -> None:
    content = create(journal, "x", b"x")
    disk.most_written = 100
    journal.write(content.id, 0, b"0123456789" * 30, 5)
    assert read(journal, "x") == b"0123456789" * 30


def test_an_fsync_that_failed_fails_again_and_others_go_on(
    journal: Journal, disk: FaultyDisk
) -> None:
    one, other = create(journal, "x", b"one"), create(journal, "y", b"other")
    disk.fail("fdatasync", f"{one.id}-0.data", io_error)
    with pytest.raises(OSError, match="Input/output"):
        sync(journal, [one.id])
    disk.heal()
    with pytest.raises(OSError, match="can't be written"):
        sync(journal, [one.id])
    sync(journal, [other.id])
    found = journal.begin_checkpoint()
    assert found is not None
    with pytest.raises(OSError, match="can't be written"):
        journal.write_checkpoint(found)
    assert read(journal, "x") == b"one"


def test_a_log_that_could_not_be_synced_is_good_again_after_a_checkpoint(
    journal: Journal, disk: FaultyDisk
) -> None:
    create(journal, "x", b"one")
    disk.fail("fdatasync", ".log", io_error)
    with pytest.raises(OSError, match="Input/output"):
        sync(journal)
    disk.heal()
    with pytest.raises(OSError, match="can't be written"):
        sync(journal)
    checkpoint(journal)
    sync(journal)


@pytest.mark.parametrize(
    ("call", "name"), [("commit", ""), ("unlink", ".data"), ("fsync_dir", "log")]
)
def test_a_checkpoint_that_can_not_be_written_loses_nothing(
    journal: Journal, disk: FaultyDisk, folder: Path, call: str, name: str
) -> None:
    create(journal, "x", b"one")
    gone = create(journal, "y", b"two")
    journal.commit(Rows(forget=("y",), drop=(gone.id,)))
    found = journal.begin_checkpoint()
    assert found is not None
    disk.fail(call, name, io_error)
    with pytest.raises(OSError, match="Input/output"):
        journal.write_checkpoint(found)
    disk.heal()
    create(journal, "z", b"three")
    journal.abandon()
    journal = Journal.open(folder, boot_id="two")
    assert (read(journal, "x"), read(journal, "z")) == (b"one", b"three")
    assert "y" not in journal.ledger.changes
    assert journal.recovery.quarantined == ()
    journal.close()
    assert len(os.listdir(folder / "staging")) == 2


def test_a_close_that_can_not_checkpoint_says_so_and_the_log_has_it(
    journal: Journal, disk: FaultyDisk, folder: Path
) -> None:
    create(journal, "x", b"one")
    disk.fail("commit", "", no_room)
    with pytest.raises(OSError, match="No space"):
        journal.close()
    journal.close()
    journal = Journal.open(folder, boot_id="one")
    assert read(journal, "x") == b"one"
    journal.close()


def test_a_journal_opens_on_a_full_disk(
    journal: Journal, disk: FaultyDisk, folder: Path, expected_log: ExpectedLog
) -> None:
    expected_log("what was recovered is only in the log for now")
    create(journal, "x", b"one")
    checkpoint(journal)  # takes room for a spare segment as well
    create(journal, "y", b"two")
    journal.abandon()

    def full(call: str, path: str) -> None:
        if call in ("allocate", "commit"):
            raise no_room()

    disk.before = full
    journal = Journal.open(folder, disk=disk, boot_id="two")
    assert (read(journal, "x"), read(journal, "y")) == (b"one", b"two")
    sent = file_change(journal, "y", expect="v1")
    content = journal.ledger.changes["y"].content
    journal.release_frozen(content, journal.freeze(content), Base("y", "v1", 3), (sent,))
    sync(journal)
    assert len(os.listdir(folder / "staging")) == 1
    disk.heal()
    journal.close()
    journal = Journal.open(folder, boot_id="two")
    assert journal.ledger.changes["y"] == sent
    journal.close()


# ---- torn by a power cut


def power_cut(journal: Journal, folder: Path, at: int, data: bytes) -> Journal:
    """Bytes of the only file did not reach the disk."""
    journal.abandon()
    (path,) = (folder / "staging").iterdir()
    with open(path, "r+b") as file:
        file.seek(PAGE + at)
        file.write(data)
    return Journal.open(folder, boot_id="two")


def test_writes_over_writes_are_proved_where_nothing_was_lost(
    journal: Journal, folder: Path
) -> None:
    content = create(journal, "x", b"0123456789" * 500)
    for offset, length in ((100, 900), (50, 100), (4000, 2000), (900, 300), (0, 60), (5990, 20)):
        journal.write(content.id, offset, bytes([offset % 255]) * length, 5)
    expected = read(journal, "x")
    journal.abandon()
    journal = Journal.open(folder, boot_id="two")
    assert journal.recovery.torn == ()
    assert read(journal, "x") == expected
    journal.close()


def test_what_was_torn_is_not_sent_nor_read_until_it_is_written_again(
    journal: Journal, folder: Path, expected_log: ExpectedLog
) -> None:
    expected_log("'x' is not sent: torn by a power loss")
    content = create(journal, "x", b"0123456789")
    sync(journal)
    journal.write(content.id, 8, b"abcdefgh", 5)
    journal = power_cut(journal, folder, 12, bytes(4))
    change = journal.ledger.changes["x"]
    assert journal.recovery.torn == ("x",)
    assert (change.state, change.reason) == (ChangeState.FAILED, "torn by a power loss")
    assert journal.is_torn(content.id)
    assert journal.read(content.id, 0, 0, 8) == b"01234567", "what was synced"
    for _ in range(2):
        with pytest.raises(OSError, match="torn by a power loss") as raised:
            journal.read(content.id, 0, 0, 9)
        assert raised.value.errno == errno.EIO
        journal.abandon()
        journal = Journal.open(folder, boot_id="three")
        assert journal.recovery.torn == (), "it was said once"
    pending = replace(change, state=ChangeState.PENDING, reason="")
    journal.commit(Rows(changes=(pending,)))  # somebody says: try again
    journal.abandon()
    journal = Journal.open(folder, boot_id="three")
    assert journal.recovery.torn == ("x",), "it still can't be read"
    journal.write(content.id, 8, b"ABCDEFGH", 6)
    assert not journal.is_torn(content.id)
    assert read(journal, "x") == b"01234567ABCDEFGH"
    journal.close()
    journal = Journal.open(folder, boot_id="three")
    assert not journal.is_torn(content.id)
    assert read(journal, "x") == b"01234567ABCDEFGH"
    journal.close()


def test_what_was_torn_and_cut_off_is_whole_again(
    journal: Journal, folder: Path, expected_log: ExpectedLog
) -> None:
    expected_log("'x' is not sent: torn by a power loss")
    content = create(journal, "x", b"0123456789")
    sync(journal)
    journal.write(content.id, 10, b"abcdefgh", 5)
    journal = power_cut(journal, folder, 12, bytes(4))
    cut = journal.ledger.contents[content.id].copy()
    cut.top.truncate(10)
    cut.top.truncate(18)
    journal.commit(Rows(contents=(cut,)))
    assert not journal.is_torn(content.id)
    assert read(journal, "x") == b"0123456789" + bytes(8)
    journal.close()


def test_what_was_cut_off_need_not_be_proved(journal: Journal, folder: Path) -> None:
    content = create(journal, "x", b"0123456789")
    sync(journal)
    journal.write(content.id, 10, b"abcdefgh", 5)
    cut = journal.ledger.contents[content.id].copy()
    cut.top.truncate(10)
    journal.commit(Rows(contents=(cut,)))
    journal = power_cut(journal, folder, 12, bytes(4))
    assert journal.recovery.torn == ()
    assert read(journal, "x") == b"0123456789"
    journal.close()


def test_a_sync_counts_although_a_later_write_got_to_the_disk_and_its_record_did_not(
    journal: Journal, folder: Path
) -> None:
    create(journal, "x", b"0123456789")
    sync(journal)
    journal = power_cut(journal, folder, 5, b"LATER")
    assert journal.recovery.torn == ()
    assert read(journal, "x") == b"01234LATER"
    journal.close()


def test_nothing_is_verified_after_a_kill(journal: Journal, folder: Path) -> None:
    """The page cache has it all; what differs then was a write under way."""
    create(journal, "x", b"0123456789")
    journal.abandon()
    (path,) = (folder / "staging").iterdir()
    with open(path, "r+b") as file:
        file.seek(PAGE + 5)
        file.write(b"under")
    journal = Journal.open(folder, boot_id="one")
    assert read(journal, "x") == b"01234under"
    assert journal.recovery.torn == ()
    journal.abandon()
    again = Journal.open(folder, boot_id="one")  # still not proved, still not verified
    assert again.recovery.torn == ()
    again.close()


def test_a_change_that_failed_for_another_reason_keeps_it(journal: Journal, folder: Path) -> None:
    content = create(journal, "x", b"0123456789")
    change: Change = journal.ledger.changes["x"]
    refused = replace(change, state=ChangeState.FAILED, reason="refused")
    journal.commit(Rows(changes=(refused,)))
    journal = power_cut(journal, folder, 2, b"??")
    assert journal.ledger.changes["x"].reason == "refused"
    assert journal.is_torn(content.id)
    journal.close()
