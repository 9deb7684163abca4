"""The files that say what is pinned, and what becomes of foreign and torn ones."""

import json
from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from mountd_cache.pin_record import HELD, PinRecord, Wanted, clean_path
from tests.conftest import ExpectedLog


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    record = PinRecord(tmp_path / "pins")
    assert record.read_wanted() == Wanted()
    assert list(record.read_kept()) == []
    wanted = Wanted((b"", b"a/b", "ünï".encode(), b"\xff"), (b"a/b",))
    record.write_wanted(wanted)
    held = [(bytes([i]) * 16, i * 1000) for i in range(5)]
    record.write_kept([b"".join(HELD.pack(*one) for one in held[:3]), HELD.pack(*held[3])])
    assert PinRecord(tmp_path / "pins").read_wanted() == wanted
    assert list(record.read_kept()) == held[:4]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        json.dumps({"version": 2, "paths": [], "complete": []}).encode(),
        json.dumps({"version": 1, "paths": ["../x"], "complete": []}).encode(),
        json.dumps({"version": 1, "paths": ["a\0b"], "complete": []}).encode(),
        json.dumps({"version": 1, "paths": [7], "complete": []}).encode(),
        json.dumps({"version": 1, "paths": {"a": 1}, "complete": []}).encode(),
        json.dumps({"version": 1, "paths": ["x" * 5000], "complete": []}).encode(),
        json.dumps({"version": 1, "paths": [str(i) for i in range(10_001)]}).encode(),
    ],
)
def test_what_is_not_ours_is_set_aside_and_told(
    tmp_path: Path, body: bytes, expected_log: ExpectedLog
) -> None:
    expected_log("what was pinned can't be read")
    record = PinRecord(tmp_path / "pins")
    (tmp_path / "pins/wanted").write_bytes(b"%08x\n" % crc32c(body) + body)
    assert record.read_wanted() == Wanted()
    assert (tmp_path / "pins/wanted.unreadable").read_bytes().endswith(body)
    assert record.read_wanted() == Wanted()


def test_a_flipped_bit_is_noticed(tmp_path: Path, expected_log: ExpectedLog) -> None:
    expected_log("its checksum is wrong")
    record = PinRecord(tmp_path / "pins")
    record.write_wanted(Wanted((b"abc",)))
    record.write_kept([HELD.pack(b"x" * 16, 1)])
    for name in ("wanted", "kept"):
        path = tmp_path / "pins" / name
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)
    assert record.read_wanted() == Wanted()
    assert list(record.read_kept()) == []


@given(st.binary(max_size=200))
def test_no_content_of_the_file_of_what_is_held_is_believed_without_its_sum(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        record = PinRecord(Path(folder) / "pins")
        (Path(folder) / "pins/kept").write_bytes(data)
        assert list(record.read_kept()) == []


def test_paths_are_told_in_one_way_only() -> None:
    assert clean_path(b"//a///b/") == b"a/b"
    assert clean_path(b"") == b""
    assert clean_path(b"a/../b") is None
    assert clean_path(b"./a") is None
