"""What a copy remembers: an append-only log that is only believed as far as it can be checked."""

import json
from pathlib import Path

import crc32c
import pytest

from mountd.errors import StartError
from mountd.transfer.record import LOG, Record


def opened(cache: Path) -> Record:
    return Record.open(cache, "s3://b", "/d")


def test_what_was_noted_is_there_for_the_next_run(tmp_path: Path) -> None:
    with opened(tmp_path) as record:
        record.copied("ä\udcff", "v", "t")
        record.arrived("big", "v", (0, 8), 7)
        record.told("up", "v", "token")
    with opened(tmp_path) as record:
        assert record.same == {"ä\udcff": ("v", "t")}
        assert record.parts == {("big", "v"): {(0, 8): 7}}
        assert record.tokens == {"up": ("v", "token")}


def test_a_finished_run_keeps_only_what_was_copied(tmp_path: Path) -> None:
    with opened(tmp_path) as record:
        for path in ("a", "b"):
            record.copied(path, "v", "t")
            record.arrived(path, "v", (0, 8), 7)
        record.finish(["a"], 1e6)
    with opened(tmp_path) as record:
        assert (record.same, record.parts, record.rate) == ({"a": ("v", "t")}, {}, 1e6)


def line(row: object) -> bytes:
    text = json.dumps(row).encode()
    return b"%08x %b\n" % (crc32c.crc32c(text), text)


def test_how_fast_it_was_is_told_to_another_copy_between_the_same_ends(tmp_path: Path) -> None:
    with Record.open(tmp_path, "s3://b/one", "/data/a") as record:
        assert record.rate == 0
        record.finish([], 5e7)
    with Record.open(tmp_path, "s3://b/two/x", "/elsewhere") as record:
        assert record.rate == 5e7
    with Record.open(tmp_path, "/data/a", "s3://b/one") as record:
        assert record.rate == 0
    for path in (tmp_path / "copies").glob("rate-*"):
        path.write_text("nonsense")
    with Record.open(tmp_path, "s3://b/three", "/data") as record:
        assert record.rate == 0


def test_lines_that_are_cut_changed_or_senseless_are_left_out(tmp_path: Path) -> None:
    with opened(tmp_path) as record:
        record.copied("a", "v", "t")
        log = record.folder / LOG
    good = log.read_bytes()
    spoilt = good.replace(b'"t"', b'"u"')
    senseless = [7, [], ["same", 1, 2, 3], ["part", "p", "v", 9, 3, 1], ["rate", "fast"], "x"]
    log.write_bytes(
        good + spoilt + b"".join(map(line, senseless)) + b"\xff\n" + line(["same", "b"])[:-9]
    )
    with opened(tmp_path) as record:
        assert (record.same, record.parts, record.rate) == ({"a": ("v", "t")}, {}, 0.0)
        record.copied("c", "v", "t")  # after a line that was cut
    with opened(tmp_path) as record:
        assert set(record.same) == {"a", "c"}


def test_only_one_process_copies_a_pair_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path):
        with pytest.raises(StartError, match="already"):
            opened(tmp_path)
        with Record.open(tmp_path, "s3://b", "/other"):
            pass
    with opened(tmp_path):
        pass
