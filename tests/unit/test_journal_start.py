"""What a start takes for each file that waits, by counts: seconds are the machine's."""

import gc
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from mountd_cache.journal import Journal
from mountd_cache.journal_folder import collector_off
from tests.unit.journal_steps import checkpoint, create

_FILES = 300


def queue(folder: Path, count: int, *, folded: bool) -> None:
    """As SIGKILL leaves it. `folded`: the database has it all, else the log."""
    journal = Journal.open(folder, boot_id="one")
    for number in range(count):
        create(journal, f"dir/{number}", b"some bytes")
    if folded:
        checkpoint(journal)
    journal.abandon()


def calls_of_a_start(folder: Path) -> int:
    """Of functions, generators and what is written in C."""
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        journal = Journal.open(folder, boot_id="one")
    finally:
        sys.setprofile(before)
    assert len(journal.ledger.changes) == len(journal.ledger.contents)
    journal.abandon()
    return calls


@pytest.mark.parametrize(("folded", "most"), [(True, 20), (False, 140)])
def test_a_start_takes_few_calls_for_each_file_that_waits(
    tmp_path: Path, folded: bool, most: int
) -> None:
    """In the database 17 (27 before 2026-11-22), in the log 125."""
    queue(tmp_path / "one", _FILES, folded=folded)
    queue(tmp_path / "two", 2 * _FILES, folded=folded)
    more = calls_of_a_start(tmp_path / "two") - calls_of_a_start(tmp_path / "one")
    assert more <= most * _FILES


def test_who_has_the_collector_off_keeps_it_off_over_a_start(tmp_path: Path) -> None:
    queue(tmp_path / "journal", _FILES, folded=True)
    with collector_off():
        before = [each["collections"] for each in gc.get_stats()]
        journal = Journal.open(tmp_path / "journal", boot_id="one")
        kept = [[number] for number in range(100_000)]
        assert [each["collections"] for each in gc.get_stats()] == before
    assert gc.isenabled()
    assert len(kept) > len(journal.ledger.changes) == _FILES
    journal.abandon()


def test_a_file_that_waits_takes_seven_objects_after_a_start(tmp_path: Path) -> None:
    """That the collector looks at: change, content, its list of layers, layer, extents, and these
    in two lists."""
    queue(tmp_path / "one", _FILES, folded=True)
    before = len(gc.get_objects())
    journal = Journal.open(tmp_path / "one", boot_id="one")
    assert len(gc.get_objects()) - before <= 7 * _FILES + 200
    journal.abandon()
