"""Versions that copies are about to have, known to whom comes after one that was killed."""

from pathlib import Path

import pytest

from mountd.sync.arrivals import Arrivals
from mountd.sync.note_lines import NoteLines
from mountd.sync.upload_id import UploadId

ID = str(UploadId.of("journal", "d/f", 10**18, 7, size=3))


def test_what_was_noted_is_known_to_the_next_process_until_it_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "copies-1"
    first = Arrivals.load(path)
    for key in ("d/f", "gone", "\udcff\n"):
        first.note(key, ID, '"tag";3;t1i2')
    first.forget("gone")
    second = Arrivals.load(path)
    assert second.id_of("d/f", '"tag";3;t1i2') == second.id_of("\udcff\n", '"tag";3;t1i2') == ID
    assert second.id_of("d/f", '"other";3;t1i2') == second.id_of("gone", '"tag";3;t1i2') == ""
    second.note("new", ID, "v")
    second.retain(lambda key: key != "d/f")
    third = Arrivals.load(path)
    assert third.id_of("d/f", '"tag";3;t1i2') == ""
    assert third.id_of("new", "v") == third.id_of("\udcff\n", '"tag";3;t1i2') == ID


def test_of_many_tries_at_one_key_the_last_are_known(tmp_path: Path) -> None:
    path = tmp_path / "copies-1"
    arrivals = Arrivals.load(path)
    for number in range(50):
        arrivals.note("d/f", ID, f"v{number}")
    for found in (arrivals, Arrivals.load(path)):
        known = [number for number in range(50) if found.id_of("d/f", f"v{number}")]
        assert known == list(range(42, 50))


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"key": "f", "version": "", "id": ID},
        {"key": "f", "version": "v", "id": "no id"},
        {"key": "f", "version": 1, "id": ID},
        {"key": ["f"], "version": "v", "id": ID},
    ],
)
def test_a_note_that_makes_no_sense_is_none(tmp_path: Path, value: dict[str, object]) -> None:
    path = tmp_path / "copies-1"
    lines = NoteLines(path)
    lines.put(99, value)
    lines.put(100, {"key": "g", "version": "v", "id": ID})
    found = Arrivals.load(path)
    assert (found.id_of("f", "v"), found.id_of("g", "v")) == ("", ID)
