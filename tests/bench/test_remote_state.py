"""What the bench believes of the server: no part counts as the whole, wrong data never wins."""

import time
from dataclasses import replace

import pytest

from tests.bench.cases import FULL, QUICK, Case, Goal
from tests.bench.copy_scenarios import copy_scenarios
from tests.bench.nextcloud_scenarios import nextcloud_scenarios
from tests.bench.readers import WrongData
from tests.bench.remote_state import Edited, Gone, Objects, Synthetic, wait_for
from tests.bench.results import Measurement, judge, summarize
from tests.bench.rows import all_cases
from tests.bench.scenarios import scenarios
from tests.bench.train_scenarios import train_scenarios
from tests.bench.write_scenarios import write_scenarios
from tests.servers.s3.launch import S3Server
from tests.servers.s3.seeding import synthetic_bytes

WANTED = {"a": Synthetic("a", 5000), "d/b": Synthetic("d/b", 3_000_000)}


def test_an_edit_shows_in_whatever_piece_is_asked_for() -> None:
    edited = Edited(Synthetic("k", 100), 40, b"x" * 20)
    whole = synthetic_bytes("k", 0, 40) + b"x" * 20 + synthetic_bytes("k", 60, 100)
    for start in range(0, 100, 7):
        for end in range(start, 101, 9):
            assert edited.piece(start, end) == whole[start:end]


@pytest.mark.server
def test_right_bytes_pass_and_one_wrong_byte_fails(s3_server: S3Server) -> None:
    s3_server.seed("b", keys=["a"], size=5000)
    s3_server.seed("b", keys=["d/b"], size=3_000_000)
    s3_server.put("b", "d/", b"")
    state = Objects("b", WANTED)
    state.check(s3_server)
    data = bytearray(synthetic_bytes("a", 0, 5000))
    data[4999] ^= 1
    s3_server.put("b", "a", bytes(data))
    with pytest.raises(WrongData, match="is not what was written"):
        state.check(s3_server)
    s3_server.put("b", "a", bytes(data[:4999]))
    with pytest.raises(WrongData, match="4999 bytes instead of 5000"):
        state.check(s3_server)


@pytest.mark.server
def test_an_object_nobody_asked_for_fails(s3_server: S3Server) -> None:
    s3_server.seed("b", keys=["a"], size=5000)
    s3_server.seed("b", keys=["d/b"], size=3_000_000)
    s3_server.put("b", "a (conflict host 2026-01-31 10.15.00)", b"x")
    with pytest.raises(WrongData, match="1 objects nobody asked for"):
        Objects("b", WANTED).check(s3_server)
    Objects("b", WANTED, alone=False).check(s3_server)


@pytest.mark.server
def test_what_was_there_before_is_not_yet_what_was_written(s3_server: S3Server) -> None:
    s3_server.seed("b", keys=["a"], size=5000)
    state = Objects("b", {"a": WANTED["a"]})
    assert state.reached_s(s3_server) is None
    assert wait_for(state, s3_server, 30.0, alive=lambda: False) is None


@pytest.mark.server
def test_a_prefix_is_clean_when_no_key_is_left(s3_server: S3Server) -> None:
    s3_server.seed("b", keys=["d/x", "e"], size=10)
    gone = Gone("b", "d/")
    assert gone.reached_s(s3_server) is None
    with pytest.raises(WrongData, match="came back"):
        gone.check(s3_server)
    s3_server.delete("b", "d/x")
    assert gone.reached_s(s3_server) == pytest.approx(time.monotonic(), abs=5)
    gone.check(s3_server)


def test_what_is_uploaded_and_what_the_disk_can_do_are_part_of_a_goal() -> None:
    case = Case("c", "a case", "MB/s", Goal(1, disk_share=0.6, uploaded_bytes=100))
    run = Measurement("c", "mountd", 1, rate=600.0, elapsed_s=1.0, disk_mb_s=1500.0)
    peer = summarize([Measurement("c", "rclone", 1, rate=10.0)])
    assert judge(case, summarize([run]), [peer]).failed == ()
    assert judge(case, summarize([replace(run, rate=599.0)]), [peer]).failed
    assert judge(case, summarize([replace(run, bytes_uploaded=101)]), [peer]).failed


def test_every_row_is_brought_about_by_one_scenario() -> None:
    every = (
        *(*scenarios(), *write_scenarios(), *copy_scenarios()),
        *(*nextcloud_scenarios(), *train_scenarios()),
    )
    brought = [case for each in every for case in each.cases]
    assert sorted(brought) == sorted(all_cases(FULL)) == sorted(all_cases(QUICK))
