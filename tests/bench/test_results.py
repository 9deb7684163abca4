"""The bench's arithmetic and its honesty: what it makes of runs, and that wrong data can't win."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.cases import FULL, Case, Goal
from tests.bench.command import load, save
from tests.bench.machine import Disk, Machine
from tests.bench.readers import Reader, ReadFiles, Sequential, TouchTensors
from tests.bench.report import Results, markdown, rates
from tests.bench.results import Measurement, Summary, judge, summarize
from tests.bench.rows import all_cases
from tests.bench.stage import rate_of
from tests.bench.train_reader import TrainEpoch
from tests.bench.workers import Outcome, ReadersFailed, run_readers
from tests.servers.s3.seeding import synthetic_bytes

CASE = Case("c", "a case", "reads/s", Goal(3, bytes_per_byte=8, requests_per_operation=1.05))
RUN = Measurement(
    "c",
    "mountd",
    1,
    rate=30.0,
    elapsed_s=2.0,
    operations=60,
    complete=True,
    bytes_asked=100,
    bytes_served=400,
    requests=61,
    gets=60,
    daemon_cpu_s=0.6,
    peak_rss_bytes=100_000_000,
    server_share=0.2,
)


def _summary(**changes: float) -> Summary:
    return summarize([replace(RUN, **changes)])  # type: ignore[arg-type]


def test_a_summary_is_the_median_with_its_spread() -> None:
    summary = summarize([replace(RUN, rate=rate) for rate in (10.0, 40.0, 30.0)])
    assert (summary.rate, summary.lowest, summary.highest) == (30.0, 10.0, 40.0)
    assert summary.bytes_per_byte == 4.0
    assert summary.cpu_ms_per_unit == pytest.approx(10.0)


def test_one_failed_round_fails_the_row() -> None:
    summary = summarize([RUN, replace(RUN, error="WrongData: k")])
    assert summary.error == "WrongData: k"
    assert judge(CASE, summary, [_summary(rate=1.0)]).ratio is None


def test_the_ratio_is_to_the_better_peer_that_did_not_fail() -> None:
    broken = summarize([replace(RUN, rate=1e9, error="EIO")])
    verdict = judge(CASE, _summary(), [_summary(rate=5.0), _summary(rate=10.0), broken])
    assert verdict.ratio == 3.0
    assert verdict.failed == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": 29.0},
        {"bytes_served": 801},
        {"gets": 70},
        {"peak_rss_bytes": 400_000_001},
    ],
)
def test_every_part_of_a_goal_can_fail(changes: dict[str, float]) -> None:
    assert judge(CASE, _summary(**changes), [_summary(rate=10.0)]).failed


def test_a_row_is_marked_when_the_server_was_the_limit_for_anybody() -> None:
    assert not judge(CASE, _summary(), [_summary()]).server_busy
    assert judge(CASE, _summary(), [_summary(server_share=0.81)]).server_busy


def test_an_ls_cut_short_counts_as_if_it_had_just_finished() -> None:
    case = all_cases(FULL)["ls-cold"]
    assert rate_of(case, Outcome(12.0, 5, 0, complete=False)) == case.total / 12.0


def test_a_saved_run_gives_the_same_tables(tmp_path: Path) -> None:
    run = replace(RUN, case="seq-warm")
    results = Results(all_cases(FULL), ["mountd"], frozenset(), [run])
    machine = Machine("now", "x", "p", 2, 1.0, "k", "s", "3", ("v",), 0.1, 0.2, Disk(1.0, 2.0))
    save(tmp_path / "run.json", results, machine)
    loaded = load(tmp_path / "run.json")
    assert markdown(*loaded) == markdown(results, machine)
    assert "30 MB/s" in rates(results).rows[0]


def test_readers_report_together_what_each_did(tmp_path: Path) -> None:
    for key in ("a", "b"):
        (tmp_path / key).write_bytes(synthetic_bytes(key, 0, 5000))
    readers: list[Reader] = [Sequential(["a"], 5000), ReadFiles(["a", "b"], 5000)]
    outcome = run_readers(readers, tmp_path, time_s=5.0, at_end=lambda: None)
    assert (outcome.operations, outcome.bytes_moved, outcome.complete) == (3, 15_000, True)


def test_one_wrong_byte_fails_the_run(tmp_path: Path) -> None:
    data = bytearray(synthetic_bytes("a", 0, 5000))
    data[4321] ^= 1
    (tmp_path / "a").write_bytes(data)
    readers: list[Reader] = [ReadFiles(["a"], 5000), Sequential(["a"], 5000, keep_all=True)]
    for reader in readers:
        with pytest.raises(ReadersFailed, match="WrongData"):
            run_readers([reader], tmp_path, time_s=5.0, at_end=lambda: None)


def test_a_short_file_and_a_missing_one_fail_the_run(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(synthetic_bytes("a", 0, 4999))
    with pytest.raises(ReadersFailed, match="4999 bytes instead of 5000"):
        run_readers([ReadFiles(["a"], 5000)], tmp_path, time_s=5.0, at_end=lambda: None)
    with pytest.raises(ReadersFailed, match="FileNotFoundError"):
        run_readers([ReadFiles(["b"], 5000)], tmp_path, time_s=5.0, at_end=lambda: None)


def test_a_share_is_shown_as_one_and_half_of_it_is_twice_as_good() -> None:
    case = Case("t", "a training", "share", Goal(2), as_share=True)
    outcome = Outcome(10.0, 300, 0, True, waited_s=2.5)
    assert rate_of(case, outcome) == 4.0
    ours, peer = _summary(rate=4.0), _summary(rate=2.0)
    assert judge(case, ours, [peer]).failed == ()
    assert judge(case, ours, [_summary(rate=2.2)]).failed == ("< 2x",)


def test_a_loader_reads_each_file_once_and_says_how_long_it_waited(tmp_path: Path) -> None:
    keys = [f"{number % 2}/{number}" for number in range(50)]
    for key in keys:
        (tmp_path / key).parent.mkdir(exist_ok=True)
        (tmp_path / key).write_bytes(synthetic_bytes(key, 0, 1000))
    epoch = TrainEpoch(keys, 1000, batch=4, compute_s=0.001)
    outcome = run_readers([epoch], tmp_path, time_s=30, at_end=lambda: None)
    assert (outcome.operations, outcome.bytes_moved, outcome.complete) == (50, 50_000, True)
    assert 0 < outcome.waited_s < outcome.elapsed_s
    (tmp_path / keys[9]).write_bytes(b"short")
    with pytest.raises(ReadersFailed, match="5 bytes instead of 1000"):
        run_readers([epoch], tmp_path, time_s=30, at_end=lambda: None)


def test_a_model_is_touched_whole_and_in_order(tmp_path: Path) -> None:
    size = (40 << 20) + 5
    (tmp_path / "m").write_bytes(synthetic_bytes("m", 0, size))
    outcome = run_readers([TouchTensors("m", size)], tmp_path, time_s=30, at_end=lambda: None)
    assert outcome.complete
    assert outcome.bytes_moved == size - (16 << 10)
